"""Read what the two ends of a graph show: what values go in, and what kind of scores come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from .convert import Converted
from .first_operators import InputHints, Numbers, input_hints
from .values import Depends

_PASS = {("", op) for op in ("Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")}
_PASS |= {("ai.onnx.ml", "ZipMap")}
_LINEAR = {"MatMul", "Gemm", "Conv"}
_SIGNED = {"Tanh", "Softsign"}
_ROUNDING = 1e-5
_QUANTISED = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}


@dataclass(frozen=True)
class Tail:
    """Hold the kind of a graph's last operators, and the value before them.

    Attributes:
        kind: "softmax", "log_softmax", "sigmoid", "unit_norm"; "ranked" for the largest in order, which stand for other
            classes in every row; or None.
        logits: the value before those operators.
        unbounded: whether the graph ends in a linear layer or in negative numbers, and so in no probabilities.
        logs: a value beside the file's own, of which probabilities are the softmax, or one probability the sigmoid;
            "" if there is none. See `logs.with_logs`.
    """

    kind: str | None
    logits: str
    unbounded: bool = False
    logs: str = ""


def tail(graph: Converted, output: str) -> Tail:
    """Read what the last operators show about an output, past casts and reshapes."""
    makers = {name: node for node in graph.safe.model.graph.node for name in node.output}

    def back(name: str) -> onnx.NodeProto | None:
        while (node := makers.get(name)) is not None and (node.domain, node.op_type) in _PASS:
            name = node.input[0]
        return node

    node = back(output)
    if node is None:
        return Tail(None, output)
    if node.domain:
        unit = node.op_type == "Normalizer" and _attribute(node, "norm") == b"L2"
        return Tail("unit_norm" if unit else None, output, _regression(node))
    if node.op_type in ("Softmax", "LogSoftmax") and _softmax_is_over_classes(graph, node):
        return Tail("softmax" if node.op_type == "Softmax" else "log_softmax", node.input[0])
    if node.op_type == "Sigmoid":
        return Tail("sigmoid", node.input[0])
    if node.op_type == "Log":
        inner = back(node.input[0])
        if inner is not None and inner.op_type == "Softmax" and _softmax_is_over_classes(graph, inner):
            return Tail("log_softmax", inner.input[0])
    if node.op_type == "LpNormalization":  # with p = 1 it makes shares, which may be probabilities
        unit = _attribute(node, "p") in (None, 2) and _is_over_classes(
            graph, node.input[0], _attribute(node, "axis", -1)
        )
        return Tail("unit_norm" if unit else None, output)
    if node.op_type == "Div" and _norm_of(makers, node):
        return Tail("unit_norm", output)
    if node.op_type == "TopK":
        return Tail("ranked", node.input[0])
    if node.op_type == "Add":  # a bias
        data = [name for name in node.input if name in graph.values and graph.values[name].depends == Depends.DATA]
        node = back(data[0]) if len(data) == 1 else node
        return Tail(None, output, node is not None and node.op_type in _LINEAR)
    return Tail(None, output, node.op_type in _LINEAR | _SIGNED)


def _softmax_is_over_classes(graph: Converted, node: onnx.NodeProto) -> bool:
    """Tell whether a Softmax is over the only axis, but for the batch, that is longer than one."""
    old = graph.safe.opsets.get("", 0) < 13  # flattens what follows the axis
    axis = _attribute(node, "axis", 1 if old else -1)
    return _is_over_classes(graph, node.input[0], axis) or (old and axis == 1)


def _is_over_classes(graph: Converted, name: str, axis: int) -> bool:
    value = graph.values.get(name)
    if value is None or not isinstance(value.seen[0], Tensor):
        return False
    shape = value.seen[0].shape
    axis %= max(len(shape), 1)
    long = [i for i, size in enumerate(shape) if i and size > 1]
    return long == [axis] or (not long and axis > 0)


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _regression(node: onnx.NodeProto) -> bool:
    plain = _attribute(node, "post_transform") in (None, b"NONE")
    return node.domain == "ai.onnx.ml" and node.op_type in ("LinearRegressor", "SVMRegressor") and plain


def _norm_of(makers: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> bool:
    """Tell whether a Div divides a value by that value's own norm."""
    name, passed = node.input[1], 0
    while (below := makers.get(name)) is not None and passed < 4:
        if below.op_type == "ReduceL2":
            return bool(below.input[0] == node.input[0])
        if below.op_type not in ("Clip", "Max", "Expand", "Add", "Shape"):
            return False
        name, passed = below.input[0], passed + 1
    return False


Bound = float | tuple[float, ...]


@dataclass(frozen=True)
class Head:
    """Hold what the first operators of a graph show about the values it takes.

    A tuple holds one number for all, one for each channel, or one for each number of an input, in the file's layout.

    Attributes:
        range: lowest and highest value, each a number or a tuple, or None.
        mean, deviation: of the values, or None: a normalisation inside the file.
        channels_last: whether inputs are [height, width, channels].
        seen: the operators that it was read from, in words; "" if there were none.
        guessed: whether the deviation is not shown, but follows from the mean.
        measured: whether mean and deviation are those of values that the file itself made.
    """

    range: tuple[Bound, Bound] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    channels_last: bool = False
    seen: str = ""
    guessed: bool = False
    measured: bool = False


