"""The loop: chunks, keys, schedules, noise and fresh starts, on small teachers out of ONNX files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxcake.core.errors import Diverged
from onnxcake.core.rng import Key
from onnxcake.engine.threads import synthesize as synthesize_with
from onnxcake.recipe.recipe import Recipe
from onnxcake.runtime.ort import Runtime
from onnxcake.store.dataset import StoreDataset
from onnxcake.store.shard import Batch
from onnxcake.store.store import Layout, Store
from onnxcake.synthesis.labels.hard import Independent, RowPermutation
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.losses.contrastive import Contrastive
from onnxcake.synthesis.losses.total_variation import TotalVariation
from onnxcake.synthesis.schedules import SCHEDULES, Constant, Decay
from onnxcake.synthesis.source import Source, Targets
from onnxcake.synthesis.sources.pixels import PixelDraft, Pixels
from onnxcake.synthesis.spec import Synthesis
from onnxcake.synthesis.step import Context, Leaves, Loss, Step, Weighted
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.synthesis.updates import UPDATES, Langevin, Sgd
from onnxcake.teacher.teacher import Teacher

KEY = Key(7)
SIGMAS = 5

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "image": (
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 6)),
        (1, 6, 6),
        {"range": (0.0, 1.0)},  # so that input units and standard units differ
    ),
    "colour": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)),
        (2, 4, 4),
        {"range": (0.0, 1.0), "mean": (0.5, 0.1), "std": (0.5, 0.2)},
    ),
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(56, 4)),
        (2, 16),
        {},
    ),
    "table": (lambda: nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)), (5,), {}),
}


@pytest.fixture(scope="module")
def teachers(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    folder = tmp_path_factory.mktemp("loop")
    loaded = {}
    for name, (make, shape, values) in NETS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = make()
        path = export(net, shape, folder / f"{name}.onnx")
        loaded[name] = Teacher.load(path, **values)
    return loaded


@pytest.fixture
def image(teachers: dict[str, Teacher]) -> Teacher:
    return teachers["image"]


@pytest.fixture
def table(teachers: dict[str, Teacher]) -> Teacher:
    return teachers["table"]


def make_batch(teacher: Teacher, synthesis: Synthesis, index: int, key: Key, attempt: int = 0) -> Batch:
    return Synthesizer(teacher, synthesis, key).attempt(index, attempt)


def synthesize(
    teacher: Teacher, synthesis: Synthesis, store: Store, key: Key, told: Callable[[int], None] = lambda passes: None
) -> None:
    synthesize_with(Synthesizer(teacher, synthesis, key, count=lambda passes, queries=0: told(passes)), store)


def recipe(**changes: Any) -> Synthesis:
    """CAKE on few samples, with weights that move them."""
    batch = changes.get("batch", 24)
    settings: dict[str, Any] = {
        "source": Pixels(),
        "labels": RowPermutation(),
        "losses": cake(30.0, 3.0, 300.0),
        "update": Sgd(Decay(0.1, 2)),
        "groups": 3,
        "batch": batch,
        "batches": 4,
        "held_out": 2,
        "steps": 12,
        "reference_batch": batch,
        "chunk": batch,
    }
    return Synthesis(**{**settings, **changes})


def cake(classification: float, contrastive: float, total_variation: float = 0.0) -> tuple[Weighted, ...]:
    terms = [("classification", classification, Classification()), ("contrastive", contrastive, Contrastive())]
    if total_variation:
        terms.append(("total_variation", total_variation, TotalVariation()))
    return tuple(Weighted(*term) for term in terms)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "logits", "labels"))


def store_of(synthesis: Synthesis, teacher: Teacher, folder: Path, per_shard: int = 1) -> Store:
    shape, classes = teacher.signature.input_shape, teacher.signature.classes
    layout = Layout("k", {}, synthesis.batches, synthesis.held_out, per_shard, synthesis.batch, shape, classes)
    return Store.create(folder, layout)


# --- chunks and keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", [Sgd(Decay(0.1, 2)), Langevin(Decay(0.01, 2))], ids=["sgd", "langevin"])
@pytest.mark.parametrize("chunk", [3, 6, 9, 21])
def test_chunks_make_the_same_batch(chunk: int, update: Any, image: Teacher) -> None:
    whole, start = recipe(update=update), make_batch(image, recipe(update=update, steps=0), 0, KEY)
    expected, found = make_batch(image, whole, 0, KEY), make_batch(image, replace(whole, chunk=chunk), 0, KEY)
    assert (expected.inputs - start.inputs).abs().mean() > 0.05, "the samples hardly moved"
    torch.testing.assert_close(found.inputs, expected.inputs, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=5e-6)
    assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("chunk", [3, 9, 24])
def test_the_same_chunk_and_key_make_the_same_bits(chunk: int, image: Teacher) -> None:
    batches = []
    for noise in (1, 2):  # whatever the global generator holds
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            before = torch.random.get_rng_state()
            batches.append(make_batch(image, recipe(chunk=chunk, update=Langevin(Decay(0.01, 2))), 1, KEY))
            assert torch.equal(torch.random.get_rng_state(), before)
    assert same(*batches)


def test_batches_differ_by_key_index_and_attempt(image: Teacher) -> None:
    calls: list[tuple[int, Key, int]] = [(0, KEY, 0), (1, KEY, 0), (0, Key(8), 0), (0, KEY, 1)]
    batches = [make_batch(image, recipe(update=Sgd(Constant(0.1))), index, key, n) for index, key, n in calls]
    for number, one in enumerate(batches):
        for other in batches[:number]:
            assert not torch.isclose(one.inputs, other.inputs).any(dim=0).all()
            assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(("per_shard", "workers"), [(1, 1), (4, 1), (1, 2), (4, 3), (1, 9)])
def test_a_batch_is_the_same_alone_and_in_any_order(
    per_shard: int, workers: int, image: Teacher, tmp_path: Path
) -> None:
    synthesis = recipe(chunk=12, workers=workers)
    backwards = [make_batch(image, synthesis, index, KEY) for index in reversed(range(6))][::-1]
    store = store_of(synthesis, image, tmp_path, per_shard)
    synthesize(image, synthesis, store, KEY)
    stored = [*rows(StoreDataset(store), 24), *rows(StoreDataset(store, held_out=True), 24)]
    assert len(stored) == 6
    for batch, (inputs, logits, labels) in zip(backwards, stored, strict=True):
        assert same(batch, Batch(batch.index, inputs, logits, labels))


def rows(data: StoreDataset, batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [data.take(part) for part in torch.arange(len(data)).split(batch)]


def test_only_what_is_missing_is_made(image: Teacher, tmp_path: Path) -> None:
    synthesis = recipe(steps=3)
    synthesize(image, synthesis, store_of(synthesis, image, tmp_path), KEY)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    for gone in ("000001-", "000004-"):
        next(path for path in tmp_path.iterdir() if path.name.startswith(gone)).unlink()
    passes: list[int] = []
    store = store_of(synthesis, image, tmp_path)
    synthesize(image, synthesis, store, KEY, passes.append)
    assert sum(passes) == 2 * 24 * 3, "two batches"
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == files


@pytest.mark.parametrize("workers", [1, 2])
def test_every_pass_is_told(workers: int, image: Teacher, tmp_path: Path) -> None:
    synthesis, passes = recipe(chunk=9, workers=workers), list[int]()
    synthesize(image, synthesis, store_of(synthesis, image, tmp_path), KEY, passes.append)
    assert sum(passes) == synthesis.teacher_passes == 6 * 24 * 12


# --- the batch that the step size was chosen for (methods.md 2.2.7) ----------------------------------------


@dataclass(frozen=True)
class Given(Source):
    """Starts and labels from a list, so that batches of several sizes share their samples."""

    start: Tensor = field(default_factory=lambda: torch.randn(40, 5, generator=Key(1).generator()))

    def draft(self, samples: int, context: Context, key: Key, lasting: Any, number: int = 0) -> PixelDraft:
        return PixelDraft(self.start[:samples].clone(), None)

    def init_state(self, context: Context) -> None:
        return None

    def __call__(self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Any = None) -> Targets:
        return Targets(torch.arange(rows * groups) % groups)


@pytest.mark.parametrize("chunk", [2, 20])
def test_a_sample_moves_as_in_the_reference_batch(chunk: int, table: Teacher) -> None:
    given = Given()
    settings: dict[str, Any] = {"source": given, "labels": given, "losses": cake(30.0, 3.0), "groups": 2, "steps": 30}
    large = make_batch(table, recipe(batch=40, **settings), 0, KEY)
    small = make_batch(table, recipe(batch=20, reference_batch=40, chunk=chunk, **settings), 0, KEY)
    assert (large.inputs - given.start).abs().mean() > 0.1
    torch.testing.assert_close(small.inputs, large.inputs[:20], rtol=0, atol=2e-6)
    alone = make_batch(table, recipe(batch=20, **settings), 0, KEY)
    assert (alone.inputs - small.inputs).abs().mean() > 0.05, "each sample has twice the gradient in half a batch"


# --- schedule, iterates, noise -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """Gradient descent that keeps what it saw."""

    step_size: Any
    sizes: list[float] = field(default_factory=list)
    iterates: list[Tensor] = field(default_factory=list)

    def __call__(self, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator) -> None:
        leaf = leaves.tensors[0]
        leaf.sub_(gradients[0] * step_size)
        self.sizes.append(step_size)
        self.iterates.append(leaf.clone())


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_step_size_falls_over_the_set_and_not_over_steps(
    shape: Literal["linear", "cosine"], table: Teacher
) -> None:
    schedule = Decay(0.1, 4, shape)
    seen = []
    for index in range(10):
        update = Recording(schedule)
        make_batch(table, recipe(losses=cake(1.0, 0.1), update=update, batches=8, steps=5), index, KEY)
        assert len(update.sizes) == 5 and len(set(update.sizes)) == 1
        seen.append(update.sizes[0])
    assert seen[:8] == [schedule(index / 8) for index in range(8)]
    assert seen[0] == 0.1 and seen[:8] == sorted(seen[:8], reverse=True)
    assert seen[8:] == [schedule(0.25), schedule(0.75)], "held-out batches lie evenly in the schedule"


@pytest.mark.parametrize(("batches", "held_out"), [(1, 1), (40, 2), (500, 25), (3, 7)])
def test_held_out_positions_lie_within_the_schedule(batches: int, held_out: int) -> None:
    synthesis = recipe(batches=batches, held_out=held_out)
    positions = [synthesis.position(index) for index in range(batches + held_out)]
    assert positions[0] == 0 and positions[:batches] == sorted(positions[:batches])
    later = positions[batches:]
    assert later == sorted(set(later)) and all(0 < position < 1 for position in later)
    assert sum(later) / held_out == pytest.approx(0.5)


def test_held_out_samples_are_none_of_those_to_learn_from(table: Teacher, tmp_path: Path) -> None:
    synthesis = recipe(losses=cake(1.0, 0.1), steps=3)
    store = store_of(synthesis, table, tmp_path, 4)
    synthesize(table, synthesis, store, KEY)
    learnt, held_out = (StoreDataset(store, held_out=which) for which in (False, True))
    assert (len(learnt), len(held_out)) == (4 * 24, 2 * 24)
    seen = {tuple(sample) for batch in rows(learnt, 24) for sample in batch[0].tolist()}
    assert len(seen) == 4 * 24
    assert not any(tuple(sample) in seen for batch in rows(held_out, 24) for sample in batch[0].tolist())


def test_the_last_iterate_is_kept_with_the_answers_to_it(image: Teacher) -> None:
    update = Recording(Constant(30.0))  # so large that it jumps to and fro
    synthesis = recipe(update=update, chunk=9, steps=11)
    batch = make_batch(image, synthesis, 0, KEY)
    assert len(update.iterates) == synthesis.steps
    assert torch.equal(batch.inputs, image.signature.to_input(update.iterates[-1]))
    with torch.no_grad():
        answers = image.logits(batch.inputs)
        losses = [F.cross_entropy(image.logits_of_standard(x), batch.labels).item() for x in update.iterates]
    torch.testing.assert_close(batch.logits, answers, rtol=1e-5, atol=1e-5)
    assert losses[-1] > min(losses) + 0.1, "the best iterate is another"
    assert (batch.inputs.dtype, batch.logits.dtype, batch.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_labels_of_each_row_differ_and_follow_the_prior(image: Teacher) -> None:
    settings: dict[str, Any] = {"steps": 0, "batch": 3000, "chunk": 3000}
    permuted = make_batch(image, recipe(**settings), 0, KEY).labels.view(-1, 3)
    assert all(len(set(row)) == 3 for row in permuted.tolist())
    shares = (0.5, 0.2, 0.1, 0.1, 0.1, 0.0)
    asked = make_batch(image, recipe(labels=Independent(shares), **settings), 0, KEY).labels
    for label, share in enumerate(shares):
        error = math.sqrt(share * (1 - share) / 3000)
        assert (asked == label).double().mean().item() == pytest.approx(share, abs=SIGMAS * error)


@pytest.mark.parametrize(("step_size", "steps"), [(0.1, 1), (0.01, 25), (0.5, 60)])
def test_langevin_without_a_loss_is_a_random_walk(step_size: float, steps: int, table: Teacher) -> None:
    """x_N = x_0 + √(2η) Σ n: the variance grows by 2ηN, whatever the teacher says."""
    still = recipe(losses=cake(0.0, 0.0), batch=600, steps=steps, update=Sgd(Constant(step_size)))
    start = make_batch(table, still, 0, KEY).inputs
    assert torch.equal(start, make_batch(table, replace(still, steps=0), 0, KEY).inputs)
    walked = make_batch(table, replace(still, update=Langevin(Constant(step_size))), 0, KEY).inputs
    walk = (walked - start).double()
    variance, numbers = 2 * step_size * steps, walk.numel()
    assert walk.var().item() == pytest.approx(variance, rel=SIGMAS * math.sqrt(2 / numbers))
    assert walk.mean().item() == pytest.approx(0, abs=SIGMAS * math.sqrt(variance / numbers))
    both = torch.corrcoef(torch.stack([walk.flatten(), start.flatten().double()]))
    assert abs(both[0, 1]) < SIGMAS / math.sqrt(numbers), "the noise knows of the start"


def test_langevin_noise_differs_from_batch_to_batch(table: Teacher) -> None:
    walking = recipe(losses=cake(0.0, 0.0), batch=600, steps=5, update=Langevin(Constant(0.5)))
    walks = []
    for index, attempt in ((0, 0), (1, 0), (0, 1)):
        still = replace(walking, update=Sgd(Constant(0.5)))
        start, end = (make_batch(table, how, index, KEY, attempt).inputs for how in (still, walking))
        walks.append((end - start).flatten())
    related = torch.corrcoef(torch.stack(walks)) - torch.eye(3)
    assert related.abs().max() < SIGMAS / math.sqrt(3000)


@dataclass(frozen=True)
class Energy(Loss):
    """−log p of N(0, 1), mean over samples."""

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        return step.x.square().sum() / (2 * len(step.x))


def test_langevin_samples_from_the_density(table: Teacher) -> None:
    """With L = −log p for each sample, steps of η lead from N(0, 3²) to N(0, 1/(1 − η/2))."""
    batch = 2000
    losses = (Weighted("energy", float(batch), Energy()),)
    sampler = recipe(batch=batch, groups=1, steps=120, source=Pixels(std=3.0), losses=losses, chunk=500)
    x = make_batch(table, replace(sampler, update=Langevin(Constant(0.1))), 0, KEY).inputs.double()
    assert x.var().item() == pytest.approx(1 / (1 - 0.05), rel=SIGMAS * math.sqrt(2 / x.numel()))
    assert x.mean().item() == pytest.approx(0, abs=SIGMAS / math.sqrt(x.numel()))


# --- inputs of every kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table", "signal", "image", "colour"])
def test_samples_come_to_be_what_was_asked_for(name: str, teachers: dict[str, Teacher]) -> None:
    teacher = teachers[name]
    synthesis = recipe(losses=cake(100.0, 0.0), update=Sgd(Constant(0.3)))
    start, end = (make_batch(teacher, replace(synthesis, steps=steps), 0, KEY) for steps in (0, 100))
    before, after = ((batch.logits.argmax(1) == batch.labels).double().mean().item() for batch in (start, end))
    assert before < 0.7 and after == 1.0
    assert end.inputs.shape == (24, *teacher.signature.input_shape)


def test_contrast_keeps_samples_near_the_boundary(table: Teacher) -> None:
    """What CAKE is about: the teacher is less sure than of samples by cross-entropy alone."""
    settings: dict[str, Any] = {"steps": 100, "update": Sgd(Constant(0.3))}
    alone, contrasted = (
        make_batch(table, recipe(losses=cake(100.0, weight), **settings), 0, KEY) for weight in (0.0, 50.0)
    )
    surest = [batch.logits.softmax(1).amax(1).mean().item() for batch in (alone, contrasted)]
    assert surest[1] < surest[0] - 0.1
    assert (contrasted.logits.argmax(1) == contrasted.labels).double().mean() > 0.9


@pytest.mark.parametrize("name", ["image", "colour"])
def test_clipped_samples_are_values_that_exist(name: str, teachers: dict[str, Teacher]) -> None:
    teacher = teachers[name]
    free = recipe(losses=cake(1000.0, 0.0), steps=20, update=Sgd(Constant(0.3)))
    for source, within in ((Pixels(std=2.0), False), (Pixels(std=2.0, clip=True), True)):
        raw = teacher.signature.to_raw(make_batch(teacher, replace(free, source=source), 0, KEY).inputs)
        assert bool(raw.min() >= -1e-6 and raw.max() <= 1 + 1e-6) == within
        if within:
            assert all((channel.min() < 1e-6 and channel.max() > 1 - 1e-6) for channel in raw.unbind(1))


# --- losses that are not finite ----------------------------------------------------------------------------


@dataclass
class Breaking(Loss):
    """Zero, but NaN or infinite at one step of some of the starts (of `steps` steps each)."""

    at: int
    value: float
    starts: Sequence[int] = range(1000)
    steps: int = 12
    calls: int = 0

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        start, number = divmod(self.calls, self.steps)
        self.calls += 1
        factor = self.value if number == self.at and start in self.starts else 0.0
        return step.logits.sum() * 0 + factor


def breaking(loss: Breaking) -> Synthesis:
    return recipe(losses=(*cake(30.0, 3.0), Weighted("breaking", 1.0, loss)), steps=loss.steps)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_loss_that_is_never_finite_diverges(at: int, value: float, image: Teacher, tmp_path: Path) -> None:
    """Term, step and batch are named; the two batches before are kept."""
    starts = range(2, 1000)  # batches 0 and 1 are well
    synthesis = breaking(Breaking(at, value, starts))
    store = store_of(synthesis, image, tmp_path)
    with pytest.raises(Diverged) as caught:
        synthesize(image, synthesis, store, KEY)
    error = caught.value
    assert error.what == (
        f"the loss term 'breaking' is not finite at step {at}, {at}, {at} of batch 2 (3 starts from different noise)"
    )
    assert error.where == "image.onnx" and error.exit_code == 3
    assert "step size" in error.remedy and "are kept" in error.remedy
    kept = store_of(synthesis, image, tmp_path)
    assert kept.finished == 2 and list(kept.missing()) == [2, 3, 4, 5]


@pytest.mark.parametrize("bad_starts", [0, 1, 2])
def test_a_fresh_start_is_another_batch_and_counted(bad_starts: int, image: Teacher, tmp_path: Path) -> None:
    synthesis = replace(breaking(Breaking(4, math.nan, range(bad_starts))), batches=1, held_out=0)
    store = store_of(synthesis, image, tmp_path)
    synthesize(image, synthesis, store, KEY)
    assert store.complete and store.attempts == bad_starts
    well = replace(synthesis, losses=cake(30.0, 3.0))
    batch = make_batch(image, well, 0, KEY, bad_starts)
    assert batch.attempts == bad_starts
    assert same(batch, Batch(0, *StoreDataset(store).take(torch.arange(24))))


def test_the_first_term_at_fault_is_named(image: Teacher, tmp_path: Path) -> None:
    late, early = Breaking(8, math.nan), Breaking(3, math.inf)
    terms = (Weighted("late", 1.0, late), Weighted("early", 2.0, early))
    with pytest.raises(Diverged, match=r"'early' is not finite at step 3, 3, 3 of batch 0 "):
        synthesize(image, recipe(losses=terms), store_of(recipe(), image, tmp_path), KEY)


def test_a_batch_is_not_finished_in_vain(table: Teacher, tmp_path: Path) -> None:
    passes: list[int] = []
    long = replace(breaking(Breaking(0, math.nan, steps=50)), steps=100_000)
    with pytest.raises(Diverged):
        synthesize(table, long, store_of(long, table, tmp_path), KEY, passes.append)
    assert 0 < len(passes) <= 3 * 50, "the losses are looked at now and then, in each of the three starts"


@pytest.mark.parametrize(("steps", "named"), [(1, "the samples are"), (4, "the loss term 'classification' is")])
def test_steps_far_too_large_diverge(steps: int, named: str, table: Teacher, tmp_path: Path) -> None:
    """What is not finite is found even if it came with the last step."""
    synthesis = recipe(losses=cake(1e30, 1e20), steps=steps, update=Langevin(Constant(1e38)))
    with pytest.raises(Diverged) as caught:
        synthesize(table, synthesis, store_of(synthesis, table, tmp_path), KEY)
    assert caught.value.what.startswith(f"{named} not finite at step 1, 1, 1 of batch 0")


@pytest.mark.parametrize(
    ("name", "overrides", "advice"),
    [
        ("cake", [], "synthesis.update.sgd.step_size.decay.start=0.01"),
        ("lake", [], "synthesis.update.langevin.step_size.decay.start=0.01"),
        (
            "naive",
            ["synthesis.update.sgd.step_size={constant: {value: 5}}"],
            "synthesis.update.sgd.step_size.constant.value=0.5",
        ),
    ],
)
def test_the_remedy_can_be_followed(
    name: str, overrides: list[str], advice: str, image: Teacher, tmp_path: Path
) -> None:
    broken = replace(breaking(Breaking(0, math.nan)), update=update_of(Recipe.load(name, overrides)))
    with pytest.raises(Diverged) as caught:
        synthesize(image, broken, store_of(broken, image, tmp_path), KEY)
    assert f" -o {advice}. " in caught.value.remedy
    smaller = update_of(Recipe.load(name, [*overrides, advice]))
    assert smaller.step_size(0) == pytest.approx(broken.update.step_size(0) / 10)


def update_of(recipe: Recipe) -> Any:
    return recipe.synthesis.update.build(UPDATES, step_size=SCHEDULES)


def test_large_but_finite_values_are_no_failure(table: Teacher) -> None:
    synthesis = recipe(losses=(Weighted("breaking", 1.0, Breaking(3, 3e38)),), steps=12)
    assert make_batch(table, replace(synthesis, chunk=24), 0, KEY).attempts == 0
