"""Infer from the first operators of a graph what values it takes.

Operators that only rescale or rearrange the input make every number of theirs scale · x + shift of one number x of the
input. The scale and the shift are read off the converted graph itself: the gradient of the sum of such a value, and of
its square, at zero. Where the file standardises its input, scale · x + shift has mean 0 and deviation 1, so that the
input has the mean −shift/scale and the deviation 1/|scale|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ..onnxfile.rename import INPUT
from ..onnxfile.walk import read_by
from .convert import Converted
from .values import Depends

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_CURVED = {"Log", "Sqrt"}  # what is added before them keeps them defined, as log(1 + x): no mean is subtracted
_KEPT = {"Identity", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_CHOSEN = {"Slice", "Gather", "Split", "Concat"}
_RESCALED = {"Sub", "Add", "Mul", "Div"}
_ML_KEPT, _ML_CHOSEN = {"Imputer"}, {"ArrayFeatureExtractor", "FeatureVectorizer"}
_FLOATS = (1, 10, 11, 16)
_MOST = 1 << 24  # numbers in an input whose beginning is read: their gradients are held
_LEAST_ROWS = 8  # of a table that is taken for samples, as support vectors are


@dataclass(frozen=True)
class Reading:
    """Hold what one value shows of the input.

    Attributes:
        mean, deviation: of the value, broadcastable to it.
        low, high: the ends of the value, or None.
        operators: those that rescaled the input on the way to it, in order.
    """

    mean: Tensor
    deviation: Tensor
    low: float | None = None
    high: float | None = None
    operators: tuple[str, ...] = ()


_PLAIN = Reading(torch.zeros(1), torch.ones(1))


@dataclass(frozen=True)
class InputHints:
    """Hold what the first operators show, for each number of the input in the file's own layout [input shape].

    Attributes:
        scale, shift: the input becomes scale · x + shift of mean 0 and deviation 1; None if nothing rescales it.
        low, high: its ends, or None.
        channels_last: whether inputs are [height, width, channels].
        operators: those that it was read from, in words.
    """

    scale: Numbers | None = None
    shift: Numbers | None = None
    low: Numbers | None = None
    high: Numbers | None = None
    channels_last: bool = False
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Path:
    """Hold the operators that rescaled the input up to a value, and whether each had a number for each feature."""

    operators: tuple[str, ...] = ()
    by_feature: bool = True


@dataclass
class _Walk:
    """Follow the input through all operators that only rescale or rearrange it."""

    graph: Converted
    rows: bool  # whether an input is one row of features, which may be taken apart and put together
    paths: dict[str, _Path] = field(default_factory=lambda: {INPUT: _Path()})
    readings: dict[str, Reading] = field(default_factory=dict)
    channels_last: bool = False

    def follow(self) -> None:
        for node in self.graph.safe.model.graph.node:
            read = [name for name in read_by(node) if name in self.paths]
            if not read or not any(self._is_data(name) for name in node.output):
                continue
            path = self._through(node, read)
            if path is None:
                self._end_walk(node, read)
                continue
            self.paths.update({name: path for name in node.output if self._is_data(name)})
            self._move(node, read[0])
        for name in self.graph.safe.outputs:
            if name in self.paths and self.paths[name].operators:
                self.readings.setdefault(name, replace(_PLAIN, operators=self.paths[name].operators))

    def _through(self, node: onnx.NodeProto, read: list[str]) -> _Path | None:
        """Return the path of a node's outputs, if they are the input rescaled or rearranged; else None."""
        kind, path = node.op_type, self.paths[read[0]]
        if node.domain not in ("", "ai.onnx.ml"):
            return None
        if node.domain:
            if kind == "Scaler":
                return _Path((*path.operators, kind), path.by_feature)
            return path if kind in _ML_KEPT else self._joined_path(node, read) if kind in _ML_CHOSEN else None
        if kind == "Cast":
            to = next((a.i for a in node.attribute if a.name == "to"), 0)
            return path if to in _FLOATS else None
        if kind == "Neg":
            return path
        if kind in _RESCALED:
            return self._rescaled(node, read)
        if kind == "Transpose":
            order = _attribute(node, "perm")
            return path if order is not None and order[0] == 0 else None
        return path if kind in _KEPT else self._joined_path(node, read) if kind in _CHOSEN else None

    def _joined_path(self, node: onnx.NodeProto, read: list[str]) -> _Path | None:
        data = [name for name in node.input if self._is_data(name)]
        if not self.rows or any(name not in self.paths for name in data):
            return None
        operators = tuple(dict.fromkeys(op for name in data for op in self.paths[name].operators))
        return _Path(operators, all(self.paths[name].by_feature for name in data))

    def _rescaled(self, node: onnx.NodeProto, read: list[str]) -> _Path | None:
        if len(read) != 1 or (node.op_type == "Div" and node.input[1] == read[0]):
            return None
        other = self.graph.constant(next((name for name in node.input if name != read[0]), ""))
        if other is None or not other.dtype.is_floating_point or not other.isfinite().all():
            return None
        if node.op_type in ("Mul", "Div") and not bool((other > 0).all() | (other < 0).all()):
            return None  # learned, as no normalisation is
        if self._shape(node.output[0]) != self._shape(read[0]):
            return None  # one input beside many rows of a table
        path = self.paths[read[0]]
        made = _Path((*path.operators, node.op_type), path.by_feature and other.numel() > 1)
        if self.rows and made == _Path(("Mul", "Add")):  # to 0…1, as scikit-learn's MinMaxScaler does
            self.readings[node.output[0]] = Reading(
                torch.full((1,), 0.5), torch.full((1,), 0.25), 0.0, 1.0, made.operators
            )
        return made

    def _move(self, node: onnx.NodeProto, read: str) -> None:
        """Note that pictures are transposed from channels last to channels first."""
        if node.op_type == "Transpose" and _attribute(node, "perm") == [0, 3, 1, 2]:
            self.channels_last = self.channels_last or self._shape(read) == self.graph.safe.input_shape

    # What ends the walk

    def _end_walk(self, node: onnx.NodeProto, read: list[str]) -> None:
        for name in read:
            path = self.paths[name]
            reading = self._read_last(node, name, path)
            if reading is None and path.operators and node.op_type not in _CURVED:
                reading = _PLAIN
            if reading is not None and name not in self.readings:
                self.readings[name] = replace(reading, operators=(*path.operators, *reading.operators))

    def _read_last(self, node: onnx.NodeProto, name: str, path: _Path) -> Reading | None:
        """Read what the operator that ends the walk shows of its input."""
        kind = node.op_type
        if kind == "QuantizeLinear" and name == node.input[0]:
            return self._quantised(node)
        if kind == "Clip":
            ends = [self._clip_end(node, place) for place in (1, 2)]
            if None in ends:
                return None
            return replace(_PLAIN, low=ends[0], high=ends[1], operators=(kind,))
        if path.operators:
            return None
        if kind == "BatchNormalization" and name == node.input[0]:
            mean, variance = (self.graph.constant(one) for one in node.input[3:5])
            if mean is None or variance is None:
                return None
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            shape = (1, -1, *[1] * (len(self._shape(name)) - 1))
            deviation = (variance.double() + epsilon).sqrt().reshape(shape)
            return Reading(mean.double().reshape(shape), deviation, operators=(kind,))
        return self._table(node, name)

    def _clip_end(self, node: onnx.NodeProto, place: int) -> float | None:
        if place < len(node.input):
            given = self.graph.constant(node.input[place])
            return float(given) if given is not None and given.numel() == 1 else None
        return next((a.f for a in node.attribute if a.name == ("min", "max")[place - 1]), None)

    def _quantised(self, node: onnx.NodeProto) -> Reading | None:
        scale, zero = (self.graph.constant(name) for name in (*node.input[1:3], "")[:2])
        if scale is None or scale.numel() != 1:
            return None
        low, high = (-128, 127) if zero is not None and zero.dtype == torch.int8 else (0, 255)
        offset = 0.0 if zero is None else float(zero.reshape(-1)[0])
        ends = ((low - offset) * float(scale), (high - offset) * float(scale))
        return replace(_PLAIN, low=ends[0], high=ends[1], operators=("QuantizeLinear",))

    def _table(self, node: onnx.NodeProto, name: str) -> Reading | None:
        """Read mean and deviation from rows that the input is compared with, such as support vectors."""
        if node.op_type == "SVMClassifier":
            vectors = torch.tensor(_attribute(node, "support_vectors") or [], dtype=torch.float64)
            width = math.prod(self._shape(name))
            table = vectors.reshape(-1, width) if len(vectors) and len(vectors) % width == 0 else None
            return None if table is None or len(table) < _LEAST_ROWS else self._reading_of_rows(table, node.op_type)
        if node.op_type in ("CDist", "Scan"):
            for other in node.input:
                given = self.graph.constant(other)
                if given is not None and given.dim() == 2 and given.shape[1:] == self._shape(name)[-1:]:
                    return self._reading_of_rows(given, "samples") if len(given) >= _LEAST_ROWS else None
        if node.op_type == "Sub":
            given = self.graph.constant(next((one for one in node.input if one != name), ""))
            if given is not None and given.dim() > 1 and given.shape[-1:] == self._shape(name)[-1:] and self.rows:
                return self._reading_of_classes(node, given.double().reshape(-1, given.shape[-1]))
        return None

    def _reading_of_rows(self, table: Tensor, what: str) -> Reading:
        return Reading(table.double().mean(0), _above_zero(table.double().std(0)), operators=(what,))

    def _reading_of_classes(self, node: onnx.NodeProto, means: Tensor) -> Reading | None:
        """Read mean and deviation from the classes' means and variances of naive Bayes."""
        readers = {name: n for n in self.graph.safe.model.graph.node for name in n.input}
        square = readers.get(node.output[0])
        divided = None if square is None or square.op_type != "Pow" else readers.get(square.output[0])
        if divided is None or divided.op_type != "Div":
            return None
        variance = self.graph.constant(divided.input[1])
        if variance is None or variance.numel() != means.numel() or len(means) < 2:
            return None
        whole = means.var(0, correction=0) + variance.double().reshape(means.shape).mean(0)
        return Reading(means.mean(0), _above_zero(whole.sqrt()), operators=("classes' means and variances",))

    def _is_data(self, name: str) -> bool:
        value = self.graph.values.get(name)
        return value is not None and value.depends == Depends.DATA and isinstance(value.seen[0], Tensor)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.graph.values[name].seen[0].shape[1:])


