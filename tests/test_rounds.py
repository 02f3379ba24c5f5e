"""Rounds: the same bits however often a run was stopped, and what student, samples and memory see of each other."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core import interrupt
from onnxcake.core.errors import Interrupted
from onnxcake.core.rng import Key
from onnxcake.run.checkpoints import Checkpoints
from onnxcake.run.rounds import POINTS, Rounds
from onnxcake.run.schedule import TrainingSchedule, steps_per_round
from onnxcake.runtime.ort import Runtime
from onnxcake.store.shard import Batch
from onnxcake.store.store import Layout, Store
from onnxcake.student import training
from onnxcake.student.loss import Distillation
from onnxcake.student.optimisers import AdamOptimiser, CosineDecay, SgdOptimiser
from onnxcake.student.student import Student
from onnxcake.student.training import DistillationBatch, Regime, Training
from onnxcake.synthesis.labels.hard import Independent
from onnxcake.synthesis.losses.balance import Balance
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.losses.disagreement import Disagreement
from onnxcake.synthesis.memory import Bank
from onnxcake.synthesis.replay import Replay
from onnxcake.synthesis.schedules import Constant, Decay
from onnxcake.synthesis.source import Source
from onnxcake.synthesis.sources.generator import Generator
from onnxcake.synthesis.sources.latent import Latent, MetaLatent
from onnxcake.synthesis.sources.noise import Noise
from onnxcake.synthesis.sources.pixels import Pixels
from onnxcake.synthesis.sources.pool import Pool
from onnxcake.synthesis.spec import Synthesis
from onnxcake.synthesis.step import Context, Loss, Step, Weighted
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.synthesis.updates import Adam, Sgd, Sign
from onnxcake.teacher.teacher import Teacher

KEY = Key(5)
CPU = torch.device("cpu")
SIZE, CLASSES, BATCH = 5, 3, 8
SMALL: dict[str, Any] = {"latent": 4, "width": 2}


@dataclass(frozen=True)
class Judged(Loss):
    """A term that learns a layer and remembers a mean, so that both must survive a stop."""

    def init_state(self, context: Context) -> nn.Module:
        with context.key.at("judged").as_default():
            return Judge(context.signature.classes)

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        difference: Tensor = state.layer(step.logits) - state.mean
        return difference.square().mean()

    def settle(self, step: Step, state: Any) -> None:
        state.mean.lerp_(step.logits.mean(0), 0.3)


class Judge(nn.Module):
    mean: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(classes, classes)
        self.register_buffer("mean", torch.ones(classes))


def shaken(inputs: Tensor, draw: torch.Generator) -> Tensor:
    """An augmentation."""
    return inputs + 0.1 * torch.randn(inputs.shape, generator=draw)


ADAM = Adam(Constant(0.02), beta1=0.5)


@dataclass(frozen=True)
class Way:
    """A method in small: what is made in each round, and how the student learns from it."""

    source: Source
    schedule: TrainingSchedule
    losses: tuple[Weighted, ...] = ()
    update: Any = ADAM
    batches: int = 1
    steps: int = 2
    held_out: int = 2
    per_shard: int = 1
    regime: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.schedule.rounds * self.batches

    @property
    def kept(self) -> int:
        return self.total if self.schedule.learn_from == "kept" else 0


ADVERSARIAL = (Weighted("disagreement", 1.0, Disagreement()), Weighted("balance", 0.5, Balance(), after=0.4))
INVERTED = (Weighted("classification", 1.0, Classification()), Weighted("disagreement", 0.5, Disagreement()))
GENERATOR = Generator(**SMALL)
BANK = Bank(entries=2, every=2, share=0.5)
REPLAY = Replay(latent=3, width=2, fits=2, share=0.25)

WAYS = {
    "same": Way(GENERATOR, TrainingSchedule(6, 3, learn_from="same"), ADVERSARIAL),
    "fresh": Way(GENERATOR, TrainingSchedule(6, 3, first=1, learn_from="fresh"), ADVERSARIAL, batches=2),
    "bank": Way(GENERATOR, TrainingSchedule(6, 3, learn_from="fresh", memory=BANK), ADVERSARIAL),
    "replay": Way(GENERATOR, TrainingSchedule(5, 2, learn_from="fresh", memory=REPLAY), ADVERSARIAL),
    "retain": Way(
        GENERATOR, TrainingSchedule(6, 2, learn_from="same", memory=BANK), ADVERSARIAL, regime={"retain": 0.3}
    ),
    "latent, kept": Way(Latent(**SMALL), TrainingSchedule(4, 4, first=1), INVERTED, batches=2, per_shard=3),
    "meta, kept, live": Way(
        MetaLatent(**SMALL),
        TrainingSchedule(4, 4),
        INVERTED,
        held_out=3,
        regime={"query_teacher": True, "augment": (shaken,)},
    ),
    "pool, fresh, live": Way(
        Pool(size=60, renew=0.1),
        TrainingSchedule(6, 3, learn_from="fresh"),
        INVERTED,
        Sign(Constant(0.05)),
        regime={"query_teacher": True, "augment": (shaken,)},
    ),
    "rates, fresh, live": Way(
        Pool(size=60, renew=0.1),
        TrainingSchedule(6, 3, first=1, learn_from="fresh"),
        INVERTED,
        Sign(Constant(0.05)),
        regime={"query_teacher": True, "augment": (shaken,), "lr_factors": (0.1, 1.0, 2.0)},
    ),
    "rates, same": Way(
        GENERATOR, TrainingSchedule(6, 3, learn_from="same"), ADVERSARIAL, regime={"lr_factors": (0.1, 1.0)}
    ),
    "rates, kept": Way(
        Pixels(), TrainingSchedule(5, 3), INVERTED, held_out=1, per_shard=2, regime={"lr_factors": (0.1, 1.0)}
    ),
    "rates, one round": Way(
        Pixels(), TrainingSchedule(1, 9), INVERTED[:1], batches=3, regime={"lr_factors": (0.1, 1.0)}
    ),
    "learnt loss, kept": Way(
        Pixels(), TrainingSchedule(5, 3), (*INVERTED, Weighted("judged", 1.0, Judged())), held_out=1, per_shard=2
    ),
    "one round": Way(Pixels(), TrainingSchedule(1, 9), INVERTED[:1], batches=3, update=Sgd(Decay(0.3, 1)), per_shard=2),
}


def ways(fits: Callable[[Way], bool]) -> Any:
    chosen = {name: way for name, way in WAYS.items() if fits(way)}
    return pytest.mark.parametrize("way", chosen.values(), ids=chosen)


every_way = ways(lambda way: True)
sequential = ways(lambda way: way.schedule.rounds > 1)
pooled = ways(lambda way: way.schedule.rounds > 1 and way.kept > 0)


@pytest.fixture(scope="module")
def teacher(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    with Key(0).at("teacher").as_default():
        net = nn.Sequential(nn.Linear(SIZE, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    return Teacher.load(export(net, (SIZE,), tmp_path_factory.mktemp("rounds") / "teacher.onnx"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal is left from the test before, and nothing waits for the disk."""
    monkeypatch.setattr(interrupt, "_received", None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(training, "_SHARE", 3)  # so that rates are tried in runs as short as these
    monkeypatch.setattr(training, "_LEAST", 2)


def student_spec(teacher: Teacher) -> Student:
    """Small, with something that training mode changes."""
    with KEY.at("weights").as_default():
        net = nn.Sequential(nn.Linear(SIZE, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))
    return Student(teacher.signature, net)


def synthesis_of(way: Way) -> Synthesis:
    return Synthesis(
        source=way.source,
        labels=Independent(),
        losses=way.losses,
        update=way.update,
        groups=1,
        batch=BATCH,
        batches=way.batches,
        held_out=way.held_out,
        steps=way.steps,
        reference_batch=BATCH,
        chunk=BATCH,
        rounds=way.schedule.rounds,
    )


def begun(way: Way, teacher: Teacher, folder: Path, *, noise: int = 0, ask: Any = None, **given: Any) -> Rounds:
    """As if by a new process: everything is made anew, and the global generator stands elsewhere."""
    torch.manual_seed(noise)
    regime = Regime(
        steps=way.schedule.total,
        batch=12,
        loss=Distillation(temperature=2.0),
        optimiser=SgdOptimiser(lr=0.05) if way.schedule.learn_from == "same" else AdamOptimiser(lr=0.01),
        learning_rate=CosineDecay(),
        checkpoint_every=5,
    )
    training = Training(student_spec(teacher), replace(regime, **way.regime), CPU, ask or teacher.answer)
    synthesis = synthesis_of(way)
    asked = training.student if "student" in synthesis.needs else None
    synthesizer = Synthesizer(teacher, synthesis, KEY.at("maker"), student=asked)
    shape = teacher.signature.input_shape
    layout = Layout("k", {}, way.kept, way.held_out, way.per_shard, BATCH, shape, CLASSES)
    store = Store.create(folder / "store", layout)
    return Rounds(
        synthesizer, training, store, way.schedule, Checkpoints(folder / "states", "run"), KEY.at("order"), **given
    )


def end_of(folder: Path, run: Rounds) -> dict[str, Any]:
    """All that a run leaves: the last state's file (student, generator, moments, memory), the set, the student."""
    states = sorted((folder / "states").glob("*.safetensors"), reverse=True)
    return {
        "state": states[0].name,  # carries the digest of all that is in it
        "set": {path.name: path.read_bytes() for path in (folder / "store").glob("*.safetensors")},
        "student": {name: value.tolist() for name, value in run.training.student.state_dict().items()},
        "curve": run.curve,
    }


def agreement(student: nn.Module) -> float:
    """A number that tells one student from another."""
    assert not student.training
    return float(student(torch.linspace(-1, 1, 4 * SIZE).view(4, SIZE)).detach().sum())


def finished(way: Way, teacher: Teacher, folder: Path, **given: Any) -> dict[str, Any]:
    run = begun(way, teacher, folder, evaluate=agreement, **given)
    student = run.run()
    assert student is run.training.student and not student.training
    assert run.store.complete and run.training.step == way.schedule.total
    return end_of(folder, run)


@dataclass(frozen=True)
class Unbroken:
    """What a run leaves that nothing stopped, and how many events there were."""

    end: dict[str, Any]
    events: int


@pytest.fixture(scope="module")
def unbroken(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Way], Unbroken]:
    known: dict[int, Unbroken] = {}

    def of(way: Way) -> Unbroken:
        if id(way) not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            run = begun(way, teacher, folder, evaluate=agreement)
            seen = events(run)
            run.run()
            known[id(way)] = Unbroken(end_of(folder, run), len(seen))
        return known[id(way)]

    return of


