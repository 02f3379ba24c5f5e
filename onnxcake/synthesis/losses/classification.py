"""Cross-entropy toward the classes asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...teacher import Signature
from ..step import Scope, Step


@dataclass(frozen=True)
class Classification:
    """Σ over a row of CE(T(x), y), mean over rows, in nats.

    L = 1/b Σ_b Σ_g CE(T(x_bg), y_bg): the sum over a row as in CAKE's code (Braun et al., AISTATS 2024).
    For a multi-label teacher CE is the sum of the labels' binary cross-entropies.
    """

    scope: ClassVar[Scope] = "sample"

    def __call__(self, step: Step) -> Tensor:
        if step.multilabel:
            asked = F.one_hot(step.labels, step.logits.shape[1]).to(step.logits)
            each = F.binary_cross_entropy_with_logits(step.logits, asked, reduction="none")
            return each.sum(1).mean() * step.groups
        return F.cross_entropy(step.logits, step.labels) * step.groups

    def unfit(self, signature: Signature) -> str | None:
        return None
