"""Convert operators that find the largest and smallest elements."""

from __future__ import annotations

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function
from .unsigned import WIDE, ordered, ordering, unordered


@op("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Function:
    axis, keep = node.attr("axis", 0) % max(node.rank(0), 1), bool(node.attr("keepdims", 1))
    find = torch.argmax if node.op == "ArgMax" else torch.argmin  # the first of equals
    if node.attr("select_last_index", 0):
        return ordering(lambda x: x.shape[axis] - 1 - find(x.flip(axis), axis, keep), node.dtype(0), back=False)
    return ordering(lambda x: find(x, axis, keep), node.dtype(0), back=False)


@op("TopK")
def top_k(node: Node) -> Function:
    axis, dtype = node.attr("axis", -1) % node.rank(0), node.dtype(0)
    count = node.ints(1)[0] if node.version >= 10 else node.attr("k")
    largest = bool(node.attr("largest", 1))

    def found(x: Tensor) -> tuple[Tensor, Tensor]:
        if count == 1:
            value, index = x.max(axis, keepdim=True) if largest else x.min(axis, keepdim=True)
            return value, index
        # topk leaves open which of equals it gives; a stable sort gives the first ones.
        value, index = x.sort(dim=axis, descending=largest, stable=True)
        return value.narrow(axis, 0, count), index.narrow(axis, 0, count)

    if dtype not in WIDE:
        return found

    def wide(x: Tensor) -> tuple[Tensor, Tensor]:
        value, index = found(ordered(x))
        return unordered(value, dtype), index

    return wide
