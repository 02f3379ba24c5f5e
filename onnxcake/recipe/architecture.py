"""Define the student's network, as a recipe names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from ..core.errors import RecipeError
from ..core.quantities import CountOrNone
from ..pruning.goal import HALF, Goal, LowRank, Score, Shape
from ..student.architectures import ARCHITECTURES
from ..student.shapes import shapes_of
from ..teacher.signature import Signature
from . import schema
from .schema import Choice

ONNX = "onnx"  # the student that is a model of its own
Named: TypeAlias = dict[str, dict[str, Any]]  # one architecture, and its keys


@dataclasses.dataclass(frozen=True)
class Auto(Goal):
    """Cut a student out of the teacher's own graph, with the teacher's own weights: the largest that reaches the goal.

    Attributes:
        score: criterion of what stays; `onnxcake.pruning.scores` explains them.
        drop_blocks: number of residual blocks that are left out, those that matter least.
        low_rank: where matrices are replaced by low-rank factors; `onnxcake.pruning.cut_student.cut_of` explains it.
        like: in place of a goal, a named architecture of the teacher's family (``lenet5-half`` for a LeNet-5): as many
            channels, units and blocks are left as that has. Where the teacher is no larger one of the family, the
            student is that architecture, and starts from noise.
    """

    score: Score = "weights"
    drop_blocks: CountOrNone = 0
    low_rank: LowRank = "auto"
    like: Named | None = None

    @property
    def named(self) -> tuple[str, dict[str, Any]] | None:
        """Return the architecture that the student is to match, and its keys; None if there is none."""
        return None if self.like is None else next(iter(self.like.items()))

    @property
    def is_asked(self) -> bool:
        """Tell whether a size is requested, other than the half that recipes state."""
        ends = (self.max_params, self.max_bytes, self.max_macs, self.max_latency_ms, self.named)
        return self.keep not in (None, HALF) or any(end is not None for end in ends)

    def shapes(self, signature: Signature) -> tuple[Shape, ...] | None:
        """Return the shapes of that architecture's weights; see `student.shapes_of`."""
        return None if self.named is None else shapes_of(*self.named, signature)

    def most_of(self, parameters: int) -> float:
        """Compute the most parameters of a student that cannot be cut out of its teacher.

        Args:
            parameters: the teacher's.

        Raises:
            RecipeError: if the goal does not determine them.
        """
        if self.max_macs is not None or self.max_latency_ms is not None:
            raise RecipeError(
                "only a student that is cut out of the teacher can be chosen by multiply-adds or latency",
                remedy="Say keep, max_params or max_bytes, or name an architecture: -o student.architecture=mlp.",
            )
        most = self.max_params if self.max_params is not None else self.max_bytes and self.max_bytes / _BYTES
        return (self.keep or HALF) * parameters if most is None else most


_BYTES = 4  # of a parameter in a file


@dataclasses.dataclass(frozen=True)
class Onnx:
    """Take the model that --student gives.

    Attributes:
        init: whether it starts with its own weights, or has them drawn anew.
    """

    init: Literal["keep", "fresh"] = "keep"


class Architecture(Choice):
    """Choose the student's network by name; ``auto`` may name another that it is to match."""

    def keys(self, **registries: schema.Registry) -> dict[str, Any]:
        """Return the keys as Python values."""
        return super().keys(like=_Keyed(), **registries)


class _Keyed(dict[str, Callable[..., Named]]):
    """Map any name to a function that returns the name with its keys."""

    def __missing__(self, name: str) -> Callable[..., Named]:
        return lambda **keys: {name: keys}


_named = {Named | None: schema.choice(ARCHITECTURES) | None}
_made: dict[str, Callable[..., Any]] = {"auto": Auto, ONNX: Onnx, **ARCHITECTURES}
NETWORKS = {key: schema.part(made, inner=_named) for key, made in _made.items()}
