"""Convert operators on shapes and the order of elements, which move data without changing them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Sizes, Value


@op("Identity", "Dropout")
def identity(node: Node) -> Function | list[Value]:
    if node.wanted(1):  # Dropout's mask: at inference nothing is dropped
        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))
    return [node.value(0)]


@op("Constant")
def constant(node: Node) -> list[Value]:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        value = node.attr(name)
        if value is not None:
            if not isinstance(value, Tensor):
                value = torch.tensor(value, dtype=node.dtype_of(1) if "float" in name else torch.int64)
            return [node.builder.constant(value)]
    sparse = node.attr("sparse_value")
    if sparse is not None:
        return [node.builder.constant(sparse)]
    strings = node.attr("value_strings", node.attr("value_string"))
    if strings is None:
        raise Obstacle("it holds no value")
    return [node.builder.constant([strings] if isinstance(strings, str) else strings)]


@op("Shape")
def shape(node: Node) -> Function:
    dims = node.dims(0)
    part = slice(node.attr("start", 0), node.attr("end"))
    node.take(0)
    node.extra(Sizes(dims.slope[part], dims.base[part]))
    node.extra(torch.empty(0))  # tells the device
    return lambda sizes, here: torch.tensor(sizes, dtype=torch.int64, device=here.device)


@op("Size")
def size(node: Node) -> Function:
    node.extra(node.dims(0))
    node.take(0)
    node.extra(torch.empty(0))
    return lambda sizes, here: torch.tensor(math.prod(sizes), dtype=torch.int64, device=here.device)


@op("Reshape")
def reshape(node: Node) -> Function:
    dims = node.dims(0)
    if node.version >= 5:
        target = node.numbers(1)
        node.take(1)
    else:
        target = Sizes((0,) * len(node.attr("shape")), tuple(node.attr("shape")))
    slope, base = list(target.slope), list(target.base)
    if not node.attr("allowzero", 0):  # 0: the size that the input has there
        for axis, (s, b) in enumerate(zip(slope, base, strict=True)):
            if s == 0 and b == 0:
                slope[axis], base[axis] = dims.slope[axis], dims.base[axis]
    target = _with_free_batch(node, dims, Sizes(tuple(slope), tuple(base)))
    return _view(node, target)


def _with_free_batch(node: Node, dims: Sizes, target: Sizes) -> Sizes:
    """Let a batch that the exporter wrote into a reshape's target follow the real one.

    In row-major order the batch stays behind as many elements as before: it goes to the axis of the target that
    has as many in front of it as the batch's axis of the input.
    """
    baked = node.builder.fixed_batch
    if baked is None or not target.fixed or sum(map(bool, dims.slope)) != 1:
        return target
    sizes, base = dims.at(baked), list(target.base)
    if -1 in base:
        base[base.index(-1)] = math.prod(sizes) // max(-math.prod(base), 1)
    before = math.prod(sizes[: next(i for i, slope in enumerate(dims.slope) if slope)])
    for axis, size in enumerate(base):
        if math.prod(base[:axis]) == before and size % baked == 0 and math.prod(base) == math.prod(sizes):
            slope = [0] * len(base)
            slope[axis], base[axis] = size // baked, 0
            return Sizes(tuple(slope), tuple(base))
    return target


def _view(node: Node, target: Sizes) -> Function:
    """Build a reshape; the one size that depends on the batch, if it is one, is left for torch to compute."""
    if sum(map(bool, target.slope)) == 1 and -1 not in target.base and 0 not in target.base_of_fixed:
        fixed = tuple(-1 if s else b for s, b in zip(target.slope, target.base, strict=True))
        return lambda x: x.reshape(fixed)
    if target.fixed:
        return lambda x: x.reshape(target.base)
    node.extra(target)
    return lambda x, sizes: x.reshape(sizes)


@op("Flatten")
def flatten(node: Node) -> Function:
    axis, dims = node.attr("axis", 1), node.dims(0)
    axis = axis + node.rank(0) if axis < 0 else axis
    if any(dims.slope[axis:]) or axis == 0:
        return lambda x: x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    columns = math.prod(dims.base[axis:])
    if columns == 0:
        return lambda x: x.reshape(math.prod(x.shape[:axis]), 0)
    return lambda x: x.reshape(-1, columns)


@op("Squeeze")
def squeeze(node: Node) -> Function:
    axes = node.ints(1) if node.version >= 13 else tuple(node.attr("axes", ()))
    if not axes:
        axes = tuple(i for i, size in enumerate(node.shape(0)) if size == 1)
    return lambda x: x.squeeze(axes)


@op("Unsqueeze")
def unsqueeze(node: Node) -> Function:
    axes = node.ints(1) if node.version >= 13 else tuple(node.attr("axes"))
    rank = node.rank(0) + len(axes)
    places = sorted(axis % rank for axis in axes)
    if len(places) == 1:
        place = places[0]
        return lambda x: x.unsqueeze(place)

    def function(x: Tensor) -> Tensor:
        for place in places:
            x = x.unsqueeze(place)
        return x

    return function


@op("Transpose")
def transpose(node: Node) -> Function:
    order = tuple(node.attr("perm", range(node.rank(0))[::-1]))
    return lambda x: x.permute(order)


@op("Concat")
def concat(node: Node) -> Function:
    axis = node.attr("axis", 1)  # required from version 4 on
    baked = node.builder.fixed_batch
    if baked is not None and axis % max(node.rank(0), 1):
        dims = [node.dims(i) for i in range(len(node.inputs))]
        free = [d.slope[0] == 1 and d.base[0] == 0 for d in dims]
        stuck = [d.slope[0] == 0 and d.base[0] == 1 for d in dims]
        if baked == 1 and any(free) and any(stuck) and all(f or s for f, s in zip(free, stuck, strict=True)):
            # Tokens stored for a batch of one are the same for every input.
            model = free.index(True)
            return lambda *xs: torch.cat([x.expand(xs[model].shape[0], *x.shape[1:]) for x in xs], axis)
    return lambda *xs: torch.cat(xs, axis)


@op("Expand")
def expand(node: Node) -> Function:
    node.sizes(1)

    def function(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        # Two-way: a size of 1 asks for what x has there.
        return x.expand(torch.broadcast_shapes(x.shape, sizes))

    return function
