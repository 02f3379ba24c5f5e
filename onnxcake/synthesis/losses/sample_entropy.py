"""Define the teacher's uncertainty about single samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..step import Loss, Step


@dataclass(frozen=True)
class SampleEntropy(Loss):
    """Compute mean_i H(p_i), p the teacher's probabilities, in nats: each sample shall be of one class.

    L_inst of DFQ (Choi et al., CVPR Workshops 2020). For a multi-label teacher H is the sum of the labels' entropies.
    """

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        logs = log_probabilities(step.logits, step.multilabel)
        return -(logs.exp() * logs).sum(1).mean()


def log_probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Compute log-probabilities of logits: [n, classes], or [n, 2 · labels] for a multi-label teacher.

    There the probabilities of yes stand before those of no, so that Σ p log p and the like sum over labels too.
    """
    if multilabel:
        return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], 1)
    return F.log_softmax(logits, 1)
