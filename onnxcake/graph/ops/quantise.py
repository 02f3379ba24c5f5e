"""Convert quantisation to a grid of values and back, with a straight-through gradient (Bengio et al., 2013).

Where floats are computed in one precision (`Builder.precision`), a quantised tensor stays a float tensor that
holds its whole numbers exactly. So whatever lies between QuantizeLinear and DequantizeLinear has a gradient.
Without a precision it is made the integer tensor that the file declares. Both kinds are accepted everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from ...onnxfile.tensors import DTYPES, type_name
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Value
from .rounding import FLOAT8, RANGES, StraightThroughQuantise, StraightThroughRound

_TYPES = {DTYPES[kind]: kind for kind in (*RANGES, *FLOAT8)}  # of several with one dtype, the widest
_E4M3FN_OVER = 464.0  # halfway from its largest number, 448, to where the next one would be


@op("QuantizeLinear")
@op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(node: Node) -> Function:
    kind = _target(node)
    if kind in FLOAT8:
        return _to_float8(node, kind)
    return declared(node, _to_grid(node, kind, back=False), kind)


def declared(node: Node, function: Function, kind: int) -> Function:
    """Convert a function's result to the declared type, where each type is kept."""
    if node.builder.precision is not None:
        return function
    dtype = DTYPES[kind]
    return lambda *xs: function(*xs).to(dtype)


def _target(node: Node) -> int:
    """Return the element type that a QuantizeLinear makes."""
    kind: int = node.attr("output_dtype", 0)
    if node.has(2):
        zero = node.value(2)
        kind = kind or zero.elem_type or _TYPES.get(zero.seen[0].dtype, TensorProto.FLOAT)
    kind = kind or TensorProto.UINT8
    if kind not in RANGES and kind not in FLOAT8:
        raise Obstacle(f"it quantises to {type_name(kind)}", "Quantise the model to 8-bit integers.")
    return kind


def _to_grid(node: Node, kind: int, back: bool) -> Function:
    """Build x → whole numbers of the scale, as they are or times the scale. Takes the node's scale and zero point."""
    low, high = (float(end) for end in RANGES[kind])
    real = real_dtype(node)
    step, zero = _number(node, 1), _number(node, 2) if node.has(2) else 0.0
    if step is not None and step > 0 and zero is not None:
        node.take(1)
        node.take(2)
        node.extra(torch.tensor(step, dtype=real))
        low, high = low - zero, high - zero
        if back or not zero:
            return lambda x, scale: StraightThroughQuantise.apply(x.to(real), scale, step, low, high, back)
        return lambda x, scale: StraightThroughQuantise.apply(x.to(real), scale, step, low, high, back) + zero
    scale_of, zero_of = _pass_aligned(node, 1), _pass_aligned(node, 2)

    def function(x: Tensor, s: Tensor, z: Tensor | int = 0) -> Tensor:
        s, z = scale_of(s), zero_of(z)
        y: Tensor = (StraightThroughRound.apply(x.to(real) / s) + z).clamp(low, high)
        return (y - z) * s if back else y

    return function


def _to_float8(node: Node, kind: int) -> Function:
    dtype, real = DTYPES[kind], real_dtype(node)
    largest = torch.finfo(dtype).max if node.attr("saturate", 1) else math.inf
    keep = node.builder.precision is None
    scale_of, zero_of = _pass_aligned(node, 1), _pass_aligned(node, 2)

    def function(x: Tensor, s: Tensor, z: Tensor | int = 0) -> Tensor:
        x = (x.to(real) / scale_of(s) + zero_of(z)).clamp(-largest, largest)
        y = x
        if dtype == torch.float8_e4m3fn and largest == math.inf:  # torch saturates, in some of its versions
            y = torch.where(x.abs() > _E4M3FN_OVER, torch.nan, x)
        y = y.to(dtype)
        if keep:
            return y
        y = y.to(real)
        return torch.where(y.isfinite(), x + (y - x).detach(), y)

    return function


