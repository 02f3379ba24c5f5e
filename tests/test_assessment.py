"""What a run knows of its student without data: families of inputs, and alarms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxcake.core.arrays import Array
from onnxcake.core.rng import Key
from onnxcake.evaluate import without_data
from onnxcake.teacher.signature import Signature

KEY = Key(3).at("assessment")
WEIGHTS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Answers = Callable[[Array], Array]


def signature(**values: Any) -> Signature:
    return Signature("x", (1, 8, 8), "y", "logits", 4, **values)


def linear(weights: Array, scale: float = 1.0) -> Answers:
    return lambda inputs: scale * inputs.reshape(len(inputs), -1) @ weights


def held_out(samples: int = 300) -> Array:
    return np.random.default_rng(1).normal(size=(samples, 1, 8, 8)).astype(np.float32)


def assessed(student: Answers, teacher: Answers | None = None, made: Array | None = None) -> without_data.WithoutData:
    made = held_out() if made is None else made
    return without_data.assess(teacher or linear(WEIGHTS), student, signature(), made, KEY)


def test_families_are_as_the_file_takes_them_and_differ() -> None:
    bounded = signature(range=(0.0, 1.0), location=(0.5,), deviation=(0.25,))
    found = without_data.families(bounded, KEY)
    assert list(found) == ["fields", "noise", "mixtures"]
    for inputs in found.values():
        assert inputs.shape == (1000, 1, 8, 8) and inputs.dtype == np.float32
        assert 0 <= inputs.min() < 0.05 and 0.95 < inputs.max() <= 1
    again = without_data.families(bounded, KEY)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert not np.array_equal(found["fields"], without_data.families(bounded, Key(4))["fields"])


def test_the_teacher_agrees_with_itself_and_nothing_alarms() -> None:
    found = assessed(linear(WEIGHTS))
    assert found.expected == 1 and not found.alarms
    assert set(found.agreement) == {"fields", "noise", "mixtures"}


def test_a_worse_student_is_expected_to_agree_less() -> None:
    noise = np.random.default_rng(2).normal(size=WEIGHTS.shape).astype(np.float32)
    near, far = (assessed(linear(WEIGHTS + share * noise)).expected for share in (0.1, 0.5))
    assert 0.5 < far < near < 1


def one_class(inputs: Array) -> Array:
    return np.tile(np.float32([1, 0, 0, 0]), (len(inputs), 1))


def two_classes(inputs: Array) -> Array:
    return linear(WEIGHTS)(inputs) - np.float32([0, 0, 1e3, 1e3])


ALARMS: dict[str, tuple[dict[str, Any], str]] = {
    "a student of one class": ({"student": one_class}, "names one class"),
    "classes never named": ({"teacher": two_classes}, "2 of its 4 classes"),
    "certain answers": ({"teacher": linear(WEIGHTS, 1e4)}, "certain of 100% of the held-out samples"),
    "copies": ({"made": np.repeat(held_out(30), 10, 0)}, "100% of the held-out samples have another right beside them"),
}


@pytest.mark.parametrize(("what", "told"), ALARMS.values(), ids=ALARMS)
def test_what_is_alarming_is_told(what: dict[str, Any], told: str) -> None:
    teacher = what.get("teacher", linear(WEIGHTS))
    found = assessed(what.get("student", teacher), teacher, what.get("made"))
    assert found.alarms and all(told in alarm for alarm in found.alarms)


def test_families_of_large_inputs_are_smaller() -> None:
    large = Signature("x", (3, 224, 224), "y", "logits", 4)
    for inputs in without_data.families(large, KEY).values():
        assert len(inputs) >= 100 and inputs.nbytes <= 1 << 27
