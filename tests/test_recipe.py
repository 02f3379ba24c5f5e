"""Recipes: what ships loads, and every mistake is told at once, each with its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxcake.core.errors import RecipeError
from onnxcake.recipe.recipe import Recipe, names, text_of
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.optimisers import LEARNING_RATES, OPTIMISERS, AdamWOptimiser, OneCycle
from onnxcake.synthesis.labels import LABELS
from onnxcake.synthesis.labels.hard import Independent
from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.schedules import SCHEDULES, Decay
from onnxcake.synthesis.sources import SOURCES
from onnxcake.synthesis.updates import UPDATES, Sgd

BASE = """\
recipe: 1
title: a test
input: {range: [0, 1]}
synthesis:
  source: {pixels: {prior: normal}}
  labels: row_permutation
  losses:
    classification: 1e3
    contrastive: {weight: 1e1}
  update:
    sgd:
      step_size: {decay: {start: 1e-1, magnitude: 4}}
  groups: 4
  batch: 40
  batches: 10
  steps: 20
student:
  architecture: {mlp: {hidden: [8]}}
  epochs: 3
  optimiser: {adamw: {lr: 1e-3}}
  learning_rate: one_cycle
require: {agreement: 0.9}
"""
STUDENTS = "auto, onnx, " + ", ".join(ARCHITECTURES)
LOSS_NAMES, SOURCE_NAMES, POLICIES = (", ".join(sorted(registry)) for registry in (LOSSES, SOURCES, LABELS))


def refused(source: Any, *overrides: str) -> list[str]:
    """The mistakes, as the user reads them; the places of ``r.yaml`` without its name."""
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source, overrides)
    *lines, remedy = str(caught.value).splitlines()
    assert remedy == "  Mend the recipe; `onnxcake recipes show cake` prints one that works."
    assert caught.value.exit_code == 3
    if len(lines) > 1:
        head, *lines = lines
        assert head.endswith(f": {len(lines)} mistakes") and all(line.startswith("  ") for line in lines)
    return [line.strip().removeprefix("r.yaml:").strip() for line in lines]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """``written(text)``: a recipe file."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# --- recipes that are fine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_recipe_that_ships_loads_and_comes_back(name: str) -> None:
    recipe = Recipe.load(name)
    told = recipe.as_dict()
    assert Recipe.load(told) == recipe and Recipe.load(told).as_dict() == told
    assert Recipe.load(json.loads(json.dumps(told))).digest == recipe.digest
    assert recipe.title and recipe.recipe == 1
    folder = Path(__file__).parents[1] / "recipes"
    assert text_of(name) == (folder / f"{name}.yaml").read_text(encoding="utf-8")
    assert Recipe.load(folder / f"{name}.yaml") == recipe


def test_the_recipes_that_ship() -> None:
    assert {"cake", "lake", "naive", "cake-image", "cake-mnist", "cake-vector", "layercake"} <= set(names())
    assert len({Recipe.load(name).digest for name in names()}) == len(names())


def test_what_is_left_out_has_its_default(written: Any) -> None:
    told = Recipe.load(written(BASE)).as_dict()
    assert told["synthesis"]["held_out"] == "auto"
    assert told["synthesis"]["source"]["pixels"] == {"prior": "normal", "mean": 0.0, "std": 1.0, "clip": False}
    assert told["student"]["batch"] == 256 and told["student"]["checkpoint_every"] == 500
    loss = {"hard": 0.0, "soft": 1.0, "temperature": 1.0, "hard_labels": "teacher", "l1": 0.0, "centred": False}
    assert told["student"]["loss"] == loss
    assert (told["student"]["learn_from"], told["student"]["answers"], told["student"]["after"]) == (
        "kept",
        "stored",
        0,
    )
    assert told["require"] == {"agreement": 0.9}


def test_what_is_made_without_steps_needs_no_more_than_a_source_and_a_batch(written: Any) -> None:
    start, end = BASE.index("  labels"), BASE.index("student:")
    synthesis = Recipe.load(
        written(BASE[:start].replace("pixels: {prior: normal}", "noise: {}") + "  batch: 8\n" + BASE[end:])
    )
    told = synthesis.as_dict()["synthesis"]
    assert told["labels"] == {"independent": {}} and "update" not in told
    assert (told["groups"], told["rounds"], told["batches"], told["steps"]) == (1, 1, 1, 0)
    assert told["losses"] == {} and told["augment"] == {}


def test_parts_are_built(written: Any) -> None:
    recipe = Recipe.load(written(BASE), ["synthesis.labels={independent: {prior: [1, 2, 3]}}"])
    synthesis, student = recipe.synthesis, recipe.student
    assert synthesis.update.build(UPDATES, step_size=SCHEDULES) == Sgd(Decay(0.1, 4.0))
    assert synthesis.labels.build(LABELS) == Independent((1.0, 2.0, 3.0))
    assert synthesis.source.build(SOURCES) == SOURCES["pixels"]()
    terms = synthesis.losses.build()
    assert [(term.name, term.weight, type(term.loss)) for term in terms] == [
        ("classification", 1e3, LOSSES["classification"]),
        ("contrastive", 1e1, LOSSES["contrastive"]),
    ]
    assert (student.architecture.name, student.architecture.keys()) == ("mlp", {"hidden": (8,)})
    assert student.optimiser.build(OPTIMISERS) == AdamWOptimiser(lr=1e-3)
    assert student.learning_rate.build(LEARNING_RATES) == OneCycle()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_student_can_be_named(name: str, written: Any) -> None:
    chosen = Recipe.load(written(BASE), [f"student.architecture={name}"]).student.architecture
    assert chosen.name == name
    defaults = chosen.keys()
    again = Recipe.load(written(BASE), [f"student.architecture={{{name}: {json.dumps(defaults)}}}"])
    assert again.student.architecture.keys() == defaults


