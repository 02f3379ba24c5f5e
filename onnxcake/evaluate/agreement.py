"""Compare two classifiers by the answers that onnxruntime gives for both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..core.arrays import Array
from ..core.json_files import OPTIONAL
from ..teacher.signature import OutputKind

CONFIDENCE = 1.96  # standard normal quantile of a two-sided 95 % interval
ONE_CLASS = 0.9  # of a side's answers in one class, from which it is doubtful that it tells classes apart
_TINY = 1e-30  # a probability of zero, in logarithms


@dataclass(frozen=True)
class Figure:
    """Hold a figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Hold the agreement of two classifiers on the same inputs.

    Attributes:
        samples: number of inputs.
        agreement: share of inputs on which both name the same class; for multi-label classifiers, share of all
            yes-or-no decisions on which both decide alike (Wilson interval).
        kl: KL(teacher ‖ student), mean over inputs, in nats; for multi-label classifiers the sum over labels.
        teacher_accuracy, student_accuracy: share of right labels, where labels are known.
    """

    samples: int
    agreement: Figure
    kl: Figure
    teacher_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)
    student_accuracy: Figure | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Answers:
    """Hold the answers of teacher and student to the same inputs.

    Attributes:
        teacher, student: answers [n, …].
        labels: right classes [n], or labels set [n, labels], if known.
        kinds: of the teacher's and the student's answers.
    """

    teacher: Array
    student: Array
    labels: Array | None
    kinds: tuple[OutputKind, OutputKind]

    def comparison(self) -> Comparison:
        """Compare the answers, see `compare`."""
        return compare(self.teacher, self.student, self.labels, self.kinds)

    def doubts(self, source: str) -> list[str]:
        """Word why the comparison is doubtful, if it is, see `one_sided`."""
        return one_sided(self.teacher, self.student, self.kinds, f"the {source.replace('_', '-')} inputs")


def compare(teacher: Array, student: Array, labels: Array | None, kinds: tuple[OutputKind, OutputKind]) -> Comparison:
    """Compare answers [n, …] to the same inputs.

    Inputs to which the teacher has no answer (NaN, as 0 / 0 is) are left out; a student's NaN agrees with
    nothing, and is left out of the KL divergence.

    Args:
        labels: right classes [n], or labels set [n, labels], if known.
        kinds: what the teacher's and the student's answers hold.
    """
    told = ~np.isnan(teacher).reshape(len(teacher), -1).any(1)
    if told.any() and not told.all():
        teacher, student, labels = teacher[told], student[told], None if labels is None else labels[told]
    logs = [log_probabilities(answer, kind) for answer, kind in zip((teacher, student), kinds, strict=True)]
    top = [np.where(np.isnan(rows).any(1), -1, rows.argmax(1)) for rows in logs]
    divergence = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).reshape(len(teacher), -1).sum(1)
    divergence = divergence[np.isfinite(divergence)]
    asked = None if labels is None else labels.reshape(-1)
    right = [None if asked is None or len(asked) != len(t) else share(t == asked) for t in top]
    return Comparison(
        len(teacher), share(top[0] == top[1]), mean(divergence if len(divergence) else np.zeros(1)), right[0], right[1]
    )


def top_classes(answers: Array, kind: OutputKind) -> Array:
    """Return the class [n] that each of a classifier's answers [n, …] names."""
    return np.asarray(log_probabilities(answers, kind).argmax(1))


def one_sided(teacher: Array, student: Array, kinds: tuple[OutputKind, OutputKind], inputs: str) -> list[str]:
    """Word a warning if the teacher or the student answers (nearly) every input alike.

    A student that always names the commoner class agrees with its teacher as often as that class is named: the
    agreement alone does not show it. For multi-label classifiers a class is a set of labels.

    Args:
        teacher, student: answers [n, …] to the same inputs.
        kinds: what the teacher's and the student's answers hold.
        inputs: what the inputs are called in the message.
    """
    if len(teacher) < 2:
        return []
    (of_teacher, named), (of_student, _) = (
        _commonest(answers, kind) for answers, kind in zip((teacher, student), kinds, strict=True)
    )
    told = []
    if of_teacher > ONE_CLASS:
        told.append(
            f"the teacher names {named} for {of_teacher:.0%} of {inputs}: the agreement on them says little, a "
            "student that always does so agrees as often"
        )
    if of_student == 1 or (of_student > ONE_CLASS >= of_teacher):
        beside = "" if of_teacher > ONE_CLASS else ", the teacher does not"
        every = "every one" if of_student == 1 else f"{of_student:.0%}"
        told.append(f"the student names one class for {every} of {inputs}{beside}")
    return told


def _commonest(answers: Array, kind: OutputKind) -> tuple[float, str]:
    """Return the share of the commonest decision, and the decision in words."""
    named = top_classes(answers, kind).reshape(len(answers), -1)
    values, counts = np.unique(named, axis=0, return_counts=True)
    most = int(counts.argmax())
    labels = np.flatnonzero(values[most]).tolist()
    what = f"class {values[most][0]}" if named.shape[1] == 1 else f"the labels {labels}" if labels else "no label"
    return float(counts[most]) / len(answers), what


def share(hits: Array) -> Figure:
    """Return the share of true entries, with Wilson's 95 % interval (1927)."""
    n, z = len(hits), CONFIDENCE
    p = float(hits.mean())
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Figure(p, max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0))


def mean(values: Array) -> Figure:
    """Return the mean, with the normal 95 % interval; of a single value, that value alone."""
    centre = float(values.mean())
    spread = CONFIDENCE * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Figure(centre, centre - spread, centre + spread)


def log_probabilities(answer: Array, kind: OutputKind) -> Array:
    """Convert answers to log-probabilities [n, classes], float64; [n · labels, 2] for a multi-label classifier."""
    rows = answer.reshape(len(answer), -1).astype(np.float64)
    if kind.startswith(("binary", "multilabel")):
        each = rows.reshape(-1, 1)
        if kind in ("binary_logit", "multilabel_logits"):
            return np.asarray(-np.logaddexp(0, np.concatenate([each, -each], 1)))
        return np.asarray(np.log(np.maximum(np.concatenate([1 - each, each], 1), _TINY)))
    if kind == "probabilities":
        return np.asarray(np.log(np.maximum(rows, _TINY)))
    if kind == "log_probabilities":
        return np.maximum(rows, math.log(_TINY))
    rows = rows - rows.max(1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(1, keepdims=True)))
