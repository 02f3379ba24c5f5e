"""What goes into a classifier and what comes out of it.

Two kinds of units. *Input units* are what the file takes; the store, the probes and both ONNX files use
them. *Standard units* have mean 0 and deviation 1, as the paper's formulas assume; everything inside
`onnxcake.synthesis` uses them. `Signature.to_input` and `to_standard` go between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OutputKind = Literal["logits", "probabilities", "log_probabilities"]

# Values spread over a range have, as a rule, about a quarter of its width as deviation (natural images: 0.23).
_DEVIATION_OF_RANGE = 0.25


@dataclass(frozen=True)
class Signature:
    """The teacher's input and output.

    Attributes:
        input_name: the input's name in the file.
        input_shape: one input's shape, without the batch.
        output_name: the output's name in the file.
        output_kind: what the file's output holds.
        classes: how many.
        range: lowest and highest raw value, before the normalisation; None if unknown.
        mean, std: the normalisation done outside the file, (raw − mean) / std, for each channel or for all;
            None where raw values go straight in.
        input_dtype: always float32 today.
    """

    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    output_kind: OutputKind
    classes: int
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_dtype: str = "float32"

    @property
    def is_image(self) -> bool:
        """Whether inputs are [channels, height, width] with room for neighbours."""
        return len(self.input_shape) == 3 and min(self.input_shape[1:]) > 1

    @property
    def size(self) -> int:
        """Numbers in one input."""
        return math.prod(self.input_shape)

    @property
    def centre(self) -> float:
        """The input value that is 0 in standard units."""
        if self.range is None or self.mean is not None:
            return 0.0
        return (self.range[0] + self.range[1]) / 2

    @property
    def scale(self) -> float:
        """Input units for each standard unit."""
        if self.range is None or self.mean is not None:
            return 1.0
        return (self.range[1] - self.range[0]) * _DEVIATION_OF_RANGE

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was taken for granted about the values, in words for the user."""
        if self.mean is not None:
            return ()
        if self.range is None:
            return (
                "inputs are assumed to be normalised (mean 0, deviation 1) and unbounded; "
                "if the file takes values such as 0…1 or 0…255, say so with --range LO,HI",
            )
        return (
            f"inputs in {self.range[0]:g}…{self.range[1]:g} are assumed to have mean {self.centre:g} and "
            f"deviation {self.scale:g}; if they are normalised outside the file, say so with --mean and --std",
        )

    def to_input(self, standard: Tensor) -> Tensor:
        """Standard units → what the file takes. Differentiable; the same tensor where the two are one."""
        if self.centre == 0.0 and self.scale == 1.0:
            return standard
        return standard * self.scale + self.centre

    def to_standard(self, inputs: Tensor) -> Tensor:
        """What the file takes → standard units."""
        if self.centre == 0.0 and self.scale == 1.0:
            return inputs
        return (inputs - self.centre) / self.scale

    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest value in standard units, each broadcastable to one input; None if unbounded."""
        if self.range is None:
            return None
        low, high = (torch.tensor(value, dtype=torch.float32) for value in self.range)
        if self.mean is not None and self.std is not None:
            mean, std = (self._by_channel(values) for values in (self.mean, self.std))
            return (low - mean) / std, (high - mean) / std
        return self.to_standard(low), self.to_standard(high)

    def to_raw(self, inputs: Tensor) -> Tensor:
        """What the file takes → raw values, before the normalisation outside it: what a picture shows."""
        if self.mean is None or self.std is None:
            return inputs
        return inputs * self._by_channel(self.std) + self._by_channel(self.mean)

    def _by_channel(self, values: tuple[float, ...]) -> Tensor:
        tensor = torch.tensor(values, dtype=torch.float32)
        return tensor if len(values) == 1 else tensor.reshape(-1, *[1] * (len(self.input_shape) - 1))