ALIKE = [
    ("labels: row_permutation", "labels: {row_permutation: {}}"),
    ("labels: row_permutation", "labels: {row_permutation: }"),
    ("labels: row_permutation", "labels: {row_permutation: {prior: null}}"),
    ("{weight: 1e1}", "10"),
    ("{weight: 1e1}", "10.0"),
    ("classification: 1e3", "classification: {weight: 1000}"),
    ("{prior: normal}", "{}"),
    ("{pixels: {prior: normal}}", "pixels"),
    ("learning_rate: one_cycle", "learning_rate: {one_cycle: {div: 25}}"),
    ("  epochs: 3", "  epochs: 3\n  steps: null\n  batch: 256\n  loss: {}"),
    ("input: {range: [0, 1]}", "input:\n  range:\n  - 0.0\n  - 1e0"),
    ("title: a test", 'title: "a \\u0074est"  # with a comment'),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=[other for _, other in ALIKE])
def test_two_ways_to_say_the_same(one: str, other: str, written: Any) -> None:
    plain = Recipe.load(written(BASE))
    assert Recipe.load(written(changed(one, other))).digest == plain.digest
    assert Recipe.load(written(BASE.replace("title: a test", "title: b test"))).digest != plain.digest


def changed(one: str, other: str) -> str:
    assert BASE.count(one) == 1
    return BASE.replace(one, other)


@pytest.mark.parametrize("text", ["1e5", "1E5", "1.0e+5", "100000", "1e+05", "+1e5"])
def test_weights_as_cake_writes_them_are_numbers(text: str, written: Any) -> None:
    recipe = Recipe.load(written(changed("classification: 1e3", f"classification: {text}")))
    assert recipe.synthesis.losses.build()[0].weight == 1e5


def test_environment_variables_are_plain_text(written: Any) -> None:
    assert Recipe.load(written(changed("title: a test", "title: ${HOME} ~/x $(id)"))).title == "${HOME} ~/x $(id)"


# --- recipes that are not ----------------------------------------------------------------------------------

STEP_SIZE = "{decay: {start: 1e-1, magnitude: 4}}"
LOSS_TERMS = "  losses:\n    classification: 1e3\n    contrastive: {weight: 1e1}\n"
NOT_COUNTED = "should be a valid integer, not"
AUTO = "should be a valid integer or should be 'auto', not"

