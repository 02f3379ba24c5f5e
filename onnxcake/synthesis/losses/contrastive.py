"""Define CAKE's contrastive term: samples of a row, asked for different classes, pull each other's logits together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..step import Loss, Scope, Step


@dataclass(frozen=True)
class Contrastive(Loss):
    """Compute the squared distance of the logits of all pairs in a row, mean over rows and classes.

    L = 1/(2bC) Σ_b Σ_{i≠j} ‖T(x_bi) − T(x_bj)‖² (Braun et al., AISTATS 2024). Against the classification
    term, which pulls a row's samples into different classes, it draws them to the boundary between those.

    The G² pairs are never formed: Σ_{i≠j} ‖t_i − t_j‖² = 2G Σ_i ‖t_i − t̄‖², with t̄ the row's mean.
    """

    scope: ClassVar[Scope] = "row"

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        logits = step.logits.unflatten(0, (step.rows, step.groups))
        spread = logits - logits.mean(dim=1, keepdim=True)
        rows, groups, classes = logits.shape
        loss: Tensor = spread.square().sum() * (groups / (rows * classes))
        return loss
