"""How a teacher is computed: chosen by timing, and no other answers for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.rng import Key
from onnxcake.runtime import processor
from onnxcake.teacher import autotune
from onnxcake.teacher.autotune import PLAIN, ExecutionMode
from onnxcake.teacher.teacher import Teacher


@pytest.fixture(scope="module")
def teacher(export: Any, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    with Key(0).at("teacher").as_default():
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 4))
    return Teacher.load(export(net, (3, 12, 12), tmp_path_factory.mktemp("pace") / "teacher.onnx"))


class Timings:
    """A clock that only gradients move, each by the seconds of its way; notes the ways that were asked for.

    What a way gives is really computed, in the plain way; ``fails`` raise an error, ``wrong`` point elsewhere.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[ExecutionMode, float], **instead: Any) -> None:
        self.seconds, self.asked, self.now = seconds, list[ExecutionMode](), 0.0
        self.fails: Mapping[ExecutionMode, Exception] = instead.get("fails", {})
        self.wrong: Collection[ExecutionMode] = instead.get("wrong", ())
        self.real = autotune._gradient
        monkeypatch.setattr(autotune, "_gradient", self.gradient)
        monkeypatch.setattr(autotune, "_now", lambda: self.now)
        monkeypatch.setattr(processor, "features", lambda: frozenset({"avx512_bf16"}))

    def gradient(self, teacher: Teacher, x: Tensor, how: ExecutionMode) -> tuple[Tensor, Tensor]:
        how = replace(how, threads=None, workers=1)
        self.asked.append(how)
        self.now += self.took(how)
        if how in self.fails:
            raise self.fails[how]
        logits, gradient = self.real(teacher, x, PLAIN)
        return logits, -gradient if how in self.wrong else gradient

    def took(self, how: ExecutionMode) -> float:
        return self.seconds[how]


PASSES = 100_000  # many: worth a timing


def fastest_mode(teacher: Teacher, workers: int = 1) -> ExecutionMode:
    """The way that is chosen where all threads are as fast as one."""
    found = autotune.fastest_mode(teacher, 8, PASSES, workers)
    assert found.threads == 1
    return replace(found, threads=None)


LAST, LOW, BOTH = ExecutionMode(True), ExecutionMode(dtype="bfloat16"), ExecutionMode(True, "bfloat16")
SECONDS = {PLAIN: 0.010, LAST: 0.008, LOW: 0.005, BOTH: 0.004}  # on however many threads
NO_KERNEL = RuntimeError("no such kernel")


def is_last(teacher: Teacher) -> bool:
    weights = [weight for weight in (*teacher.graph.parameters(), *teacher.graph.buffers()) if weight.dim() == 4]
    last = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
    assert len(last) == 1
    return last.pop()


