"""Define adversarial terms: samples are made on which the student does not yet answer as the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...core.quantities import Positive
from ..step import Context, Loss, Need, Step
from .sample_entropy import log_probabilities

_LEAST, _MOST = 0.01, 0.99  # where Jensen–Shannon's probabilities are cut off


@dataclass(frozen=True)
class Disagreement(Loss):
    """Compute less where the student's answers S are farther from the teacher's T; mean over all samples.

    ``kl``: − KL(p_T ‖ p_S) (ZSKT, Micaelli & Storkey, NeurIPS 2019; DFQ, Choi et al., CVPR Workshops 2020; with the
    mask CMI and Fast-DFKD).
    ``js``: 1 − min(max(JS, 0), 1), JS = ½ KL(M ‖ p_T) + ½ KL(M ‖ p_S), M = ½ (p_T + p_S), all three cut to
    0.01 … 0.99 as in the code of Adaptive DeepInversion (Yin et al., CVPR 2020): they need not sum to 1 then, and JS
    may pass 1. The authors cut the batch's mean JS; here each sample's is, so that a batch may be computed in chunks
    and no sample's gradient vanishes because of the others.
    ``l1``: − |T − S| of the logits (DFAD, Fang et al. 2019). Where the teacher's file answers with probabilities or
    with a single score, its logits are known but for one number a sample, and both sides are centred.
    For a multi-label teacher the divergences are sums over the labels' own, of yes against no.

    Attributes:
        distance: which.
        masked: counts only the samples of which both say the same class, or set of labels; the others with distance 0.
        reduction: ``batchmean`` sums over classes; ``mean`` divides that by their number, which makes the term so many
            times weaker (ZSKT, PRE-DFKD, Retain-Acquire, DFAD). ``auto``: mean for l1, otherwise batchmean.
        temperature: divides the logits, but for l1; the divergence is not scaled up again. ``auto``: 3 for js, else 1.
        detach_teacher: holds T fixed, so that the gradient goes through the student alone (PRE-DFKD, Retain-Acquire).
    """

    needs: ClassVar[tuple[Need, ...]] = ("student",)

    distance: Literal["kl", "js", "l1"] = "kl"
    masked: bool = False
    reduction: Literal["auto", "batchmean", "mean"] = "auto"
    temperature: Positive | Literal["auto"] = "auto"
    detach_teacher: bool = False

    def init_state(self, context: Context) -> nn.Module | None:
        signature = context.signature
        shifted = signature.task == "binary" or signature.output_kind in ("probabilities", "log_probabilities")
        return _Centred() if shifted and self.distance == "l1" else None

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        teacher, student = step.logits.detach() if self.detach_teacher else step.logits, step.student
        apart = self._distance_of(teacher, student, step.multilabel, state)
        if self.reduction == "mean" or (self.reduction == "auto" and self.distance == "l1"):
            apart = apart / teacher.shape[1]
        if self.distance == "js":
            apart = apart.clamp(0, 1)
        if self.masked:
            apart = apart * _agree(teacher, student, step.multilabel)
        return (1.0 if self.distance == "js" else 0.0) - apart.mean()

    def _distance_of(self, teacher: Tensor, student: Tensor, multilabel: bool, state: Any) -> Tensor:
        """Compute the distance of each sample's answers [n], summed over classes."""
        if self.distance == "l1":
            if state is not None:
                teacher, student = state(teacher), state(student)
            return (teacher - student).abs().sum(1)
        usual = 3.0 if self.distance == "js" else 1.0
        temperature = usual if isinstance(self.temperature, str) else self.temperature
        logs = (log_probabilities(logits / temperature, multilabel) for logits in (teacher, student))
        return (_kullback_leibler if self.distance == "kl" else _jensen_shannon)(*logs)


class _Centred(nn.Module):
    """Subtract the mean over classes from logits [n, classes]."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(1, keepdim=True)


def _kullback_leibler(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute KL(p_T ‖ p_S) of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(1)


def _jensen_shannon(teacher: Tensor, student: Tensor) -> Tensor:
    """Compute ½ KL(M ‖ p_T) + ½ KL(M ‖ p_S) of log-probabilities, all clipped."""
    p, q = teacher.exp(), student.exp()
    middle = ((p + q) / 2).clamp(_LEAST, _MOST)
    sides = (p.clamp(_LEAST, _MOST).log() + q.clamp(_LEAST, _MOST).log()) / 2
    return (middle * (middle.log() - sides)).sum(1)


def _agree(teacher: Tensor, student: Tensor, multilabel: bool) -> Tensor:
    """Return 1 for each sample [n] on which both agree, 0 for the others."""
    if multilabel:
        return ((teacher > 0) == (student > 0)).all(1).to(teacher)
    return (teacher.argmax(1) == student.argmax(1)).to(teacher)
