"""The figures of a comparison against their textbook formulas."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, rel_entr, softmax
from scipy.stats import binomtest, norm

from onnxcake.core.json_files import plain
from onnxcake.evaluate.agreement import CONFIDENCE, Comparison, compare, mean, share
from onnxcake.teacher.signature import OutputKind

KINDS: tuple[OutputKind, ...] = ("logits", "probabilities", "log_probabilities")
BINARY: tuple[OutputKind, ...] = ("binary_logit", "binary_probability")
MULTILABEL: tuple[OutputKind, ...] = ("multilabel_logits", "multilabel_probabilities")
RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = (RANDOM.normal(scale=3, size=(200, 7)) for _ in range(2))


def told_as(kind: OutputKind, logits: Any) -> Any:
    """What a classifier with these logits puts out, in single precision."""
    said = {"logits": logits, "probabilities": softmax(logits, 1), "log_probabilities": log_softmax(logits, 1)}[kind]
    return said.astype(np.float32)


# --- intervals ---------------------------------------------------------------------------------------------


@given(n=st.integers(1, 5000), data=st.data())
def test_wilsons_interval(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    figure = share(np.arange(n) < hits)
    wanted = binomtest(hits, n).proportion_ci(2 * norm.cdf(CONFIDENCE) - 1, method="wilson")
    assert figure.value == pytest.approx(hits / n)
    assert (figure.low, figure.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert 0 <= figure.low <= figure.value + 1e-12 and figure.value <= figure.high + 1e-12 and figure.high <= 1


def test_wilsons_interval_by_hand() -> None:
    """8 of 10: centre (0.8 + 3.8416/20) / 1.38416, half width 1.96·√(0.016 + 3.8416/400) / 1.38416."""
    figure = share(np.arange(10) < 8)
    assert (figure.low, figure.high) == pytest.approx((0.49016, 0.94332), abs=5e-5)
    assert pytest.approx(1.96) == CONFIDENCE


@pytest.mark.parametrize("hit", [True, False])
def test_all_or_none_is_not_taken_for_certain(hit: bool) -> None:
    figure = share(np.full(20, hit))
    ends = (figure.low, figure.high) if hit else (1 - figure.high, 1 - figure.low)
    assert ends == pytest.approx((0.83887, 1.0), abs=5e-5)


def test_the_interval_of_a_mean() -> None:
    figure = mean(np.array([1.0, 2.0, 3.0, 4.0]))
    spread = 1.96 * math.sqrt(5 / 3) / 2
    assert (figure.value, figure.low, figure.high) == pytest.approx((2.5, 2.5 - spread, 2.5 + spread))
    assert mean(np.full(9, 0.25)).low == mean(np.full(9, 0.25)).high == 0.25


# --- comparisons -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", KINDS)
@pytest.mark.parametrize("teacher", KINDS)
def test_figures_for_every_kind_of_output(teacher: OutputKind, student: OutputKind) -> None:
    labels = RANDOM.integers(0, 7, 200)
    found = compare(told_as(teacher, TEACHER), told_as(student, STUDENT), labels, (teacher, student))
    direct = rel_entr(softmax(TEACHER, 1), softmax(STUDENT, 1)).sum(1)
    assert found.samples == 200
    assert found.kl.value == pytest.approx(direct.mean(), rel=1e-5)
    assert found.kl.high - found.kl.low == pytest.approx(2 * 1.96 * direct.std(ddof=1) / math.sqrt(200), rel=1e-4)
    assert found.agreement.value == pytest.approx((TEACHER.argmax(1) == STUDENT.argmax(1)).mean())
    assert found.teacher_accuracy == share(TEACHER.argmax(1) == labels)
    assert found.student_accuracy == share(STUDENT.argmax(1) == labels)


def test_every_kind_is_compared_somewhere_here() -> None:
    assert {*KINDS, *BINARY, *MULTILABEL} == set(get_args(OutputKind))


@pytest.mark.parametrize("shape", [(200, 1), (200,)])
@pytest.mark.parametrize("student", BINARY)
@pytest.mark.parametrize("teacher", BINARY)
def test_one_number_for_yes_or_no(teacher: OutputKind, student: OutputKind, shape: tuple[int, ...]) -> None:
    labels = RANDOM.integers(0, 2, 200)
    z, w = TEACHER[:, 0], STUDENT[:, 0]
    said = [(expit(v) if "prob" in k else v).reshape(shape) for k, v in ((teacher, z), (student, w))]
    found = compare(*said, labels, (teacher, student))
    p, q = expit(z), expit(w)
    assert found.kl.value == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(), rel=1e-5)
    assert found.agreement == share((z > 0) == (w > 0))
    assert found.teacher_accuracy == share((z > 0) == labels)


@pytest.mark.parametrize("student", MULTILABEL)
@pytest.mark.parametrize("teacher", MULTILABEL)
def test_every_label_is_a_decision_of_its_own(teacher: OutputKind, student: OutputKind) -> None:
    labels = RANDOM.integers(0, 2, TEACHER.shape)
    said = [expit(v) if "prob" in k else v for k, v in ((teacher, TEACHER), (student, STUDENT))]
    found = compare(*said, labels, (teacher, student))
    p, q = expit(TEACHER), expit(STUDENT)
    assert found.samples == 200
    assert found.kl.value == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(1).mean(), rel=1e-5)
    assert found.agreement == share(((TEACHER > 0) == (STUDENT > 0)).reshape(-1))
    assert found.student_accuracy == share(((STUDENT > 0) == labels).reshape(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_agrees_with_itself(kind: OutputKind) -> None:
    answer = told_as(kind, TEACHER)
    found = compare(answer, answer.copy(), None, (kind, kind))
    assert found.agreement.value == 1 and found.kl.value == 0
    assert found.teacher_accuracy is None and found.student_accuracy is None


def test_logits_may_be_shifted() -> None:
    shifted = TEACHER + RANDOM.normal(scale=100, size=(200, 1))
    assert compare(TEACHER, shifted, None, ("logits", "logits")).kl.value == pytest.approx(0, abs=1e-12)


def test_logits_may_be_huge() -> None:
    found = compare(TEACHER * 1e30, STUDENT * 1e30, None, ("logits", "logits"))
    assert math.isfinite(found.kl.value) and found.kl.value > 1e29


@pytest.mark.parametrize("student", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("teacher", ["probabilities", "log_probabilities"])
def test_a_probability_of_zero_is_a_very_small_one(teacher: OutputKind, student: OutputKind) -> None:
    """A saturated Softmax gives zeros; their logarithm is −∞, and 0·∞ would be no number."""
    with np.errstate(divide="ignore"):
        certain = {"probabilities": np.eye(3), "log_probabilities": np.log(np.eye(3))}
    same = compare(certain[teacher], certain[student], None, (teacher, student))
    assert same.kl.value == pytest.approx(0, abs=1e-20)
    other = compare(certain[teacher], certain[student][::-1], None, (teacher, student))
    assert other.kl.value == pytest.approx(-math.log(1e-30) * 2 / 3)
    assert other.agreement.value == pytest.approx(1 / 3)


def test_the_direction_of_the_divergence() -> None:
    """KL(teacher ‖ student): a student that is certain where the teacher is not pays more than the reverse."""
    even, sure = np.array([[0.5, 0.5]] * 2), np.array([[0.99, 0.01]] * 2)
    kinds: tuple[OutputKind, OutputKind] = ("probabilities", "probabilities")
    assert compare(even, sure, None, kinds).kl.value == pytest.approx(math.log(0.5) - math.log(0.99 * 0.01) / 2)
    assert compare(sure, even, None, kinds).kl.value == pytest.approx(math.log(2) + rel(0.99) + rel(0.01))


def rel(p: float) -> float:
    return p * math.log(p)


def test_one_sample_is_enough() -> None:
    found = compare(TEACHER[:1], TEACHER[:1], np.array([0]), ("logits", "logits"))
    assert found.samples == 1 and found.agreement.value == 1


def test_figures_are_plain_data() -> None:
    labels = np.zeros(200, np.int64)
    full = plain(compare(TEACHER, STUDENT, labels, ("logits", "logits")))
    assert list(full) == ["samples", "agreement", "kl", "teacher_accuracy", "student_accuracy"]
    assert full["agreement"].keys() == {"value", "low", "high"}
    assert list(plain(compare(TEACHER, STUDENT, None, ("logits", "logits")))) == ["samples", "agreement", "kl"]
    assert json.loads(json.dumps(full, allow_nan=False)) == full
    json.dumps(plain(compare(TEACHER[:1], STUDENT[:1], None, ("logits", "logits"))), allow_nan=False)


def test_nothing_given_is_changed() -> None:
    teacher, student = told_as("logits", TEACHER), told_as("logits", STUDENT)
    before = teacher.copy(), student.copy()
    assert isinstance(compare(teacher, student, None, ("logits", "logits")), Comparison)
    assert np.array_equal(teacher, before[0]) and np.array_equal(student, before[1])


def test_inputs_without_an_answer_are_left_out_and_a_students_lack_of_one_is_a_disagreement() -> None:
    teacher = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8], [0.7, 0.3]], np.float32)
    student = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [np.nan, np.nan]], np.float32)
    found = compare(teacher, student, np.array([0, 0, 1, 1]), ("probabilities", "probabilities"))
    assert found.samples == 3 and found.agreement.value == pytest.approx(2 / 3)
    assert found.kl.value == 0
    assert found.teacher_accuracy is not None and found.teacher_accuracy.value == pytest.approx(2 / 3)
