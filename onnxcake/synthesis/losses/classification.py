"""Define the cross-entropy toward the classes asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from ...core.quantities import Positive
from ..step import Loss, Step


@dataclass(frozen=True)
class Classification(Loss):
    """Compute Σ over a row of CE(y, T(x)/τ), mean over rows, in nats.

    L = 1/b Σ_b Σ_g CE(T(x_bg), y_bg): the sum over a row as in CAKE's code (Braun et al., AISTATS 2024); in rows
    of one, the mean over samples of the other methods. For a multi-label teacher CE is the sum of the labels'
    binary cross-entropies.

    Attributes:
        toward: y is the class ``asked`` for; the class that the teacher sees by it``self``, which makes answers
            one-hot (DAFL, Chen et al., ICCV 2019); or the soft ``targets`` that the label policy asks for (ZSKD).
        temperature: τ.
    """

    toward: Literal["asked", "self", "targets"] = "asked"
    temperature: Positive = 1.0

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        logits = step.logits / self.temperature
        if step.multilabel:
            return self._multilabel(step, logits)
        if self.toward == "self":
            return F.cross_entropy(logits, logits.argmax(1)) * step.groups
        if self.toward == "targets":
            assert step.targets is not None, "the recipe was checked for a label policy with soft labels"
            return F.cross_entropy(logits, step.targets.to(logits)) * step.groups
        return F.cross_entropy(logits, step.labels) * step.groups

    def _multilabel(self, step: Step, logits: Tensor) -> Tensor:
        asked = F.one_hot(step.labels, logits.shape[1]).to(logits)
        if self.toward == "self":
            asked = (logits > 0).to(logits)
        elif self.toward == "targets" and step.targets is not None:
            asked = step.targets.to(logits)
        each = F.binary_cross_entropy_with_logits(logits, asked, reduction="none")
        return each.sum(1).mean() * step.groups
