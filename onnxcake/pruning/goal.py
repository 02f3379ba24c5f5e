"""Define the goal and the result of a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..core.errors import UnsupportedTeacher
from ..core.quantities import Count, Positive, Share
from .folded_graph import Array

Score = Literal["responses", "weights", "random"]
LowRank = Literal["auto", "tied"]  # low-rank factors: where they keep more, or only where nothing else is left
Shape = tuple[int, ...]
HALF = 0.5  # of the teacher's parameters: where no goal is said


class NothingToCut(UnsupportedTeacher):
    """Teacher whose graph has no part that can be left out."""


@dataclass(frozen=True)
class Goal:
    """Hold the size that a cut is to reach: one of these, half the teacher's parameters if none is given.

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
        """Tell whether the goal limits parameters."""
        return self.max_bytes is None and self.max_macs is None and self.max_latency_ms is None

    def parameters_of(self, whole: int) -> float:
        """Return the most parameters, of a teacher that has ``whole``."""
        return self.max_params if self.max_params is not None else (self.keep or HALF) * whole


@dataclass(frozen=True)
class CutLayer:
    """Describe how a node that holds weights was cut.

    Attributes:
        name: the file's name of it; ``op``: its operator.
        shapes: of its largest weight, before and after; of both, where it was replaced by low-rank factors.
        parameters, multiply_adds: before and after; the latter for one input.
        held: the operators that kept an axis of its weights whole; "" if none did.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    held: str


@dataclass(frozen=True)
class Pruned:
    """Hold a student cut out of a teacher.

    Attributes:
        content: its file: the teacher's input and output, names and kinds; its opset; its batch free.
        layers: how each node that holds weights was cut.
        parameters, multiply_adds: of the whole, before and after.
    """

    content: bytes = field(repr=False)
    layers: tuple[CutLayer, ...]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]


@dataclass(frozen=True)
class Measurements:
    """Hold the measurements that scores and goals need besides the graph.

    Attributes:
        draws: the contribution of a model's weights to its answers: see `scores.from_responses`.
        latency_ms: of a model in onnxruntime, in milliseconds.
    """

    draws: Callable[[bytes], Iterable[Mapping[str, Array]]] | None = None
    latency_ms: Callable[[bytes], float] | None = None
