"""Convert comparisons, truth values, bits, and the choice between two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .unsigned import modular, ordering, shifted_right

_LOGICAL: dict[str, Function] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
}
_BITWISE: dict[str, Function] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
_COMPARED: dict[str, Function] = {
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
}


@op(*_LOGICAL, *_BITWISE)
def logical(node: Node) -> Function:
    return _LOGICAL.get(node.op) or _BITWISE[node.op]


@op("BitwiseNot")
def bitwise_not(node: Node) -> Function:
    return modular(torch.bitwise_not, node.dtype(0))


@op("BitShift")
def bit_shift(node: Node) -> Function:
    dtype, left = node.dtype(0), node.attr("direction") == "LEFT"
    bits = torch.iinfo(dtype).bits

    def shifted(x: Tensor, places: Tensor) -> Tensor:
        x, places = x.to(torch.int64), places.to(torch.int64)
        far = (places < 0) | (places >= bits)
        if left:
            return torch.where(far, 0, x << places.clamp(0, 63)).to(dtype)
        if dtype == torch.uint64:
            return shifted_right(x, torch.where(far, 64, places)).to(dtype)
        return (x >> torch.where(far, 63, places)).to(dtype)  # all places: what is left is the sign

    return shifted


@op("Equal")
def equal(node: Node) -> Function:
    _no_strings(node, 0, 1)
    return torch.eq


@op(*_COMPARED)
def compared(node: Node) -> Function:
    return ordering(_COMPARED[node.op], node.dtype(0), back=False)


@op("Where")
def where(node: Node) -> Function:
    _no_strings(node, 1, 2)
    return torch.where


@op("IsNaN")
def is_nan(node: Node) -> Function:
    return _of_plain_float(node, torch.isnan)


@op("IsInf")
def is_inf(node: Node) -> Function:
    wanted = bool(node.attr("detect_negative", 1)), bool(node.attr("detect_positive", 1))
    known: dict[tuple[bool, bool], Function] = {
        (True, True): torch.isinf,
        (True, False): torch.isneginf,
        (False, True): torch.isposinf,
        (False, False): lambda x: torch.zeros_like(x, dtype=torch.bool),
    }
    return _of_plain_float(node, known[wanted])


def _of_plain_float(node: Node, function: Function) -> Function:
    return (lambda x: function(x.float())) if node.dtype(0).itemsize == 1 else function  # float8 has few operations


def _no_strings(node: Node, *inputs: int) -> None:
    if not all(isinstance(node.sample(index), Tensor) for index in inputs):
        raise Obstacle("it works on strings", "Cut the part that reads text off.")
