"""Convert Resize and Upsample: by torch's own interpolation where it is the same, else by one product per axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value
from .resize_axis import Axis, ResizeOptions, nearest, outside, taps, taps_count
from .resize_fused import fused
from .sizes import check_room, is_kept

_POLICIES = {"not_larger": min, "not_smaller": max}


@op("Resize", "Upsample")
def resize(node: Node) -> Function | list[Value]:
    how = _read_options(node)
    axes = _axes(node, how)
    for i in range(1, len(node.inputs)):
        node.take(i)
    if not axes:
        return [node.value(0)]
    _check_room(node, axes, how)
    crop = how.transformation == "tf_crop_and_resize"
    in_one = None if crop else fused(node, axes, how)
    if in_one is not None:
        return in_one
    if any(axis.old == 0 for axis in axes):
        raise Obstacle("an axis of size 0 cannot be resized")
    return _separable(node, axes, how, crop)


def _read_options(node: Node) -> ResizeOptions:
    old = node.op == "Upsample" or node.version < 11
    mode = {"bilinear": "linear"}.get(node.attr("mode", "nearest"), node.attr("mode", "nearest"))
    if mode not in ("nearest", "linear", "cubic"):
        raise Obstacle(f"the mode {mode} is not in the standard")
    return ResizeOptions(
        mode=mode,
        transformation="asymmetric" if old else node.attr("coordinate_transformation_mode", "half_pixel"),
        nearest="simple" if old else node.attr("nearest_mode", "round_prefer_floor"),
        a=node.attr("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.attr("exclude_outside", 0)) and mode != "nearest",
        antialias=bool(node.attr("antialias", 0)) and mode != "nearest",
    )


# What is to be resized


def _axes(node: Node, how: ResizeOptions) -> list[Axis]:
    """List the axes that change."""
    rank, dims = node.rank(0), node.dims(0)
    places = [axis % rank for axis in node.attr("axes", range(rank))]
    goals = _by_scales(node, places) or _by_sizes(node, places)
    crop = how.transformation == "tf_crop_and_resize"
    region = _numbers(node, 1) if crop else []
    axes = []
    for i, (place, (new, scale)) in enumerate(zip(places, goals, strict=True)):
        start, end = (region[i], region[i + len(places)]) if crop else (0.0, 1.0)
        if (start, end) == (0.0, 1.0) and scale == 1 and new in (None, dims.base[place]):
            continue
        if dims.slope[place] or new is None:
            raise Obstacle("it resizes an axis whose size depends on the batch")
        axes.append(Axis(place, dims.base[place], new, scale, start, end))
    return axes


def _numbers(node: Node, index: int) -> list[float]:
    """Read a constant input as numbers, in float32, as the file has them."""
    return [float(n) for n in node.constant(index).reshape(-1).float().tolist()] if node.has(index) else []


def _by_scales(node: Node, places: list[int]) -> list[tuple[int | None, float]]:
    """Compute each axis's new size, None if it depends on the batch, and scale; nothing if sizes are given."""
    if node.op == "Upsample" and node.version < 9:
        scales = node.attr("scales") or [1.0, 1.0, node.attr("height_scale"), node.attr("width_scale")]
    else:
        scales = _numbers(node, 1 if node.version < 11 else 2)
    dims = node.dims(0)
    goals: list[tuple[int | None, float]] = []
    for place, scale in zip(places, scales, strict=bool(scales)):
        if not 0 < scale < math.inf:
            raise Obstacle(f"a scale of {scale:g}")
        new = math.floor(float(torch.tensor(dims.base[place], dtype=torch.float32) * scale))
        goals.append((None if dims.slope[place] else new, scale))
    return goals


