"""Convert operators on regions of interest: RoiAlign, MaxRoiPool and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.remedies import around
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value
from .sizes import check_room


@op("RoiAlign")
def roi_align(node: Node) -> Function:
    mode, scale = node.attr("mode", "avg"), node.attr("spatial_scale", 1.0)
    bins = node.attr("output_height", 1), node.attr("output_width", 1)
    shifted = node.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel" and node.version >= 16
    if mode not in ("avg", "max"):
        raise Obstacle(f"the mode {mode} is not in the standard")
    ratio = node.attr("sampling_ratio", 0)
    most = [ratio, ratio]
    if ratio <= 0:
        if not node.is_constant(1):
            raise Obstacle("how many points it samples depends on the data", around("with a sampling_ratio above 0"))
        _, extents = _spans(node.sample(1), scale, shifted)
        counts = [(extents[:, i] / bins[i]).ceil().long() for i in (0, 1)]
        most = [max(int(count.max()), 1) if count.numel() else 1 for count in counts]
        for count in counts:
            node.extra(count)
    for i in (0, 1):
        check_room(node, node.sample(1).shape[0] * bins[i] * most[i] * max(node.shape(0)[2 + i], 1))
    pool = _average if mode == "avg" else _largest

    def function(x: Tensor, rois: Tensor, images: Tensor, *counts: Tensor) -> Tensor:
        starts, extents = _spans(rois, scale, shifted)
        axes = []
        for i in (0, 1):
            taken = counts[i] if counts else torch.full_like(images, most[i])
            axes.append(_points(starts[:, i], extents[:, i], bins[i], most[i], taken, x.shape[2 + i]))
        return pool(x, images.long(), *axes)

    return function


def _spans(rois: Tensor, scale: float, shifted: bool) -> tuple[Tensor, Tensor]:
    """Compute the starts and lengths of regions, as (y, x), in pixels."""
    corners = rois * scale - (0.5 if shifted else 0.0)
    starts, ends = corners[:, [1, 0]], corners[:, [3, 2]]
    extents = ends - starts
    return starts, extents if shifted else extents.clamp(min=1)


Points = tuple[Tensor, Tensor, Tensor, Tensor]


def _points(start: Tensor, extent: Tensor, bins: int, most: int, counts: Tensor, size: int) -> Points:
    """Sample points along one axis, regions × bins × most: their positions, which count, which exist; and how many."""
    counted = counts.to(start.dtype).clamp(min=1)
    steps, order = torch.arange(bins, device=start.device), torch.arange(most, device=start.device)
    within = (order + 0.5) / counted[:, None]  # of a bin
    at = start[:, None, None] + (steps[:, None] + within[:, None, :]) * (extent / bins)[:, None, None]
    exist = (order < counts[:, None])[:, None, :].expand(at.shape)
    inside = (at >= -1) & (at <= size)
    return at.clamp(0, size - 1), inside & exist, exist, counted


def _average(x: Tensor, images: Tensor, y: Points, z: Points) -> Tensor:
    """Average over the points of a bin, a grid: by one matrix for rows and one for columns."""
    rows, columns = (_weights(axis, size) for axis, size in zip((y, z), x.shape[2:], strict=True))
    batch, channels, height, width = x.shape
    regions, bins = rows.shape[:2]
    own = images[:, None] == torch.arange(batch, device=x.device)
    rows = (own[:, None, :, None] * rows[:, :, None, :]).reshape(regions * bins, batch * height)
    mixed = rows @ x.transpose(1, 2).reshape(batch * height, channels * width)
    return mixed.reshape(regions, bins, channels, width).transpose(1, 2) @ columns.transpose(1, 2).unsqueeze(1)


def _weights(points: Points, size: int) -> Tensor:
    """Compute the share of each pixel of an axis in each bin: regions × bins × size."""
    at, inside, _, counted = points
    pixels = torch.arange(size, device=at.device)
    weights = (1 - (at[..., None] - pixels).abs()).clamp(min=0) * inside[..., None]
    return weights.sum(2) / counted[:, None, None]


def _largest(x: Tensor, images: Tensor, y: Points, z: Points) -> Tensor:
    """Find the largest weighted neighbour of any point of a bin (not the largest interpolated value)."""
    corners = []
    image = images[:, None, None, None, None]
    inside = (y[1][:, :, :, None, None] & z[1][:, None, None, :, :]).unsqueeze(-1)
    exist = (y[2][:, :, :, None, None] & z[2][:, None, None, :, :]).unsqueeze(-1)
    for row, by_row in _neighbours(y[0], x.shape[2]):
        for column, by_column in _neighbours(z[0], x.shape[3]):
            values = x[image, :, row[:, :, :, None, None], column[:, None, None, :, :]]
            weight = (by_row[:, :, :, None, None] * by_column[:, None, None, :, :]).unsqueeze(-1)
            corners.append(torch.where(inside, values * weight, 0.0))
    largest = torch.stack(corners).masked_fill(~exist, -torch.inf).amax((0, 3, 5))
    largest = torch.where(exist.any(4).any(2), largest, 0.0)
    return largest.permute(0, 3, 1, 2)


def _neighbours(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two pixels around each point, and their weights."""
    low = at.detach().floor().clamp(max=size - 1)
    return [(low.long(), 1 - (at - low)), ((low + 1).clamp(max=size - 1).long(), at - low)]


