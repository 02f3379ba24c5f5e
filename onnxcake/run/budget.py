"""Scale a recipe to seconds and teacher passes.

The rounds or batches are scaled first. Where already the fewest of them cost more than the budget, the steps of a batch
are, and then its samples; a run that would be smaller still is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core.errors import RecipeError, StoreError
from ..core.files import is_there
from ..core.units import duration
from ..recipe.limits import Budget, Scaling
from ..recipe.recipe import Recipe
from ..runtime.ort import Runtime
from . import folder as runs
from . import method
from .estimate import forecast
from .folder import Run
from .prepare import Job, Request, open_teacher
from .trial import prepare

_ROUNDS, _BATCHES = "synthesis.rounds", "synthesis.batches"
_STEPS, _BATCH = "synthesis.steps", "synthesis.batch"
_LEAST = {_ROUNDS: 2, "student.steps": 100}  # a single round would be another regime
_LEAST_STEPS, _LEAST_SHARE = 20, 0.05  # of a batch: so many, and at least such a share of the recipe's
_LEAST_BATCH = 32
_FORECASTS = 2  # the second is of the scaled work: what does not scale (a held-out batch, an export) counts then
_TOLERANCE = 2.0  # times the seconds that the smallest run may be forecast to take; a forecast may be off by as much
_HALVINGS = 50
_MOST = 1_000_000_000  # that a recipe takes

Amounts = dict[str, int]  # numbers of a recipe, by their keys
Stage = dict[str, tuple[int, int]]  # numbers that are scaled together: as the recipe has them, and the least


def amounts(recipe: Recipe) -> Amounts:
    """The numbers that a recipe's cost is proportional to.

    These are the rounds of synthesis and training; where all is made before the student learns, the batches, and
    the student's steps if those are given (epochs follow the batches); and where the data that was given says how
    many batches there are, the student's steps or epochs.
    """
    synthesis, student = recipe.synthesis, recipe.student
    if synthesis.rounds > 1:
        return {_ROUNDS: synthesis.rounds}
    learnt = {"student.steps": student.steps, "student.epochs": student.epochs}
    if synthesis.batches != "auto":
        learnt = {_BATCHES: synthesis.batches, "student.steps": student.steps}
    return {key: number for key, number in learnt.items() if number is not None}


def stages(recipe: Recipe) -> list[Stage]:
    """The numbers that are scaled, in the order in which they are: each stage once the one before is at its least."""
    section = recipe.synthesis
    found = [{key: (number, min(number, _LEAST.get(key, 1))) for key, number in amounts(recipe).items()}]
    least = min(section.steps, max(_LEAST_STEPS, math.ceil(section.steps * _LEAST_SHARE)))
    if section.steps > least:
        found.append({_STEPS: (section.steps, least)})
    row = section.groups if isinstance(section.groups, int) else 1
    least = min(section.batch, math.ceil(_LEAST_BATCH / row) * row)
    if section.batch > least:
        found.append({_BATCH: (section.batch // row, least // row)})
    return found


def scale(recipe: Recipe, factor: float) -> Amounts:
    """A recipe's numbers for that much more or less work, rounded down; those that stay as they are left out."""
    scaled: Amounts = {}
    for number, stage in enumerate(stages(recipe)):
        new = {key: max(least, math.floor(min(whole * factor + 1e-9, _MOST))) for key, (whole, least) in stage.items()}
        key, (whole, _) = next(iter(stage.items()))
        scaled |= {key: n for key, n in new.items() if not number or n != stage[key][0]}
        factor = min(1.0, factor * whole / new[key])  # what is left for the next stage
    if _BATCH in scaled and isinstance(recipe.synthesis.groups, int):
        scaled[_BATCH] *= recipe.synthesis.groups
    return scaled


