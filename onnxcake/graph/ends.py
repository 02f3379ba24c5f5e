"""What the two ends of a graph show: what values go in, and what kind of scores come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from .convert import Converted
from .normalise import INPUT

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_PASS = {"Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_QUANTISED = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}


@dataclass(frozen=True)
class Tail:
    """How a graph ends: in "softmax", "log_softmax", "sigmoid", "unit_norm", or None; and what went into that."""

    kind: str | None
    logits: str


def tail(graph: Converted, output: str) -> Tail:
    """What the end of the graph shows about an output, past casts and reshapes."""
    makers = {name: node for node in graph.safe.model.graph.node for name in node.output}

    def back(name: str) -> onnx.NodeProto | None:
        while (node := makers.get(name)) is not None and node.op_type in _PASS and not node.domain:
            name = node.input[0]
        return node

    node = back(output)
    if node is None or node.domain:
        return Tail(None, output)
    if node.op_type in ("Softmax", "LogSoftmax") and _over_classes(graph, node):
        return Tail("softmax" if node.op_type == "Softmax" else "log_softmax", node.input[0])
    if node.op_type == "Sigmoid":
        return Tail("sigmoid", node.input[0])
    if node.op_type == "Log":
        inner = back(node.input[0])
        if inner is not None and inner.op_type == "Softmax" and _over_classes(graph, inner):
            return Tail("log_softmax", inner.input[0])
    if node.op_type == "LpNormalization" or (node.op_type == "Div" and _norm_of(makers, node)):
        return Tail("unit_norm", output)
    return Tail(None, output)


def _over_classes(graph: Converted, node: onnx.NodeProto) -> bool:
    """Whether a Softmax is over the only axis, but for the batch, that is longer than one."""
    value = graph.values.get(node.input[0])
    if value is None or not isinstance(value.seen[0], Tensor):
        return False
    shape = value.seen[0].shape
    old = graph.safe.opsets.get("", 0) < 13  # flattens what follows the axis
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1 if old else -1) % max(len(shape), 1)
    long = [i for i, size in enumerate(shape) if i and size > 1]
    return long == [axis] or (not long and axis > 0) or (old and axis == 1)


def _norm_of(makers: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> bool:
    """Whether a Div divides a value by that value's own norm."""
    name, passed = node.input[1], 0
    while (below := makers.get(name)) is not None and passed < 4:
        if below.op_type == "ReduceL2":
            return bool(below.input[0] == node.input[0])
        if below.op_type not in ("Clip", "Max", "Expand", "Add", "Shape"):
            return False
        name, passed = below.input[0], passed + 1
    return False


@dataclass(frozen=True)
class Head:
    """What the beginning of a graph shows about the values it takes.

    Attributes:
        range: lowest and highest value, or None.
        mean, deviation: of the values, for each channel or for all, or None: a normalisation inside the file.
        channels_last: whether inputs are [height, width, channels].
        seen: the operators that it was read from, in words; "" if there were none.
    """

    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    channels_last: bool = False
    seen: str = ""


def head(graph: Converted) -> Head:
    """Reads the normalisation, quantisation and layout that the first operators show, and the file's metadata."""
    chain = _Chain(graph)
    chain.follow()
    seen = ", ".join(chain.seen)
    limits = _QUANTISED.get(graph.safe.input_type)
    bounds: tuple[float, float] | None = (float(limits[0]), float(limits[1])) if limits else chain.bounds
    if limits:
        seen = "its integer type" + (f", {seen}" if seen else "")
    mean = deviation = None
    if chain.mean is not None and chain.deviation is not None:
        mean, deviation = (tuple(float(v) for v in part) for part in (chain.mean, chain.deviation))
        if not any(mean) and bounds is None and np.allclose(chain.deviation, [255.0], rtol=0.02):
            bounds, mean, deviation = (0.0, 255.0), None, None  # a scale alone says nothing of the mean
        elif bounds is None:
            bounds = _raw_range(chain.mean, chain.deviation)
        elif not any(mean):
            mean = deviation = None
    stated = graph.safe.metadata.get("Image.NominalPixelRange", "")
    if bounds is None and stated in _NOMINAL:
        bounds, seen = _NOMINAL[stated], f"metadata Image.NominalPixelRange = {stated}"
    return Head(bounds, mean, deviation, chain.channels_last, seen)


