"""Define optimisers, and schedules of learning rate and momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..core.quantities import Count, Momentum, NonNegative, Positive, Share
from .muon import Muon


class Optimiser(Protocol):
    """Declare an optimiser: a frozen dataclass whose fields are its recipe keys.

    Torch's own are built fused: one kernel steps all weights, where a loop over them takes four times as long.
    """

    lr: float

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class SgdOptimiser:
    """Stochastic gradient descent; the defaults are those of CAKE's students."""

    lr: Positive = 0.5
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 5e-4
    nesterov: bool = False

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,  # without momentum both are plain descent
            fused=True,
        )


@dataclass(frozen=True)
class AdamOptimiser:
    """Adam (Kingma and Ba, ICLR 2015); weight decay is a part of the gradient, as an L2 term of the loss."""

    lr: Positive = 1e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = self.beta1, self.beta2
        return torch.optim.Adam(parameters, lr=self.lr, betas=betas, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class AdamWOptimiser:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    lr: Positive = 1e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 1e-2

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = self.beta1, self.beta2
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class MuonOptimiser:
    """Muon for matrices and kernels, Adam for all else (Jordan et al., 2024; see `muon.Muon`): most from few steps.

    Steps are as large as Adam's at the same learning rate. A weight whose lesser side is above ``widest`` is Adam's
    too: orthogonalising it would take longer than all else.
    """

    lr: Positive = 1e-3
    momentum: Momentum = 0.95
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 0.0
    widest: Count = 512

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = self.beta1, self.beta2
        return Muon(parameters, self.lr, self.momentum, betas, self.weight_decay, self.widest)


class LearningRate(Protocol):
    """Declare a learning-rate schedule: a frozen dataclass whose fields are its recipe keys."""

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        """Return the factor on the learning rate at ``step`` of ``steps``, and the momentum (None: unchanged)."""


@dataclass(frozen=True)
class OneCycle:
    """Raise for ``warm_up`` of the steps, then lower, both along a cosine; momentum the other way round.

    Smith and Topin, 2019, with torch's conventions: from lr/div to lr, then to lr/div/final_div.
    """

    warm_up: Share = 0.3
    div: Positive = 25.0
    final_div: Positive = 1e4
    momentum_high: Momentum = 0.95
    momentum_low: Momentum = 0.85

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        peak = self.warm_up * steps - 1
        if step <= peak:
            share = step / max(peak, 1e-9)
            return _cosine(1 / self.div, 1, share), _cosine(self.momentum_high, self.momentum_low, share)
        share = min((step - peak) / max(steps - 1 - peak, 1e-9), 1.0)
        low = 1 / self.div / self.final_div
        return _cosine(1, low, share), _cosine(self.momentum_low, self.momentum_high, share)


@dataclass(frozen=True)
class CosineDecay:
    """Lower to ``final`` times the learning rate along half a cosine (Loshchilov and Hutter, ICLR 2017)."""

    final: NonNegative = 0.0

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        return _cosine(1, self.final, step / max(steps, 1)), None


@dataclass(frozen=True)
class Milestones:
    """Multiply by ``factor`` from each of the shares ``after`` of the steps on; defaults as in DAFL on CIFAR-10.

    A share falls on the nearest whole step.
    """

    after: tuple[Share, ...] = (0.4, 0.8)
    factor: Share = 0.1

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        passed = sum(step >= round(share * steps) for share in self.after)
        return self.factor**passed, None


@dataclass(frozen=True)
class ConstantRate:
    """Keep the learning rate constant."""

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        return 1.0, None


def set_rate(optimiser: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Set learning rate and (where it has one) momentum of an optimiser."""
    for group in optimiser.param_groups:
        group["lr"] = lr
        if momentum is not None and group.get("momentum"):
            group["momentum"] = momentum
        elif momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


OPTIMISERS: Mapping[str, type] = {
    "sgd": SgdOptimiser,
    "adam": AdamOptimiser,
    "adamw": AdamWOptimiser,
    "muon": MuonOptimiser,
}
LEARNING_RATES: Mapping[str, type] = {
    "one_cycle": OneCycle,
    "cosine": CosineDecay,
    "milestones": Milestones,
    "constant": ConstantRate,
}
