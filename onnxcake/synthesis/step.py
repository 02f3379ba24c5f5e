"""What a loss may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from ..teacher import Signature

Scope = Literal["sample", "row", "batch"]


@dataclass(frozen=True)
class Step:
    """One evaluation of the teacher on whole rows of samples.

    Attributes:
        x: samples in standard units [rows · groups, …], a row's samples one after the other.
        labels: the classes asked for [rows · groups], int64.
        logits: the teacher's [rows · groups, classes].
        groups: samples in a row.
        multilabel: whether each logit is a yes or no of its own; the class asked for is then the one label to set.
    """

    x: Tensor
    labels: Tensor
    logits: Tensor
    groups: int
    multilabel: bool = False

    @property
    def rows(self) -> int:
        """Rows in this evaluation."""
        return self.x.shape[0] // self.groups


class Loss(Protocol):
    """A frozen dataclass whose fields are its recipe keys; one file, one equation.

    Calling it gives a scalar, the mean over what `scope` names, so that a batch may be computed in chunks.
    """

    scope: ClassVar[Scope]

    def __call__(self, step: Step) -> Tensor: ...

    def unfit(self, signature: Signature) -> str | None:
        """Why this loss cannot be used on such inputs, or None."""


@dataclass(frozen=True)
class Weighted:
    """A loss term of a recipe: its name, its weight and the loss."""

    name: str
    weight: float
    loss: Loss


Parts = Mapping[str, type]
