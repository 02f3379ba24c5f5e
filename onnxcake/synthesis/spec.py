"""How samples are made: the parts of a method, fitted to a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from ..teacher.autotune import Dtype
from .augment import Augment
from .labels.hard import Labels
from .source import Source
from .step import Need, Weighted
from .updates import Update


@dataclass(frozen=True)
class Synthesis:
    """How samples are made: the parts that a recipe named, fitted to a teacher.

    Attributes:
        source, labels, losses, update, augment: the parts.
        groups: samples in a row.
        batch: samples in a batch, a multiple of ``groups``.
        batches: made in each round.
        held_out: batches made besides that no student learns from: spread over the schedule of a set that is
            made in one go, after the last round otherwise.
        steps: for each batch.
        reference_batch: the batch that step size and weights were chosen for. Losses are means, so a sample's
            own gradient shrinks as the batch grows; it is scaled back to what it is at this size.
        chunk: samples that go through the teacher at once, a multiple of ``groups``.
        rounds: how often synthesis and student take turns.
        dtype: what gradients at the samples are computed in; answers are in float32.
        workers: batches made side by side, if they are independent, each on one core.
    """

    source: Source
    labels: Labels
    losses: tuple[Weighted, ...]
    update: Update
    groups: int
    batch: int
    batches: int
    held_out: int
    steps: int
    reference_batch: int
    chunk: int
    rounds: int = 1
    augment: tuple[Augment, ...] = ()
    dtype: Dtype = "float32"
    workers: int = 1

    @property
    def total(self) -> int:
        """Batches made over all rounds, held-out ones not counted."""
        return self.rounds * self.batches

    @property
    def needs(self) -> frozenset[Need]:
        """What the parts ask of the teacher and the run."""
        of_losses = (need for term in self.losses for need in term.loss.needs)
        return frozenset((*self.source.needs, *self.labels.needs, *of_losses))

    @property
    def lasting(self) -> tuple[str, ...]:
        """What makes a batch depend on those before it, or on the student, in words."""
        parts = [] if self.source.independent else ["the source"]
        parts += [f"the loss {term.name}" for term in self.losses if term.loss.lasts or "student" in term.loss.needs]
        return tuple(parts)

    def position(self, index: int) -> float:
        """Where batch ``index`` lies in the schedule over the run; held-out batches lie evenly in it, or at its end."""
        if index < self.total:
            return index / self.total
        if self.rounds > 1:
            return (self.total - 1) / self.total
        return (index - self.total + 0.5) / self.held_out

    @property
    def teacher_passes(self) -> int:
        """Samples through the teacher with gradient, held-out batches included."""
        if not self.has_gradient:
            return 0
        return (self.total + self.held_out) * self.batch * self.steps

    @property
    def has_gradient(self) -> bool:
        """Whether steps follow the losses' gradient through the teacher; a decision-based source asks for classes."""
        return "labels" not in self.source.needs
