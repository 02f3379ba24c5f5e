"""Compare methods, as `onnxcake bench` does: cells, means and deviations over seeds, the picture."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import rich.box
import rich.table
from rich.console import Console

from ..core import files, json_files
from ..core.errors import RecipeError, StoreError
from ..core.units import duration
from .curves import Curve, curves_png
from .report import Report

FILE, TABLE, PICTURE = "bench.json", "bench.txt", "bench.png"
FORMAT = 1
_ELSEWHERE = "Choose another --out."
_POINT = {"agreement", "teacher_passes", "teacher_queries"}
_TOLERANCE = 1.2  # times the budget
_WIDTH = 120  # in characters: of the text file, and at least in a window
# Titles of the columns: the figure, and how one is written.
_COLUMNS = {
    "agreement %": ("agreement", "share"),
    "accuracy %": ("accuracy", "share"),
    "teacher passes": ("teacher_passes", "count"),
    "queries": ("teacher_queries", "count"),
    "student steps": ("student_steps", "count"),
    "seconds": ("seconds", "count"),
}


@dataclass(frozen=True)
class Cell:
    """Hold the figures of a method with one seed, or the reason why there are none.

    Attributes:
        agreement: of the last iterate, on the probe if there was one, else on held-out batches; None if not done.
        accuracy, teacher_accuracy: on the same inputs, if their labels are known.
        teacher_passes: samples through the teacher with gradient.
        teacher_queries: samples through the teacher forward only.
        seconds: of synthesis and training, over all starts.
        curve: the points along the training, in order, as in the report.
        reason: why there are no figures.
    """

    __pydantic_config__ = json_files.EXACT
    method: str
    seed: int
    agreement: float | None = None
    accuracy: float | None = None
    teacher_accuracy: float | None = None
    teacher_passes: int = 0
    teacher_queries: int = 0
    student_steps: int = 0
    seconds: float = 0.0
    curve: tuple[dict[str, int | float], ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, method: str, seed: int, report: Report) -> Cell:
        """Take the figures of a finished run."""
        compared, spent = report.comparison, report.spent
        accuracies = compared.student_accuracy, compared.teacher_accuracy
        student, teacher = (None if one is None else one.value for one in accuracies)
        return cls(
            method=method,
            seed=seed,
            agreement=compared.agreement.value,
            accuracy=student,
            teacher_accuracy=teacher,
            teacher_passes=spent.teacher_passes,
            teacher_queries=spent.teacher_queries,
            student_steps=report.student.steps,
            seconds=round(sum(spent.seconds.values()), 2),
            curve=report.curve,
        )

    @property
    def spread(self) -> tuple[float, float] | None:
        """Mean μ and variance σ² of the agreement over the points of the curve; None where there is only one.

        Patel, Mopuri, Qiu 2023, *Learning to Retain while Acquiring*: without data nobody can tell when to stop,
        so that a method is to be judged by all of its iterates.
        """
        values = [point["agreement"] for point in self.curve]
        return (statistics.fmean(values), statistics.pvariance(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class _Kept:
    """Declare the content of ``bench.json``."""

    __pydantic_config__ = json_files.EXACT
    format: Literal[1]
    asked: dict[str, Any]
    methods: dict[str, Any]
    cells: list[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Hold all cells, by method in the order asked for; ``asked`` holds the settings that they share."""

    asked: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def methods(self) -> list[str]:
        """List the methods' names."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def of(self, method: str) -> list[Cell]:
        """List a method's cells that have figures."""
        return [cell for cell in self.cells if cell.method == method and cell.agreement is not None]

    def cell(self, method: str, seed: int) -> Cell:
        """Return the cell of a method and a seed."""
        (found,) = (cell for cell in self.cells if (cell.method, cell.seed) == (method, seed))
        return found

    def plus(self, new: Cell) -> Table:
        """Return the table with a cell added, or replaced, among those of its method by seed."""
        others = [cell for cell in self.cells if (cell.method, cell.seed) != (new.method, new.seed)]
        order = list(dict.fromkeys([*self.methods, new.method]))
        cells = sorted((*others, new), key=lambda cell: (order.index(cell.method), cell.seed))
        return replace(self, cells=tuple(cells))

    @classmethod
    def read(cls, folder: Path) -> Table:
        """Read back the table that `write` left in ``folder``.

        Raises:
            StoreError: if there is none, or it cannot be read.
        """
        kept = json_files.read(folder / FILE, _Kept, _ELSEWHERE)
        for cell in kept.cells:
            cell.pop("spread_over_training", None)
        try:
            cells = tuple(json_files.of(cell, Cell) for cell in kept.cells)
            if not all(point.keys() >= _POINT for cell in cells for point in cell.curve):
                raise ValueError(f"a point of a curve lacks one of {', '.join(sorted(_POINT))}")
            json_files.of(kept.asked.get("methods"), dict[str, str])
        except ValueError as error:
            raise StoreError(f"cannot be read back: {error}", where=folder / FILE, remedy=_ELSEWHERE) from error
        return cls(kept.asked, cells)

    def as_dict(self) -> dict[str, Any]:
        """Convert to what ``bench.json`` holds; shares in 0 … 1."""
        return {
            "format": FORMAT,
            "asked": self.asked,
            "methods": {method: self._figures(method) for method in self.methods},
            "cells": [{**asdict(cell), "spread_over_training": _mu_sigma2([cell])} for cell in self.cells],
        }

    def check(self) -> None:
        """Refuse a table without any figures.

        Raises:
            RecipeError: if no method has figures.
        """
        if not any(map(self.of, self.methods)):
            lines = "\n  ".join(self._reasons())
            raise RecipeError(f"no method ran to its end\n  {lines}", where=self.asked["teacher"]["name"])

    def show(self, console: Console | None = None) -> None:
        """Print the table."""
        # A narrow window breaks the lines; rich would cut the figures.
        (console or Console(width=max(Console().width, _WIDTH))).print(self.table())

    def table(self) -> rich.table.Table:
        """Lay out the figures: mean ± standard deviation over the seeds."""
        drawn = rich.table.Table(
            title=self._title(), title_justify="left", caption_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False
        )
        drawn.add_column("method", no_wrap=True)
        for name in (*_COLUMNS, "μ %", "σ²"):
            drawn.add_column(name, justify="right", no_wrap=True)
        for method in self.methods:
            figures = self._figures(method)
            spread = figures["spread_over_training"]
            drawn.add_row(
                method,
                *(_text(figures[key], form) for key, form in _COLUMNS.values()),
                *(("", "") if spread is None else (f"{100 * spread['mu']:.1f}", f"{1e4 * spread['sigma2']:.1f}")),
            )
        words = "Last iterate; μ and σ² (in points²): mean and variance of the agreement over the training."
        drawn.caption = "\n".join([words, *self._over_budget(), *self._reasons()])
        return drawn

    def picture(self) -> bytes:
        """Draw agreement against the samples that went through the teacher as a PNG, one curve for each method."""
        curves = [_mean_curve(method, cells) for method in self.methods if (cells := self.of(method))]
        across = "samples through the teacher, with and without gradient"
        return curves_png(curves, title=self._title(), x=across, y="agreement")

    def write(self, folder: Path) -> None:
        """Write table, figures and picture into ``folder``."""
        text = io.StringIO()
        self.show(Console(file=text, width=_WIDTH))
        files.write_json(folder / FILE, self.as_dict())
        files.write_atomic(folder / TABLE, text.getvalue().encode())
        files.write_atomic(folder / PICTURE, self.picture())

    def _figures(self, method: str) -> dict[str, Any]:
        done, of_method = self.of(method), [cell for cell in self.cells if cell.method == method]
        return {
            "seeds": [cell.seed for cell in done],
            **{key: _mean_std([getattr(cell, key) for cell in done]) for key, _ in _COLUMNS.values()},
            "spread_over_training": _mu_sigma2(done),
            "reasons": {str(cell.seed): cell.reason for cell in of_method if cell.reason},
        }

    def _over_budget(self) -> list[str]:
        """Name the methods that cost clearly more than their budget: least work, or a forecast that fell short."""
        budget = self.asked["budget"]
        passes = "{:,.0f} passes".format
        limits = [("seconds", budget["seconds"], duration), ("teacher_passes", budget["passes"], passes)]
        over = [
            f"{method} ({words(cost)})"
            for key, limit, words in limits
            for method in self.methods
            if limit and (cost := (self._figures(method)[key] or {}).get("mean") or 0) > _TOLERANCE * limit
        ]
        return [f"Over the budget: {', '.join(over)}."] if over else []

    def _reasons(self) -> list[str]:
        return [f"{cell.method}, seed {cell.seed}: {cell.reason}" for cell in self.cells if cell.reason]

    def _title(self) -> str:
        budget, accuracies = self.asked["budget"], [c.teacher_accuracy for c in self.cells if c.teacher_accuracy]
        limits = [duration(budget["seconds"])] if budget["seconds"] else []
        limits += [f"{budget['passes']:,.0f} teacher passes"] if budget["passes"] else []
        teacher = self.asked["teacher"]["name"] + (f" ({accuracies[0]:.1%})" if accuracies else "")
        return f"{teacher} → {self.asked['student'] or 'student'}, {' and '.join(limits) or 'no limit'} each"


