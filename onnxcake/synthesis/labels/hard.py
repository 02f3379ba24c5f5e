"""Which classes are asked for: the prior p(y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.quantities import NonNegative
from ..source import Targets
from ..step import Context, Need


class Labels:
    """A frozen dataclass whose fields are its recipe keys."""

    needs: ClassVar[tuple[Need, ...]] = ()

    def init_state(self, context: Context) -> Any:
        """What is worked out once for a run, on the CPU; handed to every call."""
        return None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        """What rows · groups samples are asked to be, row after row, on the CPU."""
        raise NotImplementedError

    def unfit(self, classes: int, groups: int) -> str | None:
        """Why it cannot be used for so many classes in rows of so many samples, or None."""
        return None


@dataclass(frozen=True)
class RowPermutation(Labels):
    """All labels of a row differ: drawn without replacement, so that a row holds contrasts (CAKE).

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
    """Every label drawn for itself.

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
    """The classes one after the other, so that each is asked for equally often."""

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        return Targets(torch.arange(rows * groups) % classes)


def _weights(prior: tuple[float, ...] | None, classes: int) -> Tensor:
    return torch.ones(classes) if prior is None else torch.tensor(prior)


def _prior_unfit(prior: tuple[float, ...] | None, classes: int, least: int) -> str | None:
    if prior is None or (len(prior) == classes and sum(weight > 0 for weight in prior) >= least):
        return None
    return f"labels.prior needs {classes} weights, at least {least} of them above zero"
