"""Describe how samples are made: the parts of a method, fitted to a teacher."""

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
    """Hold the parts that a recipe named, fitted to a teacher, and the sizes of the set.

    Attributes:
        source, labels, losses, update, augment: the parts.
        groups: samples in a row.
        batch: samples in a batch, a multiple of ``groups``.
        batches: made in each round.
        held_out: batches made besides that no student learns from: spread over the schedule of a set that is
            made in one go, after the last round otherwise.
        steps: for each batch.
        reference_batch: the batch that step size and weights were chosen for. Losses are means, so a sample's
            own gradient shrinks as the batch grows; it is scaled back to its size at this batch.
        chunk: samples that go through the teacher at once, a multiple of ``groups``.
        rounds: turns of synthesis and student.
        dtype: dtype of gradients at the samples; answers are in float32.
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
        """Count the batches made over all rounds, without held-out ones."""
        return self.rounds * self.batches

    @property
    def needs(self) -> frozenset[Need]:
        """Return the union of the parts' requirements on the teacher and the run."""
        of_losses = (need for term in self.losses for need in term.loss.needs)
        return frozenset((*self.source.needs, *self.labels.needs, *of_losses))

    @property
    def lasting(self) -> tuple[str, ...]:
        """List in words what makes a batch depend on those before it, or on the student."""
        parts = [] if self.source.independent else ["the source"]
        parts += [f"the loss {term.name}" for term in self.losses if term.loss.lasts or "student" in term.loss.needs]
        return tuple(parts)

    def position(self, index: int) -> float:
        """Return batch ``index``'s position in the run's schedule; held-out ones lie evenly in it, or at its end."""
        if index < self.total:
            return index / self.total
        if self.rounds > 1:
            return (self.total - 1) / self.total
        return (index - self.total + 0.5) / self.held_out

    @property
    def teacher_passes(self) -> int:
        """Count the samples through the teacher with gradient, held-out batches included."""
        if not self.has_gradient:
            return 0
        return (self.total + self.held_out) * self.batch * self.steps

    @property
    def has_gradient(self) -> bool:
        """Tell whether steps follow a gradient through the teacher; a decision-based source queries classes."""
        return "labels" not in self.source.needs
