"""Match patterns of nodes in a graph that is being built."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .module import GraphStep
from .node import Node
from .values import Depends, Function, Value

Pattern = Any  # a name to bind, a number, or (operator, pattern, …); Add and Mul match either way round
Bound = dict[str, Value]


@dataclass(frozen=True)
class Derived:
    """Compute a constant by a function of constants."""

    function: Function
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Fused:
    """Call a function with its arguments in place of a pattern."""

    function: Function
    arguments: tuple[Value | Derived, ...]


class Patterns:
    """Match patterns against the steps of an unfinished graph: which node makes a value, how many read it."""

    def __init__(self, steps: Sequence[GraphStep], makers: dict[int, Node], outputs: Sequence[Value]) -> None:
        self.steps, self.makers = steps, makers
        self.readers = Counter(a for step in steps for a in step.arguments if isinstance(a, int))
        self.readers.update(value.slot for value in outputs)

    def maker(self, value: Value | None) -> Node | None:
        """Return the node that makes a value which depends on data; None for other values."""
        return None if value is None else self.makers.get(value.slot)

    def call(self, value: Value) -> GraphStep | None:
        """Return the step that makes a value; None if none does."""
        return next((step for step in self.steps if value.slot in step.results), None)

    def once(self, node: Node, kind: str) -> bool:
        """Tell whether the inputs of ``node`` that an operator ``kind`` makes are read by it alone."""
        feeding = [v for v in node.inputs if (made := self.maker(v)) is not None and made.op == kind]
        return all(self.readers[v.slot] == 1 for v in feeding if v is not None)

    def match(self, value: Value | None, pattern: Pattern, bound: Bound) -> Iterator[Bound]:
        """Iterate over all ways in which ``pattern`` fits the nodes that make ``value``."""
        if value is None:
            return
        if isinstance(pattern, str):
            if bound.get(pattern, value) is value:
                yield {**bound, pattern: value}
            return
        if isinstance(pattern, (int, float)):
            if (number := scalar(value)) is not None and math.isclose(number, pattern, rel_tol=1e-3):
                yield bound
            return
        node = self.maker(value)
        if node is None or node.op != pattern[0] or node.proto.domain:
            return
        given, wanted = node.inputs, pattern[1:]
        yield from self._match_all(given, wanted, bound)
        if node.op in ("Add", "Mul") and len(wanted) == 2:
            yield from self._match_all(given[::-1], wanted, bound)

    def _match_all(self, given: Sequence[Value | None], wanted: Sequence[Pattern], bound: Bound) -> Iterator[Bound]:
        if not wanted:
            yield bound
        elif given:
            for first in self.match(given[0], wanted[0], bound):
                yield from self._match_all(given[1:], wanted[1:], first)

    def first(self, value: Value, *patterns: Pattern) -> Bound | None:
        """Return the first fit of the first pattern that fits; None if none does."""
        return next((found for pattern in patterns for found in self.match(value, pattern, {})), None)


def scalar(value: Value | None) -> float | None:
    """Return a constant of one number as a float; None for any other value."""
    if value is None or value.depends != Depends.NOTHING or not isinstance(value.seen[0], Tensor):
        return None
    if value.seen[0].numel() != 1:
        return None
    value.read = True
    return float(value.seen[0].reshape(-1)[0])
