"""A budget as it is written, and a recipe scaled to it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onnxcake.core.errors import RecipeError, StoreError, UsageError
from onnxcake.recipe.limits import Budget, Scaling
from onnxcake.recipe.recipe import Recipe, names
from onnxcake.run import budget as budgets
from onnxcake.run import method
from onnxcake.run.budget import amounts, begun, fit, limit, scale
from onnxcake.run.prepare import Request, Resolved
from onnxcake.teacher.capabilities import MethodInputs
from onnxcake.teacher.teacher import Teacher

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
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


def test_more_than_the_budget_is_said() -> None:
    assert Budget(10, None).exceeded(30.0) == "exceeded: 30 s, where 10 s were asked for"
    assert Budget(10, None).exceeded(11.0) == "" and Budget(None, 5).exceeded(1e9) == ""


ROUNDS, BATCHES, STEPS, EPOCHS = "synthesis.rounds", "synthesis.batches", "student.steps", "student.epochs"
STEPPED, BATCH = "synthesis.steps", "synthesis.batch"


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


SET = ["synthesis.steps=100", "synthesis.batch=500"]  # of cake-vector: 40 batches
TURNS = [*SET, "synthesis.rounds=100", "synthesis.batches=1", "student.epochs=null", "student.steps=7"]
STEPWISE = [*SET, "student.epochs=null", "student.steps=1000"]


@pytest.mark.parametrize(
    ("overrides", "factor", "scaled"),
    [
        (TURNS, 0.25, {ROUNDS: 25}),
        (TURNS, 3, {ROUNDS: 300}),
        (TURNS, 0.02, {ROUNDS: 2}),  # a single round would be another regime
        (TURNS, 0.01, {ROUNDS: 2, STEPPED: 50}),
        (TURNS, 0.002, {ROUNDS: 2, STEPPED: 20, BATCH: 250}),
        (TURNS, 0, {ROUNDS: 2, STEPPED: 20, BATCH: 32}),
        (SET, 0.25, {BATCHES: 10}),
        (SET, 0.999, {BATCHES: 39}),
        (SET, 1e9, {BATCHES: 1_000_000_000}),  # no recipe takes more
        (STEPWISE, 0.25, {BATCHES: 10, STEPS: 250}),
        (STEPWISE, 0.0125, {BATCHES: 1, STEPS: 100, STEPPED: 50}),
        ([*SET, "synthesis.groups=10"], 0, {BATCHES: 1, STEPPED: 20, BATCH: 40}),
        ([*SET, "synthesis.steps=10", "synthesis.batch=16"], 0, {BATCHES: 1}),
        (["synthesis.batches=auto"], 1, {EPOCHS: 30}),
    ],
    ids=str,
)
def test_scaling(overrides: list[str], factor: float, scaled: dict[str, int]) -> None:
    assert scale(Recipe.load("cake-vector", overrides), factor) == scaled


class Made(Resolved):
    """A request whose passes are counted without a teacher."""

    def fit(self, numbers: Any) -> Any:
        recipe = self.request.load_recipe([f"{key}={number}" for key, number in numbers.items()])
        section = recipe.synthesis
        assert isinstance(section.batches, int)
        passes = (section.rounds * section.batches + 1) * section.batch * section.steps
        return recipe, SimpleNamespace(teacher_passes=passes)


class Machine:
    """A made-up machine: each sample's step costs ``step_s`` seconds, besides a fixed cost; forecasts are counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: float = 0.0) -> None:
        self.step_s, self.asked = step_s, 0
        monkeypatch.setattr(budgets, "build", self.build)
        monkeypatch.setattr(budgets, "forecast", self.forecast)
        monkeypatch.setattr(budgets, "Runtime", nullcontext)

    def build(self, resolved: Resolved, begins: Any = None, found: Any = None) -> Any:
        return SimpleNamespace(resolved=resolved, begins=None, plan=SimpleNamespace(pace=None))

    def forecast(self, job: Any, runtime: Any) -> Any:
        self.asked += 1
        return SimpleNamespace(seconds=self.step_s * passes(job.resolved) + FIXED_S)

    def fitted(self, request: Request) -> Resolved:
        """The request scaled to its budget."""
        teacher: Any = SimpleNamespace(facts=None)
        nothing: Any = None
        whole = Made(request, request.load_recipe(), teacher, nothing, nothing, nothing, nothing)
        same = begun(whole)
        return fit(self.build(limit(whole)), whole).resolved if same is None else same


def passes(resolved: Resolved) -> int:
    """The teacher passes of a request as it is scaled."""
    count = resolved.fit({} if resolved.scaling is None else resolved.scaling.scaled)[1].teacher_passes
    assert isinstance(count, int)
    return count


def request(overrides: list[str], out: Path, **more: Any) -> Request:
    return Request(teacher=Path("t.onnx"), recipe="cake-vector", overrides=overrides, out=out, **more)


def test_time_and_what_does_not_scale_is_corrected_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, step_s=1e-5)
    fitted = machine.fitted(request(TURNS, tmp_path, budget=Budget(100, None)))
    assert machine.asked == 2
    # 101 batches of half a second and 2 s: 52.5 s. So first 190 rounds, of 97.5 s; then 100 · 100/52.5 · 100/97.5.
    assert fitted.recipe.synthesis.rounds == 195
    assert fitted.scaling == Scaling(Budget(100, None), {ROUNDS: 100}, {ROUNDS: 195})