ROWS: list[tuple[str, str, str, list[str]]] = [
    # R05: unknown keys
    ("at the top", "title: a test", "titel: a test", ["2:1: unknown key 'titel' (did you mean 'title'?)"]),
    (
        "like none",
        "title: a test",
        "zzz: a test",
        ["2:1: unknown key 'zzz' (known: recipe, title, input, synthesis, student, require)"],
    ),
    (
        "in a section",
        "  steps: 20",
        "  step: 20",
        ["16:3: unknown key 'step' (did you mean 'steps'?)"],
    ),
    ("in input", "{range: [0, 1]}", "{rnge: [0, 1]}", ["3:9: unknown key 'rnge' (did you mean 'range'?)"]),
    (
        "in require",
        "{agreement: 0.9}",
        "{agrement: 0.9}",
        ["22:11: unknown key 'agrement' (did you mean 'agreement'?)"],
    ),
    ("in a source", "{prior: normal}", "{prio: normal}", ["5:21: unknown key 'prio' (did you mean 'prior'?)"]),
    (
        "in a policy",
        "labels: row_permutation",
        "labels: {row_permutation: {priors: [1]}}",
        ["6:30: unknown key 'priors' (did you mean 'prior'?)"],
    ),
    (
        "in a loss",
        "{weight: 1e1}",
        "{weight: 1e1, wieght: 2}",
        ["9:32: unknown key 'wieght' (did you mean 'weight'?)"],
    ),
    (
        "in an update",
        f"      step_size: {STEP_SIZE}",
        f"      step_sizes: {STEP_SIZE}",
        [
            "11:5: synthesis.update.sgd.step_size is missing",
            "12:7: unknown key 'step_sizes' (did you mean 'step_size'?)",
        ],
    ),
    (
        "in a schedule",
        "magnitude: 4",
        "magnitude: 4, magnitud: 4",
        ["12:54: unknown key 'magnitud' (did you mean 'magnitude'?)"],
    ),
    ("in a student", "{hidden: [8]}", "{hiden: [8]}", ["18:24: unknown key 'hiden' (did you mean 'hidden'?)"]),
    (
        "in an optimiser",
        "{lr: 1e-3}",
        "{rl: 1e-3}",
        ["20:23: unknown key 'rl' (known: lr, beta1, beta2, weight_decay)"],
    ),
    (
        "in a rate",
        "learning_rate: one_cycle",
        "learning_rate: {one_cycle: {warmup: 0.1}}",
        ["21:31: unknown key 'warmup' (did you mean 'warm_up'?)"],
    ),
    (
        "in distillation",
        "  epochs: 3",
        "  epochs: 3\n  loss: {temprature: 4}",
        ["20:10: unknown key 'temprature' (did you mean 'temperature'?)"],
    ),
    ("escaped", "title: a test", 'title: a test\nx"\\e[31m": 1', [r"""3:1: unknown key 'x"\\e[31m"' (known: """]),
    # R10: parts that do not exist
    ("source", "{pixels: {prior: normal}}", "pixel", ["5:3: unknown key 'pixel' (did you mean 'pixels'?)"]),
    (
        "policy",
        "labels: row_permutation",
        "labels: row_permutations",
        ["6:3: unknown key 'row_permutations' (did you mean 'row_permutation'?)"],
    ),
    (
        "loss",
        "    classification: 1e3",
        "    clasification: 1e3",
        ["8:5: unknown key 'clasification' (did you mean 'classification'?)"],
    ),
    (
        "loss like none",
        "    classification: 1e3",
        "    zzz: 1e3",
        [f"8:5: unknown key 'zzz' (known: {LOSS_NAMES})"],
    ),
    ("update", "    sgd:", "    sdg:", ["11:5: unknown key 'sdg' (did you mean 'sgd'?)"]),
    ("schedule", STEP_SIZE, "{linear: {start: 1}}", ["12:19: unknown key 'linear' (known: constant, decay, cosine)"]),
    ("student", "{mlp: {hidden: [8]}}", "resnet-8", ["18:3: unknown key 'resnet-8' (did you mean 'resnet8'?)"]),
    (
        "student by a dotted path",
        "{mlp: {hidden: [8]}}",
        "os.system",
        [f"18:3: unknown key 'os.system' (known: {STUDENTS})"],
    ),
    ("optimiser", "{adamw: {lr: 1e-3}}", "adamm", ["20:3: unknown key 'adamm' (did you mean 'adam'?)"]),
    ("rate", "_rate: one_cycle", "_rate: onecycle", ["21:3: unknown key 'onecycle' (did you mean 'one_cycle'?)"]),
    # Exactly one part
    (
        "two parts",
        "{adamw: {lr: 1e-3}}",
        "{adamw: {lr: 1e-3}, sgd: {}}",
        ["20:3: student.optimiser: name exactly one of sgd, adam, adamw, muon"],
    ),
    (
        "an optimiser for trained weights alone",
        "{adamw: {lr: 1e-3}}",
        "{inherited: adam}",
        ["20:3: student.optimiser: name exactly one of sgd, adam, adamw, muon"],
    ),
    (
        "two optimisers for trained weights",
        "{adamw: {lr: 1e-3}}",
        "{sgd: {}, inherited: {adam: {}, adamw: {}}}",
        ["20:24: student.optimiser.inherited: name exactly one of sgd, adam, adamw, muon"],
    ),
    (
        "two parts without keys",
        "labels: row_permutation",
        "labels: {row_permutation: , independent: }",
        [f"6:3: synthesis.labels: name exactly one of {POLICIES}"],
    ),
    ("no part", "{mlp: {hidden: [8]}}", "{}", [f"18:3: student.architecture: name exactly one of {STUDENTS}"]),
    ("null", "labels: row_permutation", "labels:", ["6:3: synthesis.labels: should be an object, not 'null'"]),
    ("number", "labels: row_permutation", "labels: 3", ["6:3: synthesis.labels: should be an object, not '3'"]),
    (
        "list",
        "labels: row_permutation",
        "labels: [row_permutation]",
        ["""6:3: synthesis.labels: should be an object, not '["row_permutation"]'"""],
    ),
    # R06: wrong types
    ("list for a section", "{agreement: 0.9}", "[0.9]", ["22:1: require: should be an object, not '[0.9]'"]),
    ("text for a section", "{range: [0, 1]}", "no", ["""3:1: input: should be an object, not '"no"'"""]),
    (
        "number for keys",
        "{lr: 1e-3}",
        "1e-3",
        ["20:15: student.optimiser.adamw: should be an object, not '0.001'"],
    ),
    (
        "text for a weight",
        "{weight: 1e1}",
        "{weight: much}",
        ["""9:19: synthesis.losses.contrastive.weight: should be a valid number, not '"much"'"""],
    ),
    (
        "quoted weight",
        "classification: 1e3",
        "classification: '1e5'",
        ["""8:5: synthesis.losses.classification.weight: should be a valid number, not '"1e5"'"""],
    ),
    (
        "no weight",
        "classification: 1e3",
        "classification:",
        ["8:5: synthesis.losses.classification.weight: should be a valid number, not 'null'"],
    ),
    (
        "true weight",
        "classification: 1e3",
        "classification: true",
        ["8:5: synthesis.losses.classification.weight: should be a valid number, not 'true'"],
    ),
    (
        "list of weights",
        "classification: 1e3",
        "classification: [1, 2]",
        ["8:5: synthesis.losses.classification.weight: should be a valid number, not '[1, 2]'"],
    ),
    ("quoted count", "batch: 40", "batch: '40'", [f"""14:3: synthesis.batch: {NOT_COUNTED} '"40"'"""]),
    ("true count", "epochs: 3", "epochs: true", [f"19:3: student.epochs: {NOT_COUNTED} 'true'"]),
    ("fraction", "steps: 20", "steps: 20.5", [f"16:3: synthesis.steps: {NOT_COUNTED} '20.5'"]),
    ("float", "steps: 20", "steps: 2e1", [f"16:3: synthesis.steps: {NOT_COUNTED} '20.0'"]),
    ("null count", "batch: 40", "batch:", [f"14:3: synthesis.batch: {NOT_COUNTED} 'null'"]),
    ("list count", "batch: 40", "batch: [40]", [f"14:3: synthesis.batch: {NOT_COUNTED} '[40]'"]),
    ("mapping", "batch: 40", "batch: {is: 40}", [f"""14:3: synthesis.batch: {NOT_COUNTED} '{{"is": 40}}'"""]),
    (
        "full-width digits",
        "batch: 40",
        "batch: ４０",
        [rf"""14:3: synthesis.batch: {NOT_COUNTED} '"\uff14\uff10"'"""],
    ),
    ("variable", "batch: 40", "batch: ${HOME}", [f"""14:3: synthesis.batch: {NOT_COUNTED} '"${{HOME}}"'"""]),
    (
        "true rate",
        "lr: 1e-3",
        "lr: true",
        ["20:23: student.optimiser.adamw.lr: should be a valid number, not 'true'"],
    ),
    (
        "number for a bool",
        "prior: normal",
        "clip: 1",
        ["5:21: synthesis.source.pixels.clip: should be a valid boolean or should be 'known', not '1'"],
    ),
    (
        "word for a bool",
        "prior: normal",
        "clip: yes",
        ["""5:21: synthesis.source.pixels.clip: should be a valid boolean or should be 'known', not '"yes"'"""],
    ),
    ("number for text", "title: a test", "title: 2026", ["2:1: title: should be a valid string, not '2026'"]),
    (
        "no such choice",
        "prior: normal",
        "prior: laplace",
        ["""5:21: synthesis.source.pixels.prior: should be 'normal', 'uniform' or 'fields', not '"laplace"'"""],
    ),
    (
        "text in a list",
        "[8]",
        "[8, many]",
        ["""18:36: student.architecture.mlp.hidden.1: should be a valid integer, not '"many"'"""],
    ),
    (
        "number for a list",
        "[8]",
        "8",
        ["18:24: student.architecture.mlp.hidden: should be a valid array, not '8'"],
    ),
    ("short range", "[0, 1]", "[0]", ["3:9: input.range.1 is missing"]),
    (
        "long range",
        "[0, 1]",
        "[0, 1, 2]",
        ["3:9: input.range: Tuple should have at most 2 items after validation, not 3"],
    ),
    # R07: numbers out of range
    ("zero", "batch: 40", "batch: 0", ["14:3: synthesis.batch: should be greater than or equal to 1, not '0'"]),
    ("below", "epochs: 3", "epochs: -3", ["19:3: student.epochs: should be greater than or equal to 1, not '-3'"]),
    (
        "huge count",
        "  steps: 20",
        "  steps: 1000000000000",
        ["16:3: synthesis.steps: should be less than or equal to 1000000000, not '1000000000000'"],
    ),
    (
        "endless count",
        "  steps: 20",
        f"  steps: 1{23 * '0'}",
        [f"16:3: '1{23 * '0'}' has more than 20 digits"],
    ),
    (
        "negative weight",
        "{weight: 1e1}",
        "{weight: -1}",
        ["9:19: synthesis.losses.contrastive.weight: should be greater than or equal to 0, not '-1'"],
    ),
    ("zero rate", "lr: 1e-3", "lr: 0", ["20:23: student.optimiser.adamw.lr: should be greater than 0, not '0'"]),
    (
        "rate that vanishes",
        "lr: 1e-3",
        "lr: 1e-400",
        ["20:23: student.optimiser.adamw.lr: should be greater than 0, not '0.0'"],
    ),
    (
        "rate beyond single precision",
        "lr: 1e-3",
        "lr: 1e60",
        [f"20:23: student.optimiser.adamw.lr: should be less than or equal to 1{30 * '0'}, not '1e+60'"],
    ),
    ("infinite", "lr: 1e-3", "lr: .inf", ["20:23: '.inf' is not a finite number"]),
    ("not a number", "lr: 1e-3", "lr: .nan", ["20:23: '.nan' is not a finite number"]),
    ("overflow", "lr: 1e-3", "lr: 1e400", ["20:23: '1e400' is not a finite number"]),
    ("no share", "0.9", "0", ["22:11: require.agreement: should be greater than 0, not '0'"]),
    ("over all", "0.9", "1.1", ["22:11: require.agreement: should be less than or equal to 1, not '1.1'"]),
    (
        "negative magnitude",
        "magnitude: 4",
        "magnitude: -1",
        ["12:40: synthesis.update.sgd.step_size.decay.magnitude: should be greater than or equal to 0, not '-1'"],
    ),
    (
        "momentum of one",
        "{adamw: {lr: 1e-3}}",
        "{sgd: {momentum: 1}}",
        ["20:21: student.optimiser.sgd.momentum: should be less than 1, not '1'"],
    ),
    (
        "width of none",
        "{mlp: {hidden: [8]}}",
        "{cnn-small: {width: 0}}",
        ["18:30: student.architecture.cnn-small.width: should be greater than or equal to 1, not '0'"],
    ),
    (
        "negative keep",
        "{mlp: {hidden: [8]}}",
        "{auto: {keep: -0.5}}",
        ["18:25: student.architecture.auto.keep: should be greater than 0, not '-0.5'"],
    ),
    (
        "negative prior",
        "labels: row_permutation",
        "labels: {independent: {prior: [1, -1]}}",
        ["6:37: synthesis.labels.independent.prior.1: should be greater than or equal to 0, not '-1'"],
    ),
    ("zero std", "range: [0, 1]", "std: [1, 0]", ["3:18: input.std.1: should be greater than 0, not '0'"]),
    (
        "zero groups",
        "groups: 4",
        "groups: 0",
        ["13:3: synthesis.groups: should be greater than or equal to 1 or should be 'auto', not '0'"],
    ),
    ("groups misspelt", "groups: 4", "groups: atuo", [f"""13:3: synthesis.groups: {AUTO} '"atuo"'"""]),
    ("true groups", "groups: 4", "groups: true", [f"13:3: synthesis.groups: {AUTO} 'true'"]),
    ("null groups", "groups: 4", "groups:", [f"13:3: synthesis.groups: {AUTO} 'null'"]),
    (
        "negative held out",
        "groups: 4",
        "groups: 4\n  held_out: -1",
        ["14:3: synthesis.held_out: should be greater than or equal to 0 or should be 'auto', not '-1'"],
    ),
    # R11: contradictions
    ("broken rows", "batch: 40", "batch: 41", ["4:1: synthesis: batch 41 is no multiple of groups 4"]),
    (
        "broken chunks",
        "batch: 40",
        "batch: 40\n  chunk: 6",
        ["4:1: synthesis: chunk 6 is no multiple of groups 4"],
    ),
    ("no loss", LOSS_TERMS, "  losses: {}\n", ["4:1: synthesis: losses names no loss term"]),
    ("two lengths", "epochs: 3", "epochs: 3\n  steps: 5", ["17:1: student: give either epochs or steps"]),
    ("no length", "  epochs: 3\n", "", ["17:1: student: give either epochs or steps"]),
    (
        "nothing to learn from",
        "epochs: 3",
        "epochs: 3\n  loss: {soft: 0}",
        ["17:1: student: loss weighs neither hard nor soft labels, nor l1"],
    ),
    # Missing
    ("a section", BASE[BASE.index("student:") :], "", ["1:1: student is missing"]),
    (
        "keys",
        BASE[BASE.index("  source") : BASE.index("student:")],
        "  steps: 3\n",
        [f"4:1: synthesis.{key} is missing" for key in ("source", "batch")],
    ),
    (
        "a schedule's key",
        "start: 1e-1, magnitude: 4",
        "start: 1e-1",
        ["12:19: synthesis.update.sgd.step_size.decay.magnitude is missing"],
    ),
    ("a weight", "{weight: 1e1}", "{}", ["9:5: synthesis.losses.contrastive.weight is missing"]),
    # R14: versions
    ("no version", "recipe: 1\n", "", ["1:1: recipe is missing"]),
    (
        "the future's",
        "recipe: 1",
        "recipe: 2",
        ["1:1: recipe: version 2 is not known; this onnxcake reads version 1"],
    ),
    ("version zero", "recipe: 1", "recipe: 0", ["1:1: recipe: version 0 is not known; this onnxcake reads version 1"]),
    ("quoted version", "recipe: 1", "recipe: '1'", [f"""1:1: recipe: {NOT_COUNTED} '"1"'"""]),
    ("float version", "recipe: 1", "recipe: 1.0", [f"1:1: recipe: {NOT_COUNTED} '1.0'"]),
    ("true version", "recipe: 1", "recipe: true", [f"1:1: recipe: {NOT_COUNTED} 'true'"]),
    # What the reader of YAML refuses is told once and not again for the value that is then missing.
    (
        "look-alike",
        "  steps: 20",
        "  ѕteps: 20",
        [
            r"16:3: the key '\u0455teps' holds U+0455 (CYRILLIC SMALL LETTER DZE); keys are plain ASCII",
            "4:1: synthesis: steps is missing: how often each batch is stepped",
        ],
    ),
    (
        "tag",
        "title: a test",
        "title: !!python/object/apply:os.system [id]",
        ["2:1: the tag '!!python/object/apply:os.system' is not allowed; write the plain value"],
    ),
    ("alias", "batch: 40", "batch: *a", ["14:3: the alias 'a' is not allowed; write the plain value"]),
    (
        "key twice",
        "batch: 40",
        "batch: 40\n  batch: 41",
        ["15:3: the key 'batch' is on line 14 already; keep one of them"],
    ),
    ("path", "{pixels: {prior: normal}}", "/etc/passwd", [f"5:3: unknown key '/etc/passwd' (known: {SOURCE_NAMES})"]),
]


