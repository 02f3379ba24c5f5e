"""Convert pooling over one to three spatial axes, in windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .windows import Windows, spatial_sizes, windows_of


@op("MaxPool")
def max_pool(node: Node) -> Function:
    windows, by_torch = _windows(node)
    padding = [] if by_torch else windows.padding
    pads = windows.begins if by_torch else 0
    options = (windows.kernel, windows.strides, pads, windows.dilations, windows.ceil)
    if node.wanted(1):
        return _with_indices(windows, padding, options, bool(node.attr("storage_order", 0)))
    pool: Any = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[len(windows.kernel) - 1]
    if not node.dtype(0).is_floating_point:  # torch pools none of the 8-bit integers, which float32 holds exactly
        return lambda x: pool(_padded(x.float(), padding, -math.inf), *options).to(x.dtype)
    if padding:
        return lambda x: pool(F.pad(x, padding, value=-math.inf), *options)
    return lambda x: pool(x, *options)


def _with_indices(windows: Windows, padding: list[int], options: tuple[Any, ...], by_column: bool) -> Function:
    """Build max-pooling that also returns the indices of the maxima in the whole tensor without padding."""
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(windows.kernel) - 1]
    begins = windows.begins if padding else (0,) * len(windows.kernel)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        numbers = x if x.is_floating_point() else x.float()
        padded = _padded(numbers, padding, -math.inf)
        y, place = pool(padded, *options, return_indices=True)
        if padding or by_column:
            place = _unpadded_index(place, padded.shape[2:], begins, x.shape[2:], by_column)
        planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * len(begins))
        return y.to(x.dtype), place + planes * math.prod(x.shape[2:])

    return function


def _unpadded_index(
    place: Tensor, padded: Sequence[int], begins: Sequence[int], sizes: Sequence[int], by_column: bool
) -> Tensor:
    """Convert an index in a padded plane to one in the plane."""
    coordinates = []
    for size, begin in zip(padded[::-1], begins[::-1], strict=True):
        coordinates.append(place % size - begin)
        place = place // size
    if not by_column:
        coordinates, sizes = coordinates[::-1], sizes[::-1]
    # The last coordinate is the one that runs fastest.
    flat, step = coordinates[-1], 1
    for coordinate, size in zip(coordinates[-2::-1], sizes, strict=False):
        step *= size
        flat = flat + coordinate * step
    return flat


@op("AveragePool")
def average_pool(node: Node) -> Function:
    dilated = max(node.attr("dilations") or (1,)) > 1
    windows, by_torch = _windows(node, not dilated)
    include = bool(node.attr("count_include_pad", 0))
    kernel, strides, axes = windows.kernel, windows.strides, len(windows.kernel)
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    if by_torch:
        begins, ceil = windows.begins, windows.ceil
        return lambda x: pool(x, kernel, strides, begins, ceil, include)
    padding = windows.padding
    if dilated:
        last = tuple(range(-axes, 0))
        mean: Function = lambda x: _gathered(_padded(x, padding), windows).mean(last)  # noqa: E731
    else:
        mean = lambda x: pool(_padded(x, padding), kernel, strides)  # noqa: E731
    weights = _weights(node, windows, include)
    if weights is None:
        return mean
    node.extra(weights.to(node.dtype(0)))
    return lambda x, weights: mean(x) * weights


def _weights(node: Node, windows: Windows, include: bool) -> Tensor | None:
    """Compute the factors from the mean over whole windows to the mean over the elements that count; None for 1."""
    asked = windows_of(node, windows.kernel)
    if (include and not asked.ceil) or not any(windows.begins + windows.ends):
        return None
    weights = torch.ones(())
    sizes = spatial_sizes(node)
    for axis, (size, count) in enumerate(zip(sizes, windows.counts(sizes), strict=True)):
        first = torch.arange(count)[:, None] * windows.strides[axis] - windows.begins[axis]
        taps = first + torch.arange(windows.kernel[axis]) * windows.dilations[axis]
        low, high = (-asked.begins[axis], size + asked.ends[axis]) if include else (0, size)
        counted = ((taps >= low) & (taps < high)).sum(1)
        weights = weights[..., None] * (windows.kernel[axis] / counted.clamp(min=1))
    return weights


@op("LpPool")
def lp_pool(node: Node) -> Function:
    windows, _ = _windows(node, False)
    padding, power = windows.padding, float(node.attr("p", 2))
    last = tuple(range(-len(windows.kernel), 0))
    # Unlike a root of a sum of powers, the norm has a gradient (zero) where all is zero, as it is behind a ReLU.
    return lambda x: torch.linalg.vector_norm(_gathered(_padded(x, padding), windows), power, last)


@op("GlobalAveragePool")
def global_average_pool(node: Node) -> Function:
    axes = _spatial_axes(node)
    return lambda x: x.mean(axes, keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(node: Node) -> Function:
    axes = len(_spatial_axes(node))
    if axes > 3:
        return lambda x: x.flatten(2).max(2).values.reshape(*x.shape[:2], *[1] * axes)
    pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[axes - 1]
    return lambda x: pool(x, 1)


@op("GlobalLpPool")
def global_lp_pool(node: Node) -> Function:
    axes, power = _spatial_axes(node), float(node.attr("p", 2))
    return lambda x: torch.linalg.vector_norm(x, power, axes, keepdim=True)


def _windows(node: Node, able: bool = True) -> tuple[Windows, bool]:
    """Return the node's windows, and whether torch's pooling, if ``able``, does their padding and rounding by itself.

    If not, they are such that the input padded by them is just used up.
    """
    windows = windows_of(node, tuple(node.attr("kernel_shape")))
    fits = all(2 * begin <= kernel for begin, kernel in zip(windows.begins, windows.kernel, strict=True))
    if able and windows.symmetric and fits:
        return windows, True
    return (windows.exact(spatial_sizes(node)) if windows.ceil else windows), False


def _padded(x: Tensor, padding: list[int], value: float = 0.0) -> Tensor:
    return F.pad(x, padding, value=value) if any(padding) else x


def _gathered(x: Tensor, windows: Windows) -> Tensor:
    """Gather the elements of each window, as a view whose last axes are the window's."""
    for axis, (reach, stride, step) in enumerate(zip(windows.extents, windows.strides, windows.dilations, strict=True)):
        x = x.unfold(axis + 2, reach, stride)[..., ::step]
    return x


def _spatial_axes(node: Node) -> tuple[int, ...]:
    axes = tuple(range(2, node.rank(0)))
    if not axes:
        raise Obstacle("its input has no spatial axes")
    return axes
