"""Record how a graph's constants are computed from the file's weights, so that the graph can be trained in these.

A constant is computed once, while the graph is built. If it was computed from a weight, a trained graph has to do so
again at every call, or it would not compute with the weight's present numbers. Where a converter has read a weight's
numbers and derived something that cannot be computed again, the weight must stay as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .module import GraphStep
from .values import Depends, Value


@dataclass(frozen=True)
class _Note:
    step: GraphStep
    sources: tuple[Value, ...]
    made: tuple[Value, ...]


@dataclass
class Lineage:
    """Hold every constant that was computed before there is data, in order.

    Attributes:
        fixed: slots of constants that must stay as they are.
    """

    fixed: set[int] = field(default_factory=set)
    _notes: list[_Note] = field(default_factory=list)

    def note(self, step: GraphStep, sources: Iterable[Value], made: Sequence[Value]) -> None:
        """Note how ``made`` was computed from ``sources``, none of which depend on data."""
        given = tuple(sources)
        self._notes.append(_Note(step, given, tuple(made)))
        of_batch = any(value.depends == Depends.BATCH for value in given)
        # Whole numbers and lists have no gradient; what turned out not to depend on the batch cannot be done again.
        if any(not _is_float(value) or (of_batch and value.depends == Depends.NOTHING) for value in made):
            self.fixed.update(value.slot for value in given)

    def unfolded(self, needed: set[int], weights: Iterable[Value]) -> tuple[list[GraphStep], set[int], set[int]]:
        """List the steps that a graph which is trained in ``weights`` has to compute at every call.

        Args:
            needed: the slots that its steps touch.

        Returns:
            (those steps, in order; all slots that are touched with them; the slots of the weights among these that
            the graph computes with wherever the file says so).
        """
        for note in reversed(self._notes):
            if any(value.read or value.slot in self.fixed for value in note.made):
                self.fixed.update(value.slot for value in note.sources)
        learnt = {value.slot for value in weights if not value.read} - self.fixed
        live = set(learnt)
        for note in self._notes:
            if live.intersection(value.slot for value in note.sources):
                live.update(value.slot for value in note.made if value.depends == Depends.NOTHING)
        steps, touched = [], set(needed)
        for note in reversed(self._notes):
            if any(value.slot in touched & live for value in note.made):
                steps.append(note.step)
                touched.update(value.slot for value in note.sources)
        return steps[::-1], touched, learnt & touched


def _is_float(value: Value) -> bool:
    return isinstance(value.seen[0], Tensor) and value.seen[0].is_floating_point()
