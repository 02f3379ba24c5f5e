"""What is asked of a cut, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..core.errors import UnsupportedTeacher
from ..core.quantities import Count, Positive, Share
from .folded_graph import Array

Score = Literal["responses", "weights", "random"]
LowRank = Literal["auto", "tied"]  # products of two matrices: where they keep more, or only where nothing else is left
Shape = tuple[int, ...]
HALF = 0.5  # of the teacher's parameters: where no goal is said


class NothingToCut(UnsupportedTeacher):
    """No part of a teacher's graph can be left out."""


@dataclass(frozen=True)
class Goal:
    """How small: one of these, half the teacher's parameters if none is given.

    Attributes:
        keep: a share of the teacher's parameters.
        max_params: parameters.
        max_bytes: of the file.
        max_macs: multiply-adds for one input.
        max_latency_ms: in onnxruntime for one input, on this machine with one thread.
    """

    keep: Share | None = None
    max_params: Count | None = None
    max_bytes: Count | None = None
    max_macs: Count | None = None
    max_latency_ms: Positive | None = None

    @property
    def by_parameters(self) -> bool:
        """Whether it is parameters that it limits."""
        return self.max_bytes is None and self.max_macs is None and self.max_latency_ms is None

    def parameters_of(self, whole: int) -> float:
        """The most parameters, of a teacher that has so many."""
        return self.max_params if self.max_params is not None else (self.keep or HALF) * whole


@dataclass(frozen=True)
class Layer:
    """What became of a node that holds weights.

    Attributes:
        name: what the file calls it; ``op``: its operator.
        shapes: of its largest weight, before and after; of both its factors, where it is written as a product of two.
        parameters, multiply_adds: before and after; the latter for one input.
        held: the operators that kept an axis of its weights whole; "" if nothing did.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    held: str


@dataclass(frozen=True)
class Pruned:
    """A student cut out of a teacher.

    Attributes:
        content: its file: the teacher's input and output, names and kinds; its opset; its batch free.
        layers: what became of each node that holds weights.
        parameters, multiply_adds: of the whole, before and after.
    """

    content: bytes = field(repr=False)
    layers: tuple[Layer, ...]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]


@dataclass(frozen=True)
class Tools:
    """What measures need that is not in the graph.

    Attributes:
        draws: a model's weights' share in its answers: see `scores.from_responses`.
        latency_ms: of a model in onnxruntime.
    """

    draws: Callable[[bytes], Iterable[Mapping[str, Array]]] | None = None
    latency_ms: Callable[[bytes], float] | None = None
