"""Convert operators that pick elements by index: Gather and its relatives, one-hot, and those that find indices."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.remedies import around
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Unfit, Value


def indices(node: Node, index: int, size: int) -> Callable[[Tensor, int], Tensor]:
    """Build the function that makes int64 indices ≥ 0 of input ``index`` on an axis of ``size`` (−1: open).

    Constant indices on an axis of known size are converted at once, and nothing is left to do at run time.

    If they are constants and the size is known, that is done here and nothing is left to do.

    Raises:
        Unfit: if a constant index lies outside the axis, as positions beyond a table's end do.
    """
    if node.is_constant(index):
        given = node.sample(index).long()
        if size >= 0:
            if given.numel() and (int(given.min()) < -size or int(given.max()) >= size):
                raise Unfit(f"an index lies outside the axis of size {size}")
            given = torch.where(given < 0, given + size, given)
        node.replace(index, given)
        if bool((given >= 0).all()):
            return lambda i, _: i
    return lambda i, n: torch.where(i < 0, i + n, i).long()


@op("Gather")
def gather(node: Node) -> Function | list[Value]:
    axis = node.attr("axis", 0) % max(node.rank(0), 1)
    size = node.shape(0)[axis]
    if node.is_constant(1):
        easy = _gather_view(node, axis, size)
        if easy is not None:
            return easy
    at = indices(node, 1, size)
    shape = tuple(node.sample(1).shape)
    if node.is_constant(0) and node.rank(0) == 2 and axis == 0 and node.dtype(0).is_floating_point:
        return lambda table, i: F.embedding(at(i, size), table)
    if len(shape) == 1:
        return lambda x, i: x.index_select(axis, at(i, x.shape[axis]))

    def function(x: Tensor, i: Tensor) -> Tensor:
        picked = x.index_select(axis, at(i, x.shape[axis]).reshape(-1))
        return picked.reshape(*x.shape[:axis], *i.shape, *x.shape[axis + 1 :])

    return function


def _gather_view(node: Node, axis: int, size: int) -> Function | None:
    """Build a view for one constant index, or constant indices with a constant positive step; None for others."""
    picked = node.sample(1)
    if picked.dim() > 1 or picked.numel() == 0:
        return None
    values = picked.reshape(-1).tolist()
    if size >= 0 and (min(values) < -size or max(values) >= size):
        raise Unfit(f"an index lies outside the axis of size {size}")
    if picked.dim() == 0:
        node.take(1)
        return lambda x: x.select(axis, values[0])
    positions = [i + size if i < 0 and size >= 0 else i for i in values]
    steps = {b - a for a, b in itertools.pairwise(positions)} or {1}
    if positions[0] < 0 or len(steps) > 1 or min(steps) < 1:
        return None
    node.take(1)
    step = steps.pop()
    if step == 1:
        return lambda x: x.narrow(axis, positions[0], len(positions))
    part = (*(slice(None),) * axis, slice(positions[0], positions[-1] + 1, step))
    return lambda x: x[part]


@op("GatherElements")
def gather_elements(node: Node) -> Function:
    axis = node.attr("axis", 0) % node.rank(0)
    at = indices(node, 1, node.shape(0)[axis])
    return lambda x, i: x.gather(axis, at(i, x.shape[axis]))


@op("GatherND")
def gather_nd(node: Node) -> Function:
    batch_dims, rank = node.attr("batch_dims", 0), node.rank(1) - 1
    if batch_dims == 0:
        return lambda x, i: x[i.unbind(-1)]

    def function(x: Tensor, i: Tensor) -> Tensor:
        batches = [
            torch.arange(x.shape[d], device=x.device).reshape([-1 if e == d else 1 for e in range(rank)])
            for d in range(batch_dims)
        ]
        return x[(*batches, *i.long().unbind(-1))]

    return function


@op("OneHot")
def one_hot(node: Node) -> Function:
    axis = node.attr("axis", -1) % (node.rank(0) + 1)
    after = node.rank(0) - axis
    node.sizes(1)

    def function(i: Tensor, depth: tuple[int, ...], off_on: Tensor) -> Tensor:
        count = depth[0]
        i = i.long()
        i = torch.where(i < 0, i + count, i).unsqueeze(axis)
        classes = torch.arange(count, device=i.device).reshape(-1, *(1,) * after)
        return torch.where(i == classes, off_on[1], off_on[0])

    return function


@op("ReverseSequence")
def reverse_sequence(node: Node) -> Function:
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise Obstacle("its time and batch axes must be 0 and 1")

    def function(x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[time], device=x.device)
        lengths = lengths.unsqueeze(1)
        source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # of each sequence
        source = source.T if time == 0 else source
        return x.gather(time, source.reshape(*source.shape, *(1,) * (x.dim() - 2)).expand(x.shape))

    return function


# What finds indices: the size of the result is that of the data, so the data must be known


def _refuse_data(node: Node, index: int) -> None:
    if node.value(index).depends == Depends.DATA:
        raise Obstacle(
            "the size of its output depends on the data",
            around("without this operator"),
        )


@op("NonZero")
def non_zero(node: Node) -> Function:
    _refuse_data(node, 0)
    return lambda x: x.nonzero().T


@op("Compress")
def compress(node: Node) -> Function:
    _refuse_data(node, 1)
    axis = node.attr("axis")
    if node.is_constant(1):
        kept = node.constant(1).reshape(-1).nonzero().reshape(-1)
        node.extra(kept)
        if axis is None:
            return lambda x, i: x.reshape(-1).index_select(0, i)
        return lambda x, i: x.index_select(axis, i)
    if axis is None:
        return lambda x, keep: x.reshape(-1).index_select(0, keep.nonzero().reshape(-1))
    return lambda x, keep: x.index_select(axis, keep.nonzero().reshape(-1))


@op("Unique")
def unique(node: Node) -> Function:
    _refuse_data(node, 0)
    axis, ascending = node.attr("axis"), bool(node.attr("sorted", 1))

    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        along = 0 if axis is None else axis
        x = x.reshape(-1) if axis is None else x
        found, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=along)
        places = torch.arange(inverse.numel(), device=x.device)
        first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
        if not ascending:  # in the order in which they are met
            order = first.argsort()
            found, first, counts = found.index_select(along, order), first[order], counts[order]
            inverse = order.argsort()[inverse]
        return found, first, inverse, counts

    return function
