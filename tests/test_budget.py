"""A budget as it is written, and a recipe scaled to it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxcake import budget as budgets
from onnxcake.budget import Budget, amounts, fit, scale
from onnxcake.errors import UsageError
from onnxcake.job import Request
from onnxcake.recipe import Recipe

FIXED_S = 2.0  # of a made-up run, whatever its size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3m", 180),
        ("1.5h", 5400),
        ("0.5 m", 30),
        (" 2h ", 7200),
        (".5s", 0.5),
        ("4m30s", 270),
        ("1h 5m", 3900),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert Budget.of(text) == Budget(seconds, None)


@pytest.mark.parametrize("text", ["3", "m", "0s", "-3m", "3d", "3m20", "1e3s", "nan s", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="no time above zero"):
        Budget.of(text)


@pytest.mark.parametrize(("text", "passes"), [("1e6", 1e6), ("250000", 250_000), ("1", 1)])
def test_passes(text: str, passes: float) -> None:
    assert Budget.of(None, text) == Budget(None, passes)


@pytest.mark.parametrize("text", ["many", "0", "-1e6", "inf", "nan", ""])
def test_what_is_no_number_of_passes(text: str) -> None:
    with pytest.raises(UsageError, match="no number of teacher passes"):
        Budget.of(None, text)


def ahead(synthesis_s: float = 0.0, training_s: float = 0.0, passes: int = 0) -> Any:
    return SimpleNamespace(seconds=synthesis_s + training_s, teacher_passes=passes)


@pytest.mark.parametrize(
    ("budget", "cost", "factor"),
    [
        (Budget(60, None), ahead(90, 30, 10), 0.5),
        (Budget(None, 1000), ahead(90, 30, 200), 5.0),
        (Budget(60, 1000), ahead(90, 30, 200), 0.5),  # the scarcer decides
        (Budget(600, 300), ahead(90, 30, 200), 1.5),
        (Budget(60, 1000), ahead(90, 30, 0), 0.5),  # no gradient: passes do not limit
        (Budget(None, 1000), ahead(90, 30, 0), 1.0),
        (Budget(), ahead(90, 30, 10), 1.0),
    ],
)
def test_the_factor(budget: Budget, cost: Any, factor: float) -> None:
    assert budget.factor(cost) == pytest.approx(factor)


ROUNDS, BATCHES, STEPS, EPOCHS = "synthesis.rounds", "synthesis.batches", "student.steps", "student.epochs"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ([], {BATCHES: 40}),  # epochs follow
        (["student.epochs=null", "student.steps=7"], {BATCHES: 40, STEPS: 7}),
        (["synthesis.rounds=9", "student.epochs=null", "student.steps=7"], {ROUNDS: 9}),
        (["synthesis.batches=auto"], {EPOCHS: 30}),  # as many as hold the data
        (["synthesis.batches=auto", "student.epochs=null", "student.steps=7"], {STEPS: 7}),
    ],
    ids=str,
)
def test_what_the_cost_is_proportional_to(overrides: list[str], found: dict[str, int]) -> None:
    assert amounts(Recipe.load("cake-vector", overrides)) == found


@pytest.mark.parametrize(
    ("whole", "factor", "scaled"),
    [
        ({ROUNDS: 100}, 0.25, {ROUNDS: 25}),
        ({ROUNDS: 100}, 3, {ROUNDS: 300}),
        ({ROUNDS: 100}, 0.001, {ROUNDS: 2}),  # a single round would be another regime
        ({BATCHES: 40}, 0.25, {BATCHES: 10}),
        ({BATCHES: 40, STEPS: 1000}, 0.25, {BATCHES: 10, STEPS: 250}),
        ({BATCHES: 40, STEPS: 10}, 0.01, {BATCHES: 1, STEPS: 1}),
        ({BATCHES: 40}, 0.999, {BATCHES: 39}),
        ({BATCHES: 30}, 0.1, {BATCHES: 3}),
        ({EPOCHS: 200}, 1, {EPOCHS: 200}),
    ],
    ids=str,
)
def test_scaling(whole: dict[str, int], factor: float, scaled: dict[str, int]) -> None:
    assert scale(whole, factor) == scaled


class Machine:
    """A made-up machine: each round costs ``round_s`` seconds, besides a fixed cost; forecasts are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, round_s: float, passes: int) -> None:
        self.round_s, self.passes, self.asked = round_s, passes, 0
        monkeypatch.setattr(budgets, "prepare", self.prepare)
        monkeypatch.setattr(budgets, "forecast", self.forecast)
        monkeypatch.setattr(budgets, "Runtime", nullcontext)

    def prepare(self, request: Request) -> Any:
        return SimpleNamespace(run=SimpleNamespace(recipe=Recipe.load(request.recipe, request.overrides)))

    def forecast(self, job: Any, runtime: Any) -> Any:
        self.asked += 1
        section = job.run.recipe.synthesis
        units = section.rounds * section.batches
        return ahead(self.round_s * units, FIXED_S, self.passes * units)


