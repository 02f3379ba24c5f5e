"""Draw the classes that samples are asked for: the prior p(y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.quantities import NonNegative
from ..source import Targets
from ..step import Context, Need


class Labels:
    """Base of label policies: frozen dataclasses whose fields are their recipe keys."""

    needs: ClassVar[tuple[Need, ...]] = ()

    def init_state(self, context: Context) -> Any:
        """Compute the policy's state once for a run, on the CPU; it is passed to every call."""
        return None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        """Draw the targets of rows · groups samples, row after row, on the CPU."""
        raise NotImplementedError

    def unfit(self, classes: int, groups: int) -> str | None:
        """Return why the policy does not apply to so many classes in rows of so many samples, or None."""
        return None


@dataclass(frozen=True)
class RowPermutation(Labels):
    """Draw the labels of a row without replacement, so that they all differ and the row holds contrasts (CAKE).

    Attributes:
        prior: a weight for each class; None is uniform.
    """

    prior: tuple[NonNegative, ...] | None = None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        weights = _weights(self.prior, classes).expand(rows, -1)
        return Targets(torch.multinomial(weights, groups, replacement=False, generator=generator).flatten())

    def unfit(self, classes: int, groups: int) -> str | None:
        many = f"groups is {groups}, but there are only {classes} classes" if groups > classes else None
        return "; ".join(filter(None, [many, _prior_unfit(self.prior, classes, groups)])) or None


@dataclass(frozen=True)
class Independent(Labels):
    """Draw every label independently.

    Attributes:
        prior: a weight for each class; None is uniform.
    """

    prior: tuple[NonNegative, ...] | None = None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        weights = _weights(self.prior, classes)
        return Targets(torch.multinomial(weights, rows * groups, replacement=True, generator=generator))

    def unfit(self, classes: int, groups: int) -> str | None:
        return _prior_unfit(self.prior, classes, 1)


@dataclass(frozen=True)
class Balanced(Labels):
    """Ask for the classes one after the other, so that each is asked for equally often."""

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        return Targets(torch.arange(rows * groups) % classes)


def _weights(prior: tuple[float, ...] | None, classes: int) -> Tensor:
    return torch.ones(classes) if prior is None else torch.tensor(prior)


def _prior_unfit(prior: tuple[float, ...] | None, classes: int, least: int) -> str | None:
    if prior is None or (len(prior) == classes and sum(weight > 0 for weight in prior) >= least):
        return None
    return f"labels.prior needs {classes} weights, at least {least} of them above zero"