@pytest.mark.parametrize(
    ("seconds", "instead", "best"),
    [
        ({}, {}, BOTH),
        ({BOTH: 0.006}, {}, LOW),
        ({}, {"wrong": {BOTH}}, LOW),
        ({}, {"fails": {BOTH: NO_KERNEL, LOW: NO_KERNEL}}, LAST),
        ({LAST: 0.009, LOW: 0.009, BOTH: 0.009}, {}, PLAIN),
    ],
    ids=["the fastest", "another", "one that points elsewhere", "ones that fail", "none by enough"],
)
def test_the_fastest_that_agrees_is_chosen(
    seconds: dict[ExecutionMode, float],
    instead: Any,
    best: ExecutionMode,
    teacher: Teacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Timings(monkeypatch, SECONDS | seconds, **instead)
    assert fastest_mode(teacher) == best
    assert is_last(teacher) == best.channels_last


@pytest.mark.parametrize(
    "error",
    [NotImplementedError(), MemoryError(), KeyError("x"), TypeError("x"), IndexError(), AssertionError(), OSError()],
    ids=lambda error: type(error).__name__,
)
def test_a_way_that_fails_in_whatever_way_is_left_out(
    error: Exception, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    Timings(monkeypatch, SECONDS, fails={LAST: error, LOW: error, BOTH: error})
    assert fastest_mode(teacher) == PLAIN and not is_last(teacher)


def test_a_layout_that_cannot_be_had_is_left_out(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(network: nn.Module, channels_last: bool) -> None:
        if channels_last:
            raise RuntimeError("required rank 4 tensor to use channels_last format")

    Timings(monkeypatch, SECONDS)
    monkeypatch.setattr(autotune, "lay_out", fails)
    assert fastest_mode(teacher) == LOW


def test_threads_side_by_side_that_fail_are_left_out(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> float:
        raise ValueError("no second thread")

    Timings(monkeypatch, SECONDS)
    monkeypatch.setattr(autotune, "_side_by_side", fails)
    assert fastest_mode(teacher, 2) == BOTH


@pytest.mark.parametrize(("seconds", "times"), [(0.1, 1), (0.02, 2), (0.005, 6)], ids=["far", "clearly", "not"])
def test_a_trial_ends_once_it_is_slower(
    seconds: float, times: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Than the best so far: the first gradient may be five times as slow, as what it needs is made then."""
    timed = Timings(monkeypatch, SECONDS | {LOW: seconds})
    fastest_mode(teacher)
    assert timed.asked.count(LOW) == times and timed.asked.count(BOTH) == 6


@pytest.mark.parametrize("slow", [0.001, 0.05, 0.4, 3.0, 40.0])
@pytest.mark.parametrize("slower", [1.0, 4.0])
def test_all_of_the_timing_takes_seconds(
    slow: float, slower: float, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a sample takes, also where other ways are slower, as long as gradients of one sample fit."""

    class Growing(Timings):
        def gradient(self, teacher: Teacher, x: Tensor, how: ExecutionMode) -> tuple[Tensor, Tensor]:
            self.samples = len(x)
            return super().gradient(teacher, x, how)

        def took(self, how: ExecutionMode) -> float:
            return slow * self.samples * (1.0 if how == PLAIN else slower)

    timed = Growing(monkeypatch, {})
    found = autotune.fastest_mode(teacher, 512, 1_000_000)
    assert replace(found, threads=None) == PLAIN
    assert timed.now <= max(autotune._MOST_S + min(slow, 1), 3 * slow)
    assert ({LAST, BOTH, LOW} <= set(timed.asked)) == (slow < 0.4), "all are tried where that fits"


@pytest.mark.parametrize(
    ("flags", "tried"),
    [
        ({"avx2", "fma"}, False),
        ({"avx512_vnni"}, False),
        ({"avx512_bf16"}, True),
        ({"bf16", "asimd"}, True),
        (set(), True),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_bfloat16_is_tried_where_the_processor_has_it(
    flags: set[str], tried: bool, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown processor is tried."""
    timed = Timings(monkeypatch, SECONDS)
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags))
    assert fastest_mode(teacher) == (BOTH if tried else LAST)
    assert (LOW in timed.asked) == (BOTH in timed.asked) == tried


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ("processor\t: 0\nmodel name\t: x: y\nflags\t\t: fpu avx2 avx512_vnni\n\nflags\t: other\n", {"avx512_vnni"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"bf16", "asimd"}),
        ("nothing of the kind", set()),
        (None, set()),
    ],
    ids=["x86", "arm", "another form", "no such file"],
)
def test_a_processors_features_are_read(
    told: str | None, known: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(processor, "_TOLD", tmp_path / "cpuinfo")
    found = processor.features()
    assert known <= found and "other" not in found and bool(found) == bool(known)


@pytest.mark.parametrize(("seconds", "workers"), [(0.006, 2), (0.0075, 1)], ids=["faster", "not by enough"])
def test_two_workers_where_they_are_faster(
    seconds: float, workers: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the fastest way, which takes 4 ms; side by side two gradients take so long."""
    Timings(monkeypatch, SECONDS)
    monkeypatch.setattr(autotune, "_side_by_side", lambda *_: seconds)
    assert fastest_mode(teacher, 2) == ExecutionMode(True, "bfloat16", workers)
    assert fastest_mode(teacher, 1).workers == 1


@pytest.mark.parametrize(
    ("alone", "threads"), [(0.5, 1), (1.1, 1), (1.2, 2)], ids=["one is faster", "one is as good", "two are faster"]
)
def test_as_many_threads_as_pay_off(
    alone: float, threads: int, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried after that is tried on as many threads, and the number that was given comes back."""
    asked, before = list[tuple[ExecutionMode, int]](), torch.get_num_threads()

    class OfThreads(Timings):
        def took(self, how: ExecutionMode) -> float:
            asked.append((how, torch.get_num_threads()))
            return 0.01 * (alone if torch.get_num_threads() == 1 else 1.0) * (0.5 if how.channels_last else 1.0)

    OfThreads(monkeypatch, {})
    monkeypatch.setattr(autotune, "_given", None)
    torch.set_num_threads(2)
    try:
        assert autotune.fastest_mode(teacher, 8, PASSES) == ExecutionMode(True, threads=threads)
        assert torch.get_num_threads() == 2
        assert {count for how, count in asked if how.channels_last} == {threads}
        autotune.use_threads(1)
        assert (torch.get_num_threads(), autotune.threads_given()) == (1, 2)
        autotune.use_threads(1)
        assert autotune.threads_given() == 2, "said twice"
    finally:
        torch.set_num_threads(before)


def test_side_by_side_is_timed_on_one_core_each(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real, before = set[int](), autotune._time, torch.get_num_threads()

    def timed(*given: Any) -> Any:
        seen.add(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(autotune, "_time", timed)
    torch.set_num_threads(2)
    try:
        assert 0 < autotune._side_by_side(teacher, torch.randn(4, 3, 12, 12), PLAIN, 2) < 60
        assert seen == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_short_work_is_not_worth_a_timing(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timings(monkeypatch, SECONDS)
    assert autotune.fastest_mode(teacher, 8, 40) == PLAIN and set(timed.asked) == {PLAIN}


@pytest.mark.parametrize("how", [LAST, LOW, BOTH], ids=str)
def test_answers_stay_those_in_float32(how: ExecutionMode, teacher: Teacher) -> None:
    x = torch.randn(16, 3, 12, 12, generator=Key(1).generator())
    autotune.apply(PLAIN, teacher.graph)
    logits, gradient = autotune._gradient(teacher, x, PLAIN)
    autotune.apply(how, teacher.graph)
    torch.testing.assert_close(teacher.logits(x).detach(), logits, rtol=1e-5, atol=1e-5)
    _, other = autotune._gradient(teacher, x, how)
    assert other.dtype == torch.float32
    assert torch.cosine_similarity(gradient.flatten(1), other.flatten(1)).min() > 0.95
    autotune.apply(PLAIN, teacher.graph)


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("how", [LAST, BOTH], ids=str)
def test_three_dimensions_are_laid_out_too(how: ExecutionMode, dynamo: bool, tmp_path: Path) -> None:
    with Key(1).at("teacher").as_default():
        net = nn.Sequential(
            nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Conv3d(6, 6, 1, groups=2), nn.Flatten(), nn.Linear(384, 4)
        )
    x = torch.randn(5, 2, 6, 6, 6, generator=Key(2).generator())
    path = tmp_path / "t.onnx"
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("b")},)} if dynamo else {"dynamic_axes": {"x": {0: "b"}}}
    torch.onnx.export(net.eval(), (x,), path, dynamo=dynamo, input_names=["x"], verbose=False, **shapes)
    found = Teacher.load(path)
    assert not list(autotune.alternatives(found)), "they stay plain"
    (convolution, *_) = found.offers.convolutions
    plain = found.answer(x, (convolution,))
    found._tapped.clear()
    autotune.apply(how, found.graph)
    weights = [one for one in (*found.graph.parameters(), *found.graph.buffers()) if one.dim() == 5]
    assert weights and all(one.is_contiguous(memory_format=torch.channels_last_3d) for one in weights)
    logits, taps = found.answer(x, (convolution,))
    torch.testing.assert_close(logits, plain[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(taps[convolution], plain[1][convolution], rtol=1e-5, atol=1e-5)
    assert autotune._gradient(found, x, how)[1].isfinite().all()


def test_constants_of_rank_five_that_are_no_weights(tmp_path: Path) -> None:
    """Windows of unlike sizes become places to gather from: whole numbers of rank 5, which no layout takes."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3)).eval()
    path, x = tmp_path / "t.onnx", torch.randn(3, 1, 7, 7, generator=Key(2).generator())
    batch = ({0: torch.export.Dim("b")},)
    torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    found = Teacher.load(path)
    plain = found.logits(x)
    for how in (LAST, PLAIN, BOTH):
        autotune.apply(how, found.graph)
        torch.testing.assert_close(found.logits(x), plain, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_no_layout_takes_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3))
    network.register_buffer("sparse", torch.ones(2, 2, 2, 2).to_sparse())
    autotune.apply(LAST, network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network.get_buffer("sparse").is_sparse
