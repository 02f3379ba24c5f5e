"""Schedule when a student learns, and from what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..synthesis.memory import Memory

LearnFrom = Literal["kept", "same", "fresh"]


@dataclass(frozen=True)
class TrainingSchedule:
    """Schedule when the student learns, and from what.

    Attributes:
        rounds: in all.
        steps: of the student in each.
        first: the round in which it begins.
        learn_from: all that was kept; the batch just made; or fresh drafts for every step.
        memory: what it sees again besides.
    """

    rounds: int = 1
    steps: int = 1
    first: int = 0
    learn_from: LearnFrom = "kept"
    memory: Memory | None = None

    @property
    def asks(self) -> bool:
        """Tell whether anything uses the teacher's answers to a batch as it was made."""
        return self.learn_from != "fresh" or self.memory is not None

    @property
    def total(self) -> int:
        """Student steps in all."""
        return (self.rounds - self.first) * self.steps


def steps_per_round(epochs: int | None, steps: int | None, samples: int, batch: int) -> int:
    """Student steps in a round: as many as are given, or enough for so many passes over the samples."""
    return steps or (epochs or 1) * math.ceil(samples / batch)
