"""Scale a recipe to seconds and teacher passes.

The rounds or batches are scaled first. Where already the fewest of them cost more than the budget, the steps of a batch
are, and then its samples; a run that would be smaller still is refused.
"""

from __future__ import annotations

import math
from pathlib import Path

from ..core.errors import RecipeError, StoreError
from ..core.files import is_there
from ..core.units import duration
from ..recipe.limits import NO_LIMIT, Budget, Scaling
from ..recipe.recipe import Recipe
from ..runtime.ort import Runtime
from . import folder as runs
from .estimate import forecast
from .folder import Run
from .prepare import Job, Resolved, build

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
    """List the numbers that a recipe's cost is proportional to.

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
    """List the numbers that are scaled, in order: each stage is scaled once the one before is at its least."""
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
    """Scale a recipe's numbers to that much more or less work, rounded down; those that stay are left out."""
    scaled: Amounts = {}
    for number, stage in enumerate(stages(recipe)):
        new = {key: max(least, math.floor(min(whole * factor + 1e-9, _MOST))) for key, (whole, least) in stage.items()}
        key, (whole, _) = next(iter(stage.items()))
        scaled |= {key: n for key, n in new.items() if not number or n != stage[key][0]}
        factor = min(1.0, factor * whole / new[key])  # what is left for the next stage
    if _BATCH in scaled and isinstance(recipe.synthesis.groups, int):
        scaled[_BATCH] *= recipe.synthesis.groups
    return scaled


def begun(resolved: Resolved) -> Resolved | None:
    """Set the numbers that a run in the request's folder, or in a sibling's, was begun with; None where there is none.

    Decided once: the numbers stand in the run's ``run.json``, so that a run that goes on is the same run.

    Raises:
        StoreError: if the run was begun with another budget.
    """
    request = resolved.request
    for folder in (request.folder, *request.siblings):
        if is_there(folder / runs.FILE) and not runs.is_abandoned(folder, resolved.teacher.facts):
            scaling = Run.read(folder).scaling
            _same_budget(folder, NO_LIMIT if scaling is None else scaling.budget, request.budget)
            return resolved if scaling is None else _resumed(resolved, scaling)
    return None


def limit(resolved: Resolved) -> Resolved:
    """Scale a request's recipe to its budget's passes; seconds are left to `fit`.

    Raises:
        RecipeError: if the recipe's smallest run costs more.
    """
    budget = resolved.request.budget
    if budget == NO_LIMIT:
        return resolved
    return _scaled(resolved, 1.0 if budget.passes is None else share_of_passes(resolved, budget.passes))


def fit(job: Job, whole: Resolved) -> Job:
    """Rescale a job to its budget's seconds, by forecasts of what it takes.

    Args:
        whole: its request before it was scaled.

    Raises:
        RecipeError: if the recipe's smallest run takes longer.
    """
    seconds, passes = whole.request.budget.seconds, whole.request.budget.passes
    if seconds is None:
        return job
    share, most = 1.0, math.inf
    if passes is not None:
        share = most = share_of_passes(whole, passes)
    with Runtime() as runtime:
        for _ in range(_FORECASTS):
            share = min(most, share * seconds / forecast(job, runtime).seconds)
            job = _rebuilt(job, whole, share)
        if scale(whole.recipe, share) == scale(whole.recipe, 0.0):
            least = forecast(job, runtime).seconds
            if least > _TOLERANCE * seconds:
                what = f"{duration(seconds)} are too few: its smallest run takes about {duration(least)}"
                raise _too_small(whole, what, f"--budget {math.ceil(least)}s")
    return job


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


def _resumed(resolved: Resolved, begun: Scaling) -> Resolved:
    """Set the begun run's numbers in place of the recipe's; other numbers are the store's to refuse."""
    same = {key: n for key, n in begun.scaled.items() if _number(resolved.recipe, key) == begun.whole.get(key)}
    return resolved.scaled(begun, same)


def _scaled(whole: Resolved, share: float) -> Resolved:
    scaled = scale(whole.recipe, share)
    return whole.scaled(Scaling(whole.request.budget, {key: _number(whole.recipe, key) for key in scaled}, scaled))


def _rebuilt(job: Job, whole: Resolved, share: float) -> Job:
    return build(_scaled(whole, share), job.begins, job.plan.pace)


def _number(recipe: Recipe, key: str) -> int | None:
    section, name = key.split(".")
    number = getattr(getattr(recipe, section), name)
    return number if isinstance(number, int) else None


def share_of_passes(resolved: Resolved, limit: float) -> float:
    """Find the largest factor at which a recipe keeps to so many teacher passes; 1 for a method that spends none.

    Raises:
        RecipeError: if there is none.
    """
    recipe = resolved.recipe

    def passes(share: float) -> int:
        return passes_of(resolved, scale(recipe, share))

    if not (whole := passes_of(resolved, {})):
        return 1.0
    if (least := passes(0.0)) > limit:
        what = f"{limit:,.10g} teacher passes are too few: its smallest run needs {least:,}"
        raise _too_small(resolved, what, f"--passes {least}")
    low, high = 0.0, 2 * limit / whole  # rounding down loses less than half
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) <= limit else (low, middle)
    return low


def passes_of(resolved: Resolved, numbers: Amounts) -> int:
    """Count the teacher passes with gradient of a recipe with other numbers."""
    return resolved.fit(numbers)[1].teacher_passes


def _too_small(resolved: Resolved, what: str, least: str) -> RecipeError:
    return RecipeError(
        what,
        where=resolved.recipe.title,
        remedy=f"Give {least} or more, or choose another --recipe: `onnxcake recipes list` tells what they need.",
    )
