"""Describe values of a graph while it is built: what they depend on, and what was seen of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

Function = Callable[..., Any]  # of the tensors that reach a node; returns one result, or a tuple of them


class Obstacle(Exception):
    """Reason why a node cannot be converted, with a remedy for the user; `Builder` adds the node's name."""

    def __init__(self, why: str, remedy: str = "") -> None:
        self.why, self.remedy = why, remedy
        super().__init__(why)


class TooMuch(Obstacle):
    """Request for more memory or more operators than one graph may have."""


class Unfit(Obstacle):
    """Node whose inputs do not fit it, or whose conversion is wrong: onnxruntime tells which."""


class Depends(IntEnum):
    """Levels of what a value depends on."""

    NOTHING = 0  # a constant
    BATCH = 1  # only on how many inputs there are, as a shape does
    DATA = 2


@dataclass(frozen=True)
class Sizes:
    """Hold whole numbers, each slope · batch + base."""

    slope: tuple[int, ...]
    base: tuple[int, ...]

    def at(self, batch: int) -> tuple[int, ...]:
        """Return the numbers for a batch."""
        return tuple(s * batch + b for s, b in zip(self.slope, self.base, strict=True))

    @property
    def fixed(self) -> bool:
        """Tell whether the numbers are the same for all batches."""
        return not any(self.slope)

    @property
    def base_of_fixed(self) -> tuple[int, ...]:
        """Return the numbers that do not depend on the batch."""
        return tuple(b for s, b in zip(self.slope, self.base, strict=True) if not s)

    @classmethod
    def through(cls, batches: tuple[int, int], seen: tuple[Sequence[int], Sequence[int]]) -> Sizes:
        """Fit slope and base to the numbers seen at two batches.

        Raises:
            Obstacle: if they do not lie on a line of whole numbers.
        """
        slopes, bases = [], []
        for first, second in zip(*seen, strict=True):
            slope, rest = divmod(second - first, (batches[1] - batches[0]) or 1)
            if rest:
                raise Obstacle("a size depends on the batch in a way that is not understood")
            slopes.append(slope)
            bases.append(first - slope * batches[0])
        return cls(tuple(slopes), tuple(bases))


@dataclass(eq=False)
class Value:
    """Hold a value of the graph while it is built.

    Attributes:
        depends: on what.
        seen: what it was at the two trial batches: tensors (on the meta device if it depends on data), or lists
            of tensors for ONNX sequences, or None for an empty optional.
        slot: its place at run time.
        elem_type: its ONNX element type where the file states it; torch's dtype cannot tell int4 from int8.
        read: whether a converter has looked at its numbers, so that the graph holds for these alone.
    """

    depends: Depends
    seen: tuple[Any, Any]
    slot: int
    elem_type: int = 0
    read: bool = False