@pytest.mark.parametrize(("one", "other", "mistakes"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_one_mistake(one: str, other: str, mistakes: list[str], written: Any) -> None:
    found = refused(written(changed(one, other)))
    if mistakes[-1].endswith("(known: "):
        found = [line[: len(wanted)] for line, wanted in zip(found, mistakes, strict=True)]
    assert found == mistakes


def test_all_mistakes_at_once(written: Any) -> None:
    text = BASE
    rows = {row[0]: row for row in ROWS}
    chosen = ("at the top", "in a source", "quoted weight", "negative weight", "negative magnitude", "quoted count")
    for name in (*chosen, "endless count", "text in a list", "two parts", "over all"):
        _, one, other, _ = rows[name]
        assert text.count(one) == 1
        text = text.replace(one, other)
    path = written(text)
    found = refused(path)
    assert len(found) == 10
    for name in chosen:
        assert rows[name][3][0] in found
    with pytest.raises(RecipeError, match=r"^r\.yaml: 10 mistakes\n  r\.yaml:"):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"", "the recipe is empty"),
        (b"# only a comment\n", "the recipe is empty"),
        (b"---\n...\n", "the recipe is empty"),
        (b"[1, 2]", "1:1: the recipe: should be an object, not '[1, 2]'"),
        (b"cake", """1:1: the recipe: should be an object, not '"cake"'"""),
        (b"recipe: 1\n\x00", "2:1: the character U+0000 (a control character) is not allowed"),
        ("recipe: 1".encode("utf-16"), "the text is UTF-16 or UTF-32; save it as UTF-8"),
        (b"recipe: \xff", "1:9: the byte 0xff is not UTF-8; save the text as UTF-8"),
        (b"a: " + b"x" * 70_000, "longer than 65,536 bytes; a recipe is far smaller"),
        (b"x: " + b"[" * 50, "1:23: nested deeper than 20 levels; write it flatter"),
        (BASE.encode() + b"---\nrecipe: 1\n", "23:1: a second document begins here; a recipe is one document"),
    ],
    ids=["empty", "comment", "marks", "list", "text", "nul", "utf-16", "bytes", "long", "deep", "two documents"],
)
def test_files_that_are_no_recipe(content: bytes, mistake: str, written: Any) -> None:
    (found,) = refused(written(content))
    assert found.startswith(mistake)


