"""The node tests of the onnx package: each operator's own examples, forward against the expected output.

Counted are the tests whose inputs and outputs are all tensors of float16 to float64, integers of 8 to 64 bits, or
bool. Each is tried in three ways, and counts for the first that passes: all inputs are data; integers and bools
are held constant, as they are in models (axes, shapes, lengths); everything is constant and folded while building.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from .common import as_array, keep, kept, one_line, table, with_data

RTOL, ATOL = 1e-3, 1e-5  # at least; a test may allow more
TYPES = {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL} | {
    getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
}
WAYS = {
    "data": lambda index, tensor: True,
    "floats": lambda index, tensor: tensor.is_floating_point(),
    "folded": lambda index, tensor: False,
}
BARS = {"single": "1120 of 1168", "expanded": "412 of 415"}  # counted by another filter
HEADS = {"data": "all inputs data", "floats": "integers and bools constant", "folded": "all constant"}


def cases() -> tuple[list[Any], Counter[str]]:
    """The tests that are counted, and how many are left out, by the reason."""
    from onnx.backend.test.loader import load_model_tests

    chosen, left = [], Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the examples divide by zero on purpose
        tests = load_model_tests(kind="node")
    for test in tests:
        declared = [*test.model.graph.input, *test.model.graph.output]
        if not all(value.type.HasField("tensor_type") for value in declared):
            left["sequences and optionals"] += 1
        elif other := {v.type.tensor_type.elem_type for v in declared} - TYPES:
            left["strings" if TensorProto.STRING in other else "bfloat16, and types of 8 bits or fewer"] += 1
        else:
            chosen.append(test)
    return chosen, left


def check(test: Any, way: str) -> None:
    """Runs one test in one way.

    Raises:
        Exception: of any kind, if it is not converted or gives something else.
    """
    for inputs, expected in test.data_sets:
        graph, fed = with_data(test.model, inputs, WAYS[way], None)
        got = graph.run(1, *fed)
        if len(got) != len(expected):
            raise AssertionError(f"{len(got)} outputs instead of {len(expected)}")
        for one, want in zip(got, expected, strict=True):
            _compare(one, as_array(want), max(RTOL, test.rtol), max(ATOL, test.atol))


def _compare(got: Tensor, want: np.ndarray, rtol: float, atol: float) -> None:
    array = got.detach().numpy()
    if array.dtype != want.dtype:
        raise AssertionError(f"{array.dtype} instead of {want.dtype}")
    if array.shape != want.shape:
        raise AssertionError(f"shape {array.shape} instead of {want.shape}")
    np.testing.assert_allclose(array, want, rtol=rtol, atol=atol)


def run() -> None:
    """Runs all tests and keeps the counts and the failures."""
    chosen, left = cases()
    counts = {"single": Counter[str](), "expanded": Counter[str]()}
    failed = []
    for test in chosen:
        group = "expanded" if "_expanded" in test.name else "single"
        counts[group]["all"] += 1
        reasons = []
        for way in WAYS:
            try:
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check(test, way)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
                reasons.append(one_line(error))
            else:
                counts[group][way] += 1
                break
        else:
            failed.append({"name": test.name, "group": group, "why": reasons[-1]})
    keep("nodes", {"onnx": onnx.__version__, "counts": counts, "left": left, "failed": failed})


def summary() -> list[list[str]]:
    """The rows of the summary."""
    result = kept("nodes")
    if result is None:
        return []
    lines = []
    for group, bar in BARS.items():
        count = result["counts"][group]
        passed = sum(count.get(way, 0) for way in WAYS)
        lines.append([f"ONNX backend node tests, {group}", bar, f"{passed} of {count['all']}"])
    return lines


def section() -> str:
    """The part of the document."""
    result = kept("nodes")
    if result is None:
        return ""
    lines = []
    for group, count in result["counts"].items():
        passed = sum(count.get(way, 0) for way in WAYS)
        lines.append([group, f"**{passed} / {count['all']}**", *(count.get(way, 0) for way in WAYS)])
    text = [
        f"## ONNX backend node tests (onnx {result['onnx']})",
        "Forward equal to the expected output at the test's own tolerance. "
        "A test counts in the first column that it passes in.",
        table(["tests", "pass", *HEADS.values()], lines),
        "Not counted: " + ", ".join(f"{count} with {why}" for why, count in result["left"].items()) + ".",
    ]
    if result["failed"]:
        text.append(table(["does not pass", "why"], [[f"`{f['name']}`", f["why"]] for f in result["failed"]]))
    return "\n\n".join(text)


if __name__ == "__main__":
    run()
    print(section())
