"""Step leaves, given their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.quantities import Momentum, Positive
from .schedules import Schedule
from .step import Leaves, Parts


class Update(Protocol):
    """Declare an update rule: a frozen dataclass whose fields are its recipe keys."""

    @property
    def step_size(self) -> Schedule: ...

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        """Step the leaves in place, by ``step_size`` · ``leaves.rate`` along their gradients."""


@dataclass(frozen=True)
class Sgd:
    """Descend plainly, x ← x − η ∇L, without momentum.

    In CAKE the step size η is the noise level: one value for a batch, decaying over the set.

    Attributes:
        max_move: the most that a value may move in one step, in standard units. The contrastive term is
            quadratic in the logits, so that plain steps of one size diverge on a teacher whose logits are steep;
            bounded ones do not. None, as in CAKE, is no bound.
    """

    step_size: Schedule
    max_move: Positive | None = None

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        step_size *= leaves.rate
        for leaf, gradient in zip(leaves.tensors, gradients, strict=True):
            if self.max_move is None:
                leaf.add_(gradient, alpha=-step_size)
            else:
                leaf.sub_((gradient * step_size).clamp_(-self.max_move, self.max_move))


@dataclass(frozen=True)
class Langevin:
    """Step by unadjusted Langevin dynamics, x ← x − η ∇L + √(2η) N(0, I): LAKE's explicit noise.

    With L = −log p it samples from p (Welling and Teh, ICML 2011; Braun et al., AISTATS 2024).
    """

    step_size: Schedule

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        step_size *= leaves.rate
        for leaf, gradient in zip(leaves.tensors, gradients, strict=True):
            leaf.add_(gradient, alpha=-step_size)
            draw = torch.randn(leaf.shape, generator=noise, device=leaf.device, dtype=leaf.dtype)
            leaf.add_(draw, alpha=math.sqrt(2 * step_size))


@dataclass(frozen=True)
class Adam:
    """Step by Adam (Kingma and Ba, ICLR 2015); its state lasts as long as the leaves do."""

    step_size: Schedule
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    epsilon: Positive = 1e-8

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        held = leaves.optimiser_state
        if not held:
            held["mean"] = [torch.zeros_like(leaf) for leaf in leaves.tensors]
            held["square"] = [torch.zeros_like(leaf) for leaf in leaves.tensors]
            held["steps"] = [torch.zeros((), dtype=torch.int64)]
        held["steps"][0] += 1
        steps, listed = int(held["steps"][0]), list(gradients)
        torch._foreach_lerp_(held["mean"], listed, 1 - self.beta1)
        torch._foreach_mul_(held["square"], self.beta2)
        torch._foreach_addcmul_(held["square"], listed, listed, 1 - self.beta2)
        below = torch._foreach_sqrt(held["square"])
        torch._foreach_div_(below, math.sqrt(1 - self.beta2**steps))
        torch._foreach_add_(below, self.epsilon)
        rate = step_size * leaves.rate / (1 - self.beta1**steps)
        torch._foreach_addcdiv_(leaves.tensors, held["mean"], below, -rate)


@dataclass(frozen=True)
class Sign:
    """Move every value equally far, x ← x − η sign(∇L) (Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018).

    What the losses weigh against each other counts, their size does not: a teacher with steep logits is stepped as far
    as one with flat ones.
    """

    step_size: Schedule

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        for leaf, gradient in zip(leaves.tensors, gradients, strict=True):
            leaf.add_(gradient.sign(), alpha=-step_size * leaves.rate)


UPDATES: Parts = {"sgd": Sgd, "langevin": Langevin, "adam": Adam, "sign": Sign}