def test_a_byte_order_mark_is_fine(written: Any) -> None:
    assert Recipe.load(written(b"\xef\xbb\xbf" + BASE.encode())) == Recipe.load(written(BASE))


# --- which recipe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("caek", "no recipe is called 'caek' (did you mean 'cake'?)"),
        ("Lake", "no recipe is called 'Lake' (did you mean 'lake'?)"),
        ("qqq", f"no recipe is called 'qqq'; there are {', '.join(names())}"),
        ("qqq.yaml", "qqq.yaml: cannot be read (No such file or directory)"),
        ("no/such", "no/such: cannot be read (No such file or directory)"),
        ("n" * 5000, f"no recipe is called '{'n' * 99}…'; there are {', '.join(names())}"),
        ("n" * 5000 + ".yaml", f"{'n' * 5000}.yaml: cannot be read (File name too long)"),
        ("no/\0.yaml", "no/\\x00.yaml: cannot be read (embedded null byte)"),
    ],
)
def test_a_recipe_that_is_not_there(source: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source)
    assert str(caught.value).splitlines()[0] == message


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read \(Is a directory\)"):
        Recipe.load(tmp_path)


# --- overrides ---------------------------------------------------------------------------------------------


def test_overrides_go_before_the_source_and_later_ones_before_earlier() -> None:
    recipe = Recipe.load(
        "cake", ["student.epochs=7", "synthesis.losses.contrastive=2.5", "student.epochs=8", "require.agreement=0.5"]
    )
    assert recipe.student.epochs == 8 and recipe.require.agreement == 0.5
    weights = {term.name: term.weight for term in recipe.synthesis.losses.build()}
    assert weights == {"classification": 1e3, "contrastive": 2.5, "total_variation": 1e5}


