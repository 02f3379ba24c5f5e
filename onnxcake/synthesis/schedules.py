"""Schedule the step size over the set of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from ..core.quantities import NonNegative, Positive
from .step import Parts


class Schedule(Protocol):
    """Declare a schedule: a frozen dataclass whose fields are its recipe keys."""

    def __call__(self, position: float) -> float:
        """Return the value at ``position`` in the set: 0 for its first batch, below 1 for its last."""


@dataclass(frozen=True)
class Constant:
    """Return the same value for every batch."""

    value: Positive

    def __call__(self, position: float) -> float:
        return self.value


@dataclass(frozen=True)
class Decay:
    """Fall by ``magnitude`` powers of ten over the set: start · 10^(−magnitude · s(position)).

    CAKE's noise schedule: batches made with large steps look rough, those made with small steps smooth
    (Braun et al., AISTATS 2024, Algorithm 1).

    Attributes:
        start: the value of the first batch.
        magnitude: powers of ten.
        shape: s is the position itself (``linear``), or (1 − cos π·position)/2 (``cosine``).
    """

    start: Positive
    magnitude: NonNegative
    shape: Literal["linear", "cosine"] = "linear"

    def __call__(self, position: float) -> float:
        s = position if self.shape == "linear" else (1 - math.cos(math.pi * position)) / 2
        return float(self.start * 10 ** (-self.magnitude * s))


@dataclass(frozen=True)
class Cosine:
    """Fall from ``start`` to ``final`` along half a cosine."""

    start: Positive
    final: NonNegative = 0.0

    def __call__(self, position: float) -> float:
        return self.final + (self.start - self.final) / 2 * (1 + math.cos(math.pi * position))


SCHEDULES: Parts = {"constant": Constant, "decay": Decay, "cosine": Cosine}
