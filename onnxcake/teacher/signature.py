"""Describe a classifier's input and output.

Two kinds of units. *Input units* are what the file takes, in the file's own layout; the store, the probes and
both ONNX files use them. *Standard units* have mean 0 and deviation 1 and channels first, as the paper's
formulas assume; everything inside `onnxcake.synthesis` and every student network uses them.
`Signature.to_input` and `to_standard` go between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.json_files import EXACT

Bound = float | tuple[float, ...]
OutputKind = Literal[
    "logits",
    "probabilities",
    "log_probabilities",
    "binary_logit",
    "binary_probability",
    "multilabel_logits",
    "multilabel_probabilities",
]
Task = Literal["multiclass", "binary", "multilabel"]
_MANY = 64  # numbers from which on a tuple's tensor is kept


def limits_of(dtype: str) -> tuple[float, float]:
    """Return the least and the largest number of a type, such as uint8; ∓infinity for floats."""
    bits = dtype.removeprefix("u").removeprefix("int")
    if not bits.isdigit():
        return -math.inf, math.inf
    return (0.0, 2.0 ** int(bits) - 1) if dtype[0] == "u" else (-(2.0 ** (int(bits) - 1)), 2.0 ** (int(bits) - 1) - 1)


@dataclass(frozen=True)
class Signature:
    """Describe the teacher's input and output.

    A tuple of values holds one number for all, one for each channel, or one for each number of an input, in the
    file's own layout. The ends of a range may be such tuples.

    Attributes:
        input_name: the input's name in the file.
        input_shape: one input's shape in the file, without the batch.
        output_name: the output's name in the file.
        output_kind: what the file's output holds.
        classes: how many; 2 for a binary classifier of one output, the number of labels for a multi-label one.
        output_shape: one answer's shape in the file, without the batch; None for a plain row of scores.
        input_dtype: the file's, such as float32 or uint8.
        channels_last: whether inputs are [height, width, channels].
        range: lowest and highest raw value, before a normalisation outside the file; None if unknown.
        mean, std: the normalisation done outside the file, (raw − mean) / std; None where raw values go straight in.
        location, deviation: mean and deviation of what the file takes: what standard units are made of.
        assumptions: what was read from the graph or taken for granted about the values, in words for the user.
    """

    __pydantic_config__ = EXACT
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    output_kind: OutputKind
    classes: int
    output_shape: tuple[int, ...] | None = None
    input_dtype: str = "float32"
    channels_last: bool = False
    range: tuple[Bound, Bound] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    location: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    assumptions: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Signature:
        """Restore the signature from `dataclasses.asdict`'s plain data, lists for tuples allowed."""
        names = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {k: _tuples(v) for k, v in value.items() if k in names}
        return cls(**plain)

    @property
    def task(self) -> Task:
        """Return the decision that the scores stand for: one of several classes, one yes or no, or several."""
        if self.output_kind.startswith("binary"):
            return "binary"
        return "multilabel" if self.output_kind.startswith("multilabel") else "multiclass"

    @property
    def scores(self) -> int:
        """Count the numbers in one answer of the file."""
        return 1 if self.task == "binary" else self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Return one input's shape in standard units: channels first."""
        return (self.input_shape[-1], *self.input_shape[:-1]) if self.channels_last else self.input_shape

    @property
    def is_image(self) -> bool:
        """Tell whether inputs are images with room for neighbours."""
        return len(self.shape) == 3 and min(self.shape[1:]) > 1

    @property
    def of_unknown_scale(self) -> bool:
        """Tell whether inputs are rows of features of which neither the file nor the user shows the values."""
        plain = not any(self.location) and all(one == 1 for one in self.deviation)
        return len(self.input_shape) == 1 and plain and self.range is None and self.mean is None

    @property
    def size(self) -> int:
        """Count the numbers in one input."""
        return math.prod(self.input_shape)

    @property
    def extent(self) -> tuple[float, float] | None:
        """Return the lowest and the highest raw value of all; None if the range is not known."""
        if self.range is None:
            return None
        low, high = (end if isinstance(end, tuple) else (end,) for end in self.range)
        return min(low), max(high)

    def to_input(self, standard: Tensor) -> Tensor:
        """Convert standard units to input units. Differentiable; returns the same tensor where the two are equal."""
        x = standard
        if self._is_rescaled:
            x = x * self._by_channel(self.deviation, x)
        if self._is_shifted:
            x = x + self._by_channel(self.location, x)
        return x.movedim(1, -1) if self.channels_last else x

    def to_standard(self, inputs: Tensor) -> Tensor:
        """Convert input units to standard units."""
        x = inputs.movedim(-1, 1) if self.channels_last else inputs
        if self._is_shifted:
            x = x - self._by_channel(self.location, x)
        if self._is_rescaled:
            x = x / self._by_channel(self.deviation, x)
        return x

    def whole(self, inputs: Tensor) -> Tensor:
        """Round inputs and clip them to the file's range, where it takes whole numbers."""
        if "float" in self.input_dtype:
            return inputs
        low, high = limits_of(self.input_dtype)
        if self.extent is not None and self.mean is None:
            low, high = max(low, self.extent[0]), min(high, self.extent[1])
        return inputs.round().clamp(low, high)

    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Return the lowest and highest value in standard units, each broadcastable to one input; None if unbounded."""
        if self.range is None:
            return None
        one = torch.zeros(1, *self.shape)
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        location, deviation = self._by_channel(self.location, one), self._by_channel(self.deviation, one)
        low, high = (
            (((self._range_end(value, one) - self._by_channel(mean, one)) / self._by_channel(std, one)) - location)
            / deviation
            for value in self.range
        )
        return low.squeeze(0), high.squeeze(0)

    def within(self, x: Tensor) -> Tensor:
        """Clip samples in standard units to the range, if there is one."""
        bounds = self.bounds()
        return x if bounds is None else torch.clamp(x, *bounds)

    def to_raw(self, inputs: Tensor) -> Tensor:
        """Convert input units to raw values with channels first, without the outer normalisation: for pictures."""
        x = inputs.movedim(-1, 1) if self.channels_last else inputs
        if self.mean is None or self.std is None:
            return x
        return x * self._by_channel(self.std, x) + self._by_channel(self.mean, x)

    def over_range(self, unit: Tensor) -> Tensor:
        """Scale numbers from 0 to 1 with channels first to raw values from the range's lowest to its highest."""
        assert self.range is not None
        low, high = (self._range_end(value, unit) for value in self.range)
        return unit * (high - low) + low

    def from_raw(self, raw: Tensor) -> Tensor:
        """Convert raw values with channels first, as `to_raw` returns them, to input units."""
        x = raw
        if self.mean is not None and self.std is not None:
            x = (x - self._by_channel(self.mean, x)) / self._by_channel(self.std, x)
        return x.movedim(1, -1) if self.channels_last else x

    def _range_end(self, value: Bound, like: Tensor) -> Tensor | float:
        return self._by_channel(value, like) if isinstance(value, tuple) else value

    @cached_property
    def _is_shifted(self) -> bool:
        return any(self.location)

    @cached_property
    def _is_rescaled(self) -> bool:
        return any(d != 1 for d in self.deviation)

    @cached_property
    def _tensor_cache(self) -> dict[int, Tensor]:
        """Cache the tensors of long tuples, by the tuple's identity, which lives as long as this object."""
        return {}

    def _by_channel(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Shape numbers for all, for each channel or for each number to broadcast to [batch, channels, …]."""
        if len(values) <= _MANY:
            return self._laid_out(torch.tensor(values, dtype=like.dtype, device=like.device))
        if id(values) not in self._tensor_cache:
            self._tensor_cache[id(values)] = self._laid_out(torch.tensor(values, dtype=torch.float64))
        return self._tensor_cache[id(values)].to(like)

    def _laid_out(self, values: Tensor) -> Tensor:
        if len(values) in (1, self.shape[0]):
            return values.reshape(1, -1, *[1] * (len(self.shape) - 1))
        whole = values.reshape(1, *self.input_shape)
        return whole.movedim(-1, 1) if self.channels_last else whole


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