@pytest.mark.parametrize("text", ["1e5", " 1e5", "100000", "{weight: 1e5}"])
def test_an_overriding_number_is_a_number(text: str) -> None:
    recipe = Recipe.load("naive", [f"synthesis.losses.classification={text}"])
    assert recipe.synthesis.losses.build()[0].weight == 1e5


def test_null_removes() -> None:
    recipe = Recipe.load(
        "cake", ["synthesis.losses.total_variation=null", "title=null", "student.epochs=null", "student.steps=9"]
    )
    assert {term.name for term in recipe.synthesis.losses.build()} == {"classification", "contrastive"}
    assert recipe.title == "" and (recipe.student.epochs, recipe.student.steps) == (None, 9)


@pytest.mark.parametrize(
    ("overrides", "mistakes"),
    [
        (["student.epchs=3"], ["-o student.epchs: unknown key 'epchs' (did you mean 'epochs'?)"]),
        (["studnt.epochs=3"], ["-o studnt.epochs: unknown key 'studnt' (did you mean 'student'?)"]),
        (["student.epochs=many"], ["""-o student.epochs: student.epochs: should be a valid integer, not '"many"'"""]),
        (["student.epochs"], ["-o student.epochs: write key=value, like student.epochs=20; null removes the key"]),
        (["student.epochs.a=3"], ["-o student.epochs.a: 'student.epochs' is '30', not a mapping, so it has no 'a'"]),
        (["student.epochs=.inf"], ["-o student.epochs: '.inf' is not a finite number"]),
        (
            ["synthesis.losses.tv=null"],
            ["-o synthesis.losses.tv: there is nothing to remove"],
        ),
        (
            ["synthesis.losses.contrastve=null"],
            ["-o synthesis.losses.contrastve: there is nothing to remove (did you mean 'contrastive'?)"],
        ),
        (["recipe=2"], ["-o recipe: recipe: version 2 is not known; this onnxcake reads version 1"]),
        (
            ["student.architecture=cnn-smal"],
            ["-o student.architecture: unknown key 'cnn-smal' (did you mean 'cnn-small'?)"],
        ),
        (
            ["student.batch=0", "synthesis.steps='9'", "x=1"],
            [
                """-o synthesis.steps: synthesis.steps: should be a valid integer, not '"9"'""",
                "-o student.batch: student.batch: should be greater than or equal to 1, not '0'",
                "-o x: unknown key 'x' (known: recipe, title, input, synthesis, student, require)",
            ],
        ),
        (["synthesis.batch=null"], ["-o synthesis.batch: synthesis.batch is missing"]),
    ],
    ids=lambda value: str(value[0]) if "=" in str(value) else "",
)
def test_a_mistake_in_an_override_names_it(overrides: list[str], mistakes: list[str]) -> None:
    assert refused("cake", *overrides) == mistakes


def test_mistakes_of_file_and_override_together(written: Any) -> None:
    found = refused(written(changed("batch: 40", "batch: 0")), "student.epochs=0", "nonsense")
    assert found == [
        "-o nonsense: write key=value, like student.epochs=20; null removes the key",
        "14:3: synthesis.batch: should be greater than or equal to 1, not '0'",
        "-o student.epochs: student.epochs: should be greater than or equal to 1, not '0'",
    ]


def test_an_override_mends_what_is_wrong_in_the_file(written: Any) -> None:
    broken = written(changed("batch: 40", "batch: 41"))
    assert Recipe.load(broken, ["synthesis.batch=44"]).synthesis.batch == 44


def test_overrides_leave_the_callers_data_alone() -> None:
    data = Recipe.load("cake").as_dict()
    before = copy.deepcopy(data)
    assert Recipe.load(data, ["student.epochs=2", "synthesis.losses.contrastive=null"]).student.epochs == 2
    assert data == before


# --- recipes as Python data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "should be a finite number, not 'NaN'"),
        (float("inf"), "should be a finite number, not 'Infinity'"),
        ({1, 2}, "should be a valid number, not"),
        (Path("x"), """should be a valid number, not '"x"'"""),
        (b"1", "should be a valid number, not"),
    ],
    ids=str,
)
def test_values_that_no_file_can_hold(value: Any, shown: str) -> None:
    data = Recipe.load("naive").as_dict()
    data["synthesis"]["losses"]["classification"] = value
    (found,) = refused(data)
    assert found.startswith(f"recipe: synthesis.losses.classification.weight: {shown}")


