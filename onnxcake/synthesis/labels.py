"""Which classes are asked for: the prior p(y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..quantities import NonNegative
from .step import Parts


class Labels(Protocol):
    """A frozen dataclass whose fields are its recipe keys."""

    prior: tuple[float, ...] | None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator) -> Tensor:
        """Labels for rows · groups samples, row after row, int64."""


@dataclass(frozen=True)
class RowPermutation:
    """All labels of a row differ: drawn without replacement, so that a row holds contrasts (CAKE).

    Attributes:
        prior: a weight for each class; None is uniform.
    """

    prior: tuple[NonNegative, ...] | None = None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator) -> Tensor:
        weights = _weights(self.prior, classes).expand(rows, -1)
        return torch.multinomial(weights, groups, replacement=False, generator=generator).flatten()


@dataclass(frozen=True)
class Independent:
    """Every label drawn for itself.

    Attributes:
        prior: a weight for each class; None is uniform.
    """

    prior: tuple[NonNegative, ...] | None = None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator) -> Tensor:
        return torch.multinomial(_weights(self.prior, classes), rows * groups, replacement=True, generator=generator)


def _weights(prior: tuple[float, ...] | None, classes: int) -> Tensor:
    return torch.ones(classes) if prior is None else torch.tensor(prior)


LABELS: Parts = {"row_permutation": RowPermutation, "independent": Independent}
