"""Convert Pad and CenterCropPad, which add elements around tensors or cut them off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Sizes, Value
from .sizes import check_room, is_kept

_FUSED = {"reflect": "reflect", "edge": "replicate"}


@op("Pad")
def pad(node: Node) -> Function | list[Value]:
    mode = node.attr("mode", "constant")
    rank = node.rank(0)
    amounts = _amounts(node)
    if not node.has(2) or node.version < 11:
        node.take(2)
    if node.version < 18 or not node.has(3):
        axes = tuple(range(rank))
    else:
        axes = tuple(axis % rank for axis in node.ints(3))
    if len(amounts.base) != 2 * len(axes):
        raise Obstacle(f"{len(amounts.base)} amounts for {len(axes)} axes")
    begin, end = ([(0, 0)] * rank for _ in range(2))
    for i, axis in enumerate(axes):
        begin[axis] = amounts.slope[i], amounts.base[i]
        end[axis] = amounts.slope[i + len(axes)], amounts.base[i + len(axes)]
    order = [pair for axis in reversed(range(rank)) for pair in (begin[axis], end[axis])]
    while order and order[-2:] == [(0, 0), (0, 0)]:
        del order[-2:]
    if not order:
        return [node.value(0)]
    pads = Sizes(tuple(slope for slope, _ in order), tuple(base for _, base in order))
    if mode == "constant":
        return _pad_constant(node, pads)
    node.take(2)
    if not pads.fixed:
        raise Obstacle("how much it pads depends on the batch")
    if mode not in ("reflect", "edge", "wrap"):
        raise Obstacle(f"the mode {mode} is not in the standard")
    return _pad_mirrored(node, mode, pads.base)


def _amounts(node: Node) -> Sizes:
    """Return the amounts to add before each axis, then after each."""
    if node.version < 11:
        given = node.attr("pads", node.attr("paddings"))
        return Sizes((0,) * len(given), tuple(given))
    amounts = node.numbers(1)
    node.take(1)
    return amounts


def _pad_constant(node: Node, pads: Sizes) -> Function:
    value = node.attr("value", 0.0) if node.version < 11 else 0
    if node.version >= 11 and node.has(2):
        if not node.is_constant(2):
            return _pad_with_data(node, pads)
        value = node.constant(2).reshape(-1)[0].item()
    if pads.fixed:
        order = pads.base
        return lambda x: F.pad(x, order, value=value)
    node.extra(pads)
    return lambda x, order: F.pad(x, order, value=value)


def _pad_with_data(node: Node, pads: Sizes) -> Function:
    node.extra(pads)

    def function(x: Tensor, value: Tensor, order: tuple[int, ...]) -> Tensor:
        inside = F.pad(torch.ones_like(x, dtype=torch.bool), order)
        return torch.where(inside, F.pad(x, order), value.reshape(()))

    return function


def _pad_mirrored(node: Node, mode: str, order: Sequence[int]) -> Function:
    """Pad with the tensor's own elements: in one call if torch has one, else by picking them along each axis."""
    rank, shape = node.rank(0), node.shape(0)
    padded = len(order) // 2  # how many of the last axes
    for covered in (rank - 2, rank - 1):  # with or without a batch, as torch counts
        if not (padded <= covered <= 3 and mode in _FUSED and node.dtype(0).is_floating_point):
            continue
        known = [shape[rank - 1 - i // 2] for i in range(len(order))]
        room = (size > amount if mode == "reflect" else size > 0 for size, amount in zip(known, order, strict=True))
        if min(order) >= 0 and all(room):
            full, how = (*order, *(0,) * (2 * (covered - padded))), _FUSED[mode]
            return lambda x: F.pad(x, full, how)
    axes = [(rank - 1 - i, order[2 * i], order[2 * i + 1]) for i in range(padded) if order[2 * i] or order[2 * i + 1]]
    for axis, before, after in axes:
        check_room(node, node.size(0, axis) + abs(before) + abs(after))
        node.extra(_source(node.size(0, axis), before, after, mode))

    def function(x: Tensor, *sources: Tensor) -> Tensor:
        for (axis, _, _), source in zip(axes, sources, strict=True):
            x = x.index_select(axis, source)
        return x

    return function


def _source(size: int, before: int, after: int, mode: str) -> Tensor:
    """Compute the source index of each element of a padded axis; a negative amount crops before anything is added."""
    first, last = max(-before, 0), size - max(-after, 0)
    length = last - first
    if length <= 0:
        raise Obstacle("it cuts off all there is, and more")
    places = torch.arange(-max(before, 0), length + max(after, 0))
    if mode == "edge":
        places = places.clamp(0, length - 1)
    elif mode == "wrap":
        places = places % length
    else:
        period = max(2 * (length - 1), 1)
        places = places % period
        places = torch.minimum(places, period - places) if length > 1 else torch.zeros_like(places)
    return places + first


@op("CenterCropPad")
def center_crop_pad(node: Node) -> Function | list[Value]:
    rank, dims, target = node.rank(0), node.dims(0), node.numbers(1)
    axes = [axis % rank for axis in node.attr("axes", range(rank))]
    node.take(1)
    before, after = ([0] * rank for _ in range(2))
    for axis, slope, base in zip(axes, target.slope, target.base, strict=True):
        if is_kept(node, axis, slope, base):
            continue
        if slope != dims.slope[axis]:
            raise Obstacle("how much it crops or pads depends on the batch")
        more = base - dims.base[axis]
        # Half of it before, rounded down, whether it is cut off or put on.
        before[axis] = more // 2 if more >= 0 else -(-more // 2)
        after[axis] = more - before[axis]
    order = [amount for axis in reversed(range(rank)) for amount in (before[axis], after[axis])]
    if not any(order):
        return [node.value(0)]
    return lambda x: F.pad(x, order)
