"""Recipes whose parts do not fit together: each rule, and the one message that tells of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from onnxcake.core.errors import RecipeError
from onnxcake.recipe.recipe import Recipe, names

STEP_SIZE = {"step_size": {"constant": {"value": 1e-2}}}
OPTIMISED: dict[str, Any] = {
    "recipe": 1,
    "synthesis": {
        "source": {"pixels": {}},
        "losses": {"classification": 1.0},
        "update": {"adam": STEP_SIZE},
        "batch": 40,
        "steps": 20,
    },
    "student": {
        "architecture": {"mlp": {}},
        "epochs": 3,
        "optimiser": {"sgd": {}},
        "learning_rate": {"constant": {}},
    },
}
DRAWN: dict[str, Any] = {
    **OPTIMISED,
    "synthesis": {"source": {"noise": {}}, "batch": 40},
}
IN_ROUNDS: dict[str, Any] = {
    **OPTIMISED,
    "synthesis": {**OPTIMISED["synthesis"], "source": {"generator": {}}, "rounds": 9},
    "student": {**OPTIMISED["student"], "epochs": None, "steps": 2, "learn_from": "same"},
}


def put(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with values at dotted paths."""
    changed = copy.deepcopy(recipe)
    for path, value in changes.items():
        *way, last = path.split(".")
        place = changed
        for step in way:
            place = place[step]
        place[last] = value
    for section in ("synthesis", "student"):
        changed[section] = {key: value for key, value in changed[section].items() if value is not None}
    return changed


def mistakes(recipe: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(recipe)
    return [line.strip() for line in str(caught.value).splitlines()[:-1]]


MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "rows of a batch": (
        OPTIMISED,
        {"synthesis.groups": 7},
        "synthesis: batch 40 is no multiple of groups 7",
    ),
    "rows of a chunk": (
        OPTIMISED,
        {"synthesis.groups": 4, "synthesis.chunk": 6},
        "synthesis: chunk 6 is no multiple of groups 4",
    ),
    "losses without steps": (
        DRAWN,
        {"synthesis.losses": {"l2": 1.0}},
        "synthesis: steps is missing: how often each batch is stepped",
    ),
    "an update without steps": (
        DRAWN,
        {"synthesis.update": {"adam": STEP_SIZE}},
        "synthesis: steps is missing: how often each batch is stepped",
    ),
    "steps without an update": (
        OPTIMISED,
        {"synthesis.update": None},
        "synthesis: update is missing: it says how samples are stepped",
    ),
    "noise in steps": (
        OPTIMISED,
        {"synthesis.source": {"noise": {}}},
        "synthesis: there is nothing to step in source noise; set steps to 0",
    ),
    "data in steps": (
        OPTIMISED,
        {"synthesis.source": {"data": {}}},
        "synthesis: there is nothing to step in source data; set steps to 0",
    ),
    "steps without a loss": (OPTIMISED, {"synthesis.losses": {}}, "synthesis: losses names no loss term"),
    "no losses at all": (OPTIMISED, {"synthesis.losses": None}, "synthesis: losses names no loss term"),
    "epochs and steps": (OPTIMISED, {"student.steps": 5}, "student: give either epochs or steps"),
    "no rate": (OPTIMISED, {"student.rates": []}, "student: rates: give at least one factor, such as [1]"),
    "neither": (OPTIMISED, {"student.epochs": None}, "student: give either epochs or steps"),
    "nothing to learn": (
        OPTIMISED,
        {"student.loss": {"soft": 0.0}},
        "student: loss weighs neither hard nor soft labels, nor l1",
    ),
    "a memory besides a set": (
        OPTIMISED,
        {"student.memory": {"bank": {}}},
        "student: memory and retain are for learn_from: same or fresh, where nothing is kept otherwise",
    ),
    "retaining what is kept anyway": (
        OPTIMISED,
        {"student.retain": {}},
        "student: memory and retain are for learn_from: same or fresh, where nothing is kept otherwise",
    ),
    "stored answers to changed samples": (
        OPTIMISED,
        {"student.augment": {"flip": {}}},
        "student: with augment the answers must be live: the stored ones are to the samples as they were",
    ),
    "the batch just made, of one round": (
        IN_ROUNDS,
        {"synthesis.rounds": 1},
        "the recipe: learn_from: same needs synthesis.rounds above 1",
    ),
    "fresh drafts in one round": (
        IN_ROUNDS,
        {"synthesis.rounds": 1, "student.learn_from": "fresh"},
        "the recipe: learn_from: fresh needs synthesis.rounds above 1",
    ),
    "epochs in rounds": (
        IN_ROUNDS,
        {"student.epochs": 2, "student.steps": None, "student.learn_from": "kept"},
        "the recipe: epochs are passes over a finished set; give student.steps, those of each round",
    ),
    "nothing to compare on": (
        IN_ROUNDS,
        {"synthesis.held_out": 0},
        "the recipe: where nothing is kept, held-out samples are all that there is to compare on",
    ),
    "targets out of classes": (
        OPTIMISED,
        {"synthesis.losses": {"classification": {"weight": 1.0, "toward": "targets"}}},
        "the recipe: classification toward targets needs a label policy with soft labels",
    ),
}


