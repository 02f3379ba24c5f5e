"""Draw synthesised samples: a grid of images, lines of signals, or the decision regions in 2-D."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..core.arrays import Array
from ..store.dataset import StoreDataset
from ..teacher.signature import Signature

Classify = Callable[[Array], Array]

_COLUMNS, _ROWS = 12, 6
_GRID = 200  # points along a side of a decision map


@dataclass(frozen=True)
class Panel:
    """Hold a decision map: a title, a classifier [n, 2] → classes [n], and points [n, 2] with their labels [n]."""

    title: str
    classify: Classify
    points: Array
    labels: Array


def samples_png(signature: Signature, data: StoreDataset, regions: Mapping[str, Classify] | None = None) -> bytes:
    """Draw samples spread evenly over a set, first to last, as a PNG.

    Args:
        regions: for 2-D inputs: a title and a classifier for each decision map to draw.
    """
    if signature.input_shape == (2,) and regions and signature.task != "multilabel":
        inputs, _, labels = data.take(torch.arange(len(data)))
        return regions_png([Panel(title, say, inputs.numpy(), labels.numpy()) for title, say in regions.items()])
    rows = torch.linspace(0, len(data) - 1, min(len(data), _COLUMNS * _ROWS)).long().unique()
    inputs, _, labels = data.take(rows)
    raw = signature.to_raw(inputs).numpy()
    return as_png(_images(raw, labels.numpy()) if signature.is_image else _lines(raw, labels.numpy()))


def regions_png(panels: Sequence[Panel], extent: tuple[float, float, float, float] | None = None) -> bytes:
    """Draw the decision regions of classifiers in the plane as a PNG, with points coloured by their labels.

    Args:
        extent: left, right, bottom and top; by the points if None.
    """
    extent = extent or _extent(np.concatenate([panel.points for panel in panels]))
    xs, ys = np.linspace(*extent[:2], _GRID), np.linspace(*extent[2:], _GRID)
    plane = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.float32)
    figure = Figure(figsize=(3.2 * len(panels), 3.2), dpi=120, layout="constrained")
    for number, panel in enumerate(panels):
        axis = figure.add_subplot(1, len(panels), number + 1)
        says = panel.classify(plane).reshape(_GRID, _GRID)
        axis.imshow(says, extent=extent, origin="lower", cmap="coolwarm", alpha=0.4, aspect="auto")
        axis.scatter(panel.points[:, 0], panel.points[:, 1], c=panel.labels, cmap="coolwarm", s=3, linewidths=0)
        axis.set(title=panel.title, xlim=extent[:2], ylim=extent[2:])
    return as_png(figure)


def _extent(points: Array) -> tuple[float, float, float, float]:
    """Find the limits around all but the outermost points."""
    (x0, y0), (x1, y1) = np.percentile(points, 0.5, axis=0), np.percentile(points, 99.5, axis=0)
    margin = 0.1 * max(x1 - x0, y1 - y0, 1e-6)
    return x0 - margin, x1 + margin, y0 - margin, y1 + margin


def as_png(figure: Figure) -> bytes:
    """Encode the figure as a PNG whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _images(raw: Array, labels: Array) -> Figure:
    """Draw images in a grid, each stretched over its own range of values."""
    height, width = raw.shape[2:]
    shown = _stretched(raw).transpose(0, 2, 3, 1)
    shown = shown if shown.shape[3] == 3 else shown.mean(3, keepdims=True).repeat(3, 3)
    figure, axis, corners = _sheet(labels, height, width)
    right, bottom = axis.get_xlim()[1], axis.get_ylim()[0]
    sheet = np.ones((round(bottom), round(right), 3), np.float32)
    for image, (left, top) in zip(shown, corners, strict=True):
        sheet[top : top + height, left : left + width] = image
    axis.imshow(sheet, interpolation="nearest", aspect="auto", extent=(0, right, bottom, 0))
    return figure


def _lines(raw: Array, labels: Array) -> Figure:
    """Draw signals in a grid, the channels of each on a common scale of its own."""
    height, width = 60, 100
    figure, axis, corners = _sheet(labels, height, width)
    for values, (left, top) in zip(_stretched(raw), corners, strict=True):
        lines = values.reshape(-1, values.shape[-1]).T
        axis.plot(left + np.linspace(0, width, len(lines)), top + height * (1 - lines), linewidth=0.6)
        axis.set_prop_cycle(None)  # the next one's channels in the same colours
    return figure


def _stretched(raw: Array) -> Array:
    """Scale each sample [n, …] to 0 … 1 by its own least and largest value."""
    places = tuple(range(1, raw.ndim))
    low, high = raw.min(places, keepdims=True), raw.max(places, keepdims=True)
    stretched: Array = (raw - low) / np.maximum(high - low, 1e-12)
    return stretched


def _sheet(labels: Array, height: int, width: int) -> tuple[Figure, Axes, list[tuple[int, int]]]:
    """Lay out one frame for all samples, since one for each is slow to draw, with labels; return the corners too."""
    down, across = height + -(-height * 2 // 5), width + -(-width // 10)  # with room for the label, and a gap
    rows = -(-len(labels) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 0.7, rows * 0.7 * down / across), dpi=120)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set(xlim=(0, _COLUMNS * across), ylim=(rows * down, 0))
    axis.set_axis_off()
    places = [divmod(number, _COLUMNS) for number in range(len(labels))]
    corners = [(column * across, (row + 1) * down - height) for row, column in places]
    for (left, top), label in zip(corners, labels, strict=True):
        axis.text(left + width / 2, top - 0.06 * down, str(label), fontsize=6, ha="center", va="bottom")
    return figure, axis, corners
