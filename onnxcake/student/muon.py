"""Step matrices by Muon, in which no direction of a step is larger than another.

Written by hand, as `torch.optim.Muon` takes matrices alone and has no part for other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: singular values above 0 come to 0.7 … 1.2 in five turns
_TURNS = 5
_LIKE_ADAM = 0.2  # the root mean square of a step of Adam is about this much of its learning rate
_TINY = 1e-7
_EPSILON = 1e-8  # of Adam
_ALONE = 5e8  # operations at most that one core has done before several have agreed on their parts of every product


class Muon(torch.optim.Optimizer):
    """Optimise weights that are matrices by Muon, and others by Adam.

    Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024: the momentum of each matrix is
    brought near to its closest orthogonal one, so that what few samples tell about is learnt as fast as what all do.
    Steps are as large as Adam's at the same learning rate (Liu et al., *Muon is Scalable for LLM Training*, 2025):
    0.2 √max(rows, columns) times the orthogonal matrix. A kernel [out, in / groups, …] is a matrix of ``out`` rows,
    after sides of 1 are left out: a recurrent layer's one direction is none.

    Orthogonalising costs 20 · least² · largest operations a step whatever the batch, for sides least ≤ largest. Where
    the least is above ``widest``, that is more than all else, and Adam takes the weight.

    Args:
        parameters: all of the network's.
        lr: learning rate.
        momentum: of matrices, Nesterov's.
        betas: of Adam.
        weight_decay: decoupled, for all.
        widest: the lesser side of a matrix, at most.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        widest: int = 512,
    ) -> None:
        self._widest = widest
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step down the gradients; weights without one stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learnt = [weight for weight in group["params"] if weight.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(learnt, 1 - group["lr"] * group["weight_decay"])
            kinds: dict[bool, list[Tensor]] = {True: [], False: []}
            for weight in learnt:
                kinds[self._is_matrix(weight)].append(weight)
            self._muon(kinds[True], group)
            self._adam(kinds[False], group)
        return loss

    def _is_matrix(self, weight: Tensor) -> bool:
        rows, columns = _sides(weight)
        return 1 < min(rows, columns) <= self._widest

    def _muon(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Make Muon's step."""
        if not weights:
            return
        gradients, momentum = _gradients(weights), group["momentum"]
        held = [self._state_of(weight, "momentum") for weight in weights]
        torch._foreach_lerp_(held, gradients, 1 - momentum)
        alike: dict[tuple[int, int], list[int]] = {}
        for number, weight in enumerate(weights):
            alike.setdefault(_sides(weight), []).append(number)
        ahead = torch._foreach_lerp(gradients, held, momentum)
        for sides, numbers in alike.items():
            stacked = torch.stack([ahead[number].reshape(sides) for number in numbers])
            with _threads_for(len(numbers) * 4 * _TURNS * min(sides) ** 2 * max(sides)):
                found = orthogonal(stacked)
            size = group["lr"] * _LIKE_ADAM * max(sides) ** 0.5
            for number, direction in zip(numbers, found, strict=True):
                weights[number].add_(direction.reshape(weights[number].shape), alpha=-size)

    def _adam(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Make Adam's step, with the same learning rate."""
        if not weights:
            return
        steps = [self.state[weight].setdefault("step", torch.zeros(())) for weight in weights]
        adam(
            weights,
            _gradients(weights),
            [self._state_of(weight, "exp_avg") for weight in weights],
            [self._state_of(weight, "exp_avg_sq") for weight in weights],
            [],
            steps,
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,  # is decoupled, and done
            eps=_EPSILON,
            maximize=False,
        )

    def _state_of(self, weight: Tensor, name: str) -> Tensor:
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        held: Tensor = state[name]
        return held


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices [n, rows, columns] with the singular vectors of those given, and singular values near 1.

    Newton and Schulz's iteration with the coefficients of Jordan et al., which are steep at 0 and do not converge to 1.
    """
    a, b, c = _COEFFICIENTS
    upright = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if upright else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    for _ in range(_TURNS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if upright else x


@contextmanager
def _threads_for(operations: float) -> Iterator[None]:
    """Use one of torch's threads for few operations, and all for many, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if operations <= _ALONE else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sides(weight: Tensor) -> tuple[int, int]:
    """Return rows and columns of a weight as a matrix; (1, n) for a weight that is none."""
    sides = [side for side in weight.shape if side > 1]
    return (sides[0], weight.numel() // sides[0]) if len(sides) > 1 else (1, weight.numel())


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]
