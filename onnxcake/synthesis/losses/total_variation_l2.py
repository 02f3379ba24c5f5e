"""Define DeepInversion's total variation: the prior that neighbouring pixels are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...teacher.signature import Signature
from ..step import Loss, Scope, Step


@dataclass(frozen=True)
class TotalVariationL2(Loss):
    """Compute ‖∂→ x‖ + ‖∂↓ x‖ + ‖∂↘ x‖ + ‖∂↙ x‖, each the Frobenius norm over the whole batch, in standard units.

    R_TV of DeepInversion (Yin et al., CVPR 2020): differences to the right, lower, lower right and lower left
    neighbour. As the norms are not squared, the pull on a pixel falls as 1/√ of pixels and samples. For images
    [channels, height, width].
    """

    scope: ClassVar[Scope] = "batch"

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        x = step.x
        differences = (
            x[..., 1:] - x[..., :-1],
            x[..., 1:, :] - x[..., :-1, :],
            x[..., 1:, 1:] - x[..., :-1, :-1],
            x[..., 1:, :-1] - x[..., :-1, 1:],
        )
        return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()

    def unfit(self, signature: Signature) -> str | None:
        if signature.is_image:
            return None
        return f"it compares neighbouring pixels, and inputs of shape {list(signature.shape)} are no images"
