"""Draw figures of runs: curves over their cost, and a table in colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plots import as_png

_WIDE = 30.0  # largest over smallest x from which the axis is logarithmic
_MARKERS = "os^Dv"  # with the twenty colours of the map, a hundred curves can be told apart


@dataclass(frozen=True)
class Curve:
    """Hold points in order, which are joined; a single one is marked.

    Attributes:
        title: in the legend.
        x, y: the points.
        spread: one deviation around each y; empty if it is not known.
    """

    title: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()


def curves_png(curves: Sequence[Curve], *, title: str, x: str, y: str) -> bytes:
    """Draw curves as a PNG, the one that ends highest first in the legend.

    Args:
        x, y: what the axes show. The x axis is logarithmic if the points span more than a factor of 30.
    """
    figure = Figure(figsize=(8.0, 4.5), dpi=120, layout="constrained")
    axis = figure.add_subplot()
    for number, curve in enumerate(sorted(curves, key=lambda curve: -curve.y[-1])):
        _draw(axis, curve, number)
    if log := _wide([value for curve in curves for value in curve.x]):
        axis.set_xscale("log")
    axis.set(title=title, xlabel=x, ylabel=y, **({} if log else {"xlim": (0, None)}))
    axis.grid(alpha=0.3)
    if curves:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return as_png(figure)


def grid_png(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], title: str
) -> bytes:
    """Draw a table of shares in 0 … 1 as a PNG, each on its colour; a field without one stays empty.

    Args:
        rows, columns: their names.
        values: one list for each row.
    """
    figure = Figure(figsize=(1.6 + 0.9 * len(columns), 1.2 + 0.6 * len(rows)), dpi=120, layout="constrained")
    axis = figure.add_subplot()
    known = [[float("nan") if value is None else value for value in row] for row in values]
    axis.imshow(known, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for down, row in enumerate(values):
        for across, value in enumerate(row):
            if value is not None:
                colour = "black" if value > 0.6 else "white"
                axis.text(across, down, f"{value:.1%}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title, fontsize=10)
    return as_png(figure)


def _draw(axis: Axes, curve: Curve, number: int) -> None:
    palette = colormaps["tab20"]
    colour, marker = palette(number % palette.N), _MARKERS[number // palette.N % len(_MARKERS)]
    if len(curve.x) == 1:
        spread = curve.spread or None
        axis.errorbar(curve.x, curve.y, spread, label=curve.title, markersize=7, color=colour, marker=marker)
        return
    axis.plot(curve.x, curve.y, label=curve.title, markersize=3, linewidth=1.2, color=colour, marker=marker)
    if curve.spread:
        low, high = ([y + sign * s for y, s in zip(curve.y, curve.spread, strict=True)] for sign in (-1, 1))
        axis.fill_between(curve.x, low, high, color=colour, alpha=0.15, linewidth=0)


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)