def scaled(request: Request) -> tuple[int, int, int | None]:
    recipe = Recipe.load(request.recipe, request.overrides)
    return recipe.synthesis.rounds, recipe.synthesis.batches, recipe.student.steps


def test_rounds_are_scaled_and_what_does_not_scale_is_corrected_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, round_s=0.1, passes=50)
    overrides = ["synthesis.rounds=20", "synthesis.batches=1", "student.epochs=null", "student.steps=5"]
    request = Request(teacher=Path("t.onnx"), recipe="cake-vector", overrides=overrides, out=tmp_path)
    fitted = fit(request, Budget(100, None))
    assert machine.asked == 2
    # First 100 s over 4 s, so 500 rounds of 52 s together; then 500 · 100/52 = 961: 98.1 s with the fixed cost.
    assert scaled(fitted)[:2] == (961, 1)
    assert list(fitted.overrides) == [*overrides, "synthesis.rounds=961"]
    assert (fitted.teacher, fitted.recipe, fitted.out) == (request.teacher, request.recipe, request.out)


def test_batches_are_scaled_where_all_is_made_before_the_student_learns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Machine(monkeypatch, round_s=1.0, passes=1000)
    epochs = Request(teacher=Path("t.onnx"), recipe="cake-vector", out=tmp_path)
    assert scaled(fit(epochs, Budget(None, 10_500))) == (1, 10, None)
    steps = Request(
        teacher=Path("t.onnx"),
        recipe="cake-vector",
        overrides=["student.epochs=null", "student.steps=400"],
        out=tmp_path,
    )
    assert scaled(fit(steps, Budget(None, 10_000))) == (1, 10, 100)  # 40 batches as the recipe has it


def test_no_work_is_less_than_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Machine(monkeypatch, round_s=1.0, passes=1000)
    request = Request(teacher=Path("t.onnx"), recipe="cake-vector", out=tmp_path)
    assert scaled(fit(request, Budget(1e-6, 1)))[:2] == (1, 1)


def test_without_a_budget_nothing_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, round_s=1.0, passes=1000)
    request = Request(teacher=Path("t.onnx"), recipe="cake-vector", out=tmp_path)
    assert fit(request, Budget()) is request
    assert machine.asked == 0


def test_a_run_that_was_begun_keeps_its_amounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the machine's speed is now; and one with another seed follows it."""
    machine = Machine(monkeypatch, round_s=math.pi, passes=1000)
    recipe = Recipe.load("cake-vector", ["synthesis.batches=7"])
    monkeypatch.setattr(budgets.Run, "read", lambda folder: SimpleNamespace(recipe=recipe, seed=0))
    begun, other = tmp_path / "begun", tmp_path / "other"
    begun.mkdir()
    (begun / "run.json").write_text("{}")
    request = Request(teacher=Path("t.onnx"), recipe="cake-vector", out=begun)
    again = fit(request, Budget(10, None))
    assert machine.asked == 0
    assert Recipe.load(again.recipe, again.overrides).digest == recipe.digest
    changed = fit(replace(request, overrides=["synthesis.steps=3"]), Budget(10, None))  # to be refused, not ignored
    assert Recipe.load(changed.recipe, changed.overrides).synthesis.steps == 3 and scaled(changed) == scaled(again)
    follower = fit(Request(teacher=Path("t.onnx"), recipe="cake-vector", out=other, seed=1), Budget(10, None), [begun])
    assert machine.asked == 0
    assert (scaled(follower), follower.seed, follower.out) == ((1, 7, None), 1, other)