@pytest.mark.parametrize("key", [1, None, ("a", "b"), 2.5], ids=str)
def test_keys_that_no_file_can_hold(key: Any) -> None:
    data = Recipe.load("naive").as_dict()
    data["student"][key] = 1
    (found,) = refused(data)
    assert found.startswith("recipe: unknown key ")


def test_tuples_stand_for_lists() -> None:
    data = Recipe.load("naive").as_dict()
    data["input"] = {"range": (0, 1)}
    data["student"]["architecture"] = {"mlp": {"hidden": (5, 4)}}
    recipe = Recipe.load(data)
    assert recipe.input.range == (0.0, 1.0) and recipe.student.architecture.keys() == {"hidden": (5, 4)}


# --- any valid recipe, and any one field broken ------------------------------------------------------------

counts = st.integers(1, 10**9)
positives = st.floats(1e-30, 1e30)
weights = st.one_of(st.floats(0, 1e30), st.integers(0, 1000))
momenta = st.floats(0, 1, exclude_max=True)
shares = st.floats(0, 1, exclude_min=True)
schedules = st.one_of(
    st.fixed_dictionaries({"constant": st.fixed_dictionaries({"value": positives})}),
    st.fixed_dictionaries(
        {
            "decay": st.fixed_dictionaries(
                {"start": positives, "magnitude": weights},
                optional={"shape": st.sampled_from(["linear", "cosine"])},
            )
        }
    ),
    st.fixed_dictionaries({"cosine": st.fixed_dictionaries({"start": positives}, optional={"final": weights})}),
)
updates = st.one_of(
    st.fixed_dictionaries(
        {"sgd": st.fixed_dictionaries({"step_size": schedules}, optional={"max_move": positives})},
    ),
    st.fixed_dictionaries({"langevin": st.fixed_dictionaries({"step_size": schedules})}),
    st.fixed_dictionaries(
        {"adam": st.fixed_dictionaries({"step_size": schedules}, optional={"beta1": momenta, "epsilon": positives})}
    ),
)
pixels = st.fixed_dictionaries(
    {},
    optional={
        "prior": st.sampled_from(["normal", "uniform"]),
        "mean": st.floats(-1e30, 1e30),
        "std": positives,
        "clip": st.booleans(),
    },
)
policies = st.sampled_from(["row_permutation", "independent"]).flatmap(
    lambda name: st.fixed_dictionaries(
        {name: st.fixed_dictionaries({}, optional={"prior": st.lists(weights, max_size=4)})}
    )
)
terms = st.one_of(weights, st.fixed_dictionaries({"weight": weights}, optional={"after": momenta}))
losses = st.dictionaries(st.sampled_from(sorted(LOSSES)), terms, min_size=1)
synthesis_sections = st.fixed_dictionaries(
    {
        "source": st.fixed_dictionaries({"pixels": pixels}),
        "labels": policies,
        "losses": losses,
        "update": updates,
        "batch": counts,
        "batches": counts,
        "steps": counts,
    },
    optional={
        "groups": st.just("auto"),
        "held_out": st.one_of(st.just("auto"), st.integers(0, 10**9)),
        "reference_batch": counts,
        "chunk": counts,
        "augment": st.fixed_dictionaries(
            {},
            optional={
                "jitter": st.fixed_dictionaries({"pixels": counts}),
                "noise": st.fixed_dictionaries({"std": positives}),
            },
        ),
    },
)
architectures = st.one_of(
    st.fixed_dictionaries({"auto": st.fixed_dictionaries({"keep": shares})}),
    st.fixed_dictionaries({"mlp": st.fixed_dictionaries({"hidden": st.lists(counts, max_size=3)})}),
    st.fixed_dictionaries({"cnn-small": st.fixed_dictionaries({}, optional={"width": counts, "depth": counts})}),
)
optimisers = st.one_of(
    st.fixed_dictionaries(
        {
            "sgd": st.fixed_dictionaries(
                {}, optional={"lr": positives, "momentum": momenta, "weight_decay": weights, "nesterov": st.booleans()}
            )
        },
        optional={"inherited": st.fixed_dictionaries({"adam": st.fixed_dictionaries({}, optional={"lr": positives})})},
    ),
    st.fixed_dictionaries(
        {"adamw": st.fixed_dictionaries({}, optional={"lr": positives, "beta1": momenta, "beta2": momenta})}
    ),
    st.fixed_dictionaries({"adam": st.fixed_dictionaries({}, optional={"lr": positives, "weight_decay": weights})}),
)
rates = st.one_of(
    st.fixed_dictionaries(
        {
            "one_cycle": st.fixed_dictionaries(
                {}, optional={"warm_up": shares, "div": positives, "momentum_low": momenta}
            )
        }
    ),
    st.fixed_dictionaries({"cosine": st.fixed_dictionaries({}, optional={"final": weights})}),
    st.fixed_dictionaries(
        {"milestones": st.fixed_dictionaries({"after": st.lists(shares, max_size=3)}, optional={"factor": shares})}
    ),
    st.fixed_dictionaries({"constant": st.just({})}),
)
student_sections = st.fixed_dictionaries(
    {
        "architecture": architectures,
        "epochs": counts,
        "optimiser": optimisers,
        "learning_rate": rates,
    },
    optional={
        "batch": counts,
        "checkpoint_every": counts,
        "rates": st.lists(positives, min_size=1, max_size=3),
        "after": momenta,
        "loss": st.fixed_dictionaries(
            {"hard": positives},
            optional={"temperature": positives, "hard_labels": st.sampled_from(["teacher", "asked"]), "l1": weights},
        ),
    },
)
recipes = st.fixed_dictionaries(
    {"recipe": st.just(1), "synthesis": synthesis_sections, "student": student_sections},
    optional={
        "title": st.text(max_size=20),
        "input": st.fixed_dictionaries({}, optional={"range": st.tuples(weights, weights).map(list)}),
        "require": st.fixed_dictionaries({}, optional={"agreement": shares, "max_bytes": counts}),
    },
)

