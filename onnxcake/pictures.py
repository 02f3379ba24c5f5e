"""A picture of what was synthesised: a grid of images, lines of signals, or the decision regions in 2-D."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .child import Array
from .store import StoreDataset
from .teacher import Signature

Classify = Callable[[Array], Array]

_COLUMNS, _ROWS = 12, 6
_GRID = 200  # points along a side of a decision map


@dataclass(frozen=True)
class Panel:
    """One decision map: a title, a classifier [n, 2] → classes [n], and points [n, 2] with their labels [n]."""

    title: str
    classify: Classify
    points: Array
    labels: Array


def samples_png(signature: Signature, data: StoreDataset, regions: Mapping[str, Classify] | None = None) -> bytes:
    """A PNG of samples spread evenly over a set, first to last.

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
    """A PNG of what classifiers say over the plane, with points on it, coloured by their labels.

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
    """Around all but the outermost points."""
    (x0, y0), (x1, y1) = np.percentile(points, 0.5, axis=0), np.percentile(points, 99.5, axis=0)
    margin = 0.1 * max(x1 - x0, y1 - y0, 1e-6)
    return x0 - margin, x1 + margin, y0 - margin, y1 + margin


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _images(raw: Array, labels: Array) -> Figure:
    """Each image stretched over its own values, the class asked for above it."""
    figure, axes = _frames(len(raw), 0.8)
    for axis, image, label in zip(axes, raw, labels, strict=False):
        low, high = image.min(), image.max()
        shown = ((image - low) / max(high - low, 1e-12)).transpose(1, 2, 0)
        shown = shown if shown.shape[2] == 3 else shown.mean(2)
        axis.imshow(shown, cmap="gray", interpolation="nearest")
        axis.set_title(str(label), fontsize=6, pad=1)
    return figure


def _lines(raw: Array, labels: Array) -> Figure:
    figure, axes = _frames(len(raw), 0.6)
    for axis, values, label in zip(axes, raw, labels, strict=False):
        axis.plot(values.reshape(-1, values.shape[-1]).T, linewidth=0.6)
        axis.set_title(str(label), fontsize=6, pad=1)
    return figure


def _frames(count: int, height: float) -> tuple[Figure, list[Axes]]:
    rows = -(-count // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 0.7, rows * height), dpi=120, layout="constrained")
    axes = [figure.add_subplot(rows, _COLUMNS, number + 1) for number in range(count)]
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes
