"""The matrix of methods: its columns as the field's survey has them, differences, and the documented copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcake.recipe import method_table
from onnxcake.recipe.recipe import Recipe
from onnxcake.student.feature_match import MATCHES
from onnxcake.synthesis.augment import AUGMENTS
from onnxcake.synthesis.labels import LABELS
from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.replay import MEMORIES
from onnxcake.synthesis.sources import SOURCES

DOC = Path(__file__).parents[1] / "docs" / "methods.md"

# After the survey's own table, not after the code.
MARKED = {
    "naive": {"CE"},
    "deepdream": {"CE", "TV", "L2"},
    "cake": {"CE", "TV", "DIV"},
    "lake": {"CE", "TV", "DIV"},
    "deepinversion": {"CE", "BN", "TV", "L2"},
    "adi": {"CE", "BN", "ADV"},  # its total variation and ℓ2 weigh nothing in these settings
    "zskd": {"CE"},
    "soft-target": {"CE", "ACT"},
    "zsdb3kd": set(),
    "dafl": {"CE", "ACT", "IE"},
    "dfad": {"ADV"},
    "zskt": {"ADV"},
    "dfq": {"BN", "ADV", "IE", "H"},
    "cmi": {"CE", "BN", "ADV", "DIV"},
    "fast-dfkd": {"CE", "BN", "ADV"},
    "mb-dfkd": {"CE", "ADV", "ACT", "IE"},
    "pre-dfkd": {"CE", "ADV", "ACT", "IE"},
    "retain-acquire": {"CE", "ADV", "ACT", "IE"},
    "random-noise": set(),
    "adversarial-noise": {"CE"},
    "kd": set(),
    "metadata": {"CE", "BN"},
}
LOSS_COLUMNS = {"CE", "BN", "TV", "L2", "ADV", "ACT", "IE", "H", "DIV", "other"}
CELLS = [
    ("cake", "source", "pixels"),
    ("cake", "targets", "row permutation"),
    ("cake", "update", "sgd"),
    ("lake", "update", "langevin"),
    ("cake", "learns from", "all, offline"),
    ("dafl", "targets", "the teacher's"),
    ("dafl", "learns from", "same batch 1 : 1"),
    ("dafl", "memory", "–"),
    ("dfad", "targets", "–"),
    ("dfad", "ADV", "ℓ1"),
    ("dfad", "student", "ℓ1 of logits"),
    ("dfad", "learns from", "fresh batch 1 : 5"),
    ("zskt", "ADV", "KL"),
    ("zskt", "learns from", "same batch 1 : 10"),
    ("cmi", "source", "latent"),
    ("cmi", "ADV", "KL masked"),
    ("cmi", "DIV", "InfoNCE"),
    ("cmi", "memory", "all"),
    ("cmi", "learns from", "all so far 200 : 400"),
    ("fast-dfkd", "BN", "ℓ2 momentum"),
    ("fast-dfkd", "meta", "fomaml"),
    ("mb-dfkd", "memory", "bank"),
    ("retain-acquire-replay", "memory", "replay"),
    ("retain-acquire-replay", "meta", "retain"),
    ("zsdb3kd", "needs", "labels"),
    ("zsdb3kd", "targets", "balanced"),
    ("zsdb3kd", "student", "soft τ 20 + hard, asked"),
    ("zskd", "targets", "dirichlet"),
    ("zskd", "needs", "gradient, similarity"),
    ("soft-target", "needs", "gradient, features, last_layer, similarity"),
    ("kd", "needs", "data"),
    ("kd", "student", "soft τ 20 + hard"),
    ("random-noise", "needs", "–"),
    ("random-noise", "update", "–"),
    ("deepinversion", "needs", "gradient, statistics"),
]


@pytest.mark.parametrize("name", MARKED)
def test_loss_columns(name: str) -> None:
    cells = method_table.columns(Recipe.load(name))
    assert {column for column in LOSS_COLUMNS if cells[column] != "–"} == MARKED[name]


@pytest.mark.parametrize(("name", "column", "cell"), CELLS, ids=lambda given: str(given))
def test_cells(name: str, column: str, cell: str) -> None:
    assert method_table.columns(Recipe.load(name))[column] == cell


def test_every_loss_has_a_column_and_a_new_one_stands_under_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(method_table._TERMS) == set(LOSSES)
    known = {name: told for name, told in method_table._TERMS.items() if name != "activation"}
    monkeypatch.setattr(method_table, "_TERMS", known | {"l2": ("ACT", str)})
    assert method_table.columns(Recipe.load("dafl"))["other"] == "activation"


def test_overrides_move_cells() -> None:
    dfq = Recipe.load("dfq")
    assert (
        method_table.difference(dfq, Recipe.load("dfq", ["synthesis.losses.balance.weight=7", "synthesis.batch=32"]))
        == []
    )
    assert method_table.difference(dfq, Recipe.load("dfq", ["synthesis.losses.sample_entropy=0"])) == [("H", "✓", "–")]
    assert method_table.columns(Recipe.load("kd", ["student.loss.hard_labels=asked"]))["targets"] == "given"
    assert method_table.difference(dfq, Recipe.load("dfq", ["student.quantise=int8"])) == [
        ("student", "soft", "soft + int8")
    ]
    pairs = "student.match={attention: {weight: 250, pairs: {a: b}}}"
    assert method_table.difference(Recipe.load("zskt"), Recipe.load("zskt", [pairs])) == [
        ("student", "soft", "soft + attention"),
        ("needs", "gradient", "gradient, maps"),
    ]


def test_difference_is_read_from_either_side() -> None:
    dfad, zskt = Recipe.load("dfad"), Recipe.load("zskt")
    there, back = method_table.difference(dfad, zskt), method_table.difference(zskt, dfad)
    assert there == [(column, ours, theirs) for column, theirs, ours in back]
    assert [column for column, _, _ in there] == ["ADV", "student", "learns from"]
    assert method_table.distance(dfad, zskt) == 3 and method_table.distance(dfad, dfad) == 0


def test_the_nearest_that_runs() -> None:
    deepinversion = Recipe.load("deepinversion")
    assert method_table.nearest(deepinversion) == "deepdream"
    assert method_table.distance(deepinversion, Recipe.load("deepdream")) == 2  # BN, needs
    without = method_table.nearest(deepinversion, lambda other: "statistics" not in method_table.needs(other))
    assert without == "deepdream"
    assert method_table.nearest(deepinversion, lambda other: not other.synthesis.steps) in ("kd", "random-noise")
    assert method_table.nearest(deepinversion, lambda other: False) is None
    assert method_table.nearest(Recipe.load("cake-mnist")) == "cake"  # the same columns; first by name
    changed = Recipe.load("deepinversion", ["synthesis.losses.l2=1e-6"])
    assert method_table.nearest(changed) == "deepinversion"


def test_the_documented_table_is_the_recipes() -> None:
    documented = DOC.read_text(encoding="utf-8").split("<!-- table -->\n")[1].split("<!-- end -->")[0]
    assert documented == method_table.table(), f"put this into docs/methods.md:\n\n{method_table.table()}"


def test_the_documented_parts_are_those_that_there_are() -> None:
    text = DOC.read_text(encoding="utf-8")
    missing = [
        key
        for registry in (LOSSES, SOURCES, LABELS, AUGMENTS, MEMORIES, MATCHES)
        for key in registry
        if f"`{key}`" not in text
    ]
    assert missing == []


def test_a_table_of_some() -> None:
    rows = method_table.table(["dfad", "zskt"]).splitlines()
    assert len(rows) == 4 and rows[2].startswith("| `dfad` | generator | – |")
    assert len({row.count("|") for row in rows}) == 1