def head(graph: Converted) -> Head:
    """Read the normalisation, quantisation and layout that the first operators show, and the file's metadata."""
    begun = input_hints(graph)
    seen = ", ".join(begun.operators)
    shape = graph.safe.input_shape
    shown = _undo_normalisation(begun, shape)
    limits = _QUANTISED.get(graph.safe.input_type)
    if limits is not None:
        seen = "its integer type" + (f", {seen}" if seen else "")
        shown = replace(shown, low=float(limits[0]), high=float(limits[1]))
    elif begun.low is not None:
        shown = replace(shown, low=begun.low, high=begun.high)
    stated = graph.safe.metadata.get("Image.NominalPixelRange", "")
    if shown.low is None and stated in _NOMINAL:
        shown, seen = _Shown(*_NOMINAL[stated]), f"metadata Image.NominalPixelRange = {stated}"
    if shown.mean is not None and not shown.mean.any() and shown.low is not None:
        shown = replace(shown, mean=None, deviation=None)  # a scale alone says nothing of the mean
    bounds: tuple[Bound, Bound] | None = None
    if shown.low is not None and shown.high is not None:
        ends = [_packed(end, shape, begun.channels_last) for end in (shown.low, shown.high)]
        low, high = (end[0] if len(end) == 1 else end for end in ends)
        bounds = low, high
    mean = deviation = None
    if shown.mean is not None and shown.deviation is not None:
        near = _PICTURE * float(shown.deviation.mean()) if len(shape) == 3 else 0.0
        mean = _packed(shown.mean, shape, begun.channels_last, near)
        deviation = _packed(shown.deviation, shape, begun.channels_last)
    return Head(bounds, mean, deviation, begun.channels_last, seen, shown.guessed)


# https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
_NOMINAL = {
    "NominalRange_0_255": (0.0, 255.0),
    "NominalRange_16_235": (16.0, 235.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
}


_BYTE_DEVIATION = 0.23 * 255  # of the pixels of natural images
_UNIT_DEVIATION = 0.23
_PICTURE = 0.5  # of the deviation: a mean picture that changes by less within each channel is kept by channel
_OF_MEAN = 1 / 3  # a guess at the deviation of positive features, of which the mean alone is known


@dataclass(frozen=True)
class _Shown:
    """Hold what was read as numbers that broadcast to an input."""

    low: Any = None
    high: Any = None
    mean: Numbers | None = None
    deviation: Numbers | None = None
    guessed: bool = False


def _undo_normalisation(begun: InputHints, shape: tuple[int, ...]) -> _Shown:
    """Derive the values of x from a normalisation x → scale · x + shift."""
    if begun.scale is None or begun.shift is None:
        return _Shown()
    scale, shift = begun.scale, begun.shift
    mean, deviation = -shift / scale, 1 / np.abs(scale)
    mean = np.where(np.abs(mean) < _ROUNDING * deviation, 0.0, mean)
    one = float(np.ptp(mean)) == 0 and float(np.ptp(deviation)) == 0  # the same for all
    if not mean.any():
        as_bytes = np.allclose(deviation, 255, rtol=0.02)
        numbers = len(_packed(deviation, shape, begun.channels_last))
        if numbers > 1 and (len(shape) == 1 or numbers == deviation.size) and "Scaler" not in begun.operators:
            return _Shown()  # a window or a mask
        return _Shown(0.0, 255.0) if as_bytes else _Shown(mean=mean, deviation=deviation)
    if one and (scale < 0).all() and np.allclose(mean, deviation, rtol=_ROUNDING) and mean.flat[0] in (1.0, 255.0):
        return _Shown(0.0, float(mean.flat[0]))  # an inverted picture, put into 0…1
    if not np.allclose(deviation, 1, rtol=_ROUNDING):
        low, high = (0.0, _raw_end(mean, deviation)) if len(shape) > 1 or one else (None, None)
        return _Shown(None if high is None else low, high, mean, deviation)
    if one and (scale < 0).all() and mean.flat[0] in (1.0, 255.0):  # an inverted picture
        return _Shown(0.0, float(mean.flat[0]))
    if (mean >= 0).all() and (mean <= 1).all():
        return _Shown(0.0, 1.0, mean, np.full_like(mean, _UNIT_DEVIATION), True)
    if (len(shape) > 1 or one) and mean.min() >= 16 and mean.max() <= 240:
        return _Shown(0.0, 255.0, mean, np.full_like(mean, _BYTE_DEVIATION), True)
    if len(shape) > 1 and (mean < 0).any() and (mean > 0).any():  # a positional embedding, as a rule
        return _Shown()
    return _Shown(None, None, mean, np.maximum(1.0, np.abs(mean) * _OF_MEAN), True)


def _raw_end(mean: Numbers, deviation: Numbers) -> float | None:
    """Return 1 or 255, whichever raw values from 0 on can have this mean and this deviation; None if neither."""
    for end in (1.0, 255.0):
        inside = (mean >= 0).all() and (mean <= end).all() and (deviation <= end).all()
        # of values in 0…end the variance is at most mean · (end − mean)
        if inside and (deviation**2 <= 1.1 * mean * (end - mean)).all() and (end == 1 or mean.max() > 1):
            return end
    return None


def _packed(values: Any, shape: tuple[int, ...], channels_last: bool, near: float = 0.0) -> tuple[float, ...]:
    """Reduce an input's numbers to one for all or one for each channel, if they agree up to rounding or ``near``."""
    whole = np.broadcast_to(np.asarray(values, np.float64), shape)
    every, channels = tuple(range(len(shape))), len(shape) - 1 if channels_last else 0
    for others in (every, tuple(axis for axis in every if axis != channels)):
        middle = whole.mean(others, keepdims=True)
        apart = np.abs(whole - middle)
        same = (apart <= _ROUNDING * np.maximum(np.abs(middle), 1e-30)).all()
        if same or (others != every and (apart.std(others) <= near).all()):
            return tuple(float(np.float32(v)) for v in middle.reshape(-1))
    return tuple(float(np.float32(v)) for v in whole.reshape(-1))
