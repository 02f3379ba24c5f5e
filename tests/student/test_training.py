"""A student's training: the same bits whatever way and however often it was interrupted."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from onnxcake.core import interrupt
from onnxcake.core.errors import Diverged, Interrupted
from onnxcake.core.files import write_with_digest
from onnxcake.core.rng import Key
from onnxcake.recipe.recipe import Recipe
from onnxcake.run.checkpoints import Checkpoints
from onnxcake.run.rounds import Rounds
from onnxcake.run.schedule import TrainingSchedule
from onnxcake.store.dataset import StoreDataset
from onnxcake.store.shard import Batch
from onnxcake.store.store import Layout, Store
from onnxcake.student.loss import Distillation
from onnxcake.student.optimisers import AdamWOptimiser, ConstantRate, CosineDecay, MuonOptimiser, OneCycle, SgdOptimiser
from onnxcake.student.student import make
from onnxcake.student.training import DistillationBatch, Regime, Training
from onnxcake.teacher.signature import Signature

SHAPE, CLASSES, BATCH, BATCHES = (1, 6, 6), 3, 16, 5  # 80 samples
SIGNATURE = Signature("x", SHAPE, "y", "logits", CLASSES, range=(0.0, 1.0), location=(0.5,), deviation=(0.25,))
KEY = Key(3)
REGIME = Regime(
    steps=24,
    batch=24,  # 4 steps in an epoch, the last one of 8 samples
    loss=Distillation(hard=0.5, temperature=2.0),
    optimiser=SgdOptimiser(lr=0.05),
    learning_rate=OneCycle(),
    checkpoint_every=5,
)


@dataclass(frozen=True)
class StudentSpec:
    """A student of some architecture and how it learns."""

    architecture: str
    hyper: dict[str, Any]
    regime: Regime
    memory_format: torch.memory_format = torch.contiguous_format


PUPILS = {
    "momentum and batch norm": StudentSpec("cnn-small", {"width": 4, "depth": 2}, REGIME),
    "adamw and batch norm": StudentSpec(
        "cnn-small", {"width": 4, "depth": 1}, replace(REGIME, optimiser=AdamWOptimiser(lr=0.01))
    ),
    "adamw, channels last": StudentSpec(
        "cnn-small",
        {"width": 4, "depth": 1},
        replace(REGIME, optimiser=AdamWOptimiser(lr=0.01)),
        torch.channels_last,
    ),
    "muon, channels last": StudentSpec(
        "cnn-small", {"width": 4, "depth": 2}, replace(REGIME, optimiser=MuonOptimiser(lr=0.01)), torch.channels_last
    ),
    "momentum, channels last": StudentSpec("cnn-small", {"width": 4, "depth": 2}, REGIME, torch.channels_last),
    "plain sgd": StudentSpec(
        "mlp",
        {"hidden": (8,)},
        replace(REGIME, optimiser=SgdOptimiser(lr=0.1, momentum=0.0), learning_rate=CosineDecay()),
    ),
    "nesterov": StudentSpec(
        "mlp",
        {"hidden": (8,)},
        replace(REGIME, optimiser=SgdOptimiser(lr=0.1, nesterov=True), learning_rate=ConstantRate()),
    ),
}
CNN = PUPILS["momentum and batch norm"]

every_pupil = pytest.mark.parametrize("student_spec", PUPILS.values(), ids=PUPILS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A set in a store, with answers that can be learnt."""
    layout = Layout("k", {}, BATCHES, 0, 2, BATCH, SHAPE, CLASSES)
    store = Store.create(tmp_path_factory.mktemp("set"), layout)
    teacher = torch.randn(36, CLASSES, generator=Key(0).at("teacher").generator())
    for index in range(BATCHES):
        inputs = torch.rand(BATCH, *SHAPE, generator=Key(0).at(index).generator())
        logits = (inputs.flatten(1) - 0.5) @ teacher
        store.append(Batch(index, inputs, logits, logits.argmin(1)))
    return store


@pytest.fixture(autouse=True)
def no_signal_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_received", None)


