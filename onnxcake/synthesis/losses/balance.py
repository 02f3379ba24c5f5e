"""Balance the classes: the teacher shall see all classes in a batch equally often."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..step import Loss, Scope, Step
from .sample_entropy import log_probabilities


@dataclass(frozen=True)
class Balance(Loss):
    """Compute Σ_c q_c log q_c, q the mean over the batch of the teacher's probabilities.

    The negative information entropy of DAFL (Chen et al., ICCV 2019), lowest where all classes have the
    same share. For a multi-label teacher Σ over labels of q log q + (1 − q) log(1 − q): each label is set as often
    as not.

    Attributes:
        base: of the logarithm. DAFL's code and its followers' (PRE-DFKD, Retain-Acquire) have ``10``, the term is
            then 2.303 times weaker than with ``e``, as in DFQ.
    """

    scope: ClassVar[Scope] = "batch"

    base: Literal["e", 10] = "e"

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        logs = log_probabilities(step.logits, step.multilabel)
        shares = torch.logsumexp(logs, 0) - math.log(len(logs))  # log q, finite where q itself vanishes
        return (shares.exp() * shares).sum() / (math.log(10) if self.base == 10 else 1.0)