@pytest.mark.parametrize("most", [1.0e8, 2.1e6, 2.0e6, 60_000, 30_000, 4_000, 1_920])
def test_passes_are_kept_and_used(most: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch)
    fitted = machine.fitted(request([*TURNS, "synthesis.groups=1"], tmp_path, budget=Budget(None, most)))
    assert machine.asked == 0, "passes are counted, not timed"
    assert 0.66 * most <= passes(fitted) <= most


def test_both_limits_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, step_s=1e-5)
    for budget in (Budget(20, 1e9), Budget(1e9, 1.8e6)):
        fitted = machine.fitted(request(TURNS, tmp_path, budget=budget))
        assert passes(fitted) <= 1.85e6  # time is forecast, and the fixed part of it corrected for once


def test_what_is_less_than_the_smallest_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, step_s=1e-2)
    with pytest.raises(RecipeError, match="its smallest run needs 1,920") as caught:
        machine.fitted(request(TURNS, tmp_path, budget=Budget(None, 1_919)))
    assert "Give --passes 1920 or more" in caught.value.remedy
    with pytest.raises(RecipeError, match="its smallest run takes about 21 s") as caught:
        machine.fitted(request(TURNS, tmp_path, budget=Budget(10, None)))
    assert "Give --budget 22s or more" in caught.value.remedy
    assert machine.fitted(request(TURNS, tmp_path, budget=Budget(22, None))).scaling is not None


def test_without_a_budget_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch)
    assert machine.fitted(request([], tmp_path)).scaling is None
    assert machine.asked == 0


def begun_with(monkeypatch: pytest.MonkeyPatch, folder: Path, scaling: Scaling | None) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "student.onnx").write_bytes(b"")  # something is finished
    monkeypatch.setattr(budgets.Run, "read", lambda folder: SimpleNamespace(scaling=scaling))
    return folder


def test_a_run_that_was_begun_keeps_its_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the machine's speed is now; and one with another seed follows it."""
    machine = Machine(monkeypatch)
    budget = Budget(10, None)
    scaling = Scaling(budget, {BATCHES: 40, STEPPED: 100}, {BATCHES: 7, STEPPED: 60})
    earlier = begun_with(monkeypatch, tmp_path / "begun", scaling)

    def numbers(fitted: Resolved) -> tuple[Any, Any]:
        return fitted.recipe.synthesis.batches, fitted.recipe.synthesis.steps

    again = machine.fitted(request([], earlier, budget=budget))
    assert numbers(again) == (7, 60) and again.scaling == scaling
    changed = machine.fitted(request(["synthesis.steps=3"], earlier, budget=budget))
    assert numbers(changed) == (7, 3), "to be refused, not ignored"
    follower = machine.fitted(request([], tmp_path / "other", seed=1, budget=budget, siblings=[earlier]))
    assert numbers(follower) == (7, 60)
    assert machine.asked == 0


TEN, FORTY = Budget(None, 1e4), Budget(None, 4e4)


@pytest.mark.parametrize(
    ("begun", "now", "told"),
    [
        (TEN, FORTY, "passes 10,000 → 40,000"),
        (TEN, Budget(), "passes 10,000 → none"),
        (Budget(), TEN, "passes none → 10,000"),
        (TEN, Budget(90), "seconds none → 90, passes 10,000 → none"),
        (Budget(90), Budget(90.5), "seconds 90 → 90.5"),
    ],
    ids=str,
)
def test_another_budget_on_the_same_folder(
    begun: Budget, now: Budget, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scaling = None if begun == Budget() else Scaling(begun, {}, {})
    folder = begun_with(monkeypatch, tmp_path / "run", scaling)
    machine = Machine(monkeypatch)
    with pytest.raises(StoreError, match="another budget") as caught:
        machine.fitted(request([], folder, budget=now))
    assert caught.value.what.endswith(told) and caught.value.where == str(folder) and "--out" in caught.value.remedy


@pytest.fixture(scope="module")
def digits() -> Teacher:
    return Teacher.load(EXAMPLES / "digits.onnx", range=(0, 1))


@pytest.mark.parametrize("name", names())
def test_every_recipe_keeps_to_the_passes_or_says_how_many_would_do(name: str, digits: Teacher) -> None:
    recipe = Recipe.load(name)
    left_out = [term.name for term in recipe.synthesis.losses.build() if term.loss.unfit(digits.signature)]
    data: Any = SimpleNamespace(inputs=torch.zeros(900, 1, 8, 8))
    asked = Request(EXAMPLES / "digits.onnx", name)
    whole = Resolved(asked, recipe, digits, method.fit(recipe, digits, 900, left_out), MethodInputs(), None, data)
    for most in (1, 30, 100, 1_000, 10_000, 100_000, 1e6, 1e8):
        try:
            share = budgets.share_of_passes(whole, most)
        except RecipeError as error:
            least = float(error.remedy.split("--passes ")[1].split()[0])
            assert least > most
            assert budgets.passes_of(whole, scale(recipe, budgets.share_of_passes(whole, least))) == least
        else:
            assert budgets.passes_of(whole, scale(recipe, share)) <= most
