"""As much work as is paid for: a recipe scaled to seconds and teacher passes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import run as runs
from .errors import UsageError
from .forecast import Forecast, forecast
from .job import Request, prepare
from .ort import Runtime
from .recipe import Recipe
from .run import Run

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)\s*([smh])"
_TIME = re.compile(rf"(?:{_PART}\s*)+")
_ROUNDS = "synthesis.rounds"
_FORECASTS = 2  # the second is of the scaled work: what does not scale (a held-out batch, an export) counts then


@dataclass(frozen=True)
class Budget:
    """What one run may cost; the scarcer of the two decides.

    Attributes:
        seconds: of synthesis and training on this machine, by forecast; None for any.
        passes: samples through the teacher with gradient; None for any. Methods without gradient spend none.
    """

    seconds: float | None = None
    passes: float | None = None

    @classmethod
    def of(cls, time: str | None = None, passes: str | None = None) -> Budget:
        """A budget as it is written: ``90s``, ``1.5h`` or ``4m30s``; and ``1e6`` passes.

        Raises:
            UsageError: if it is written otherwise, or not above zero.
        """
        return cls(None if time is None else _seconds(time), None if passes is None else _passes(passes))

    def factor(self, ahead: Forecast) -> float:
        """What work with such a forecast is to be multiplied with to use the budget up; 1 if nothing limits it."""
        spent = ((self.seconds, ahead.seconds), (self.passes, ahead.teacher_passes))
        factors = [limit / cost for limit, cost in spent if limit is not None and cost > 0]
        return min(factors, default=1.0)

    def as_dict(self) -> dict[str, float | None]:
        """Plain data."""
        return {"seconds": self.seconds, "passes": self.passes}


Amounts = dict[str, int]  # numbers of a recipe, by their keys


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
        learnt = {"synthesis.batches": synthesis.batches, "student.steps": student.steps}
    return {key: number for key, number in learnt.items() if number is not None}


def scale(whole: Amounts, factor: float) -> Amounts:
    """That much more or less, rounded down, but something of each; a single round would be another regime."""
    least = {_ROUNDS: 2}
    return {key: max(least.get(key, 1), math.floor(number * factor + 1e-9)) for key, number in whole.items()}


def fit(request: Request, budget: Budget, earlier: Sequence[Path] = ()) -> Request:
    """The request, its recipe scaled to a budget by one factor.

    Decided once: the amounts that a run was begun with are in its ``run.json`` and stand, so that a run that goes on is
    the same run.

    Args:
        earlier: folders of runs of the same recipe, with other seeds: the first that was begun is followed.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    for folder in (request.folder, *earlier):
        if (folder / runs.FILE).exists():
            return _with(request, amounts(Run.read(folder).recipe))
    if budget == Budget():
        return request
    fitted, whole, share = request, Amounts(), 1.0
    with Runtime() as runtime:
        for _ in range(_FORECASTS):
            job = prepare(fitted)
            whole = whole or amounts(job.run.recipe)
            scaled = scale(whole, share * budget.factor(forecast(job, runtime)))
            share = next(scaled[key] / whole[key] for key in whole)
            fitted = _with(request, scaled)
    return fitted


def _with(request: Request, numbers: Amounts) -> Request:
    return replace(request, overrides=[*request.overrides, *(f"{key}={number}" for key, number in numbers.items())])


def _seconds(text: str) -> float:
    parts = re.findall(_PART, text) if _TIME.fullmatch(text.strip()) else []
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UsageError(f"{text!r} is no time above zero", remedy="Write --budget 90s, 3m or 1.5h.")
    return seconds


def _passes(text: str) -> float:
    try:
        passes = float(text)
    except ValueError:
        passes = math.nan
    if not 1 <= passes < math.inf:
        raise UsageError(f"{text!r} is no number of teacher passes", remedy="Write --passes 1e6.")
    return passes
