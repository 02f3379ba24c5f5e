"""Convert operators that take parts of tensors: Slice and Split."""

from __future__ import annotations

from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Sizes, Value
from .sizes import is_kept

_TO_THE_END = (2**31 - 1, 2**63 - 1)  # as an end: as far as there is, in either direction
_FAR = 2**62  # beyond any size, and not beyond what torch takes


@op("Slice")
def slice_(node: Node) -> Function | list[Value]:
    if node.version < 10:
        starts, ends = (Sizes((0,) * len(node.attr(n)), tuple(node.attr(n))) for n in ("starts", "ends"))
        axes, steps = node.attr("axes"), None
    else:
        starts, ends = node.numbers(1), node.numbers(2)
        axes = node.ints(3) if node.has(3) else None
        steps = node.ints(4) or None
        for i in range(1, 5):
            node.take(i)
    count, dims = len(starts.base), node.dims(0)
    axes = tuple(axis % node.rank(0) for axis in (axes if axes is not None else range(count)))
    steps = steps or (1,) * count
    if 0 in steps:
        raise Obstacle("a step of 0")
    kept = [i for i in range(count) if not _is_whole(node, dims, axes[i], starts, ends, i, steps[i])]
    if not kept:
        return [node.value(0)]
    parts = [(axes[i], steps[i]) for i in kept]
    low, high = ([(s.slope[i], s.base[i]) for i in kept] for s in (starts, ends))
    if any(slope for slope, _ in (*low, *high)) or any(dims.slope[axis] and step < 0 for axis, step in parts):
        return _slice_by_batch(node, parts, low, high)
    return _slice_now(dims, parts, [base for _, base in low], [base for _, base in high])


def _is_whole(node: Node, dims: Sizes, axis: int, starts: Sizes, ends: Sizes, i: int, step: int) -> bool:
    """Tell whether a part of an axis is all of it."""
    if step != 1 or starts.slope[i] or starts.base[i]:
        return False
    if ends.slope[i] == 0 and ends.base[i] >= (2**31 - 1 if dims.slope[axis] else dims.base[axis]):
        return True
    return is_kept(node, axis, ends.slope[i], ends.base[i])


def _slice_now(dims: Sizes, parts: list[tuple[int, int]], low: list[int], high: list[int]) -> Function:
    """Build a slice whose bounds are known, except that torch clamps those on an axis that depends on the batch."""
    index, flipped = [slice(None)] * (1 + max(axis for axis, _ in parts)), []
    for (axis, step), start, end in zip(parts, low, high, strict=True):
        index[axis], flip = _as_slice(start, end, step, dims.base[axis])
        if flip:
            flipped.append(axis)
    cut = tuple(index)
    if flipped:
        return lambda x: x[cut].flip(flipped)
    if len(parts) == 1 and parts[0][1] == 1 and not dims.slope[parts[0][0]]:
        axis = parts[0][0]
        first, end, _ = cut[axis].indices(dims.base[axis])
        length = max(end - first, 0)
        return lambda x: x.narrow(axis, first, length)
    return lambda x: x[cut]


def _slice_by_batch(
    node: Node, parts: list[tuple[int, int]], low: list[tuple[int, int]], high: list[tuple[int, int]]
) -> Function:
    """Build a slice whose bounds are computed when it runs."""
    for bounds in (low, high):
        node.extra(Sizes(tuple(slope for slope, _ in bounds), tuple(base for _, base in bounds)))

    def function(x: Tensor, starts: tuple[int, ...], ends: tuple[int, ...]) -> Tensor:
        index, flipped = [slice(None)] * x.dim(), []
        for (axis, step), start, end in zip(parts, starts, ends, strict=True):
            index[axis], flip = _as_slice(start, end, step, x.shape[axis])
            if flip:
                flipped.append(axis)
        x = x[tuple(index)]
        return x.flip(flipped) if flipped else x

    return function


def _as_slice(start: int, end: int, step: int, size: int) -> tuple[slice, bool]:
    """Convert bounds on an axis to a slice with a positive step, and tell whether to flip the result."""
    if step > 0:
        low, high = (min(max(bound, -_FAR), _FAR) for bound in (start, end))
        return slice(low, high, step), False
    first = min(max(start + size if start < 0 else start, 0), size - 1)
    last = min(max(end + size if end < 0 else end, -1), size - 1)  # the first position left out
    if end in _TO_THE_END:
        last = -1
    count = max(0, -((last - first) // -step))
    return (slice(first + (count - 1) * step, first + 1, -step) if count else slice(0, 0)), True


@op("Split")
def split(node: Node) -> Function:
    axis = node.attr("axis", 0) % node.rank(0)
    size, parts = node.shape(0)[axis], node.outputs
    if node.version < 13:
        sizes = tuple(node.attr("split", ()))
        node.take(1)  # version 1 has the sizes as an input, too
    elif node.has(1):
        if not node.numbers(1).fixed:
            node.sizes(1)
            return lambda x, sizes: x.split(sizes, axis)
        sizes = node.ints(1)
    else:
        node.take(1)
        sizes = ()
    if sizes:
        if len(set(sizes)) == 1 and sizes[0]:
            return lambda x: x.split(sizes[0], axis)
        return lambda x: x.split(sizes, axis)
    if node.attr("num_outputs", parts) != parts:
        raise Obstacle(f"it has {parts} outputs and says that it has {node.attr('num_outputs')}")
    if size < 0:
        return lambda x: x.split(-(-x.shape[axis] // parts), axis)
    chunk = -(-size // parts)
    if chunk * (parts - 1) >= size > 0 and parts > 1:
        raise Obstacle(f"{size} cannot be split into {parts} parts")
    if chunk == 0:
        return lambda x: x.split((0,) * parts, axis)
    return lambda x: x.split(chunk, axis)
