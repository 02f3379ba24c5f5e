"""Track which indices stand and fall together, all through a graph.

Each index along each axis of each value is an *element*: a set of *atoms*, kept if all its atoms are. An axis that
is two axes flattened into one has elements of two atoms each; an index that must stay is the element of no atoms,
`KEPT`. `unite` declares that two elements must be the same; so removing one channel of a convolution removes
the same channel from every reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Axis = np.ndarray[Any, np.dtype[np.int64]]  # of element numbers
Axes = list[Axis]

KEPT = 0  # the element of no atoms
BY_NATURE = ""  # why what nobody would cut must stay, such as the sides of a kernel


class Indices:
    """Hold elements and atoms, and what is known about them."""

    def __init__(self) -> None:
        self._sets: list[frozenset[int]] = [frozenset()]
        self._numbers: dict[frozenset[int], int] = {frozenset(): KEPT}
        self._stands_for: list[frozenset[int] | None] = []  # of each atom: what it turned out to be; None: itself
        self._became: dict[int, frozenset[int]] = {}  # what an atom turned out to be, as it was first known
        self._fresh: dict[int, frozenset[int]] = {}  # the first element of each fresh axis, as it was then
        self._held: dict[int, str] = {}  # atoms that must stay → why
        self._why = ""

    def because(self, why: str) -> None:
        """Set the reason for everything that is held from now on."""
        self._why = why

    @property
    def size(self) -> int:
        """Count the atoms."""
        return len(self._stands_for)

    # Elements

    def fresh(self, size: int) -> Axis:
        """Make an axis whose indices fall one by one. A single index must stay."""
        if size <= 1:
            return np.full(size, KEPT, np.int64)
        atom, element = len(self._stands_for), len(self._sets)
        new = [frozenset((atom + i,)) for i in range(size)]
        self._stands_for += [None] * size
        self._sets += new
        self._numbers.update(zip(new, range(element, element + size), strict=True))
        self._fresh[element] = new[0]
        return np.arange(element, element + size, dtype=np.int64)

    @staticmethod
    def kept(size: int) -> Axis:
        """Make an axis that must stay whole."""
        return np.full(size, KEPT, np.int64)

    def atoms(self, element: int) -> frozenset[int]:
        """Return the atoms that an element is made of now."""
        now = self._sets[element] = self._resolved(self._sets[element])
        return now

    def table(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the atoms of every element, filled up with −1 [elements, most]."""
        sets = [sorted(self.atoms(element)) for element in range(len(self._sets))]
        table = np.full((len(sets), max(1, *map(len, sets))), -1, np.int64)
        for element, atoms in enumerate(sets):
            table[element, : len(atoms)] = atoms
        return table

    def _number(self, atoms: frozenset[int]) -> int:
        number = self._numbers.get(atoms)
        if number is None:
            number = self._numbers[atoms] = len(self._sets)
            self._sets.append(atoms)
        return number

    def _resolved(self, atoms: frozenset[int]) -> frozenset[int]:
        meanings = self._stands_for
        for atom in atoms:
            if meanings[atom] is not None:
                break
        else:
            return atoms
        found: set[int] = set()
        for atom in atoms:
            meaning = meanings[atom]
            if meaning is None:
                found.add(atom)
            else:
                meaning = meanings[atom] = self._resolved(meaning)
                found |= meaning
        return frozenset(found)

    # Facts

    def hold(self, axis: Iterable[int], why: str | None = None) -> None:
        """Hold all these elements: they must stay, for the present node's reason if no other is given."""
        for element in set(map(int, axis)):
            for atom in self.atoms(element):
                self._stay(atom, why)

    def _stay(self, atom: int, why: str | None = None) -> None:
        self._held.setdefault(atom, self._why if why is None else why)
        self._stands_for[atom] = frozenset()

    def why(self, axis: Axis) -> str:
        """Return why the first index of a fresh axis must stay; "" if it need not, is alone, or must by its nature."""
        waiting = list(self._fresh[int(axis[0])]) if len(axis) and axis[0] != KEPT else []
        seen: set[int] = set()
        while waiting:
            atom = waiting.pop()
            if atom in self._held:
                return self._held[atom]
            seen.add(atom)
            waiting += self._became.get(atom, frozenset()) - seen
        return ""

    def unite(self, first: Axis, second: Axis) -> None:
        """Unite two axes: index by index, one stays if and only if the other does."""
        if len(first) != len(second):  # a size that cannot be followed
            self.hold(first)
            self.hold(second)
            return
        if np.array_equal(first, second):
            return
        for a, b in set(zip(first.tolist(), second.tolist(), strict=True)):
            if a != b:
                self._unite_sets(self.atoms(a), self.atoms(b))

    def _unite_sets(self, a: frozenset[int], b: frozenset[int]) -> None:
        if a == b:
            return
        a, b = a - b, b - a
        if len(a) == 1 and b:
            self._replace_atom(next(iter(a)), b)
        elif len(b) == 1 and a:
            self._replace_atom(next(iter(b)), a)
        elif len(a) == len(b):  # the factors of two axes that were split alike, in the order of the split
            for one, other in zip(sorted(a), sorted(b), strict=True):
                self._unite_sets(self._resolved(frozenset((one,))), self._resolved(frozenset((other,))))
        else:
            for atom in a | b:
                self._stay(atom)

    def _replace_atom(self, atom: int, meaning: frozenset[int]) -> None:
        self._stands_for[atom] = self._became[atom] = meaning

    # Axes into one, and one into axes

    def merged(self, axes: Sequence[Axis]) -> Axis:
        """Flatten several axes into one, the last one running fastest."""
        result = self.kept(1)
        for axis in axes:
            result = self._product(result, axis)
        return result

    def _product(self, outer: Axis, inner: Axis) -> Axis:
        if not inner.any():
            return np.repeat(outer, len(inner))
        if not outer.any():
            return np.tile(inner, len(outer))
        known: dict[tuple[int, int], int] = {}
        result = np.empty((len(outer), len(inner)), np.int64)
        for i, a in enumerate(outer.tolist()):
            for j, b in enumerate(inner.tolist()):
                if (a, b) not in known:
                    known[a, b] = self._number(self.atoms(a) | self.atoms(b))
                result[i, j] = known[a, b]
        return result.reshape(-1)

    def split(self, axis: Axis, sizes: Sequence[int]) -> Axes:
        """Split one axis into several, the last one running fastest; what is then kept of it is a block of these."""
        if len(sizes) <= 1:
            return [axis] * len(sizes)
        if not axis.any():
            return [self.kept(size) for size in sizes]
        rest = int(np.prod(sizes[1:]))
        outer, inner = self._factors(axis.reshape(sizes[0], rest))
        return [outer, *self.split(inner, sizes[1:])]

    def _factors(self, block: np.ndarray[Any, Any]) -> tuple[Axis, Axis]:
        """Find two axes whose product a block of elements is; make new ones if it is no product yet."""
        sets = [[self.atoms(int(element)) for element in row] for row in block]
        rows = [frozenset.intersection(*row) for row in sets]
        columns = [frozenset.intersection(*column) for column in zip(*sets, strict=True)]
        if all(sets[i][j] == row | column for i, row in enumerate(rows) for j, column in enumerate(columns)):
            return tuple(np.array([self._number(s) for s in part], np.int64) for part in (rows, columns))  # type: ignore[return-value]
        outer, inner = self.fresh(block.shape[0]), self.fresh(block.shape[1])
        self.unite(self.merged([outer, inner]), block.reshape(-1))
        return outer, inner
