"""Compute where the output points of one axis of a Resize lie in the input, and the weights of the input points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..values import Obstacle


@dataclass(frozen=True)
class Axis:
    """Describe an axis to resize: its place, its sizes, the scale that the file gives, its part of the region."""

    place: int
    old: int
    new: int
    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class ResizeOptions:
    """Hold the attributes of a Resize node that apply to every axis."""

    mode: str
    transformation: str
    nearest: str
    a: float
    exclude_outside: bool
    antialias: bool


def coordinates(axis: Axis, transformation: str) -> Tensor:
    """Compute each output point's position in the input, in float32 and this order: ties fall as in onnxruntime."""
    x = torch.arange(axis.new, dtype=torch.float32)
    if transformation == "asymmetric":
        return x / axis.scale
    if transformation == "tf_half_pixel_for_nn":
        return (x + 0.5) / axis.scale
    if transformation == "align_corners":
        return x * (axis.old - 1) / (axis.new - 1) if axis.new > 1 else torch.zeros(axis.new)
    if transformation == "pytorch_half_pixel" and axis.new == 1:
        return torch.zeros(1)
    if transformation in ("half_pixel", "pytorch_half_pixel"):
        return (x + 0.5) / axis.scale - 0.5
    if transformation == "half_pixel_symmetric":
        offset = axis.old / 2 * (1 - axis.new / (axis.scale * axis.old))
        return offset + (x + 0.5) / axis.scale - 0.5
    if transformation == "tf_crop_and_resize":
        if axis.new <= 1:
            return torch.full((axis.new,), 0.5 * (axis.start + axis.end) * (axis.old - 1))
        return axis.start * (axis.old - 1) + x * (axis.end - axis.start) * (axis.old - 1) / (axis.new - 1)
    raise Obstacle(f"the coordinate transformation {transformation} is not in the standard")


def nearest(axis: Axis, how: ResizeOptions) -> Tensor:
    """Compute the input point that each output point copies."""
    x = coordinates(axis, how.transformation)
    kind = how.nearest
    if kind == "simple":  # before version 11
        kind = "ceil" if axis.scale < 1 else "floor"
    if kind == "round_prefer_floor":
        x = (x - 0.5).ceil()
    elif kind == "round_prefer_ceil":
        x = (x + 0.5).floor()
    elif kind in ("floor", "ceil"):
        x = x.floor() if kind == "floor" else x.ceil()
    else:
        raise Obstacle(f"the nearest mode {kind} is not in the standard")
    return x.long().clamp(0, axis.old - 1)


def taps(axis: Axis, how: ResizeOptions) -> tuple[Tensor, Tensor]:
    """Compute the input points that each output point reads, and their weights in float64; both new × taps."""
    x = coordinates(axis, how.transformation).double()
    # An antialiasing filter is as wide as what it must average, never narrower than the plain one.
    stretch = min(axis.scale, 1.0) if how.antialias else 1.0
    half = (2 if how.mode == "cubic" else 1) / stretch
    first = math.floor(-half) + 1
    left = x.floor()
    points = left.unsqueeze(1) + torch.arange(first, 2 - first, dtype=torch.float64)
    distance = (points - x.unsqueeze(1)).abs() * stretch
    weights = cubic(distance, how.a) if how.mode == "cubic" else (1 - distance).clamp(min=0)
    if how.exclude_outside:
        weights = torch.where((points >= 0) & (points < axis.old), weights, 0.0)
    if how.antialias or how.exclude_outside:
        weights = weights / weights.sum(1, keepdim=True)
    return points.long().clamp(0, axis.old - 1), weights


def taps_count(axis: Axis, how: ResizeOptions) -> int:
    """Count the points that `taps` returns for each output point."""
    stretch = min(axis.scale, 1.0) if how.antialias else 1.0
    return 2 - 2 * (math.floor(-(2 if how.mode == "cubic" else 1) / stretch) + 1)


def outside(axis: Axis) -> Tensor:
    """Tell for each output point of a crop whether it lies outside the input."""
    x = coordinates(axis, "tf_crop_and_resize")
    return (x < 0) | (x > axis.old - 1)


def cubic(distance: Tensor, a: float) -> Tensor:
    """Compute the weight that Keys' cubic convolution kernel (1981) gives a point at a distance."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
