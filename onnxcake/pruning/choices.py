"""Form families of atoms that do the same job, of which any number may stay, but not none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.rng import Key
from .dependencies import Followed
from .folded_graph import Array, FoldedGraph
from .indices import Axis

Numbers = np.ndarray[Any, np.dtype[np.float64]]
_NONE = -1  # fills the rows of atoms


@dataclass(frozen=True)
class Families:
    """Hold the atoms that can be dropped.

    Attributes:
        members: the atoms of each family, those of one layer's channels, say.
        weights: names of the constants that training would change, see `weights_of`.
        atoms: for each axis of these weights, the atoms of each index, filled up with −1 [indices, most].
    """

    followed: Followed
    members: tuple[Axis, ...]
    weights: tuple[str, ...]
    atoms: dict[str, list[Axis]] = field(repr=False)

    @property
    def count(self) -> int:
        """Count the parameters of the whole graph."""
        return sum(int(self.followed.graph.constants[name].size) for name in self.weights)

    def parameters(self, dropped: Axis) -> int:
        """Count the parameters once these atoms are dropped."""
        stays, axes = self.followed.stays(dropped), self.followed.axes
        return sum(math.prod(int(stays[axis].sum()) for axis in axes[name]) for name in self.weights)

    def counts(self, share: float) -> list[int]:
        """Compute how many atoms of each family stay if about ``share`` of each does; never none.

        Where shares fall between two numbers, families are rounded up one after the other as the share grows.
        """
        late = ((number * 0.6180339887) % 1 for number in range(len(self.members)))  # spread evenly over 0 … 1
        return [
            min(len(atoms), max(1, int(share * len(atoms) + start)))
            for atoms, start in zip(self.members, late, strict=True)
        ]

    def filled(self, counts: list[int], fits: Callable[[list[int]], bool]) -> list[int]:
        """Add one atom to each family that still fits; the longest families, whose steps are finest, come last."""
        for number in sorted(range(len(counts)), key=lambda i: len(self.members[i])):
            more = [count + (i == number) for i, count in enumerate(counts)]
            if more[number] <= len(self.members[number]) and fits(more):
                counts = more
        return counts

    def dropped(self, scores: Numbers, counts: list[int]) -> Axis:
        """Select the atoms to drop if so many of each family stay: those of the least score."""
        fallen = [
            atoms[np.argsort(-scores[atoms], kind="stable")][stay:]
            for atoms, stay in zip(self.members, counts, strict=True)
        ]
        return np.concatenate(fallen) if fallen else np.zeros(0, np.int64)


def weights_of(graph: FoldedGraph) -> dict[str, Array]:
    """Return the constants that training would change: those of floats, but for single numbers without an axis."""
    return {name: array for name, array in graph.constants.items() if array.dtype.kind == "f" and array.ndim}


def families(followed: Followed) -> Families:
    """Find the families that can be chosen from.

    Of two factors of one axis, such as heads and the dimensions of each head, the longer is chosen from: it gives the
    finer choice, and cutting both would cut twice.
    """
    table = followed.table
    signature = np.zeros(followed.indices.size + 1, np.uint64)
    every = (axis for axes in followed.axes.values() for axis in axes if axis.any())
    for number, axis in enumerate(every):  # atoms that are found on the very same axes have the same sum
        signature[np.unique(table[axis])] += np.uint64(Key(0).at("axis", number).number())
    graph = followed.graph
    weights = tuple(weights_of(graph))
    atoms = {name: [table[axis] for axis in followed.axes[name]] for name in weights}
    free = np.unique(np.concatenate([a.reshape(-1) for parts in atoms.values() for a in parts] or [np.zeros(0, int)]))
    free = free[free != _NONE]
    _, which = np.unique(signature[free], return_inverse=True)
    groups = [free[which == number] for number in range(which.max() + 1 if len(free) else 0)]
    used = table[np.unique(np.concatenate([axis for axes in followed.axes.values() for axis in axes]))]
    groups = _unmixed(groups, used)
    held = _secondary_factors(groups, used)
    return Families(followed, tuple(g for i, g in enumerate(groups) if i not in held and len(g) > 1), weights, atoms)


def _group_numbers(groups: list[Axis], table: Any) -> Axis:
    """Return the number of each atom's group."""
    number = np.full(table.max() + 2, _NONE, np.int64)
    for i, group in enumerate(groups):
        number[group] = i
    return number


def _unmixed(groups: list[Axis], table: Any) -> list[Axis]:
    """Split groups of atoms that are found on the very same axes where they are several factors of these."""
    number = _group_numbers(groups, table)
    places = range(table.shape[1])
    couples = np.concatenate([table[:0, :1].repeat(2, 1), *(table[:, [i, j]] for i in places for j in range(i))])
    first, second = number[couples].T
    together = couples[(first == second) & (first != _NONE)]
    mixed = {i: together[number[together[:, 0]] == i] for i in np.unique(number[together[:, 0]]).tolist()}
    return [part for i, group in enumerate(groups) for part in (_factors(group, mixed[i]) if i in mixed else [group])]


def _factors(group: Axis, couples: Any) -> list[Axis]:
    """Split a group into parts such that atoms of one part never make an element together, those of two always do.

    Groups that do not come apart like this are no product of axes, and nothing of them is chosen.
    """
    group = np.sort(group)
    apart = np.ones((len(group), len(group)), np.bool_)
    one, other = np.searchsorted(group, couples).T
    apart[one, other] = apart[other, one] = False
    parts, left = [], np.ones(len(group), np.bool_)
    while left.any():
        part = apart[left.argmax()]
        if apart[np.ix_(part, part)].all() and not apart[np.ix_(part, ~part)].any():
            parts.append(group[part])
        left &= ~part
    return parts


def _secondary_factors(groups: list[Axis], table: Any) -> set[int]:
    """Find the families that stay whole, as they are factors beside longer ones."""
    number = _group_numbers(groups, table)
    pairs = np.unique(np.sort(number[table[(table != _NONE).sum(1) > 1]], axis=1), axis=0)
    held: set[int] = set()
    for row in pairs.tolist():
        factors = {i for i in row if i != _NONE} - held
        if len(factors) > 1:
            longest = max(factors, key=lambda i: (len(groups[i]), -i))
            held |= factors - {longest}
    return held


def largest(fits: Callable[[float], bool], low: float = 0.0, high: float = 1.0, turns: int = 24) -> float:
    """Find the largest share in low … high that fits, by bisection; ``low`` if none does."""
    if fits(high):
        return high
    for _ in range(turns):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