@op("DequantizeLinear")
@op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(node: Node) -> Function | list[Value]:
    maker = node.maker(0)
    if maker is not None and _undoes(node, maker):
        # Both at once, on what was quantised: a third of the time.
        node.take(0)
        node.extra(maker.value(0))
        return _to_grid(node, _target(maker), back=True)
    real = real_dtype(node)
    kind = node.attr("output_dtype", 0) or next(k for k, d in DTYPES.items() if d == node.dtype(1))
    whole, central = _is_filled_with(node, 1, 1), not node.has(2) or _is_filled_with(node, 2, 0)
    if whole and central and node.builder.precision == node.dtype(0):
        return [node.value(0)]
    scale_of = None if whole else _pass_aligned(node, 1)
    zero_of = None if central else _pass_aligned(node, 2)
    node.take(1)
    node.take(2)

    def function(x: Tensor, *parts: Tensor) -> Tensor:
        x = x.to(real)
        if zero_of is not None:
            x = x - zero_of(parts[-1])
        return x if scale_of is None else x * scale_of(parts[0])

    return declared(node, function, kind)


def _undoes(node: Node, maker: Node) -> bool:
    """Tell whether a DequantizeLinear exactly undoes the QuantizeLinear that makes its input."""
    if node.builder.precision is None or maker.op != "QuantizeLinear" or _target(maker) in FLOAT8:
        return False
    if any(node.attr(name, default) != maker.attr(name, default) for name, default in (("axis", 1), ("block_size", 0))):
        return False
    return all(_equal(node, maker, place) for place in (1, 2))


def _equal(node: Node, other: Node, place: int) -> bool:
    if not (node.has(place) and other.has(place)):
        return node.has(place) == other.has(place)
    a, b = node.value(place), other.value(place)
    known = a.depends == b.depends == Depends.NOTHING
    return a is b or (known and a.seen[0].dtype == b.seen[0].dtype and torch.equal(a.seen[0], b.seen[0]))


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node) -> Function:
    real, keep = real_dtype(node), node.builder.precision is None

    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.to(real)
        low, high = x.detach().aminmax()
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, 1, scale)
        zero = (-low / scale).clamp(0, 255).round()
        y = (StraightThroughRound.apply(x / scale) + zero).clamp(0, 255)
        return (y.to(torch.uint8), scale, zero.to(torch.uint8)) if keep else (y, scale, zero)

    return function


# Scales and zero points


def real_dtype(node: Node) -> torch.dtype:
    """Return the dtype that quantised numbers are computed in."""
    return node.builder.precision or torch.float32


def _number(node: Node, place: int) -> float | None:
    """Return a scale or zero point that is one known number; None for others."""
    if not node.is_constant(place) or node.sample(place).numel() != 1:
        return None
    return float(node.sample(place).to(real_dtype(node)))


def _is_filled_with(node: Node, place: int, number: int) -> bool:
    return node.is_constant(place) and bool((node.sample(place).to(real_dtype(node)) == number).all())


def _pass_aligned(node: Node, place: int) -> Callable[[Any], Any]:
    """Pass a scale or zero point as the function's next further argument; return the function to apply to it first.

    A constant is passed in the shape that broadcasts to x. A value that depends on data passes no gradient on:
    a rounded x moves with its scale by less than a step, and that is noise.
    """
    if not node.has(place):
        return lambda t: t
    node.take(place)
    fit = _alignment(node, place)
    if node.is_constant(place):
        node.extra(fit(node.sample(place)))
        return lambda t: t
    node.extra(node.value(place))
    return lambda t: fit(t.detach())


def _alignment(node: Node, place: int) -> Callable[[Tensor], Tensor]:
    """Build the function that reshapes a scale or zero point to broadcast to x: per tensor, per axis, or by blocks."""
    real, given = real_dtype(node), node.sample(place)
    if given.numel() == 1:
        return lambda t: t.to(real).reshape(())
    rank, block = node.rank(0), node.attr("block_size", 0)
    axis = node.attr("axis", 1) % rank
    if block:
        length = node.size(0, axis)
        return lambda t: t.to(real).repeat_interleave(block, axis).narrow(axis, 0, length)
    if given.dim() != 1:  # already of that shape: rows and columns of QLinearMatMul
        return lambda t: t.to(real)
    shape = [1] * rank
    shape[axis] = -1
    return lambda t: t.to(real).reshape(shape)
