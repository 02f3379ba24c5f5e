"""Convert tensors made from sizes and numbers: Tile, ConstantOfShape, Range, EyeLike, Trilu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.remedies import SIZES
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Sizes, Value


@op("Tile")
def tile(node: Node) -> Function | list[Value]:
    shape = node.shape(0)
    repeats = node.numbers(1)
    if node.version < 6:  # one axis, how often and which, as inputs
        times, axis = node.ints(1)[0], node.ints(2)[0]
        repeats = Sizes((0,) * len(shape), tuple(times if i == axis else 1 for i in range(len(shape))))
    node.take(1)
    if repeats.fixed and all(times == 1 for times in repeats.base):
        return [node.value(0)]
    ones = [repeats.slope[i] == 0 and repeats.base[i] == 1 for i in range(len(shape))]
    node.extra(repeats)
    if all(one or size == 1 for one, size in zip(ones, shape, strict=True)):
        # What is repeated has size 1: a view does.
        return lambda x, times: x.expand([-1 if one else n for one, n in zip(ones, times, strict=True)])
    return lambda x, times: x.repeat(times)


@op("ConstantOfShape")
def constant_of_shape(node: Node) -> Function:
    node.sizes(0)
    value = node.attr("value")
    node.extra(torch.zeros((), dtype=node.dtype_of(1)) if value is None else value.reshape(()))
    return lambda sizes, value: value.expand(sizes)


@op("Range")
def range_(node: Node) -> Function:
    bounds = [node.value(i) for i in range(3)]
    if any(value.depends == Depends.DATA for value in bounds):
        raise Obstacle(
            "the size of its output depends on the data",
            SIZES,
        )
    counts = [_count(*(value.seen[trial] for value in bounds)) for trial in (0, 1)]
    node.extra(Sizes.through(node.builder.batches, ([counts[0]], [counts[1]])))
    node.take(1)
    dtype = node.dtype(0)
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def function(start: Tensor, step: Tensor, count: tuple[int, ...]) -> Tensor:
        steps = torch.arange(count[0], device=start.device, dtype=work)
        return (start.to(work).reshape(()) + steps * step.to(work).reshape(())).to(dtype)

    return function


def _count(start: Tensor, limit: Tensor, step: Tensor) -> int:
    """Count the numbers of a range."""
    if not step.any():
        raise Obstacle("a step of 0")
    if start.dtype.is_floating_point:
        first, end, by = (float(t) for t in (start, limit, step))
        return max(math.ceil((end - first) / by), 0)
    return len(range(int(start), int(limit), int(step)))


@op("EyeLike")
def eye_like(node: Node) -> Function:
    kind, k = node.attr("dtype"), node.attr("k", 0)
    dtype = node.dtype(0) if kind is None else node.dtype_of(kind)
    node.extra(node.dims(0))
    node.take(0)
    node.extra(torch.zeros((), dtype=torch.int64))  # says on which device

    def function(sizes: tuple[int, ...], like: Tensor) -> Tensor:
        rows, columns = (torch.arange(n, device=like.device) for n in sizes)
        ones: Tensor = columns - rows.unsqueeze(1) == k
        return ones.to(dtype)

    return function


@op("Trilu")
def trilu(node: Node) -> Function:
    diagonal = node.ints(1)[0] if node.has(1) else 0
    node.take(1)
    diagonal = min(max(diagonal, -(2**31)), 2**31)  # torch adds sizes to it
    if node.attr("upper", 1):
        return lambda x: x.triu(diagonal)
    return lambda x: x.tril(diagonal)
