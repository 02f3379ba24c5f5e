"""Convert arithmetic on each element: sums, products, powers, remainders, signs, bounds, extremes."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Value
from .unsigned import UNSIGNED, WIDE, modular, ordering, quotient

_PLAIN: dict[str, Function] = {
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
}
_ARITHMETIC: dict[str, Function] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}


@op(*_PLAIN)
def plain(node: Node) -> Function:
    return _PLAIN[node.op]


@op("Abs")
def magnitude(node: Node) -> Function | list[Value]:
    return [node.value(0)] if node.dtype(0) in UNSIGNED else torch.abs


@op("Sign")
def sign(node: Node) -> Function:
    dtype = node.dtype(0)
    return (lambda x: (x != 0).to(dtype)) if dtype in UNSIGNED else torch.sign


@op("Erf")
def erf(node: Node) -> Function:
    dtype = node.dtype(0)
    return torch.erf if dtype.is_floating_point else lambda x: torch.erf(x.to(torch.float64)).to(dtype)


@op(*_ARITHMETIC)
def arithmetic(node: Node) -> Function:
    return modular(_ARITHMETIC[node.op], node.dtype(0))


@op("Div")
def div(node: Node) -> Function:
    dtype = node.dtype(0)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.div
    return modular(quotient if dtype == torch.uint64 else _truncated, dtype)


def _truncated(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="trunc")


@op("Mod")
def mod(node: Node) -> Function:
    dtype = node.dtype(0)
    if dtype == torch.uint64:
        return modular(lambda x, y: x - quotient(x, y) * y, dtype)
    return modular(torch.fmod if node.attr("fmod", 0) else torch.remainder, dtype)


@op("Pow")
def power(node: Node) -> Function | list[Value]:
    base, exponent = node.dtype(0), node.dtype(1)
    number = constant_number(node, 1, 0)
    if base.is_floating_point:
        if number is not None:
            node.take(1)
            return [node.value(0)] if number == 1 else _power_of(float(number))
        return torch.pow if exponent == base else lambda x, y: torch.pow(x, y.to(base))
    if exponent.is_floating_point:
        return lambda x, y: torch.pow(x.to(torch.float64), y.to(torch.float64)).to(base)
    return lambda x, y: torch.pow(x.to(torch.int64), y.to(torch.int64)).to(base)


def _power_of(exponent: float) -> Function:
    named = {2.0: lambda x: x * x, 0.5: torch.sqrt, -1.0: torch.reciprocal}  # with cheaper gradients
    return named.get(exponent, lambda x: torch.pow(x, exponent))


@op("Sum")
def total(node: Node) -> Function | list[Value]:
    count = len(node.inputs)
    if count < 3:
        return torch.add if count == 2 else [node.value(0)]
    return lambda *xs: functools.reduce(torch.add, xs)


@op("Mean")
def mean(node: Node) -> Function | list[Value]:
    count = len(node.inputs)
    return [node.value(0)] if count == 1 else lambda *xs: functools.reduce(torch.add, xs) / count


@op("Max", "Min")
def extreme(node: Node) -> Function | list[Value]:
    count, dtype = len(node.inputs), node.dtype(0)
    if count == 1:
        return [node.value(0)]
    if count == 2 and dtype not in WIDE:
        for index in (0, 1):
            number = constant_number(node, index, 1 - index)
            if number is not None:
                node.take(index)
                return _clamp(number, None, dtype) if node.op == "Max" else _clamp(None, number, dtype)
    pairwise = torch.maximum if node.op == "Max" else torch.minimum
    return ordering(pairwise if count == 2 else lambda *xs: functools.reduce(pairwise, xs), dtype)


@op("Clip")
def clip(node: Node) -> Function | list[Value]:
    dtype = node.dtype(0)
    if node.version < 11:
        low, high = node.attr("min"), node.attr("max")
        return [node.value(0)] if low is None and high is None else _clamp(low, high, dtype)
    given = [index for index in (1, 2) if node.has(index)]
    if not given:
        return [node.value(0)]
    if dtype in WIDE or not all(node.is_constant(index) for index in given):
        return ordering(lambda x, low=None, high=None: torch.clamp(x, low, high), dtype)
    low, high = (node.constant(i).reshape(-1)[0].item() if i in given else None for i in (1, 2))
    for index in (1, 2):  # an absent one too
        node.take(index)
    return _clamp(low, high, dtype)


def _clamp(low: float | None, high: float | None, dtype: torch.dtype) -> Function:
    """Build a clamp between fixed bounds, the upper one winning."""
    if dtype.is_floating_point and (low, high) in _RECTIFIERS:
        return _RECTIFIERS[low, high]
    return lambda x: torch.clamp(x, low, high)


# Activations that are written as bounds. Their gradient costs a tenth of clamp's; but on a bound it is zero, which
# would leave a pixel that lies on the bound of an image's range there for good.
_RECTIFIERS: dict[tuple[float | None, float | None], Function] = {(0.0, None): torch.relu, (0.0, 6.0): F.relu6}


def constant_number(node: Node, index: int, other: int) -> int | float | None:
    """Return input ``index`` as a Python number if it is a constant one that does not change the shape of ``other``."""
    if not node.is_constant(index) or node.is_constant(other):
        return None
    value: Tensor = node.sample(index)
    if value.numel() != 1 or value.dim() > node.rank(other):
        return None
    node.value(index).read = True
    number: int | float = value.item()
    return number
