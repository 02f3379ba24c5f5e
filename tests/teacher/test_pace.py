"""How a teacher is computed: chosen by timing, and no other answers for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.rng import Key
from onnxcake.teacher import Teacher, pace
from onnxcake.teacher.pace import PLAIN, Pace


@pytest.fixture(scope="module")
def teacher(export: Any, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    with Key(0).at("teacher").as_default():
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 4))
    return Teacher.load(export(net, (3, 12, 12), tmp_path_factory.mktemp("pace") / "teacher.onnx"))


def timings(monkeypatch: pytest.MonkeyPatch, seconds: dict[Pace, float], **instead: Any) -> list[Pace]:
    """What is timed, answered with given seconds and what is really computed."""
    asked: list[Pace] = []
    real = pace._timed

    def timed(teacher: Teacher, x: Tensor, how: Pace, times: int) -> tuple[tuple[Tensor, Tensor], float]:
        how = replace(how, threads=None)
        asked.append(how)
        if how in instead.get("fails", ()):
            raise RuntimeError("no such kernel")
        (logits, gradient), _ = real(teacher, x, how, 1)
        return (logits, -gradient if how in instead.get("wrong", ()) else gradient), seconds[how]

    monkeypatch.setattr(pace, "_timed", timed)
    monkeypatch.setattr(pace, "_FOUND", {})
    return asked


def chosen(teacher: Teacher, workers: int = 1) -> Pace:
    """The way that is chosen where all threads are as fast as one."""
    found = pace.chosen(teacher, 8, 1000, workers)
    assert found.threads == 1
    return replace(found, threads=None)


LAST, LOW, BOTH = Pace(True), Pace(dtype="bfloat16"), Pace(True, "bfloat16")
SECONDS = {PLAIN: 1.0, LAST: 0.8, LOW: 0.5, BOTH: 0.4}  # on however many threads


@pytest.mark.parametrize(
    ("seconds", "instead", "best"),
    [
        ({}, {}, BOTH),
        ({BOTH: 0.6}, {}, LOW),
        ({}, {"wrong": {BOTH}}, LOW),
        ({}, {"fails": {BOTH, LOW}}, LAST),
        ({LAST: 0.9, LOW: 0.9, BOTH: 0.9}, {}, PLAIN),
    ],
    ids=["the fastest", "another", "one that points elsewhere", "ones that fail", "none by enough"],
)
def test_the_fastest_that_agrees_is_chosen(
    seconds: dict[Pace, float], instead: Any, best: Pace, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings(monkeypatch, SECONDS | seconds, **instead)
    assert chosen(teacher) == best
    weights = [weight for weight in teacher.graph.parameters() if weight.dim() == 4]
    weights += [weight for weight in teacher.graph.buffers() if weight.dim() == 4]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) == best.channels_last for w in weights)


@pytest.mark.parametrize(("seconds", "workers"), [(0.6, 2), (0.75, 1)], ids=["faster", "not by enough"])
def test_two_workers_where_they_are_faster(
    seconds: float, workers: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the fastest way, which takes 0.4 s; side by side two gradients take so long."""
    timings(monkeypatch, SECONDS)
    monkeypatch.setattr(pace, "_side_by_side", lambda *_: seconds)
    assert chosen(teacher, 2) == Pace(True, "bfloat16", workers)
    assert chosen(teacher, 1).workers == 1


@pytest.mark.parametrize(
    ("alone", "threads"), [(0.5, 1), (1.1, 1), (1.2, 2)], ids=["one is faster", "one is as good", "two are faster"]
)
def test_as_many_threads_as_pay_off(
    alone: float, threads: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried after that is tried on as many threads, and the number that was given comes back."""
    asked, real, before = list[tuple[Pace, int]](), pace._timed, torch.get_num_threads()

    def timed(teacher: Teacher, x: Tensor, how: Pace, times: int) -> Any:
        asked.append((how, torch.get_num_threads()))
        seconds = alone if torch.get_num_threads() == 1 else 1.0
        return real(teacher, x, how, 1)[0], seconds * (0.5 if how.channels_last else 1.0)

    monkeypatch.setattr(pace, "_timed", timed)
    monkeypatch.setattr(pace, "_FOUND", {})
    monkeypatch.setattr(pace, "_given", None)
    torch.set_num_threads(2)
    try:
        assert pace.chosen(teacher, 8, 1000) == Pace(True, threads=threads)
        assert torch.get_num_threads() == 2
        assert {count for how, count in asked if how.channels_last} == {threads}
        pace.use_threads(1)
        assert (torch.get_num_threads(), pace.threads_given()) == (1, 2)
        pace.use_threads(1)
        assert pace.threads_given() == 2, "said twice"
        assert pace.chosen(teacher, 8, 1000) == Pace(True, threads=threads), "the same again in this process"
    finally:
        torch.set_num_threads(before)


def test_side_by_side_is_timed_on_one_core_each(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real, before = set[int](), pace._timed, torch.get_num_threads()

    def timed(*given: Any) -> Any:
        seen.add(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(pace, "_timed", timed)
    torch.set_num_threads(2)
    try:
        assert 0 < pace._side_by_side(teacher, torch.randn(4, 3, 12, 12), PLAIN, 2) < 60
        assert seen == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_was_timed_is_not_timed_again(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timings(monkeypatch, SECONDS)
    first, count = pace.chosen(teacher, 8, 1000), len(asked)
    pace.apply(PLAIN, teacher.graph)
    assert pace.chosen(teacher, 8, 1000) == first == replace(BOTH, threads=1) and len(asked) == count
    assert pace.chosen(teacher, 4, 1000) == replace(BOTH, threads=1) and len(asked) > count


def test_short_work_is_not_worth_a_timing(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timings(monkeypatch, SECONDS)
    assert pace.chosen(teacher, 8, 40) == PLAIN and asked == [PLAIN]


@pytest.mark.parametrize("how", [LAST, LOW, BOTH], ids=str)
def test_answers_stay_those_in_float32(how: Pace, teacher: Teacher) -> None:
    x = torch.randn(16, 3, 12, 12, generator=Key(1).generator())
    pace.apply(PLAIN, teacher.graph)
    (logits, gradient), _ = pace._timed(teacher, x, PLAIN, 1)
    pace.apply(how, teacher.graph)
    torch.testing.assert_close(teacher.logits(x).detach(), logits, rtol=1e-5, atol=1e-5)
    (_, other), _ = pace._timed(teacher, x, how, 1)
    assert other.dtype == torch.float32
    assert torch.cosine_similarity(gradient.flatten(1), other.flatten(1)).min() > 0.95
    pace.apply(PLAIN, teacher.graph)