def _mean_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and standard deviation (of a sample; None for a single value); None where nothing is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "std": statistics.stdev(known) if len(known) > 1 else None}


def _mu_sigma2(cells: Sequence[Cell]) -> dict[str, float] | None:
    """μ and σ² over the training, the mean over the cells that have them."""
    known = [cell.spread for cell in cells if cell.spread is not None]
    if not known:
        return None
    return {"mu": statistics.fmean(mu for mu, _ in known), "sigma2": statistics.fmean(s for _, s in known)}


def _mean_curve(method: str, cells: Sequence[Cell]) -> Curve:
    """Over the seeds, point by point; of points at the same cost, as an offline method has them, the last."""
    points = list(zip(*(_costs(cell) for cell in cells), strict=False))
    by_cost = {statistics.fmean(cost for cost, _ in at): [agreement for _, agreement in at] for at in points}
    return Curve(
        title=method,
        x=list(by_cost),
        y=[statistics.fmean(values) for values in by_cost.values()],
        spread=[statistics.stdev(values) for values in by_cost.values()] if len(cells) > 1 else (),
    )


def _costs(cell: Cell) -> list[tuple[float, float]]:
    """List samples through the teacher and the agreement then; of a run without a curve, the end alone."""
    assert cell.agreement is not None, "a cell with figures"
    end = (cell.teacher_passes + cell.teacher_queries, cell.agreement)
    return [(at["teacher_passes"] + at["teacher_queries"], at["agreement"]) for at in cell.curve] or [end]


def _text(figure: dict[str, float | None] | None, form: str) -> str:
    if figure is None or figure["mean"] is None:
        return ""
    if form == "count":
        return f"{figure['mean']:,.0f}"
    return f"{100 * figure['mean']:.2f}" + ("" if figure["std"] is None else f" ± {100 * figure['std']:.2f}")
