"""Compute the acquire/retain loss, under which a student learns new samples in a way that keeps the old.

Patel, Mopuri, Qiu, *Learning to retain while acquiring*, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

Network = Callable[[Tensor], Tensor]
R = TypeVar("R", bound=tuple[Tensor, ...])


def retained_loss(
    student: nn.Module, loss_of: Callable[[Network, R], Tensor], fresh: R, memory: R | None, lr: float
) -> Tensor:
    """Compute L(S_θ'; memory) + L(S_θ; fresh ∪ memory), θ' = θ − lr ∇L(S_θ; fresh), differentiable throughout.

    The gradient of the first term rewards directions in which learning the new also serves the old. Of the three
    times that the student is called, only the last, on all rows, updates what it keeps of what it has seen, such
    as BatchNorm's running statistics: the other two see parts of the same rows, one of them at θ', where the
    student never stays.

    Args:
        student: S_θ.
        loss_of: L: a mean over rows, given the network to ask.
        fresh: rows that were just made: tensors whose first axis is the sample.
        memory: rows of earlier on; None gives L(S_θ; fresh) alone.
        lr: of the inner step.
    """
    if memory is None:
        return loss_of(student, fresh)
    weights = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    inner = loss_of(_with_weights(student, weights), fresh)
    slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True, materialize_grads=True)
    moved = {name: weight - lr * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
    retaining = loss_of(_with_weights(student, moved), memory)
    both = [torch.cat(pair) for pair in zip(fresh, memory, strict=True)]
    return retaining + loss_of(student, type(fresh)(both))


def _with_weights(student: nn.Module, weights: Mapping[str, Tensor]) -> Network:
    """Return the student with these weights; what a call updates in place is a copy, forgotten with it."""
    return lambda inputs: functional_call(
        student, {**weights, **{name: buffer.clone() for name, buffer in student.named_buffers()}}, (inputs,)
    )