def begun(
    student_spec: StudentSpec,
    store: Store,
    folder: Path,
    *,
    run_key: str = "run",
    order: Key = KEY,
    noise: int = 0,
    **changes: Any,
) -> Rounds:
    """As if by a new process: a fresh student, and another state of the global generator."""
    student = make(student_spec.architecture, student_spec.hyper, SIGNATURE, KEY)
    student.to(memory_format=student_spec.memory_format)  # type: ignore[call-overload]  # torch's stubs ask for a tensor besides
    torch.manual_seed(noise)
    regime = replace(student_spec.regime, **changes)
    training = Training(student, regime, torch.device("cpu"))
    return Rounds(None, training, store, TrainingSchedule(steps=regime.steps), Checkpoints(folder, run_key), order)


def finished(student_spec: StudentSpec, store: Store, folder: Path, **changes: Any) -> Training:
    """Trained to the end."""
    run = begun(student_spec, store, folder, **changes)
    run.run()
    return run.training


def state(trained: Training) -> dict[str, Tensor]:
    tensors = dict(trained.student.state_dict())
    for number, entries in trained.optimiser.state_dict()["state"].items():
        tensors |= {f"{number}.{name}": value for name, value in entries.items() if isinstance(value, Tensor)}
    return tensors


def assert_same(one: Training, other: Training) -> None:
    assert one.step == other.step
    states = state(one), state(other)
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def steps_of(folder: Path) -> list[int]:
    return [int(path.name[5:14]) for path in checkpoints(folder)]


def names(folder: Path) -> list[str]:
    """With a digest in each."""
    return [path.name for path in checkpoints(folder)]


class Crash(Exception):
    """Ends a training where it stands, with nothing more written."""


def stopped(run: Rounds, step: int, how: Callable[[], None]) -> None:
    """Runs until ``how`` ends it, told at ``step``."""

    def tick() -> None:
        if run.training.step == step:
            how()

    run.on_step = tick
    run.run()


def crash() -> None:
    raise Crash


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# --- going on ----------------------------------------------------------------------------------------------


@every_pupil
@pytest.mark.parametrize("step", [1, 7, 20])
def test_crashed_at_any_step_it_ends_the_same(
    step: int, student_spec: StudentSpec, store: Store, tmp_path: Path
) -> None:
    unbroken = finished(student_spec, store, tmp_path / "unbroken")
    with pytest.raises(Crash):
        stopped(begun(student_spec, store, tmp_path / "broken", noise=1), step, crash)
    again = begun(student_spec, store, tmp_path / "broken", noise=2)
    # The crash comes before the checkpoint of its own step.
    assert again.training.step == (step - 1) // 5 * 5
    again.run()
    assert_same(again.training, unbroken)
    assert again.training.loss == unbroken.loss
    assert names(tmp_path / "broken") == names(tmp_path / "unbroken"), "their files are the same to the bit"


@every_pupil
@pytest.mark.parametrize("step", [4, 7, 20, 23, 24])
def test_a_signal_stops_it_after_a_checkpoint(
    step: int, student_spec: StudentSpec, store: Store, tmp_path: Path
) -> None:
    unbroken = finished(student_spec, store, tmp_path / "unbroken")
    broken = begun(student_spec, store, tmp_path / "broken")
    with pytest.raises(Interrupted) as caught, interrupt.handled():
        stopped(broken, step, terminate)
    assert caught.value.exit_code == 143
    assert broken.training.step == step and steps_of(tmp_path / "broken")[0] == step
    interrupt._received = None
    again = begun(student_spec, store, tmp_path / "broken", noise=1)
    assert_same(again.training, broken.training)
    again.run()
    assert_same(again.training, unbroken)


@every_pupil
def test_stopped_after_every_single_step(student_spec: StudentSpec, store: Store, tmp_path: Path) -> None:
    unbroken = finished(student_spec, store, tmp_path / "unbroken")
    for step in range(1, REGIME.steps):
        with pytest.raises(Interrupted), interrupt.handled():
            stopped(begun(student_spec, store, tmp_path / "broken", noise=step), step, terminate)
        interrupt._received = None
    assert_same(finished(student_spec, store, tmp_path / "broken"), unbroken)


def test_two_trainings_are_the_same_and_other_keys_are_not(store: Store, tmp_path: Path) -> None:
    one, two = (finished(CNN, store, tmp_path / name, noise=n) for n, name in enumerate("ab"))
    other = finished(CNN, store, tmp_path / "c", order=Key(4))
    assert_same(one, two)
    assert not torch.equal(weights(one), weights(other))


