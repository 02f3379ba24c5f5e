"""Take noise as it comes: nothing is optimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ...core.quantities import Number, Positive
from ...core.rng import Key
from ...teacher.signature import Signature
from ..source import Draft, Source
from ..step import Context
from .pixels import Pixels


@dataclass(frozen=True)
class Noise(Source):
    """Draw from the prior p(x), each value independently.

    The lower anchor of the field (Vinell, 2020: a normal distribution clipped to the range), and, with a teacher
    that normalises by the batch, the method of Raikwar and Mishra (NeurIPS 2022).

    Attributes:
        prior: in standard units: ``normal`` N(mean, std²) or ``uniform`` of the same mean and deviation.
        mean: of the prior.
        std: of the prior.
        clip: cut the values to the teacher's valid range.
    """

    prior: Literal["normal", "uniform"] = "normal"
    mean: Number = 0.0
    std: Positive = 1.0
    clip: bool = False

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> FixedDraft:
        start = self._pixels.draft(samples, context, key, None)
        start.project()
        return FixedDraft(start.render())

    def unfit(self, signature: Signature) -> str | None:
        return self._pixels.unfit(signature)

    @property
    def _pixels(self) -> Pixels:
        """Return the source whose start these samples are."""
        return Pixels(self.prior, self.mean, self.std, self.clip)


class FixedDraft(Draft):
    """Hold finished samples, and their labels [samples] if they came with any: there is nothing to step."""

    def __init__(self, x: Tensor, labels: Tensor | None = None) -> None:
        self.leaves = []
        self._x, self.labels = x, labels

    def render(self) -> Tensor:
        return self._x