@pytest.mark.parametrize("plain", [OPTIMISED, DRAWN, IN_ROUNDS], ids=["optimised", "drawn", "in rounds"])
def test_what_the_misfits_are_made_of_is_fine(plain: dict[str, Any]) -> None:
    assert Recipe.load(put(plain, {})).as_dict()["recipe"] == 1


@pytest.mark.parametrize(("plain", "changes", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_misfit_gets_its_one_message(plain: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    assert mistakes(put(plain, changes)) == [f"recipe: {message}"]


NEIGHBOURS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rows of any length for auto": (OPTIMISED, {"synthesis.groups": "auto", "synthesis.chunk": 6}),
    "a search without losses": (OPTIMISED, {"synthesis.source": {"boundary": {}}, "synthesis.losses": None}),
    "l1 alone": (OPTIMISED, {"student.loss": {"soft": 0.0, "l1": 1.0}}),
    "hard labels alone": (OPTIMISED, {"student.loss": {"soft": 0.0, "hard": 1.0}}),
    "a memory besides the batch just made": (IN_ROUNDS, {"student.memory": {"bank": {}}}),
    "a memory besides fresh drafts": (IN_ROUNDS, {"student.learn_from": "fresh", "student.memory": {"bank": {}}}),
    "retaining in rounds": (IN_ROUNDS, {"student.retain": {}, "student.memory": {"bank": {}}}),
    "live answers to changed samples": (OPTIMISED, {"student.augment": {"flip": {}}, "student.answers": "live"}),
    "a set that grows": (IN_ROUNDS, {"student.learn_from": "kept"}),
    "nothing held out of a set": (OPTIMISED, {"synthesis.held_out": 0}),
    "soft targets": (
        OPTIMISED,
        {
            "synthesis.losses": {"classification": {"weight": 1.0, "toward": "targets"}},
            "synthesis.labels": {"dirichlet": {}},
        },
    ),
    "soft targets out of features": (
        OPTIMISED,
        {
            "synthesis.losses": {"classification": {"weight": 1.0, "toward": "targets"}},
            "synthesis.labels": {"features": {}},
        },
    ),
}


@pytest.mark.parametrize(("plain", "changes"), NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_what_is_next_to_a_misfit_is_fine(plain: dict[str, Any], changes: dict[str, Any]) -> None:
    recipe = Recipe.load(put(plain, changes))
    assert Recipe.load(recipe.as_dict()).digest == recipe.digest


def test_misfits_of_both_sections_are_told_together() -> None:
    both = put(OPTIMISED, {"synthesis.update": None, "student.steps": 5})
    assert mistakes(both) == [
        "recipe: 2 mistakes",
        "recipe: synthesis: update is missing: it says how samples are stepped",
        "recipe: student: give either epochs or steps",
    ]


@pytest.mark.parametrize("name", names())
def test_an_override_can_break_any_recipe_that_ships(name: str) -> None:
    with pytest.raises(RecipeError, match="give either epochs or steps"):
        Recipe.load(
            name, ["student.epochs=null", "student.steps=null"] if "epochs" in said(name) else ["student.epochs=1"]
        )


def said(name: str) -> dict[str, Any]:
    student: dict[str, Any] = Recipe.load(name).as_dict()["student"]
    return student


# --- terms and parts with a time to begin ------------------------------------------------------------------


def test_a_term_may_begin_later_in_the_run() -> None:
    losses = {"classification": {"weight": 2.0, "after": 0.25}, "balance": 1.0}
    terms = {
        term.name: term for term in Recipe.load(put(OPTIMISED, {"synthesis.losses": losses})).synthesis.losses.build()
    }
    assert [(name, term.weight, term.after) for name, term in sorted(terms.items())] == [
        ("balance", 1.0, 0.0),
        ("classification", 2.0, 0.25),
    ]
    for share, told in [(1.0, "should be less than 1, not '1.0'"), (-0.1, "greater than or equal to 0, not '-0.1'")]:
        losses["classification"] = {"weight": 2.0, "after": share}
        (found,) = mistakes(put(OPTIMISED, {"synthesis.losses": losses}))
        assert found.startswith("recipe: synthesis.losses.classification.after: ") and found.endswith(told)


SEVERAL = {
    "an augmentation": ("synthesis.augment", {"jiter": {}}, "unknown key 'jiter' (did you mean 'jitter'?)"),
    "its key": (
        "synthesis.augment",
        {"jitter": {"pixels": 0}},
        "synthesis.augment.jitter.pixels: should be greater than or equal to 1 or should be 'auto', not '0'",
    ),
    "a match": ("student.match", {"atention": {}}, "unknown key 'atention' (did you mean 'attention'?)"),
    "a memory": ("student.memory", {"banks": {}}, "unknown key 'banks' (did you mean 'bank'?)"),
    "two memories": ("student.memory", {"bank": {}, "replay": {}}, "student.memory: name exactly one of bank, replay"),
    "where it learns": (
        "student.learn_from",
        "all",
        """student.learn_from: should be 'kept', 'same' or 'fresh', not '"all"'""",
    ),
    "who answers": ("student.answers", "now", """student.answers: should be 'stored' or 'live', not '"now"'"""),
    "whole numbers": (
        "student.quantise",
        "int4",
        """student.quantise: should be 'int8', 'int8-7bit' or 'int8-8bit', not '"int4"'""",
    ),
    "retaining": ("student.retain", {"lr": 0.0}, "student.retain.lr: should be greater than 0, not '0.0'"),
    "the start of learning": ("student.after", 1.0, "student.after: should be less than 1, not '1.0'"),
    "rounds": ("synthesis.rounds", 0, "synthesis.rounds: should be greater than or equal to 1, not '0'"),
    "batches": (
        "synthesis.batches",
        "all",
        """synthesis.batches: should be a valid integer or should be 'auto', not '"all"'""",
    ),
}


@pytest.mark.parametrize(("path", "value", "message"), SEVERAL.values(), ids=SEVERAL.keys())
def test_a_mistake_in_a_part_of_the_methods(path: str, value: Any, message: str) -> None:
    assert mistakes(put(IN_ROUNDS, {path: value})) == [f"recipe: {message}"]


def test_parts_by_name_alone_have_their_defaults() -> None:
    recipe = Recipe.load(
        put(IN_ROUNDS, {"synthesis.augment": {"flip": None, "jitter": None}, "student.memory": "bank"})
    )
    told = recipe.as_dict()
    assert list(told["synthesis"]["augment"]) == ["jitter", "flip"]
    assert told["student"]["memory"] == {"bank": {"entries": 10, "every": 1, "share": 1.0}}