def fit(request: Request, budget: Budget, earlier: Sequence[Path] = ()) -> Request:
    """The request, its recipe scaled to a budget by one factor.

    Decided once: the numbers that a run was begun with are in its ``run.json`` and stand, so that a run that goes on is
    the same run.

    Args:
        earlier: folders of runs of the same recipe, with other seeds: the first that was begun is followed.

    Raises:
        RecipeError: if the recipe's smallest run costs more.
        StoreError: if the request's folder holds a run that was begun with another budget.
        OnnxcakeError: as `onnxcake.extract`.
    """
    for folder in (request.folder, *earlier):
        if is_there(folder / runs.FILE) and not runs.is_abandoned(folder, lambda: open_teacher(request).facts):
            begun = Run.read(folder).scaling
            _same_budget(folder, Budget() if begun is None else begun.budget, budget)
            return request if begun is None else _resumed(request, begun)
    if budget == Budget():
        return request
    job = prepare(request)
    recipe, most, share = job.run.recipe, math.inf, 1.0
    if budget.passes is not None:
        share = most = share_of_passes(job, budget.passes)
    fitted = _scaled(request, recipe, budget, share)
    if budget.seconds is None:
        return fitted
    with Runtime() as runtime:
        for _ in range(_FORECASTS):
            share = min(most, share * budget.seconds / forecast(prepare(fitted), runtime).seconds)
            fitted = _scaled(request, recipe, budget, share)
        if scale(recipe, share) == scale(recipe, 0.0):
            seconds = forecast(prepare(fitted), runtime).seconds
            if seconds > _TOLERANCE * budget.seconds:
                least = f"{duration(budget.seconds)} are too few: its smallest run takes about {duration(seconds)}"
                raise _too_small(job, least, f"--budget {math.ceil(seconds)}s")
    return fitted


def _same_budget(folder: Path, begun: Budget, budget: Budget) -> None:
    """Check that a run goes on under the budget that it was begun with.

    Raises:
        StoreError: otherwise.
    """
    if differ := begun.differences(budget):
        raise StoreError(
            f"this folder holds a run that was begun with another budget; differs in: {', '.join(differ)}",
            where=folder,
            remedy="Give another --out, or repeat the first run's --budget and --passes to go on with it.",
        )


def _resumed(request: Request, begun: Scaling) -> Request:
    """The request with the begun run's numbers in place of the recipe's; other numbers are the store's to refuse."""
    asked = Recipe.load(*request.recipe_and_overrides)
    same = {key: n for key, n in begun.scaled.items() if _number(asked, key) == begun.whole.get(key)}
    return replace(request, overrides=_overridden(request, same), scaling=begun)


def _scaled(request: Request, recipe: Recipe, budget: Budget, share: float) -> Request:
    scaled = scale(recipe, share)
    whole = {key: _number(recipe, key) for key in scaled}
    return replace(request, overrides=_overridden(request, scaled), scaling=Scaling(budget, whole, scaled))


def _overridden(request: Request, numbers: Amounts) -> list[str]:
    return [*request.overrides, *(f"{key}={number}" for key, number in numbers.items())]


def _number(recipe: Recipe, key: str) -> int | None:
    section, name = key.split(".")
    number = getattr(getattr(recipe, section), name)
    return number if isinstance(number, int) else None


def share_of_passes(job: Job, limit: float) -> float:
    """The largest factor at which a recipe keeps to so many teacher passes; 1 for a method that spends none.

    Raises:
        RecipeError: if there is none.
    """
    recipe = job.run.recipe

    def passes(share: float) -> int:
        return passes_of(job, scale(recipe, share))

    if not (whole := passes_of(job, {})):
        return 1.0
    if (least := passes(0.0)) > limit:
        what = f"{limit:,.10g} teacher passes are too few: its smallest run needs {least:,}"
        raise _too_small(job, what, f"--passes {least}")
    low, high = 0.0, 2 * limit / whole  # rounding down loses less than half
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) <= limit else (low, middle)
    return low


def passes_of(job: Job, numbers: Amounts) -> int:
    """Teacher passes with gradient of a job's recipe with other numbers."""
    overrides = [f"{key}={number}" for key, number in numbers.items()]
    recipe = Recipe.load(job.run.recipe.as_dict(), overrides)
    kept = {term.name for term in job.synthesis.losses}
    left_out = [term.name for term in recipe.synthesis.losses.build() if term.name not in kept]
    data = None if job.view.data is None else len(job.view.data[0])
    return method.fit(recipe, job.teacher, data, left_out).teacher_passes


def _too_small(job: Job, what: str, least: str) -> RecipeError:
    return RecipeError(
        what,
        where=job.run.recipe.title,
        remedy=f"Give {least} or more, or choose another --recipe: `onnxcake recipes list` tells what they need.",
    )