Place = tuple[str | int, ...]


def leaves(data: Any, path: Place = ()) -> list[Place]:
    """Of all values that are no mapping with keys."""
    if not isinstance(data, dict):
        return [path]
    return [leaf for key, value in data.items() for leaf in leaves(value, (*path, key))]


def at(data: Any, path: Place) -> Any:
    for step in path:
        data = data[step]
    return data


def wrong_for(value: Any, leaf: Place) -> st.SearchStrategy[Any]:
    """Values of other kinds, and numbers out of any range."""
    wrong: list[Any] = (
        [[0, None], [0, [1]]] if leaf[-1] == "range" else [[None], [[1]]]
    )  # a short range is another mistake
    if leaf[-1] not in MAY_BE_NULL:
        wrong += [None]
    if leaf[:2] != ("synthesis", "losses") or leaf[-1] == "weight":  # elsewhere there is `name: {weight: …}`
        wrong += [{"zzz": 1}]
    if leaf != ("title",):
        wrong += ["zzz", "1e5", ""]
    if not isinstance(value, bool):
        wrong += [True]
    if isinstance(value, bool | list) or leaf == ("title",):
        wrong += [1, 0.5]
    if isinstance(value, int | float) and not isinstance(value, bool):
        wrong += [-1e31, 1e31]
    if leaf[-1] in WHOLE and isinstance(value, int):  # elsewhere a whole number may stand for any number
        wrong += [0.5, 10**20]
    return st.sampled_from(wrong)


# Fields of whole numbers.
WHOLE = {"recipe", "batch", "batches", "steps", "epochs", "held_out", "reference_batch", "chunk", "pixels"}
WHOLE |= {"width", "depth", "checkpoint_every", "max_bytes"}

# To say nothing is as good as leaving these out; without epochs another mistake is told.
MAY_BE_NULL = {"max_move", "prior", "range", "reference_batch", "chunk", "agreement", "max_bytes", "epochs", "keep"}


@settings(max_examples=150, deadline=None)
@given(data=recipes)
def test_valid_recipes_load_and_come_back(data: dict[str, Any]) -> None:
    recipe = Recipe.load(data)
    told = recipe.as_dict()
    assert Recipe.load(told) == recipe
    for leaf in leaves(data):
        short = leaf[:2] == ("synthesis", "losses") and len(leaf) == 3
        place = (*leaf, "weight") if short else leaf
        assert at(told, place) == at(data, leaf)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), recipe=recipes)
def test_one_broken_field_is_named_and_no_other(data: st.DataObject, recipe: dict[str, Any]) -> None:
    leaf = data.draw(st.sampled_from(leaves(recipe)))
    at(recipe, leaf[:-1])[leaf[-1]] = broken = data.draw(wrong_for(at(recipe, leaf), leaf))
    (found,) = refused(recipe)
    unknown_part = found.startswith("recipe: unknown key ") and broken in ("zzz", "1e5", "", {"zzz": 1})
    assert found.startswith(f"recipe: {'.'.join(map(str, leaf))}") or unknown_part


@settings(max_examples=200, deadline=None)
@given(data=st.data(), recipe=recipes)
def test_the_place_of_a_broken_field_is_where_it_is_written(data: st.DataObject, recipe: dict[str, Any]) -> None:
    path: Path = data.draw(st.just(WRITTEN["path"]))
    recipe.pop("title", None)  # any text there, and YAML's own escapes, are the reader's business
    leaf = data.draw(st.sampled_from([leaf for leaf in leaves(recipe) if isinstance(at(recipe, leaf), int | float)]))
    at(recipe, leaf[:-1])[leaf[-1]] = "no number"
    style = data.draw(st.sampled_from([True, False, None]))  # in one line, in many, or mixed
    text = yaml.safe_dump(recipe, sort_keys=data.draw(st.booleans()), default_flow_style=style)
    path.write_text(text, encoding="utf-8")
    (found,) = refused(path)
    node = yaml.compose(text)
    for step in leaf:
        key, node = next((key, value) for key, value in node.value if key.value == str(step))
    assert found.startswith(f"{key.start_mark.line + 1}:{key.start_mark.column + 1}: {'.'.join(map(str, leaf))}")


WRITTEN: dict[str, Path] = {}


@pytest.fixture(autouse=True, scope="module")
def place_to_write(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hypothesis calls its test many times in one go, with no fixture between."""
    WRITTEN["path"] = tmp_path_factory.mktemp("recipes") / "r.yaml"


@settings(max_examples=300, deadline=None)
@given(
    cut=st.tuples(st.integers(0, len(BASE)), st.integers(0, 12)),
    put=st.one_of(
        st.binary(max_size=6), st.sampled_from([b"\n", b"  ", b": ", b"{", b"]", b"- ", b"*", b"&", b"'", b"!"])
    ),
)
def test_any_other_text_loads_or_is_refused(cut: tuple[int, int], put: bytes) -> None:
    path, content = WRITTEN["path"], BASE.encode()
    path.write_bytes(content[: cut[0]] + put + content[cut[0] + cut[1] :])
    try:
        recipe = Recipe.load(path)
    except RecipeError as error:
        assert "r.yaml" in str(error) and str(error).isprintable() is False and "\n  Mend" in str(error)
    else:
        assert Recipe.load(recipe.as_dict()) == recipe
