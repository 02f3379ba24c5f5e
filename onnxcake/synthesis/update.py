"""How leaves are stepped, given a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..quantities import Positive
from .schedules import Schedule
from .step import Parts


class Update(Protocol):
    """A frozen dataclass whose fields are its recipe keys."""

    step_size: Schedule

    def __call__(self, leaf: Tensor, gradient: Tensor, step_size: float, noise: torch.Generator) -> None:
        """Steps ``leaf`` in place."""


@dataclass(frozen=True)
class Sgd:
    """x ← x − η ∇L: plain gradient descent, without momentum.

    In CAKE the step size η is the noise level: one value for a batch, decaying over the set.

    Attributes:
        max_move: the most that a value may move in one step, in standard units. The contrastive term is
            quadratic in the logits, so that plain steps of one size diverge on a teacher whose logits are steep;
            bounded ones do not. None, as in CAKE, is no bound.
    """

    step_size: Schedule
    max_move: Positive | None = None

    def __call__(self, leaf: Tensor, gradient: Tensor, step_size: float, noise: torch.Generator) -> None:
        if self.max_move is None:
            leaf.add_(gradient, alpha=-step_size)
        else:
            leaf.sub_((gradient * step_size).clamp_(-self.max_move, self.max_move))


@dataclass(frozen=True)
class Langevin:
    """x ← x − η ∇L + √(2η) N(0, I): unadjusted Langevin dynamics, LAKE's explicit noise.

    With L = −log p it samples from p (Welling and Teh, ICML 2011; Braun et al., AISTATS 2024).
    """

    step_size: Schedule

    def __call__(self, leaf: Tensor, gradient: Tensor, step_size: float, noise: torch.Generator) -> None:
        leaf.add_(gradient, alpha=-step_size)
        draw = torch.randn(leaf.shape, generator=noise, device=leaf.device, dtype=leaf.dtype)
        leaf.add_(draw, alpha=math.sqrt(2 * step_size))


UPDATES: Parts = {"sgd": Sgd, "langevin": Langevin}