@op("MaxRoiPool")
def max_roi_pool(node: Node) -> Function:
    bins, scale = node.attr("pooled_shape"), node.attr("spatial_scale", 1.0)
    check_room(node, node.sample(1).shape[0] * bins[0] * bins[1] * max(node.shape(0)[1], 1))

    def function(x: Tensor, rois: Tensor) -> Tensor:
        corners = rois[:, 1:].float() * scale
        corners = corners.sign() * (corners.abs() + 0.5).floor()  # halves away from zero
        out = x.index_select(0, rois[:, 0].long())
        for axis in (0, 1):
            first, last = corners[:, 1 - axis], corners[:, 3 - axis]
            out = _pool_axis(out, first, (last - first + 1).clamp(min=1), bins[axis], 2 + axis)
        return torch.where(out.isneginf(), 0.0, out)

    return function


def _pool_axis(x: Tensor, first: Tensor, extent: Tensor, bins: int, axis: int) -> Tensor:
    """Pool the largest of each bin along one axis, −∞ where a bin is empty."""
    places = torch.arange(x.shape[axis], device=x.device)
    size, parts = extent / bins, []
    shape = [-1, 1, 1, 1]
    shape[axis] = x.shape[axis]
    for i in range(bins):
        low, high = (i * size).floor() + first, ((i + 1) * size).ceil() + first
        out = (places < low[:, None]) | (places >= high[:, None])
        parts.append(x.masked_fill(out.reshape(shape), -torch.inf).amax(axis))
    return torch.stack(parts, axis)


@op("NonMaxSuppression")
def non_max_suppression(node: Node) -> list[Value]:
    boxes, scores = node.constant(0).double(), node.constant(1).double()
    limit = node.ints(2)[0] if node.has(2) else 0
    overlap, least = (float(node.constant(i).reshape(-1)[0]) if node.has(i) else None for i in (3, 4))
    if node.attr("center_point_box", 0):
        low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    else:
        low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    kept = []
    for image, classes in enumerate(scores):
        for kind, of_class in enumerate(classes):
            chosen: list[int] = []
            for box in of_class.argsort(descending=True, stable=True).tolist():
                if len(chosen) >= limit or (least is not None and float(of_class[box]) <= least):
                    break
                if not bool((_overlaps(low[image], high[image], box, chosen) > (overlap or 0.0)).any()):
                    chosen.append(box)
            kept += [(image, kind, box) for box in chosen]
    return [node.builder.constant(torch.tensor(kept, dtype=torch.int64).reshape(-1, 3))]


def _overlaps(low: Tensor, high: Tensor, one: int, others: list[int]) -> Tensor:
    """Compute the intersection over union of a box with others."""
    sides = torch.minimum(high[one], high[others]) - torch.maximum(low[one], low[others])
    shared = sides.clamp(min=0).prod(-1)
    area = (high[one] - low[one]).prod() + (high[others] - low[others]).prod(-1) - shared
    return torch.where(shared > 0, shared / area, 0.0)
