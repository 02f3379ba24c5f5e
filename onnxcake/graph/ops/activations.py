"""Convert activation functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Value
from .unsigned import UNSIGNED

_PLAIN: dict[str, Function] = {
    "Relu": torch.relu,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
}
_SELU = (1.67326319, 1.05070102)


@op(*_PLAIN)
def plain(node: Node) -> Function:
    return _PLAIN[node.op]


@op("LeakyRelu")
def leaky_relu(node: Node) -> Function:
    slope = node.attr("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@op("PRelu")
def prelu(node: Node) -> Function | list[Value]:
    dtype = node.dtype(0)
    if dtype in UNSIGNED:
        return [node.value(0)]
    x, slope = node.shape(0), node.shape(1)
    count, place = math.prod(slope), len(slope) - len(x) + 1  # of the slope's dimension that lies along channels
    by_channel = len(x) >= 2 and place >= 0 and slope[place] == count == x[1]
    if dtype.is_floating_point and x and (count == 1 or by_channel):
        return lambda x, slope: F.prelu(x, slope.reshape(-1))
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(node: Node) -> Function:
    alpha = node.attr("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@op("Celu")
def celu(node: Node) -> Function:
    alpha = node.attr("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@op("Selu")
def selu(node: Node) -> Function:
    alpha, gamma = node.attr("alpha", _SELU[0]), node.attr("gamma", _SELU[1])
    if all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip((alpha, gamma), _SELU, strict=True)):
        return F.selu
    return lambda x: F.elu(x, alpha) * gamma


@op("Gelu")
def gelu(node: Node) -> Function:
    approximate = node.attr("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@op("HardSigmoid")
def hard_sigmoid(node: Node) -> Function:
    alpha, beta = node.attr("alpha", 0.2), node.attr("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: F.hardtanh(x * alpha + beta, 0.0, 1.0)


@op("ThresholdedRelu")
def thresholded_relu(node: Node) -> Function:
    alpha = node.attr("alpha", 1.0)
    return lambda x: F.threshold(x, alpha, 0.0)


@op("Shrink")
def shrink(node: Node) -> Function:
    bias, edge, dtype = node.attr("bias", 0.0), node.attr("lambd", 0.5), node.dtype(0)
    if not dtype.is_floating_point:
        return lambda x: _shrunk(x.to(torch.float64), bias, edge).to(dtype)
    if edge < 0:
        return lambda x: _shrunk(x, bias, edge)
    if bias == 0:
        return lambda x: F.hardshrink(x, edge)
    if bias == edge:
        return lambda x: F.softshrink(x, edge)

    def function(x: Tensor) -> Tensor:
        kept = F.hardshrink(x, edge)
        return torch.sub(kept, torch.sign(kept), alpha=bias)

    return function


def _shrunk(x: Tensor, bias: float, edge: float) -> Tensor:
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, 0))


@op("Swish")
def swish(node: Node) -> Function:
    alpha = node.attr("alpha", 1.0)
    return F.silu if alpha == 1 else lambda x: x * torch.sigmoid(x * alpha)


@op("SwiGLU")
def swiglu(node: Node) -> Function:
    alpha = node.attr("alpha", 1.0)
    if alpha == 1:
        return lambda gate, x: F.silu(gate) * x
    return lambda gate, x: gate * torch.sigmoid(gate * alpha) * x


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


_NORMALISED: dict[str, Function] = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax, "Hardmax": _hardmax}


@op(*_NORMALISED)
def softmax(node: Node) -> Function:
    function, sizes = _NORMALISED[node.op], node.shape(0)
    if node.version >= 13:
        axis = node.attr("axis", -1)
        return lambda x: function(x, axis)
    axis = node.attr("axis", 1)  # and all that follow it, as one
    axis = axis + len(sizes) if axis < 0 else axis
    if all(size == 1 for size in sizes[axis + 1 :]):
        return lambda x: function(x, axis)
    return lambda x: function(x.flatten(axis), -1).reshape(x.shape)
