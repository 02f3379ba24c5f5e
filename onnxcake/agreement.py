"""How alike two classifiers are, judged by the answers that onnxruntime gives for both."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .child import Array
from .teacher import OutputKind

CONFIDENCE = 1.96  # standard normal quantile of a two-sided 95 % interval
_TINY = 1e-30  # a probability of zero, in logarithms


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How alike two classifiers are on the same inputs.

    Attributes:
        samples: how many inputs.
        agreement: share of inputs on which both name the same class; for multi-label classifiers, share of all
            yes-or-no decisions on which both decide alike (Wilson interval).
        kl: KL(teacher ‖ student), mean over inputs, in nats; for multi-label classifiers the sum over labels.
        teacher_accuracy, student_accuracy: share of right labels, where labels are known.
    """

    samples: int
    agreement: Figure
    kl: Figure
    teacher_accuracy: Figure | None = None
    student_accuracy: Figure | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def compare(teacher: Array, student: Array, labels: Array | None, kinds: tuple[OutputKind, OutputKind]) -> Comparison:
    """Compares answers [n, …] to the same inputs.

    Args:
        labels: right classes [n], or labels set [n, labels], if known.
        kinds: what the teacher's and the student's answers hold.
    """
    logs = [log_probabilities(answer, kind) for answer, kind in zip((teacher, student), kinds, strict=True)]
    top = [rows.argmax(1) for rows in logs]
    divergence = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).reshape(len(teacher), -1).sum(1)
    asked = None if labels is None else labels.reshape(-1)
    right = [None if asked is None or len(asked) != len(t) else share(t == asked) for t in top]
    return Comparison(len(teacher), share(top[0] == top[1]), mean(divergence), right[0], right[1])


def top_classes(answers: Array, kind: OutputKind) -> Array:
    """The class [n] that each of a classifier's answers [n, …] names."""
    return np.asarray(log_probabilities(answers, kind).argmax(1))


def share(hits: Array) -> Figure:
    """The share of true entries, with Wilson's 95 % interval (1927)."""
    n, z = len(hits), CONFIDENCE
    p = float(hits.mean())
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Figure(p, max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0))


def mean(values: Array) -> Figure:
    """The mean, with the normal 95 % interval; of a single value, that value alone."""
    centre = float(values.mean())
    spread = CONFIDENCE * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Figure(centre, centre - spread, centre + spread)


def log_probabilities(answer: Array, kind: OutputKind) -> Array:
    """A classifier's answers → log-probabilities [n, classes], float64; [n · labels, 2] for a multi-label one."""
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
