"""What the parts of the coverage benchmark share: conversion without a file, onnxruntime, and kept results."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # figures for one thread, and room for other work
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from onnxcake.graph.build import Builder
from onnxcake.graph.convert import convert
from onnxcake.graph.module import Graph
from onnxcake.graph.values import Value
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise

torch.set_num_threads(1)
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "coverage"
NEWEST = onnx.defs.onnx_opset_version()


class NotConverted(Exception):
    """The nodes that are in the way, and why."""


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """The opset version of each domain."""
    return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}


def builder_for(model: onnx.ModelProto, **options: Any) -> Builder:
    """A builder that knows the model's own functions."""
    return Builder({(f.domain, f.name): f for f in model.functions}, **options)


def as_array(value: Any) -> np.ndarray:
    """A numpy array, from one or from ONNX's own form."""
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def to_tensor(value: Any) -> Tensor:
    """The same as a tensor of its own."""
    return torch.from_numpy(as_array(value).copy())


def finished(builder: Builder, model: onnx.ModelProto, values: dict[str, Value], inputs: Sequence[Value]) -> Graph:
    """The graph of a model whose inputs are ``values``; ``inputs`` are those of them that it is called with.

    Raises:
        NotConverted: with the reasons, node by node.
    """
    outputs = builder.graph(model.graph, opsets_of(model), values)
    if builder.blocked:
        raise NotConverted(_reasons(builder.blocked))
    return builder.finish(inputs, outputs)


def with_data(
    model: onnx.ModelProto, arrays: Sequence[Any], is_data: Callable[[int, Tensor], bool], precision: torch.dtype | None
) -> tuple[Graph, list[Tensor]]:
    """A graph for inputs of just these shapes, those that are no data held constant; and what to call it with."""
    builder = builder_for(model, precision=precision)
    values, inputs, fed = {}, [], []
    for index, (declared, array) in enumerate(zip(model.graph.input, arrays, strict=False)):
        tensor = to_tensor(array)
        if precision is not None and tensor.is_floating_point():
            tensor = tensor.to(precision)
        if is_data(index, tensor):
            value = builder.input((tensor.shape, tensor.shape), tensor.dtype)
            inputs.append(value)
            fed.append(tensor)
        else:
            value = builder.constant(tensor)
        values[declared.name] = value
    return finished(builder, model, values, inputs), fed


def in_float64(model: onnx.ModelProto, shape: Sequence[int]) -> Graph:
    """A graph of a model with one float input [batch, *shape], computed in float64."""
    builder = builder_for(model, precision=torch.float64)
    weights = {weight.name for weight in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    first, second = ((batch, *shape) for batch in builder.batches)
    value = builder.input((first, second), torch.float64)
    return finished(builder, model, {name: value}, [value])


def from_file(path: Path) -> nn.Module:
    """The first output of a classifier's file, converted as the command does it.

    Raises:
        NotConverted: with the reasons.
    """
    safe = normalise(load(path))
    converted = convert(safe)
    output = next(iter(safe.outputs))
    blocked = converted.blockers(output)
    if blocked:
        raise NotConverted(_reasons(blocked))
    return converted.module(output)


def _reasons(blocked: Iterable[Any]) -> str:
    reasons = Counter(f"{node.op}: {node.why}" for node in blocked)
    return "; ".join(f"{why} (×{n})" if n > 1 else why for why, n in reasons.most_common())


def session(model: onnx.ModelProto | bytes | Path) -> Any:
    """An onnxruntime session with one thread, in exact arithmetic."""
    import onnxruntime

    from onnxcake.onnxfile.exact_integers import exact
    from onnxcake.runtime.ort import EXACT

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    content = source.read_bytes() if isinstance(source, Path) else source
    written = exact(content)
    source = str(source) if isinstance(source, Path) and written == content else written  # by path: weights beside it
    for entry in EXACT.items():
        options.add_session_config_entry(*entry)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def relative(got: Any, want: Any) -> float:
    """The largest difference over the largest number wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        raise ValueError(f"shape {got.shape} instead of {want.shape}")
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two gradients; 1 where both are zero."""
    a, b = a.double().flatten(), b.double().flatten()
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length else float(not a.any() and not b.any())


def one_line(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    kind = "" if isinstance(error, NotConverted) else f"{type(error).__name__}: "
    return kind + (text if len(text) <= 240 else text[:239] + "…")


# Results

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "timm", "skl2onnx")


def versions() -> str:
    """What the figures were seen with."""
    there = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return ", ".join(f"{name} {there[name]}" for name in _PACKAGES if name in there)


def keep(part: str, result: Any) -> None:
    """Stores the result of a part that is run as a whole."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / f"{part}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kept(part: str) -> Any:
    """What `keep` stored, or None."""
    path = CACHE / f"{part}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def add(part: str, row: dict[str, Any]) -> None:
    """Adds a row to a part whose run may be stopped and continued."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{part}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def rows(part: str, *key: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The rows of such a part by the values of ``key``; of several with the same, the last."""
    path = CACHE / f"{part}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines if line.endswith("}"))  # a killed run may leave half a line
    return {tuple(row[name] for name in key): row for row in found}


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells)
