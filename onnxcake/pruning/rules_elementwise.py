"""Follow operators that work element by element, with broadcasting, or along an axis that keeps its length."""

from __future__ import annotations

from .dependencies import Call, CannotFollow, rule
from .indices import Axes, Indices

_SAME = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "QuantizeLinear",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
_BROADCAST = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]


@rule(*_SAME)
def same(call: Call) -> list[Axes]:
    """Return the input's axes; further inputs are single numbers, or belong to one axis."""
    axes = call.input(0)
    for place in range(1, len(call.axes)):
        if (other := call.optional(place)) is not None and any(len(axis) > 1 for axis in other):
            _along(call, axes, other)
    return [axes]


def _along(call: Call, axes: Axes, other: Axes) -> None:
    """Unite the scales and zero points of quantisation, one for each index, with their axis."""
    if call.op not in ("QuantizeLinear", "DequantizeLinear") or len(other) != 1:
        raise CannotFollow
    call.indices.unite(axes[call.attr("axis", 1)], other[0])


@rule(*_BROADCAST)
def broadcast(call: Call) -> list[Axes]:
    """Align shapes at their ends."""
    if call.attr("broadcast") is not None:  # before opset 7: aligned elsewhere
        raise CannotFollow
    return [aligned(call.indices, call.given())]


def aligned(indices: Indices, values: list[Axes]) -> Axes:
    """Return the axes of a broadcast result; unite those that are as long as it."""
    rank = max(map(len, values), default=0)
    result = []
    for place in range(-rank, 0):
        there = [axes[place] for axes in values if len(axes) >= -place]
        longest = max(there, key=len)
        for axis in there:
            if len(axis) == len(longest):
                indices.unite(longest, axis)
        result.append(longest)
    return result
