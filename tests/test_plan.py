"""What is decided before a run: the recipe fitted to the teacher, the chunk, and the key of the set."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onnxcake.core.errors import RecipeError, StoreError
from onnxcake.core.rng import Key
from onnxcake.recipe.recipe import Recipe, names
from onnxcake.run import plan as plans
from onnxcake.run.method import fit
from onnxcake.run.plan import Plan, decide
from onnxcake.run.prepare import Request
from onnxcake.run.store_key import layout
from onnxcake.run.trial import prepare
from onnxcake.runtime.ort import Runtime
from onnxcake.synthesis.labels.hard import Independent, RowPermutation
from onnxcake.synthesis.schedules import Decay
from onnxcake.synthesis.sources.pixels import Pixels
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.synthesis.updates import Langevin, Sgd
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

DIGITS = Path(__file__).parents[1] / "examples" / "digits.onnx"
INDEPENDENT = "synthesis.labels=independent"


@pytest.fixture(scope="module")
def digits(runtime: Runtime) -> Teacher:
    """Images, ten classes."""
    return Teacher.load(DIGITS, range=(0, 1))


@pytest.fixture(scope="module")
def table(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Vectors of five numbers, three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    return Teacher.load(export(net, (5,), tmp_path_factory.mktemp("plan") / "table.onnx"))


def vector(*overrides: str) -> Recipe:
    return Recipe.load("cake-vector", overrides)


# --- the recipe fitted to the teacher ----------------------------------------------------------------------


def test_the_recipes_parts_and_numbers_arrive(digits: Teacher) -> None:
    synthesis = fit(Recipe.load("cake"), digits)
    assert synthesis.source == Pixels() and synthesis.labels == RowPermutation()
    assert synthesis.update == Sgd(Decay(0.1, 4.0))
    assert {term.name: term.weight for term in synthesis.losses} == {
        "classification": 1e3,
        "contrastive": 1e1,
        "total_variation": 1e5,
    }
    assert (synthesis.batch, synthesis.batches, synthesis.steps, synthesis.groups) == (500, 500, 256, 10)
    assert (synthesis.reference_batch, synthesis.held_out, synthesis.chunk) == (500, 25, 500)
    assert isinstance(fit(Recipe.load("lake"), digits).update, Langevin)


@pytest.mark.parametrize("name", names())
def test_every_recipe_fits_a_teacher(name: str, digits: Teacher, table: Teacher) -> None:
    synthesis = fit(Recipe.load(name), table if name == "cake-vector" else digits)
    assert synthesis.batch % synthesis.groups == 0 and synthesis.held_out > 0


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"groups": 3, "batch": 498, "chunk": 498}),  # 500 holds 166 whole rows of 3
        (["synthesis.batch=7"], {"groups": 3, "batch": 6, "chunk": 6}),
        (["synthesis.batch=3"], {"groups": 3, "batch": 3, "chunk": 3}),
        (["synthesis.groups=2"], {"groups": 2, "batch": 500, "chunk": 500}),
        (["synthesis.groups=1", "synthesis.batch=7"], {"groups": 1, "batch": 7}),
        (["synthesis.groups=10", INDEPENDENT], {"groups": 10, "batch": 500}),
        (["synthesis.chunk=100"], {"groups": 3, "chunk": 99}),  # fitted to whole rows, as the batch is
        (["synthesis.chunk=2"], {"groups": 3, "chunk": 3}),
        (["synthesis.chunk=100000"], {"chunk": 498}),
        (["synthesis.groups=2", "synthesis.chunk=8"], {"chunk": 8}),
        (["synthesis.reference_batch=40"], {"reference_batch": 40, "batch": 498}),
        (["synthesis.reference_batch=null"], {"reference_batch": 498}),
        (["synthesis.batches=40"], {"held_out": 2}),
        (["synthesis.batches=41"], {"held_out": 3}),
        (["synthesis.batches=1"], {"held_out": 1}),
        (["synthesis.held_out=0"], {"held_out": 0}),
        (["synthesis.held_out=7"], {"held_out": 7}),
    ],
    ids=str,
)
def test_numbers_fitted_to_three_classes(overrides: list[str], expected: dict[str, int], table: Teacher) -> None:
    synthesis = fit(vector(*overrides), table)
    assert {name: getattr(synthesis, name) for name in expected} == expected


@pytest.mark.parametrize("prior", ["[1, 2, 3]", "[0.5, 0.2, 0.1]"])
@pytest.mark.parametrize("policy", ["row_permutation", "independent"])
def test_a_prior_arrives(policy: str, prior: str, table: Teacher) -> None:
    labels = fit(vector(f"synthesis.labels={{{policy}: {{prior: {prior}}}}}"), table).labels
    assert isinstance(labels, RowPermutation if policy == "row_permutation" else Independent)
    assert labels.prior == tuple(float(weight) for weight in prior.strip("[]").split(","))
    assert labels(2, 3, 3, Key(0).generator()).labels.shape == (6,)


CLIP = "source pixels does not fit table.onnx: it clips to the valid range, which is not known; give --range LO,HI"
TV = (
    "total_variation does not fit table.onnx: it compares neighbouring pixels, and inputs of shape [5] are no "
    "images; leave it out with -o synthesis.losses.total_variation=null"
)


@pytest.mark.parametrize(
    ("overrides", "mistakes"),
    [
        (["synthesis.losses.total_variation=1e5"], [TV]),
        (["synthesis.source={pixels: {clip: true}}"], [CLIP]),
        (["synthesis.groups=10"], ["groups is 10, but there are only 3 classes (table.onnx)"]),
        (["synthesis.batch=2"], ["a batch of 2 holds no row of 3 samples"]),
        (
            ["synthesis.labels={row_permutation: {prior: [1, 1]}}"],
            ["labels.prior needs 3 weights, at least 3 of them above zero (table.onnx)"],
        ),
        (
            ["synthesis.labels={row_permutation: {prior: [1, 0, 1]}}"],
            ["labels.prior needs 3 weights, at least 3 of them above zero (table.onnx)"],
        ),
        (
            ["synthesis.labels={independent: {prior: [1, 1, 1, 1]}}", "synthesis.groups=1"],
            ["labels.prior needs 3 weights, at least 1 of them above zero (table.onnx)"],
        ),
        (
            [
                "synthesis.losses.total_variation=1e5",
                "synthesis.groups=4",
                "synthesis.labels={row_permutation: {prior: []}}",
            ],
            [
                TV,
                "groups is 4, but there are only 3 classes; labels.prior needs 3 weights, at least 4 of them above "
                "zero (table.onnx)",
            ],
        ),
    ],
    ids=["tv", "clip", "groups", "batch", "short prior", "zero in prior", "long prior", "all at once"],
)
def test_what_does_not_fit_is_refused(overrides: list[str], mistakes: list[str], table: Teacher) -> None:
    recipe = vector(*overrides)
    with pytest.raises(RecipeError) as caught:
        fit(recipe, table)
    assert caught.value.what == "\n  ".join(mistakes)
    assert caught.value.where == recipe.title and caught.value.exit_code == 3


def test_the_remedy_for_total_variation_can_be_followed(table: Teacher) -> None:
    fit(Recipe.load("cake", ["synthesis.losses.total_variation=null"]), table)
    with pytest.raises(RecipeError, match="total_variation does not fit"):
        fit(Recipe.load("cake"), table)


def test_zero_weights_of_an_independent_prior_are_fine(table: Teacher) -> None:
    recipe = vector("synthesis.labels={independent: {prior: [0, 0, 1]}}", "synthesis.groups=1")
    assert fit(recipe, table).labels.prior == (0.0, 0.0, 1.0)


def test_a_fitted_recipe_runs(table: Teacher) -> None:
    """Whatever chunk the recipe asked for; the contrast needs whole rows."""
    recipe = vector("synthesis.batch=20", "synthesis.chunk=5", "synthesis.steps=2")
    assert len(Synthesizer(table, fit(recipe, table), Key(0)).make(0).inputs) == 18


# --- the plan ----------------------------------------------------------------------------------------------


SAMPLE_BYTES = 16 * 4  # of `table`, between forward and backward, only what its Tanh gives is kept
DECIDED: dict[str, Any] = {}


@pytest.fixture(autouse=True, scope="module")
def decided_for(table: Teacher) -> None:
    """Hypothesis calls its test many times in one go, with no fixture between."""
    DECIDED.update(teacher=table, recipe=vector(), synthesis=fit(vector(), table))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), groups=st.integers(1, 12), rows=st.integers(1, 200))
def test_the_chunk_is_whole_rows_in_equal_parts(data: st.DataObject, groups: int, rows: int) -> None:
    teacher, recipe, synthesis = DECIDED["teacher"], DECIDED["recipe"], DECIDED["synthesis"]
    budget, batch = data.draw(st.integers(1, SAMPLE_BYTES * 1000)), rows * groups
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plans.CHUNK_BYTES, "cpu", budget)
        chunk = decide(recipe, teacher, replace(synthesis, groups=groups, batch=batch, chunk=batch)).chunk
    assert chunk % groups == 0 and groups <= chunk <= batch
    assert chunk == groups or chunk * SAMPLE_BYTES <= budget
    parts = -(-batch // chunk)
    assert parts * chunk - batch < parts * groups, "no part is smaller than the others by more than a row each"
    assert batch * SAMPLE_BYTES > budget or parts == 1, "what fits is not split"


def test_the_chunk_of_a_recipe_is_kept(table: Teacher) -> None:
    recipe = vector("synthesis.chunk=30")
    assert decide(recipe, table, fit(recipe, table)).chunk == 30


def test_a_plan_comes_out_the_same_again(digits: Teacher) -> None:
    recipe = Recipe.load("cake")
    plan = decide(recipe, digits, fit(recipe, digits))
    assert plan == decide(recipe, digits, fit(recipe, digits))
    assert (plan.device, plan.threads, plan.torch) == ("cpu", torch.get_num_threads(), torch.__version__)


@pytest.mark.parametrize(
    ("recipe", "given", "beside"), [("layercake", 8, 4), ("layercake", 3, 1), ("layercake", 1, 0), ("cake", 8, 0)]
)
def test_lessons_that_the_teacher_answers_are_made_beside_the_student(
    recipe: str, given: int, beside: int, digits: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "threads_given", lambda: given)
    asked = Recipe.load(recipe)
    plan = decide(asked, digits, fit(asked, digits))
    assert (plan.threads, plan.beside) == (given, beside)


@pytest.mark.parametrize(
    ("batch", "batches", "per_shard"),
    [(498, 10_000, 105), (498, 1_000, 52), (498, 40, 2), (498, 1, 1), (90_000, 10_000, 1)],
)
def test_small_batches_share_a_shard(batch: int, batches: int, per_shard: int, table: Teacher) -> None:
    """Up to a mebibyte of inputs, of 5 · 4 bytes each, or a twentieth of the set."""
    recipe = vector(f"synthesis.batch={batch}", f"synthesis.batches={batches}")
    assert decide(recipe, table, fit(recipe, table)).batches_per_shard == per_shard


def test_a_plan_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / plans.FILE
    assert Plan.read(path) is None
    plan = Plan("cpu", 3, 250, 4, "2.0")
    path.write_text(json.dumps(plan.as_dict()))
    assert Plan.read(path) == plan


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '{"device": "cpu"}', '{"device": 1, "x": 2}', "\udcff"],
    ids=["empty", "cut", "list", "null", "number", "incomplete", "unknown", "bytes"],
)
def test_a_damaged_plan_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / plans.FILE
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError) as caught:
        Plan.read(path)
    assert caught.value.where == str(path) and "--out" in caught.value.remedy


# --- the key of the set ------------------------------------------------------------------------------------


def key(teacher: Teacher, *overrides: str, seed: int = 0, **planned: Any) -> str:
    recipe = Recipe.load("cake", ["synthesis.chunk=50", *overrides])
    synthesis = fit(recipe, teacher)
    return layout(recipe, teacher, synthesis, replace(decide(recipe, teacher, synthesis), **planned), seed).key


SYNTHESIS_CHANGES = [
    "synthesis.source={pixels: {prior: uniform}}",
    "synthesis.source={pixels: {mean: 0.1}}",
    "synthesis.source={pixels: {std: 1.1}}",
    "synthesis.source={pixels: {clip: true}}",
    "synthesis.labels=independent",
    "synthesis.labels={row_permutation: {prior: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}}",
    "synthesis.labels={row_permutation: {prior: [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]}}",
    "synthesis.losses.classification=999",
    "synthesis.losses.contrastive=null",
    "synthesis.losses.total_variation={weight: 1e5, reduction: sum}",
    "synthesis.update={langevin: {step_size: {decay: {start: 1e-1, magnitude: 4}}}}",
    "synthesis.update.sgd.max_move=0.5",
    "synthesis.update.sgd.step_size.decay.start=0.2",
    "synthesis.update.sgd.step_size.decay.magnitude=3",
    "synthesis.update.sgd.step_size.decay.shape=cosine",
    "synthesis.update={sgd: {step_size: {constant: {value: 0.1}}}}",
    "synthesis.groups=5",
    "synthesis.batch=400",
    "synthesis.batches=499",
    "synthesis.held_out=3",
    "synthesis.steps=255",
    "synthesis.reference_batch=400",
    "synthesis.chunk=100",
    "synthesis.pace=plain",
    "synthesis.augment={jitter: {}}",
    "synthesis.augment={jitter: {pixels: 1}}",
]
TURNS = ("synthesis.rounds=2", "student.epochs=null", "student.steps=10")  # one is nothing without the others
STUDENT_CHANGES = [
    "student.architecture=mlp",
    "student.epochs=3",
    "student.batch=128",
    "student.loss={hard: 1.0}",
    "student.optimiser=adamw",
    "student.learning_rate=cosine",
    "student.checkpoint_every=7",
    "student.rates=[0.1, 1]",
    "student.after=0.1",
    "student.answers=live",
    "student.match={attention: {pairs: {a: b}}}",
    "student.quantise=int8",
    "title=another",
    "require.agreement=0.9",
]


def test_every_key_of_the_section_is_tried() -> None:
    tried = {change.split(".")[1].partition("=")[0] for change in SYNTHESIS_CHANGES}
    assert tried | {"rounds"} == set(Recipe.load("cake").synthesis.model_dump())
    of_student = {change.split(".")[1].partition("=")[0] for change in STUDENT_CHANGES if change.startswith("student.")}
    of_turns = {"steps", "learn_from", "memory", "retain", "augment"}
    assert of_student | of_turns == set(Recipe.load("cake").student.model_dump())


def test_all_that_a_set_depends_on_changes_its_key(digits: Teacher) -> None:
    keys = {change: key(digits, change) for change in ("synthesis.held_out=25", *SYNTHESIS_CHANGES)}
    keys |= {f"plan {n}": key(digits, **{n: v}) for n, v in (("threads", 99), ("chunk", 10), ("torch", "0.1"))}
    keys |= {"turns": key(digits, *TURNS), "nothing kept": key(digits, *TURNS, "student.learn_from=same")}
    keys |= {f"seed {seed}": key(digits, seed=seed) for seed in (1, 2)}
    for name, values in (
        ("digest", {"digest": "0" * 64}),
        ("range", {"signature": replace(digits.signature, range=(0.0, 2.0))}),
        ("mean", {"signature": replace(digits.signature, mean=(0.5,), std=(0.5,))}),
    ):
        keys[name] = key(replace(digits, facts=replace(digits.facts, **values)))
    keys["as it was"] = key(digits)
    same = [(one, other) for one in keys for other in keys if one < other and keys[one] == keys[other]]
    assert same == []


@pytest.mark.parametrize("change", STUDENT_CHANGES)
def test_the_student_does_not_change_the_set(change: str, digits: Teacher) -> None:
    assert key(digits, change) == key(digits)


@pytest.mark.parametrize(
    "change",
    ["student.memory={bank: {}}", "student.retain={lr: 0.1}", "student.steps=3"],
)
def test_the_student_does_not_change_what_is_made_in_turns(change: str, digits: Teacher) -> None:
    turns = (*TURNS, "student.learn_from=same")
    assert key(digits, *turns, change) == key(digits, *turns)


def test_the_student_changes_a_set_that_is_made_against_it(tmp_path: Path, runtime: Runtime) -> None:
    def of(*more: str) -> str:
        # What is timed differs from one taking to the next, and belongs to the key of such a set.
        against = [*TURNS, "synthesis.losses.disagreement=1.0", "synthesis.pace=plain", *more]
        return prepare(Request(DIGITS, "cake", tmp_path, against, TeacherOptions.of(range=(0, 1)))).layout.key

    assert of() == of() != of("student.learning_rate=cosine")


def test_the_teachers_content_counts_and_not_its_name(digits: Teacher, runtime: Runtime, tmp_path: Path) -> None:
    renamed = Teacher.load(shutil.copy(DIGITS, tmp_path / "other.onnx"), range=(0, 1))
    assert renamed.name != digits.name and key(renamed) == key(digits)


def test_the_layout_says_what_the_store_will_hold(table: Teacher) -> None:
    recipe = vector("synthesis.batches=300", "synthesis.labels=independent")
    synthesis = fit(recipe, table)
    plan = decide(recipe, table, synthesis)
    made = layout(recipe, table, synthesis, plan, 5)
    assert (made.batches, made.held_out, made.batch) == (300, 15, 498)
    assert (made.shape, made.classes, made.batches_per_shard) == ((5,), 3, plan.batches_per_shard)
    assert made.made_from["seed"] == "5" and made.made_from["synthesis.batches"] == "300"
    assert made.made_from["teacher"] == f"{table.facts.digest[:16]} (table.onnx)"
    assert "synthesis.labels.independent" in made.made_from, "a part without keys is told too"
    assert all(isinstance(text, str) for text in made.made_from.values())