def weights(trained: Training) -> Tensor:
    return torch.nn.utils.parameters_to_vector(trained.student.parameters()).detach()


def test_a_finished_training_is_not_trained_further(store: Store, tmp_path: Path) -> None:
    done = finished(CNN, store, tmp_path)
    before = names(tmp_path)
    again, ticks = begun(CNN, store, tmp_path), list[int]()
    again.on_step = lambda: ticks.append(1)
    assert again.training.finished
    assert not again.run().training and ticks == []
    assert_same(again.training, done)
    assert names(tmp_path) == before


# --- checkpoints -------------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    other = path.parent.parent / "elsewhere"
    path.rename(other)
    path.symlink_to(other)


def not_safetensors(path: Path) -> None:
    path.unlink()
    write_with_digest(path.parent, path.name[:14], ".safetensors", b"whole, but something else")


def without_facts(path: Path) -> None:
    path.unlink()
    write_with_digest(path.parent, path.name[:14], ".safetensors", save({"student.x": torch.zeros(1)}))


DAMAGES = [truncated, flipped, emptied, gone, linked, not_safetensors, without_facts]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("both", "step"), [(False, 10), (True, 0)], ids=["the newest", "both"])
def test_a_damaged_checkpoint_falls_back(
    both: bool, step: int, damage: Callable[[Path], None], store: Store, tmp_path: Path
) -> None:
    unbroken = finished(CNN, store, tmp_path / "unbroken")
    folder = tmp_path / "broken"
    with pytest.raises(Crash):
        stopped(begun(CNN, store, folder), 17, crash)
    assert steps_of(folder) == [15, 10]
    for path in checkpoints(folder)[: 2 if both else 1]:
        damage(path)
    again = begun(CNN, store, folder)
    assert again.training.step == step
    assert steps_of(folder) == ([] if both else [10]), "what is damaged is removed"
    again.run()
    assert_same(again.training, unbroken)
    assert steps_of(folder) == [24, 20]


def test_another_trainings_checkpoints_are_not_used(store: Store, tmp_path: Path) -> None:
    finished(CNN, store, tmp_path, run_key="another")
    fresh, unbroken = begun(CNN, store, tmp_path).training, begun(CNN, store, tmp_path / "unbroken").training
    assert fresh.step == 0
    assert_same(fresh, unbroken)
    assert torch.equal(weights(fresh), weights(unbroken))


@pytest.mark.parametrize(("every", "kept"), [(5, [24, 20]), (1, [24, 23]), (24, [24]), (100, [24]), (12, [24, 12])])
def test_two_checkpoints_are_kept(every: int, kept: list[int], store: Store, tmp_path: Path) -> None:
    leftover = tmp_path / ".step-000000003-0000000000000000.safetensors.99.tmp"
    leftover.write_bytes(b"half")
    run, most = begun(CNN, store, tmp_path, checkpoint_every=every), list[int]()
    run.on_step = lambda: most.append(len(checkpoints(tmp_path)))
    run.run()
    assert steps_of(tmp_path) == kept and max(most) <= 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_how_often_checkpoints_are_written_changes_nothing(store: Store, tmp_path: Path) -> None:
    trained = [finished(CNN, store, tmp_path / str(every), checkpoint_every=every) for every in (1, 7, 100)]
    for each in trained[1:]:
        assert_same(each, trained[0])


# --- what it learns ----------------------------------------------------------------------------------------


@every_pupil
def test_it_learns(student_spec: StudentSpec, store: Store, tmp_path: Path) -> None:
    run, losses = begun(student_spec, store, tmp_path, steps=200, checkpoint_every=200), list[float]()
    data = StoreDataset(store)
    everything = data.take(torch.arange(len(data)))

    def loss(student: nn.Module) -> float:
        with torch.no_grad():
            return Distillation()(student(everything[0]), everything[1], everything[2]).item()

    student = run.training.student
    before = loss(student.eval())
    run.on_step = lambda: losses.append(run.training.loss)
    assert run.run() is student and not student.training
    assert loss(student) < 0.7 * before
    assert len(losses) == 200 and math.isnan(losses[48]) and not math.isnan(losses[49])