class Crash(Exception):
    """Ends a run where it stands, with nothing more written."""


def crash() -> None:
    raise Crash


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def events(run: Rounds, moment: int = -1, how: Callable[[], None] = crash) -> list[str]:
    """Student steps and calls of the teacher, as they come; at number ``moment`` the run is broken."""
    seen: list[str] = []
    assert run.synthesizer is not None

    def told(what: str) -> None:
        seen.append(what)
        if len(seen) == moment:
            how()

    run.on_step = lambda: told("learnt")
    run.synthesizer.count = lambda passes, queries=0: told("asked")
    return seen


def broken(
    way: Way, teacher: Teacher, folder: Path, moment: int, how: Callable[[], None], noise: int = 1, **given: Any
) -> Rounds:
    """A run that was broken at an event."""
    run = begun(way, teacher, folder, noise=noise, evaluate=agreement, **given)
    events(run, moment, how)
    with pytest.raises((Crash, Interrupted)), interrupt.handled():
        run.run()
    interrupt._received = None
    return run


# --- going on ----------------------------------------------------------------------------------------------


@every_way
def test_two_runs_are_the_same_to_the_bit(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    again = finished(way, teacher, tmp_path, noise=3)
    assert again == unbroken(way).end
    assert len(again["set"]) == -(-(way.kept + way.held_out) // way.per_shard)


@every_way
def test_broken_at_any_moment_it_ends_the_same(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    """At the first event, in the middle, and while held-out batches are made; by a signal, or by a crash."""
    count = unbroken(way).events
    held_out = way.held_out * (way.steps + 1)  # the last events
    moments = (1, crash), (count // 3, terminate), (count // 2 + 1, crash), (count - held_out // 2, terminate)
    for moment, how in moments:
        folder = tmp_path / str(moment)
        broken(way, teacher, folder, moment, how)
        assert finished(way, teacher, folder, noise=2) == unbroken(way).end, f"broken at {moment} of {count}"


@every_way
def test_lessons_made_ahead_end_the_same(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    """Unbroken; and stopped by a signal in the middle, then going on without making any ahead."""
    expected, threads = unbroken(way), torch.get_num_threads()
    assert finished(way, teacher, tmp_path / "ahead", beside=1) == expected.end
    broken(way, teacher, tmp_path / "broken", expected.events // 2, terminate, beside=1)
    assert finished(way, teacher, tmp_path / "broken") == expected.end
    assert torch.get_num_threads() == threads


@every_way
def test_crashed_again_and_again(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    """Each start does a little more than the work between two states, so that each gets on."""
    between = (way.batches * (way.steps + 1) + 12) * (2 if way.schedule.memory is REPLAY else 1)
    starts = 0
    while True:
        run = begun(way, teacher, tmp_path, noise=starts, evaluate=agreement)
        events(run, between + 7 * starts)
        try:
            run.run()
            break
        except Crash:
            starts += 1
            assert starts < 40, "it does not get on"
    assert starts and end_of(tmp_path, run) == unbroken(way).end


@sequential
def test_stopped_by_a_signal_in_every_round(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    """A signal in a student's step: where the samples are kept the step is the last, else the round is finished."""
    reached = [0]
    while True:
        run = begun(way, teacher, tmp_path, noise=len(reached), evaluate=agreement)
        assert run.training.step == reached[-1], "nothing that was done is done again"
        if run.round == way.schedule.rounds:
            break
        run.on_step = lambda: interrupt.requested() or terminate()
        with pytest.raises(Interrupted), interrupt.handled():
            run.run()
        interrupt._received = None
        reached.append(run.training.step)
    pace = 1 if way.kept else way.schedule.steps
    assert reached == list(range(0, way.schedule.total + 1, pace))
    run.run()
    assert end_of(tmp_path, run) == unbroken(way).end


@sequential
def test_states_are_numbered_upwards_and_two_are_kept(way: Way, teacher: Teacher, tmp_path: Path) -> None:
    run, written = begun(way, teacher, tmp_path), list[int]()
    save = run.checkpoints.save

    def counted(number: int, *rest: Any) -> None:
        written.append(number)
        save(number, *rest)

    run.checkpoints.save = counted  # type: ignore[method-assign]
    run.run()
    assert len(written) >= 2 and written == sorted(set(written))
    left = sorted(int(path.name[5:14]) for path in (tmp_path / "states").iterdir())
    assert left == written[-2:]


def test_a_finished_run_does_nothing(teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    way = WAYS["same"]
    finished(way, teacher, tmp_path)
    run = begun(way, teacher, tmp_path, evaluate=agreement)
    seen = events(run)
    run.run()
    assert seen == [] and end_of(tmp_path, run) == unbroken(way).end


# --- damage ------------------------------------------------------------------------------------------------


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "store").glob("0*.safetensors"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pooled
def test_a_damaged_shard_of_a_kept_set_is_answered_by_beginning_anew(
    way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any
) -> None:
    """What came after the shard depends on it. The new run's own states are kept, not those of before."""
    late = 3 * unbroken(way).events // 4
    folder = tmp_path / "run"
    broken(way, teacher, folder, late, terminate)
    before = begun(way, teacher, folder)
    assert before.training.step > 0
    flip(shards(folder)[0])
    anew = broken(way, teacher, folder, late // 2, terminate)
    assert 0 < anew.training.step < before.training.step and anew.curve[0]["student_steps"] == 1
    assert begun(way, teacher, folder).training.step == anew.training.step, "it goes on from the new run's state"
    assert finished(way, teacher, folder, noise=2) == unbroken(way).end
    assert len(list((folder / "store" / "quarantine").iterdir())) == 1


@pooled
def test_a_shard_that_is_gone_after_the_end_is_made_again(
    way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any
) -> None:
    finished(way, teacher, tmp_path)
    shards(tmp_path)[0].unlink()
    assert finished(way, teacher, tmp_path) == unbroken(way).end


@every_way
def test_a_held_out_shard_is_made_again_alone(way: Way, teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    """From what the last round has left, whatever other held-out batches are there."""
    finished(way, teacher, tmp_path)
    flip(shards(tmp_path)[-1])
    run = begun(way, teacher, tmp_path, evaluate=agreement)
    seen = events(run)
    run.run()
    assert end_of(tmp_path, run) == unbroken(way).end
    in_it = (way.kept + way.held_out - 1) % way.per_shard + 1
    assert "learnt" not in seen and 0 < seen.count("asked") <= in_it * (way.steps + 1)


def test_damaged_states_are_passed_over(teacher: Teacher, tmp_path: Path, unbroken: Any) -> None:
    for name in ("same", "latent, kept"):
        for damaged in (1, 2):
            folder = tmp_path / f"{name} {damaged}"
            broken(WAYS[name], teacher, folder, unbroken(WAYS[name]).events, crash)
            newest = sorted((folder / "states").iterdir(), reverse=True)
            assert len(newest) == 2
            for path in newest[:damaged]:
                flip(path)
            run = begun(WAYS[name], teacher, folder)
            assert (run.training.step == 0) == (damaged == 2)
            assert finished(WAYS[name], teacher, folder) == unbroken(WAYS[name]).end


@pooled
def test_where_the_bits_differ_what_was_made_last_counts(way: Way, teacher: Teacher, tmp_path: Path) -> None:
    """A card may round otherwise when it makes again what a kill took the state of; one file stays for each shard."""
    finished(way, teacher, tmp_path / "run")
    for path in (tmp_path / "run" / "states").iterdir():
        path.unlink()
    rounded = replace(way, update=Adam(Constant(0.0201), beta1=0.5))
    expected = finished(rounded, teacher, tmp_path / "expected")
    assert finished(rounded, teacher, tmp_path / "run") == expected
    assert begun(rounded, teacher, tmp_path / "run").store.complete


@dataclass(frozen=True)
class Touchy(Loss):
    """Not finite for some starts."""

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        return step.logits.mean() * (1.0 if step.x[0, 0] < 0.3 else torch.nan)


def test_starts_thrown_away_are_counted_over_a_stop(teacher: Teacher, tmp_path: Path) -> None:
    """Of batches, too, that were in memory alone: a shard says it of each of its three."""
    way = Way(
        Pixels(), TrainingSchedule(5, 3), (Weighted("touchy", 1.0, Touchy()),), update=Sgd(Constant(1e-3)), per_shard=3
    )
    expected = finished(way, teacher, tmp_path / "unbroken")
    counts = [begun(way, teacher, tmp_path / "unbroken").store.batch(index).attempts for index in range(5)]  # type: ignore[union-attr]
    assert counts[0] + counts[1] > 0 and 0 in counts
    while (run := begun(way, teacher, tmp_path / "broken", evaluate=agreement)).round < way.schedule.rounds:
        run.on_step = terminate
        with pytest.raises(Interrupted), interrupt.handled():
            run.run()
        interrupt._received = None
    run.run()
    assert end_of(tmp_path / "broken", run) == expected


# --- what is made, and when --------------------------------------------------------------------------------


def made_by(run: Rounds) -> list[tuple[int, Batch, int]]:
    """Batches as they are made: number, batch, and the round in which."""
    made: list[tuple[int, Batch, int]] = []
    assert run.synthesizer is not None
    real = run.synthesizer.make

    def make(index: int, ask: bool = True) -> Batch:
        batch = real(index, ask)
        made.append((index, batch, run.round))
        return batch

    run.synthesizer.make = make  # type: ignore[method-assign]
    return made


@sequential
def test_every_batch_is_made_once_and_held_out_ones_after_the_last_round(
    way: Way, teacher: Teacher, tmp_path: Path
) -> None:
    run = begun(way, teacher, tmp_path)
    made = made_by(run)
    run.run()
    assert [index for index, _, _ in made] == list(range(way.total + way.held_out))
    rounds = [number // way.batches for number in range(way.total)] + [way.schedule.rounds] * way.held_out
    assert [number for _, _, number in made] == rounds
    stored = made if way.kept else made[way.total :]
    for index, (_, batch, _) in enumerate(stored):
        found = run.store.batch(index)
        assert found is not None and torch.equal(found.inputs, batch.inputs)
        assert torch.equal(found.logits, batch.logits) and torch.equal(found.labels, batch.labels)
    assert run.store.finished == len(stored) and run.store.complete


@sequential
def test_held_out_batches_come_from_what_the_last_round_has_left(way: Way, teacher: Teacher, tmp_path: Path) -> None:
    finished(way, teacher, tmp_path)
    for number in range(way.held_out):
        run = begun(way, teacher, tmp_path)  # where the last state left it
        assert run.round == way.schedule.rounds and run.synthesizer is not None
        run.training.student.eval()
        batch, stored = run.synthesizer.make(way.total + number), run.store.batch(way.kept + number)
        assert stored is not None and torch.equal(stored.inputs, batch.inputs)


def test_the_student_learns_from_all_that_was_kept_and_no_more(teacher: Teacher, tmp_path: Path) -> None:
    run, seen = begun(WAYS["latent, kept"], teacher, tmp_path), dict[int, set[tuple[float, ...]]]()
    made = made_by(run)
    take = run.training.step_on

    def noted(lesson: DistillationBatch) -> None:
        seen.setdefault(run.round, set()).update(map(tuple, lesson.fresh[0].tolist()))
        take(lesson)

    run.training.step_on = noted  # type: ignore[method-assign]
    run.run()
    assert sorted(seen) == [1, 2, 3]
    for number, rows in seen.items():
        there = {tuple(row) for _, batch, when in made if when <= number for row in batch.inputs.tolist()}
        new = {tuple(row) for _, batch, when in made if when == number for row in batch.inputs.tolist()}
        assert rows <= there and rows & new
    assert len(seen[1]) == 4 * BATCH, "4 steps of 12 are more than one pass over what there is in the second round"


def lessons_of(way: Way, teacher: Teacher, folder: Path) -> list[tuple[int, DistillationBatch]]:
    """Each student step's lesson, and its round."""
    run, lessons = begun(way, teacher, folder), list[tuple[int, DistillationBatch]]()
    prepare = run.training.prepare

    def noted(lesson: DistillationBatch, *rest: Any) -> DistillationBatch:
        memory = None if lesson.memory is None else tuple(tensor.clone() for tensor in lesson.memory)
        lessons.append((run.round, DistillationBatch(lesson.fresh, memory)))  # type: ignore[arg-type]
        return prepare(lesson, *rest)

    run.training.prepare = noted  # type: ignore[method-assign]
    run.run()
    return lessons


def test_same_rows_are_equal_within_a_round_alone(teacher: Teacher, tmp_path: Path) -> None:
    lessons = lessons_of(WAYS["same"], teacher, tmp_path)
    assert [number for number, _ in lessons] == [number for number in range(6) for _ in range(3)]
    for number, one in lessons:
        for other_number, other in lessons:
            assert torch.equal(one.fresh[0], other.fresh[0]) == (number == other_number)


def test_fresh_rows_differ_at_every_step(teacher: Teacher, tmp_path: Path) -> None:
    run = begun(WAYS["fresh"], teacher, tmp_path / "made")
    made = made_by(run)
    run.run()
    rows = [lesson.fresh[0] for _, lesson in lessons_of(WAYS["fresh"], teacher, tmp_path)]
    rows += [batch.inputs for _, batch, _ in made]
    assert len(rows) == 15 + 14
    for number, one in enumerate(rows):
        assert not any(torch.isclose(one, other).all(1).any() for other in rows[:number])


def test_answers_belong_to_the_rows(teacher: Teacher, tmp_path: Path) -> None:
    for name in ("fresh", "bank", "replay"):
        for _, lesson in lessons_of(WAYS[name], teacher, tmp_path / name):
            for inputs, logits, _ in (lesson.fresh, *([] if lesson.memory is None else [lesson.memory])):
                torch.testing.assert_close(teacher.logits(inputs).detach(), logits, rtol=1e-5, atol=1e-5)


def test_memory_comes_beside_what_is_new(teacher: Teacher, tmp_path: Path) -> None:
    """A bank of two, fed in every other round: one entry from the first round on, another from the third on, and in
    the fifth the first makes room."""
    seen: dict[int, set[tuple[float, ...]]] = {}
    for number, lesson in lessons_of(WAYS["bank"], teacher, tmp_path):
        assert lesson.memory is not None and len(lesson.memory[0]) == 4 and len(lesson.rows[0]) == BATCH + 4
        assert torch.equal(lesson.rows[1], torch.cat([lesson.fresh[1], lesson.memory[1]]))
        seen.setdefault(number // 2, set()).add(tuple(lesson.memory[0].flatten().tolist()))
    assert len(seen[0]) == 1 and seen[0].isdisjoint(seen[2])
    assert len(seen[1]) == len(seen[2]) == 2 and len(seen[0] | seen[1] | seen[2]) == 3


def test_a_student_that_begins_later(teacher: Teacher, tmp_path: Path) -> None:
    way = replace(WAYS["same"], schedule=TrainingSchedule(6, 3, first=4, learn_from="same"))
    run = begun(way, teacher, tmp_path)
    start = {name: value.clone() for name, value in run.training.student.state_dict().items()}
    unlearnt: dict[int, bool] = {}
    real, ticks = run.make, list[int]()

    def make() -> None:
        state = run.training.student.state_dict()
        unlearnt[run.round] = all(torch.equal(value, start[name]) for name, value in state.items())
        real()

    run.make = make  # type: ignore[method-assign]
    run.on_step = lambda: ticks.append(run.round)
    run.run()
    assert unlearnt == {0: True, 1: True, 2: True, 3: True, 4: True, 5: False}
    assert ticks == [4, 4, 4, 5, 5, 5] and way.schedule.total == 6


@dataclass(frozen=True)
class Heard(Loss):
    """Notes that it was asked."""

    notes: list[str]
    name: str

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        self.notes.append(self.name)
        return step.logits.mean()


def test_a_loss_may_begin_later(teacher: Teacher, tmp_path: Path) -> None:
    notes: list[str] = []
    terms = tuple(Weighted(name, 1.0, Heard(notes, name), after) for name, after in (("always", 0.0), ("late", 0.5)))
    run = begun(replace(WAYS["same"], losses=terms, held_out=1), teacher, tmp_path)
    heard: dict[int, Counter[str]] = {}
    assert run.synthesizer is not None
    real = run.synthesizer.make

    def make(index: int, ask: bool = True) -> Batch:
        notes.clear()
        batch = real(index, ask)
        heard[index] = Counter(notes)
        return batch

    run.synthesizer.make = make  # type: ignore[method-assign]
    run.run()
    assert heard == {index: {"always": 2, "late": 2} if index >= 3 else {"always": 2} for index in range(7)}


# --- the student in two modes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asking(Loss):
    """Asks the student, and notes in which mode it answers."""

    needs = ("student",)
    modes: list[bool]
    student: list[nn.Module]

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        self.modes.append(self.student[0].training)
        return step.student.mean()


@sequential
def test_the_student_learns_in_train_mode_and_is_asked_in_eval_mode(way: Way, teacher: Teacher, tmp_path: Path) -> None:
    modes, holder, learning = list[bool](), list[nn.Module](), list[bool]()
    run = begun(replace(way, losses=(Weighted("asking", 1.0, Asking(modes, holder)),)), teacher, tmp_path)
    student = run.training.student
    holder.append(student)
    assert run.synthesizer is not None
    make, take = run.synthesizer.make, run.training.step_on

    def same_buffers(index: int, ask: bool = True) -> Batch:
        before = {name: value.clone() for name, value in student.state_dict().items()}
        batch = make(index, ask)
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
        assert all(parameter.grad is None or run.training.step for parameter in student.parameters())
        return batch

    def noted(lesson: DistillationBatch) -> None:
        before = int(student.state_dict()["net.1.num_batches_tracked"])
        take(lesson)
        learning.append(student.training)
        assert int(student.state_dict()["net.1.num_batches_tracked"]) == before + 1

    run.synthesizer.make, run.training.step_on = same_buffers, noted  # type: ignore[method-assign]
    assert not run.run().training
    assert modes == [False] * ((way.total + way.held_out) * way.steps)
    assert learning == [True] * way.schedule.total


# --- what is counted ---------------------------------------------------------------------------------------


@every_way
def test_passes_and_queries_are_told_exactly(way: Way, teacher: Teacher, tmp_path: Path) -> None:
    """Against what went through the teacher's graph: samples that ask for a gradient, and those that do not."""
    told, through = [0, 0], [0, 0]

    def tick(passes: int, queries: int = 0) -> None:
        told[0] += passes
        told[1] += queries

    def count(module: nn.Module, inputs: tuple[Tensor]) -> None:
        through[0 if torch.is_grad_enabled() and inputs[0].requires_grad else 1] += len(inputs[0])

    def ask(inputs: Tensor, names: tuple[str, ...]) -> Any:
        """The student's own questions are told by whoever answers them."""
        through[1] -= len(inputs)
        return teacher.answer(inputs, names)

    run = begun(way, teacher, tmp_path, ask=ask)
    assert run.synthesizer is not None
    run.synthesizer.count = tick
    hook = teacher.graph.register_forward_pre_hook(count)
    try:
        run.run()
    finally:
        hook.remove()
    assert told == through
    batches = way.total + way.held_out
    if way.schedule.memory is not REPLAY:
        assert told[0] == run.synthesizer.synthesis.teacher_passes == batches * BATCH * way.steps
        live = way.regime.get("query_teacher", False)
        fresh = way.schedule.total if way.schedule.learn_from == "fresh" and not live else 0
        asked = batches if way.schedule.asks else way.held_out  # of fresh drafts alone the answers are looked at
        assert told[1] == (asked + fresh) * BATCH
    else:  # 4 rows of each batch and 2 of its own are fitted, twice; 2 are recalled, by one step, for each lesson
        rounds, steps = way.schedule.rounds, way.schedule.total
        assert told[0] == batches * BATCH * way.steps + rounds * 2 * 4 + (rounds - 1) * 2 * 2 + steps * 2
        assert told[1] == (batches + steps) * BATCH + (rounds - 1) * 2 + steps * 2


@dataclass(frozen=True)
class Twice(Loss):
    """Looks at another view of the samples too: with gradient in every step, without once a batch is finished."""

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        assert step.again is not None
        return step.logits.mean() + step.again(step.x * 0.9).logits.mean()

    def settle(self, step: Step, state: Any) -> None:
        assert step.again is not None
        step.again(step.x * 0.9)


def test_second_views_are_told(teacher: Teacher, tmp_path: Path) -> None:
    way, told = replace(WAYS["same"], losses=(Weighted("twice", 1.0, Twice()),)), Counter[str]()
    run = begun(way, teacher, tmp_path)
    assert run.synthesizer is not None
    run.synthesizer.count = lambda passes, queries=0: told.update(passes=passes, queries=queries)
    run.run()
    assert told == {"passes": 2 * 8 * BATCH * 2, "queries": 2 * 8 * BATCH}


# --- the curve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "steps", "first", "points"), [(30, 2, 0, 20), (30, 4, 10, 20), (7, 1, 0, 7)])
def test_the_curve(rounds: int, steps: int, first: int, points: int, teacher: Teacher, tmp_path: Path) -> None:
    """At most a few points, evenly over the student's steps, the last at its end; a stop changes none."""
    way = Way(
        Noise(), TrainingSchedule(rounds, steps, first, "same"), steps=0, held_out=1, regime={"checkpoint_every": 2}
    )
    total = (rounds - first) * steps
    spent = iter(range(1000))
    run = begun(way, teacher, tmp_path / "unbroken", evaluate=agreement, spent=lambda: {"seconds": next(spent)})
    run.run()
    reached = [point["student_steps"] for point in run.curve]
    assert len(reached) == points <= POINTS + 1 and reached == sorted(set(reached)) and reached[-1] == total
    gaps = {later - earlier for earlier, later in zip([0, *reached], reached, strict=False)}
    assert max(gaps) - min(gaps) <= 1
    assert [point["seconds"] for point in run.curve] == list(range(points))
    assert run.curve[-1]["agreement"] == agreement(run.training.student)
    broken(way, teacher, tmp_path / "broken", (rounds + total) // 2 + 1, crash)
    again = begun(way, teacher, tmp_path / "broken", evaluate=agreement)
    assert 0 < len(again.curve) < points
    again.run()
    plain = [{"student_steps": point["student_steps"], "agreement": point["agreement"]} for point in run.curve]
    assert again.curve == plain


def test_without_real_inputs_there_is_no_curve(teacher: Teacher, tmp_path: Path) -> None:
    run = begun(WAYS["same"], teacher, tmp_path)
    run.run()
    assert run.curve == []


@pytest.mark.parametrize(
    ("epochs", "steps", "samples", "batch", "expected"),
    [(3, None, 100, 25, 12), (3, None, 101, 25, 15), (None, 7, 100, 25, 7), (None, None, 30, 8, 4), (1, None, 1, 8, 1)],
)
def test_steps_of_a_round(epochs: int | None, steps: int | None, samples: int, batch: int, expected: int) -> None:
    assert steps_per_round(epochs, steps, samples, batch) == expected
