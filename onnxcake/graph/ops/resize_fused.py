"""Use torch's own interpolation for a Resize that it computes in the same way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ..node import Node
from ..values import Function
from .resize_axis import Axis, ResizeOptions, nearest, taps

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def fused(node: Node, axes: list[Axis], how: ResizeOptions) -> Function | None:
    """Return `F.interpolate`, if it computes the same on every axis (each is tried on a signal); else None."""
    rank, places = node.rank(0), {axis.place for axis in axes}
    if not node.dtype(0).is_floating_point or not 3 <= rank <= 5:
        return None
    last = rank == 4 and places <= {1, 2}  # channels last, as TensorFlow has them
    if not last and min(places) < 2:
        return None
    spatial = (1, 2) if last else tuple(range(2, rank))
    sizes = dict.fromkeys(spatial, (0, 1.0))
    shape = node.shape(0)
    for place in spatial:
        sizes[place] = (shape[place], 1.0)
    for axis in axes:
        sizes[axis.place] = (axis.new, axis.scale)
    if min(size for size, _ in sizes.values()) < 1:  # 0, or -1: it depends on the batch
        return None
    for kind in _kinds(how, len(spatial)):
        for target in ({"size": [sizes[p][0] for p in spatial]}, {"scale_factor": [sizes[p][1] for p in spatial]}):
            if all(_agrees(axis, how, kind, "size" in target, node.dtype(0)) for axis in axes):
                return _interpolation(last, {**kind, **target})
    return None


def _interpolation(channels_last: bool, how: dict[str, Any]) -> Function:
    if channels_last:
        return lambda x: F.interpolate(x.permute(0, 3, 1, 2), **how).permute(0, 2, 3, 1)
    return lambda x: F.interpolate(x, **how)


def _kinds(how: ResizeOptions, axes: int) -> Iterator[dict[str, Any]]:
    """Iterate over the options of `F.interpolate` that may be meant."""
    if how.mode == "nearest":
        yield from ({"mode": "nearest"}, {"mode": "nearest-exact"})
    elif axes == 2 or (how.mode == "linear" and not how.antialias):
        mode = "bicubic" if how.mode == "cubic" else _LINEAR[axes]
        for corners in (False, True):
            yield {"mode": mode, "align_corners": corners, "antialias": how.antialias}


def _agrees(axis: Axis, how: ResizeOptions, kind: dict[str, Any], by_size: bool, dtype: torch.dtype) -> bool:
    """Tell whether `F.interpolate` reads the same points of an axis with the same weights."""
    exact = how.mode == "nearest"
    if not by_size and math.floor(axis.old * axis.scale) != axis.new:
        return False
    places = torch.arange(axis.old, dtype=torch.float64)
    signal = places.to(dtype) if exact else (0.7 * places**2).sin()  # of this signal no two parts are alike
    flat = {**kind, "mode": "bilinear" if "linear" in kind["mode"] else kind["mode"]}
    flat |= {"size": (axis.new, 1)} if by_size else {"scale_factor": (axis.scale, 1.0)}
    theirs = F.interpolate(signal.reshape(1, 1, -1, 1), **flat).reshape(-1)
    if exact:
        return torch.equal(theirs.long(), nearest(axis, how))
    points, weights = taps(axis, how)
    return torch.allclose(theirs, (signal[points] * weights).sum(1), rtol=0, atol=1e-5 + 2.5e-7 * axis.old)