def test_inputs_reach_the_network_in_standard_units(store: Store, tmp_path: Path) -> None:
    """The set's values are in 0…1; batch norm's first mean is that of −2…2."""
    seen: list[Tensor] = []
    run = begun(CNN, store, tmp_path)
    first: nn.Module = run.training.student.net[0]  # type: ignore[index, assignment]
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run.run()
    values = torch.cat(seen)
    assert values.min() < -1.9 and values.max() > 1.9 and values.abs().max() <= 2


def test_an_epoch_sees_every_sample_once(store: Store, tmp_path: Path) -> None:
    run = begun(CNN, store, tmp_path, steps=8)
    seen: list[Tensor] = []
    run.training.student.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run.run()
    assert [len(rows) for rows in seen] == [24, 24, 24, 8] * 2
    epochs = torch.cat(seen[:4]).flatten(1), torch.cat(seen[4:]).flatten(1)
    data = StoreDataset(store)
    everything = data.take(torch.arange(len(data)))[0].flatten(1)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(everything.tolist())
    assert not torch.equal(*epochs), "each epoch has its own order"


# --- losses that are not finite ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Leap:
    """A learning rate that no weights survive, from one step on."""

    step: int
    before: float = 0.1

    def at(self, step: int, steps: int) -> tuple[float, float | None]:
        return (1e39 if step >= self.step else self.before), None


@pytest.mark.parametrize("student_spec", [CNN, PUPILS["adamw and batch norm"], PUPILS["plain sgd"]])
def test_it_diverges_with_the_last_good_checkpoint_kept(
    student_spec: StudentSpec, store: Store, tmp_path: Path
) -> None:
    lr = student_spec.regime.optimiser.lr
    with pytest.raises(Diverged) as caught:
        finished(student_spec, store, tmp_path, learning_rate=Leap(12))
    assert caught.value.what == "the student's loss or weights are not finite at step 15"
    assert caught.value.exit_code == 3 and caught.value.where == "the student"
    assert steps_of(tmp_path) == [10, 5]
    option = caught.value.remedy.partition("-o ")[2].partition(". ")[0]
    name = "adamw" if "adamw" in option else "sgd"
    assert option == f"student.optimiser.{name}.lr={lr / 10:g}"
    recipe = Recipe.load("cake-vector" if name == "adamw" else "cake", [option])
    assert recipe.student.optimiser.keys()["lr"] == pytest.approx(lr / 10)
    kept = begun(student_spec, store, tmp_path).training
    assert kept.step == 10 and all(value.isfinite().all() for value in state(kept).values())


def test_weights_that_the_last_step_broke_are_no_student(store: Store, tmp_path: Path) -> None:
    """The loss is that before the step, and may be finite."""
    steep = Distillation(soft=1e6)
    broken = begun(PUPILS["plain sgd"], store, tmp_path, steps=7, loss=steep, learning_rate=Leap(6, 1e-6))
    with pytest.raises(Diverged, match="at step 7"):
        broken.run()
    assert steps_of(tmp_path) == [5] and math.isfinite(broken.training.loss)


def test_a_diverging_training_is_stopped_soon(store: Store, tmp_path: Path) -> None:
    broken = begun(CNN, store, tmp_path, steps=10_000, learning_rate=Leap(0), checkpoint_every=10_000)
    ticks: list[int] = []
    broken.on_step = lambda: ticks.append(1)
    with pytest.raises(Diverged, match="at step 50"):
        broken.run()
    assert len(ticks) < 50 and steps_of(tmp_path) == []


def test_in_bfloat16_a_student_learns_as_well(store: Store) -> None:
    """Its weights, its loss and what it is compared with stay in float32."""
    losses, weights = {}, {}
    for dtype in ("float32", "bfloat16"):
        student = make(CNN.architecture, CNN.hyper, SIGNATURE, KEY)
        training = Training(student, replace(CNN.regime, steps=30), torch.device("cpu"), dtype=dtype)
        for rows in itertools.islice(StoreDataset(store).endless(20, KEY, 0), 30):
            training.step_on(DistillationBatch(rows))
        losses[dtype], weights[dtype] = training.loss, torch.cat([w.flatten() for w in student.parameters()])
        assert {weight.dtype for weight in student.parameters()} == {torch.float32}
    assert 0 < losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert not torch.equal(*weights.values()), "nothing was computed in bfloat16"
    torch.testing.assert_close(*weights.values(), rtol=0.1, atol=0.05)
