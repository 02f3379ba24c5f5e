"""Convert reductions over axes, and running sums and products."""

from __future__ import annotations

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Value
from .unsigned import UNSIGNED, modular, ordering

Axes = tuple[int, ...]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keep, dtype=x.dtype)  # else torch widens integers


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.mean(axes, keep)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in axes[::-1]:  # the last first, so that the others stay where they are
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _sum_of_magnitudes(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.abs().sum(axes, keep, dtype=x.dtype)


def _norm(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)  # its gradient at zero is zero, not NaN
    return norm


def _sum_of_squares(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return (x * x).sum(axes, keep, dtype=x.dtype)


def _log_of_sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(axes, keep).log()


def _log_of_sum_of_exponentials(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keep)


_WHOLE = {"ReduceSum": _sum, "ReduceProd": _product, "ReduceL1": _sum_of_magnitudes, "ReduceSumSquare": _sum_of_squares}
_REAL = {
    "ReduceMean": _mean,
    "ReduceL2": _norm,
    "ReduceLogSum": _log_of_sum,
    "ReduceLogSumExp": _log_of_sum_of_exponentials,
}


@op(*_WHOLE, *_REAL)
def reduce(node: Node) -> Function | list[Value]:
    axes, keep, dtype = _axes(node), bool(node.attr("keepdims", 1)), node.dtype(0)
    if axes is None:
        if node.op in ("ReduceSum", "ReduceProd", "ReduceMean", "ReduceLogSumExp"):
            return [node.value(0)]
        function = _reduction_over(node.op, (-1,), False, dtype)  # each element by itself
        return lambda x: function(x.unsqueeze(-1))
    return _reduction_over(node.op, axes, keep, dtype)


def _reduction_over(name: str, axes: Axes, keep: bool, dtype: torch.dtype) -> Function:
    if name in _WHOLE:
        whole = _sum if name == "ReduceL1" and dtype in UNSIGNED else _WHOLE[name]
        return modular(lambda x: whole(x, axes, keep), dtype)
    real = _REAL[name]
    if dtype.is_floating_point:
        return lambda x: real(x, axes, keep)
    return lambda x: real(x.to(torch.float64), axes, keep).to(dtype)


@op("ReduceMax", "ReduceMin")
def reduce_extreme(node: Node) -> Function | list[Value]:
    axes, keep, dtype = _axes(node), bool(node.attr("keepdims", 1)), node.dtype(0)
    if axes is None:
        return [node.value(0)]
    if any(node.shape(0)[axis] == 0 for axis in axes):
        limit = _limit(dtype, highest=node.op == "ReduceMin")
        return lambda x: torch.full_like((x != 0).sum(axes, keep), limit, dtype=dtype)
    function = torch.amax if node.op == "ReduceMax" else torch.amin
    return ordering(lambda x: function(x, axes, keep), dtype)


def _limit(dtype: torch.dtype, highest: bool) -> float:
    if dtype == torch.bool:
        return highest
    if dtype.is_floating_point:
        return torch.inf if highest else -torch.inf
    info = torch.iinfo(dtype)
    return info.max if highest else info.min


def _axes(node: Node) -> Axes | None:
    """Return the axes to reduce, in order; None if there are none."""
    rank = node.rank(0)
    if node.version >= (13 if node.op == "ReduceSum" else 18):
        axes = node.ints(1)
        node.take(1)  # also where it is absent
        if not axes and node.attr("noop_with_empty_axes", 0):
            return None
    else:
        axes = tuple(node.attr("axes", ()))
    return tuple(sorted({axis % rank for axis in axes})) if axes and rank else tuple(range(rank))


@op("CumSum", "CumProd")
def cumulative(node: Node) -> Function:
    axis, dtype = node.ints(1)[0] % max(node.rank(0), 1), node.dtype(0)
    function, empty = (torch.cumsum, 0) if node.op == "CumSum" else (torch.cumprod, 1)
    exclusive, reverse = bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0))
    first, rest = ((slice(None),) * axis + (part,) for part in (slice(0, 1), slice(0, -1)))

    def running(x: Tensor) -> Tensor:
        if reverse:
            x = x.flip(axis)
        if exclusive:  # moved by one
            x = torch.cat((torch.full_like(x[first], empty), x[rest]), axis)
        x = function(x, axis, dtype=x.dtype)
        return x.flip(axis) if reverse else x

    return modular(running, dtype)
