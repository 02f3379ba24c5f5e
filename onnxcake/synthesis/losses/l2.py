"""Define the norm of the samples: the prior that values lie near their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..step import Loss, Scope, Step


@dataclass(frozen=True)
class L2(Loss):
    """Compute ‖x‖₂ of the whole batch, in standard units.

    R_ℓ2 of DeepInversion (Yin et al., CVPR 2020, after Mordvintsev et al. 2015), one norm for all samples as in
    the authors' CIFAR-10 code; it is not squared.
    """

    scope: ClassVar[Scope] = "batch"

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(step.x)
        return norm
