"""Total variation: the prior that neighbouring pixels are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ...teacher import Signature
from ..step import Scope, Step


@dataclass(frozen=True)
class TotalVariation:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones, in standard units.

    L = mean |∂_h x| + mean |∂_w x| over samples and channels: anisotropic, ℓ1, as in CAKE's code (Braun et al.,
    AISTATS 2024). For images [channels, height, width].

    Attributes:
        reduction: ``mean`` over pixels, as in the code, or ``sum``, as in the paper's formula. The mean's pull
            on a single pixel falls with the number of pixels; the sum's does not, so that one weight serves
            images of any size.
    """

    scope: ClassVar[Scope] = "sample"

    reduction: Literal["mean", "sum"] = "mean"

    def __call__(self, step: Step) -> Tensor:
        x = step.x
        vertical = x[..., 1:, :] - x[..., :-1, :]
        horizontal = x[..., 1:] - x[..., :-1]
        if self.reduction == "sum":
            return (vertical.abs().sum() + horizontal.abs().sum()) / (x.shape[0] * x.shape[1])
        return vertical.abs().mean() + horizontal.abs().mean()

    def unfit(self, signature: Signature) -> str | None:
        if signature.is_image:
            return None
        return f"it compares neighbouring pixels, and inputs of shape {list(signature.input_shape)} are no images"