# https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
_NOMINAL = {
    "NominalRange_0_255": (0.0, 255.0),
    "NominalRange_16_235": (16.0, 235.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
}


def _raw_range(mean: Numbers, deviation: Numbers) -> tuple[float, float] | None:
    """0…1 or 0…255, whichever a normalisation is made for; None if neither."""
    if (mean >= 0).all() and (mean <= 1).all() and (deviation <= 1).all() and mean.any():
        return (0.0, 1.0)
    if (mean >= 0).all() and (mean <= 255).all() and (deviation > 1).all() and (deviation <= 256).all():
        return (0.0, 255.0)
    return None


class _Chain:
    """Follows the input through operators that only rescale or rearrange it."""

    def __init__(self, graph: Converted) -> None:
        self.graph = graph
        shape = graph.safe.input_shape
        self.rank = len(shape) + 1
        looks_last = len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4
        self.channels_last = looks_last
        self.axis = self.rank - 1 if looks_last else 1  # where the channels are now
        self.mean: Numbers | None = None
        self.deviation: Numbers | None = None
        self.bounds: tuple[float, float] | None = None
        self.seen: list[str] = []

    def follow(self) -> None:
        name = INPUT
        for _ in range(12):
            readers = [n for n in self.graph.safe.model.graph.node if name in n.input]
            if len(readers) != 1 or readers[0].domain or not self._passes(readers[0], name):
                return
            name = readers[0].output[0]

    def _passes(self, node: onnx.NodeProto, name: str) -> bool:
        kind = node.op_type
        if kind in ("Identity", "Cast"):
            return True
        if kind == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            if order is None or order[0] != 0:
                return False
            if self.rank == 4 and order == [0, 3, 1, 2]:
                self.channels_last, self.axis = True, 1
                return True
            self.axis = order.index(self.axis)
            return True
        if kind in ("Sub", "Add", "Mul", "Div"):
            return self._rescaled(node, name)
        if kind == "BatchNormalization":
            return self._standardised(node)
        if kind == "QuantizeLinear":
            self._quantised(node)
        elif kind == "Clip":
            self._clipped(node)
        return False

    def _rescaled(self, node: onnx.NodeProto, name: str) -> bool:
        place = list(node.input).index(name)
        other = self.graph.constant(node.input[1 - place])
        if other is None or (numbers := self._by_channel(other)) is None:
            return False
        if place == 1 and node.op_type in ("Sub", "Div"):
            return False
        mean = np.zeros(1) if self.mean is None else self.mean
        deviation = np.ones(1) if self.deviation is None else self.deviation
        if node.op_type in ("Mul", "Div"):
            with np.errstate(divide="ignore"):
                deviation = deviation * numbers if node.op_type == "Div" else deviation / numbers
            if not np.isfinite(deviation).all() or (deviation <= 0).any():
                return False
        else:
            mean = mean + deviation * (numbers if node.op_type == "Sub" else -numbers)
        self.mean, self.deviation = np.broadcast_arrays(mean, deviation)
        self.seen.append(node.op_type)
        return True

    def _standardised(self, node: onnx.NodeProto) -> bool:
        parts = [self.graph.constant(name) for name in node.input[3:5]]
        if self.mean is None and parts[0] is not None and parts[1] is not None:
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            self.mean = parts[0].double().numpy()
            self.deviation = np.sqrt(parts[1].double().numpy() + epsilon)
            self.seen.append("BatchNormalization")
        return False

    def _quantised(self, node: onnx.NodeProto) -> None:
        scale, zero = (self.graph.constant(name) for name in (*node.input[1:3], "")[:2])
        if scale is None or scale.numel() != 1 or self.mean is not None:
            return
        low, high = (-128, 127) if zero is not None and zero.dtype == torch.int8 else (0, 255)
        offset = 0.0 if zero is None else float(zero.reshape(-1)[0])
        self.bounds = ((low - offset) * float(scale), (high - offset) * float(scale))
        self.seen.append("QuantizeLinear")

    def _clipped(self, node: onnx.NodeProto) -> None:
        given = [self.graph.constant(name) for name in node.input[1:3]]
        if len(given) == 2 and self.mean is None and all(g is not None and g.numel() == 1 for g in given):
            self.bounds = (float(given[0]), float(given[1]))  # type: ignore[arg-type]
            self.seen.append("Clip")

    def _by_channel(self, tensor: Tensor) -> Numbers | None:
        """A constant as one number, or one for each channel; None if it is neither."""
        if tensor.numel() == 1:
            return tensor.double().reshape(1).numpy()
        shape = (1,) * (self.rank - tensor.dim()) + tuple(tensor.shape)
        if len(shape) != self.rank or any(size != 1 for i, size in enumerate(shape) if i != self.axis):
            return None
        return tensor.double().reshape(-1).numpy()
