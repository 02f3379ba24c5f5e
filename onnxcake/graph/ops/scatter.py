"""Convert operators that write elements by index: ScatterElements, ScatterND and the update of a cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .indexing import indices

# ONNX's reductions and torch's
_REDUCTIONS = {"none": "", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(node: Node) -> str:
    name = node.attr("reduction", "none")
    if name not in _REDUCTIONS:
        raise Obstacle(f"the reduction {name} is not in the standard")
    return _REDUCTIONS[name]


@op("Scatter", "ScatterElements")
def scatter_elements(node: Node) -> Function:
    axis, how = node.attr("axis", 0) % node.rank(0), _reduction(node)
    at = indices(node, 1, node.shape(0)[axis])
    if how == "":
        return lambda x, i, new: x.scatter(axis, at(i, x.shape[axis]), new)
    if how == "sum":
        return lambda x, i, new: x.scatter_add(axis, at(i, x.shape[axis]), new)
    return lambda x, i, new: x.scatter_reduce(axis, at(i, x.shape[axis]), new, how)


@op("ScatterND")
def scatter_nd(node: Node) -> Function:
    how = _reduction(node)
    if how in ("", "sum"):
        return lambda x, i, new: x.index_put(i.unbind(-1), new, accumulate=how == "sum")
    places = node.size(1, -1)  # how many leading axes the indices address

    def function(x: Tensor, i: Tensor, new: Tensor) -> Tensor:
        outer, inner = x.shape[:places], math.prod(x.shape[places:])
        flat = torch.zeros_like(i[..., 0])
        for axis, size in enumerate(outer):
            one = i[..., axis]
            flat = flat * size + torch.where(one < 0, one + size, one)
        rows = flat.reshape(-1, 1).expand(-1, inner)
        done = x.reshape(math.prod(outer), inner).scatter_reduce(0, rows, new.reshape(-1, inner), how)
        return done.reshape(x.shape)

    return function


@op("TensorScatter")
def tensor_scatter(node: Node) -> Function:
    axis = node.attr("axis", -2) % node.rank(0)
    circular = node.attr("mode", "linear") == "circular"

    def function(cache: Tensor, new: Tensor, starts: Tensor | None = None) -> Tensor:
        steps = torch.arange(new.shape[axis], device=new.device)
        if starts is None:
            places = steps.expand(new.shape[0], -1)
        else:
            places = starts.unsqueeze(1) + steps
        if circular:
            places = places % cache.shape[axis]
        shape = [1] * new.dim()
        shape[0], shape[axis] = new.shape[0], new.shape[axis]
        return cache.scatter(axis, places.reshape(shape).expand(new.shape), new)

    return function