def input_hints(graph: Converted) -> InputHints:
    """Infer from the operators that rescale, quantise, clip or transpose the input first what values it has."""
    shape = graph.safe.input_shape
    looks_last = len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4
    walk = _Walk(graph, rows=len(shape) == 1)
    if math.prod(shape) > _MOST:
        return InputHints(channels_last=looks_last)
    walk.follow()
    found = InputHints(channels_last=looks_last or walk.channels_last)
    for name, reading in walk.readings.items():
        found = _add_reading(found, reading, *_affine(graph, name, reading))
    return found


def _add_reading(found: InputHints, reading: Reading, scale: Numbers, shift: Numbers) -> InputHints:
    """Add one reading; the first to show a number of the input counts."""
    known = np.isfinite(scale) & (scale != 0)
    if found.scale is not None and found.shift is not None:
        known &= (found.scale == 1) & (found.shift == 0)
        scale, shift = np.where(known, scale, found.scale), np.where(known, shift, found.shift)
    else:
        scale, shift = np.where(known, scale, 1.0), np.where(known, shift, 0.0)
    low, high = found.low, found.high
    if low is None and reading.low is not None and reading.high is not None and known.all():
        ends = [
            (((end - float(reading.mean)) / float(reading.deviation)) - shift) / scale
            for end in (reading.low, reading.high)
        ]
        low, high = np.minimum(*ends), np.maximum(*ends)
    operators = tuple(dict.fromkeys((*found.operators, *reading.operators)))
    return replace(found, scale=scale, shift=shift, low=low, high=high, operators=operators)


def _affine(graph: Converted, name: str, reading: Reading) -> tuple[Numbers, Numbers]:
    """Compute each input number's scale and shift in (value − mean) / deviation; 0 and 0 where it has no part."""
    x = torch.zeros(1, *graph.safe.input_shape, dtype=torch.float64, requires_grad=True)
    value = graph.module(name).double()(x).double()
    standard = (value - reading.mean) / reading.deviation
    (scale,) = torch.autograd.grad(standard.sum(), x, retain_graph=True)
    (product,) = torch.autograd.grad((standard * standard.detach()).sum(), x)
    shift = torch.where(scale == 0, 0, product / torch.where(scale == 0, 1, scale))
    return scale[0].numpy(), shift[0].numpy()


def _above_zero(deviation: Tensor) -> Tensor:
    """Replace deviations of zero (of features that never change) by 1."""
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _attribute(node: onnx.NodeProto, name: str) -> list[Any] | None:
    for one in node.attribute:
        if one.name == name:
            return list(one.ints or one.floats)
    return None
