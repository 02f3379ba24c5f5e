"""Make models by hand, and hold every refusal of a bad teacher to the same.

Files are examined by the command itself, run inside the test's process, so that its exit code, both its streams
and its JSON are judged with each of them. The airlock's child is the one that all tests share.

Test files have no package around them: their names must be unique in all of tests/.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch
from in_process import command
from onnx import TensorProto, helper, numpy_helper
from onnx_text import N, model_of, parsed

from onnxcake.core.errors import (
    BadTeacherFile,
    DeadTeacher,
    OnnxcakeError,
    TeacherError,
    UnsupportedTeacher,
    UsageError,
)
from onnxcake.runtime.process import shared
from onnxcake.teacher import sandbox
from onnxcake.teacher.scores import logits_to_output
from onnxcake.teacher.teacher import Teacher

QUICK_S = 10.0  # processor seconds that a refusal may take
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
SCORES = N("MatMul", ["x", "W"], ["y"])
YES = {"yes": np.array(True)}
HIDDEN = N("MatMul", ["x", "W"], ["h"])


def tensor(array: Any, name: str = "", kind: type | None = None) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, kind), name)


def inner(name: str, body: Sequence[str | onnx.NodeProto], outputs: Sequence[str] = ("inner",), **rest: Any) -> Any:
    """A sub-graph; its outputs are declared without a shape."""
    declared = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None) for out in outputs]
    graph = helper.make_graph(parsed(*body), name, list(rest.pop("inputs", ())), rest.pop("declared", declared))
    graph.initializer.extend(tensor(a, n) for n, a in rest.pop("weights", {}).items())
    return graph


def either(then: str, other: str, condition: str = "yes", result: str = "y") -> str:
    """Write an If whose branches, nodes in text form, each make ``inner``."""
    first, second = (f"b () => (float[] inner) {{ {text} }}" for text in (then, other))
    return f"{result} = If({condition}) <then_branch = {first}, else_branch = {second}>"


def made(
    *body: str | onnx.NodeProto, weights: Mapping[str, Any] | None = None, ir_version: int = 9, **rest: Any
) -> onnx.ModelProto:
    """Make a model of these nodes; by default ``x`` [batch, 4] → ``y`` [batch, 3], with a weight ``W`` at hand."""
    return model_of(*body, weights={"W": W, **(weights or {})}, ir_version=ir_version, **rest)


def with_fields(message: Any, **fields: Any) -> Any:
    """Set a message's fields, or clear those that are None, and return it."""
    for name, content in fields.items():
        if content is None:
            message.ClearField(name)
        elif isinstance(content, list):
            getattr(message, name)[:] = content
        else:
            setattr(message, name, content)
    return message


def own(name: str, *body: str | onnx.NodeProto, attributes: Sequence[str] = (), **rest: Any) -> onnx.FunctionProto:
    """Make a function of the domain ``own``, from ``a`` to ``b``."""
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", 17), ("own", 1), ("acme", 3))]
    return helper.make_function("own", name, ["a"], ["b"], parsed(*body), imports, list(attributes), **rest)


def saved(model: onnx.ModelProto | bytes, folder: Path, name: str = "t.onnx") -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


@dataclass(frozen=True)
class Bad:
    """A model, the error that it must end in, words of its message, and arguments of the command."""

    model: onnx.ModelProto | bytes
    kind: type[OnnxcakeError]
    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def bad(
    kind: type[OnnxcakeError],
    words: str | tuple[str, ...],
    *body: str | onnx.NodeProto,
    arguments: str = "",
    **rest: Any,
) -> Bad:
    return Bad(made(*body, **rest), kind, (words,) if isinstance(words, str) else words, tuple(arguments.split()))


broken, unsupported, dead, misused, erring = (
    partial(bad, kind) for kind in (BadTeacherFile, UnsupportedTeacher, DeadTeacher, UsageError, TeacherError)
)


def refused(path: Path, kind: type[OnnxcakeError], *words: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Examine ``path`` by the command, check all that every refusal must hold to, and return the error told."""
    before = sorted(path.parent.iterdir())
    with spent() as cost:
        code, out, err = command("inspect", path, *arguments, "--json")
    assert code == kind.exit_code, err or out[:2000]
    found = json.loads(out)
    error: dict[str, Any] = found["error"]
    assert error["error"] == kind.__name__, err
    assert (found["usable"], error["exit_code"]) == (False, code)
    assert error["where"].endswith(path.name)
    assert error["what"] and error["remedy"].endswith("."), "what, and what to do"
    assert err == f"onnxcake: {error['where']}: {error['what']}\n  {error['remedy']}\n"
    for stream in (out, err):
        assert stream.replace("\n", "").isprintable() and "Traceback" not in stream
    assert len(err) < 2500 and err.count("\n") < 6 and len(out) < 500_000
    missing = [word for word in words if word not in error["what"]]
    assert not missing, f"{missing} not in: {error['what']}"
    assert "given up" not in error["what"] or any("given up" in word for word in words), error["what"]
    assert sorted(path.parent.iterdir()) == before
    assert cost["cpu_s"] < QUICK_S, cost
    return error


@contextlib.contextmanager
def spent() -> Iterator[dict[str, float]]:
    """Processor seconds that the airlock's processes take inside the block."""
    before = _processor_seconds()
    cost: dict[str, float] = {}
    yield cost
    after = _processor_seconds()
    cost["cpu_s"] = after[1] - before[1] if after[0] == before[0] else after[1]


def _processor_seconds() -> tuple[int, float]:
    child = shared(sandbox.MODULE).process
    if child is None:
        return 0, 0.0
    seconds = 0.0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(child.pid)
        for one in (root, *root.children(recursive=True)):
            seconds += sum(one.cpu_times()[:4])  # its own, and those of its children that have ended
    return child.pid, seconds


def answers_as_its_file(
    path: Path, *, feed: Mapping[str, Any] | None = None, count: int = 6, tolerance: float = 2e-3, **said: Any
) -> Teacher:
    """Load a teacher, and compares its logits, brought back, with what onnxruntime makes of the user's own file."""
    import onnxruntime

    teacher = Teacher.load(path, **said)
    signature = teacher.signature
    x = torch.randn(count, *signature.shape, generator=torch.Generator().manual_seed(5))
    inputs = signature.whole(signature.to_input(x))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = next(i for i in session.get_inputs() if i.name == signature.input_name)
    dtype = {"float": "float32", "double": "float64"}.get(source.type[7:-1], source.type[7:-1])
    fixed = source.shape[0] if source.shape and isinstance(source.shape[0], int) else 0
    parts = [
        session.run([signature.output_name], {source.name: part.numpy().astype(dtype), **(feed or {})})[0]
        for part in inputs.split(fixed or count)
    ]
    expected = torch.from_numpy(np.concatenate(parts).astype(np.float32))
    with torch.no_grad():
        got = logits_to_output(signature)(teacher.logits(inputs.float()))
    scale = expected.abs().max().clamp_min(1e-2)
    assert got.shape == expected.shape
    assert ((got - expected).abs().max() / scale).item() < tolerance
    leaf = inputs[:2].float().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(teacher.logits(leaf)[:, 0].sum(), leaf)
    assert gradient.isfinite().all() and gradient.any()
    return teacher


def table(rows: Mapping[str, Any]) -> Any:
    """Parametrise a test by the rows of a table: name and row."""
    return pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in rows.items()])
