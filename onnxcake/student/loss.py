"""Define the distillation loss on the teacher's answers, hard and soft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.quantities import NonNegative, Positive


@dataclass(frozen=True)
class Distillation:
    """Compute L = hard · CE(y, S) + soft · τ² KL(softmax(T/τ) ‖ softmax(S/τ)) + l1 · |T − S|, in nats.

    Hinton, Vinyals and Dean, 2015. At τ = 1 the soft term has the gradient of the soft cross-entropy, which
    alone is what CAKE's code trains on. The last term, a mean over classes too, is that of data-free adversarial
    distillation (Fang et al., 2019): its gradient does not vanish where two answers are nearly the same.

    Attributes:
        hard: weight of the hard labels.
        soft: weight of the soft labels.
        temperature: τ.
        hard_labels: y is the class that the ``teacher`` sees, or the class that was ``asked`` for.
        l1: weight of the distance between the logits themselves; τ does not touch it.
        centred: whether that distance is taken after each row's mean is subtracted from it, on both sides. Where
            the teacher gives probabilities its logits are known but for a constant in each row, and what is left
            of one would drown the distance.
    """

    hard: NonNegative = 0.0
    soft: NonNegative = 1.0
    temperature: Positive = 1.0
    hard_labels: Literal["teacher", "asked"] = "teacher"
    l1: NonNegative = 0.0
    centred: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, asked: Tensor) -> Tensor:
        """Compute the loss of student logits [n, classes] given teacher logits [n, classes] and labels [n]."""
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
        if self.l1:
            difference = student - teacher
            if self.centred:  # as good as on both sides: the mean is linear
                difference = difference - difference.mean(1, keepdim=True)
            total = total + self.l1 * difference.abs().mean()
        return total


def decisions(student: Tensor, teacher: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rearrange a multi-label classifier's logits and labels as one yes-or-no decision after the other.

    Args:
        student, teacher: logits [n, labels].
        asked: the one label that each sample was asked to set [n].

    Returns:
        (student's, teacher's, asked): [n · labels, 2] twice, whose softmax is the sigmoid of a logit, and [n · labels].
    """
    pairs = [torch.stack([-each / 2, each / 2], -1).flatten(0, 1) for each in (student, teacher)]
    return pairs[0], pairs[1], F.one_hot(asked, student.shape[1]).flatten()
