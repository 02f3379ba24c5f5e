"""Batches made side by side: what is the same as one after the other is tested with the loop; here, how it ends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onnxcake.core.errors import Diverged, OutputError
from onnxcake.core.rng import Key
from onnxcake.engine.threads import synthesize
from onnxcake.store.shard import Batch
from onnxcake.store.store import Layout, Store
from onnxcake.synthesis.labels.hard import RowPermutation
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.schedules import Constant
from onnxcake.synthesis.sources.pixels import Pixels
from onnxcake.synthesis.spec import Synthesis
from onnxcake.synthesis.step import Weighted
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.synthesis.updates import Sgd
from onnxcake.teacher.teacher import Teacher


@pytest.fixture(scope="module")
def teacher(export: Any, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    with Key(0).at("teacher").as_default():
        net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    return Teacher.load(export(net, (5,), tmp_path_factory.mktemp("workers") / "teacher.onnx"))


def synthesis(steps: int = 3, step_size: float = 0.1) -> Synthesis:
    terms = (Weighted("classification", 1.0, Classification()),)
    update = Sgd(Constant(step_size))
    return Synthesis(Pixels(), RowPermutation(), terms, update, 3, 12, 8, 0, steps, 12, 12, workers=2)


def store_of(made: Synthesis, folder: Path) -> Store:
    return Store.create(folder, Layout("k", {}, made.batches, 0, 1, made.batch, (5,), 3))


class Stopping(Synthesizer):
    """Batch 2 is never done; another fails when that has begun."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun = threading.Event()

    def make(self, index: int, ask: bool = True) -> Batch:
        if index == 2:
            self.begun.set()
            while True:  # until it is told that nobody waits
                self.count(1)
        if index == 3:
            assert self.begun.wait(60)
            raise Diverged("it is not finite", where="here", remedy="None.")
        return super().make(index, ask)


def test_a_failure_ends_the_others_and_keeps_what_is_finished(teacher: Teacher, tmp_path: Path) -> None:
    made, before = synthesis(), torch.get_num_threads()
    store, threads = store_of(made, tmp_path), threading.active_count()

    class Ends(Stopping):
        def make(self, index: int, ask: bool = True) -> Batch:
            return super().make({1: 3, 3: 1}.get(index, index), ask)

    with pytest.raises(Diverged, match="not finite"):
        synthesize(Ends(teacher, made, Key(0)), store)
    assert store.finished == 1
    assert torch.get_num_threads() == before and threading.active_count() == threads


def test_where_nothing_can_be_written_the_workers_end(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = synthesis()
    store, threads = store_of(made, tmp_path), threading.active_count()

    def full(batch: Batch) -> None:
        raise OutputError("the disk is full", where="here", remedy="Free some.")

    monkeypatch.setattr(store, "append", full)
    with pytest.raises(OutputError):
        synthesize(Stopping(teacher, made, Key(0)), store)
    assert threading.active_count() == threads


def test_each_worker_keeps_to_one_core(teacher: Teacher, tmp_path: Path) -> None:
    seen = set[tuple[str, int]]()

    class Looking(Synthesizer):
        def make(self, index: int, ask: bool = True) -> Batch:
            seen.add((threading.current_thread().name, torch.get_num_threads()))
            return super().make(index, ask)

    made = synthesis()
    synthesize(Looking(teacher, made, Key(0)), store_of(made, tmp_path))
    assert {threads for _, threads in seen} == {1}
    assert threading.current_thread().name not in {name for name, _ in seen}