def _by_sizes(node: Node, places: list[int]) -> list[tuple[int | None, float]]:
    """Compute the new size and scale of each axis from the sizes, as `_by_scales` does."""
    wanted, dims = node.numbers(3), node.dims(0)
    news: list[int | None] = []
    scales: list[float] = []
    for place, slope, base in zip(places, wanted.slope, wanted.base, strict=True):
        if is_kept(node, place, slope, base):
            news.append(None if dims.slope[place] else base)
            scales.append(1.0)
        elif slope or dims.slope[place]:
            raise Obstacle("it resizes an axis whose size depends on the batch")
        else:
            news.append(base)
            scales.append(_float32(base / dims.base[place]) if dims.base[place] else 1.0)
    policy = _POLICIES.get(node.attr("keep_aspect_ratio_policy", "stretch"))
    if policy is not None:
        scale = policy(scales)
        scales = [scale] * len(scales)
        olds = (dims.base[place] for place in places)
        news = [None if new is None else math.floor(scale * old + 0.5) for new, old in zip(news, olds, strict=True)]
    return list(zip(news, scales, strict=True))


def _float32(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float32))


def _check_room(node: Node, axes: list[Axis], how: ResizeOptions) -> None:
    """Refuse absurd sizes before anything is allocated for them."""
    sizes = list(node.dims(0).at(max(node.builder.batches)))
    for axis in axes:
        sizes[axis.place] = axis.new
        check_room(node, max(axis.new, axis.old))
        if how.mode != "nearest":
            check_room(node, max(axis.new, 1) * taps_count(axis, how))
    check_room(node, math.prod(sizes), node.dtype(0).itemsize)


# One axis after another


def _separable(node: Node, axes: list[Axis], how: ResizeOptions, crop: bool) -> Function:
    steps: list[tuple[Callable[..., Tensor], int]] = []  # and how many tensors each takes
    floating = node.dtype(0).is_floating_point
    work = node.dtype(0) if floating else torch.float32
    for axis in sorted(axes, key=lambda a: a.new / a.old):  # what makes it smaller first
        steps.append(_axis_step(node, axis, how, work))
    value = node.attr("extrapolation_value", 0.0)
    if crop:
        mask = torch.zeros((), dtype=torch.bool)
        for axis in axes:
            mask = mask | outside(axis).reshape(-1, *(1,) * (node.rank(0) - 1 - axis.place))
        if bool(mask.any()):
            steps.append((lambda x, out: torch.where(out, x.new_full((), value), x), 1))
            node.extra(mask)
    rounds = not floating and how.mode != "nearest"

    def function(x: Tensor, *tensors: Tensor) -> Tensor:
        y, used = x.to(work) if rounds else x, 0
        for step, count in steps:
            y = step(y, *tensors[used : used + count])
            used += count
        return y.to(x.dtype) if rounds else y

    return function


def _axis_step(node: Node, axis: Axis, how: ResizeOptions, dtype: torch.dtype) -> tuple[Callable[..., Tensor], int]:
    """Build the function that resizes one axis; return it and the number of tensors it takes."""
    place = axis.place - node.rank(0)
    if how.mode == "nearest":
        node.extra(nearest(axis, how))
        return (lambda x, points: x.index_select(place, points)), 1
    points, weights = taps(axis, how)
    count = points.shape[1]
    if axis.old > 64 * count:  # too wide for a matrix that is almost all zeros
        shape = (-1, *(1,) * (-1 - place))
        for i in range(count):
            node.extra(points[:, i].contiguous())
            node.extra(weights[:, i].reshape(shape).to(dtype))
        return _gathered(place), 2 * count
    check_room(node, axis.new * axis.old)
    matrix = torch.zeros(axis.new, axis.old, dtype=torch.float64).scatter_add_(1, points, weights).to(dtype)
    if place == -1:
        node.extra(matrix.T.contiguous())
        return torch.matmul, 1
    node.extra(matrix)
    if place == -2:
        return (lambda x, w: w @ x), 1
    return (lambda x, w: (x.movedim(place, -1) @ w.T).movedim(-1, place)), 1


def _gathered(place: int) -> Callable[..., Tensor]:
    def function(x: Tensor, *tensors: Tensor) -> Tensor:
        parts = [x.index_select(place, i) * w for i, w in zip(tensors[::2], tensors[1::2], strict=True)]
        return sum(parts[1:], parts[0])

    return function
