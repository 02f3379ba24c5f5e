"""What a student learns from: the teacher's answers, hard and soft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..quantities import NonNegative, Positive


@dataclass(frozen=True)
class Distillation:
    """L = hard · CE(y, S) + soft · τ² KL(softmax(T/τ) ‖ softmax(S/τ)), means over samples, in nats.

    Hinton, Vinyals and Dean, 2015. At τ = 1 the soft term has the gradient of the soft cross-entropy, which
    alone is what CAKE's code trains on.

    Attributes:
        hard: weight of the hard labels.
        soft: weight of the soft labels.
        temperature: τ.
        hard_labels: y is the class that the ``teacher`` sees, or the class that was ``asked`` for.
    """

    hard: NonNegative = 0.0
    soft: NonNegative = 1.0
    temperature: Positive = 1.0
    hard_labels: Literal["teacher", "asked"] = "teacher"

    def __call__(self, student: Tensor, teacher: Tensor, asked: Tensor) -> Tensor:
        """The loss of student logits [n, classes] given teacher logits [n, classes] and labels [n]."""
        total = student.new_zeros(())
        if self.hard:
            labels = asked if self.hard_labels == "asked" else teacher.argmax(1)
            total = total + self.hard * F.cross_entropy(student, labels)
        if self.soft:
            tau = self.temperature
            soft = F.kl_div(
                F.log_softmax(student / tau, 1),
                F.log_softmax(teacher / tau, 1),
                log_target=True,
                reduction="batchmean",
            )
            total = total + self.soft * tau**2 * soft
        return total
