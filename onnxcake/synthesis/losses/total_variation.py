"""Define total variation: the prior that neighbouring pixels are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...teacher.signature import Signature
from ..step import Loss, Step


@dataclass(frozen=True)
class TotalVariation(Loss):
    """Compute the mean absolute difference of vertical neighbours plus that of horizontal ones, in standard units.

    L = mean |∂_h x| + mean |∂_w x| over samples and channels: anisotropic, ℓ1, as in CAKE's code (Braun et al.,
    AISTATS 2024). For images [channels, height, width].

    Attributes:
        reduction: ``mean`` over pixels, as in the code, or ``sum``, as in the paper's formula. The mean's pull
            on a single pixel falls with the number of pixels; the sum's does not, so that one weight serves
            images of any size.
    """

    reduction: Literal["mean", "sum"] = "mean"

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        samples, channels, height, width = step.x.shape
        if self.reduction == "sum":
            down = across = samples * channels
        else:
            down = samples * channels * (height - 1) * width
            across = samples * channels * height * (width - 1)
        loss: Tensor = _AbsoluteDifferences.apply(step.x, 1 / down, 1 / across)
        return loss

    def unfit(self, signature: Signature) -> str | None:
        if signature.is_image:
            return None
        return f"it compares neighbouring pixels, and inputs of shape {list(signature.shape)} are no images"


class _AbsoluteDifferences(torch.autograd.Function):
    """Compute down · Σ |∂_h x| + across · Σ |∂_w x|, its gradient in half the passes that autograd makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: float, across: float) -> Tensor:
        vertical, horizontal = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
        ctx.save_for_backward(vertical, horizontal)
        ctx.down, ctx.across, ctx.shape = down, across, x.shape
        total: Tensor = torch.linalg.vector_norm(vertical, 1) * down + torch.linalg.vector_norm(horizontal, 1) * across
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        vertical, horizontal = ctx.saved_tensors
        up, left = vertical.sign().mul_(above * ctx.down), horizontal.sign().mul_(above * ctx.across)
        gradient = above.new_zeros(ctx.shape)
        gradient[..., 1:, :] += up
        gradient[..., :-1, :] -= up
        gradient[..., 1:] += left
        gradient[..., :-1] -= left
        return gradient, None, None
