"""Sample at given points in any number of dimensions, for cases that torch's `grid_sample` leaves out."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .resize_axis import cubic


def grid_sample(x: Tensor, grid: Tensor, mode: str, padding: str, corners: bool) -> Tensor:
    """Sample x (batch, channels, axes…) at the grid's points (batch, points…, place on each axis, last first)."""
    sizes, shape = x.shape[2:], grid.shape[1:-1]
    axes = []
    for axis, size in enumerate(sizes):
        place = grid[..., len(sizes) - 1 - axis].flatten(1)
        place = (place + 1) / 2 * (size - 1) if corners else ((place + 1) * size - 1) / 2
        axes.append([_into_axis(tap, weight, size, padding, corners) for tap, weight in _taps(place, mode)])
    flat = x.flatten(2)
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for taps in itertools.product(*axes):
        index = torch.zeros_like(taps[0][0])
        for (tap, _), size in zip(taps, sizes, strict=True):
            index = index * size + tap
        values = flat.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1))
        weights = torch.stack([weight for _, weight in taps]).prod(0)
        total = total + values * weights.unsqueeze(1)
    return total.reshape(*x.shape[:2], *shape)


def _taps(place: Tensor, mode: str) -> list[tuple[Tensor, Tensor]]:
    """Return the points on one axis that a position reads, and their weights."""
    if mode == "nearest":
        return [(place.round(), torch.ones_like(place))]
    left = place.floor()
    if mode == "linear":
        return [(left, left + 1 - place), (left + 1, place - left)]
    points = [left + i for i in (-1, 0, 1, 2)]
    return [(point, cubic((place - point).abs(), -0.75)) for point in points]


def _into_axis(point: Tensor, weight: Tensor, size: int, padding: str, corners: bool) -> tuple[Tensor, Tensor]:
    """Map a point outside the axis into it, and adapt its weight."""
    tap = point.long()
    if padding == "zeros":
        weight = torch.where((tap >= 0) & (tap < size), weight, 0.0)
    elif padding == "reflection":
        if corners and size > 1:
            tap = tap % (2 * size - 2)
            tap = torch.minimum(tap, 2 * size - 2 - tap)
        else:
            tap = tap % (2 * size)
            tap = torch.minimum(tap, 2 * size - 1 - tap)
    return tap.clamp(0, size - 1), weight
