"""Convert normalisation by the statistics of a batch, a sample, a group, a layer or a neighbourhood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Depends, Function


@op("BatchNormalization")
def batch_normalization(node: Node) -> Function:
    epsilon, rank = node.attr("epsilon", 1e-5), node.rank(0)
    if node.attr("training_mode", 0) and node.builder.precision is None:
        return _training(node, epsilon)
    whole = node.version < 9 and not node.attr("spatial", 1)  # a mean for each number, not each channel
    view = node.shape(1) if whole else (-1,) + (1,) * (rank - 2)
    if all(node.is_constant(i) for i in (1, 2, 3, 4)) and not node.builder.trained:
        function = _affine(node, epsilon, view)
    elif whole or any(node.value(i).depends == Depends.DATA for i in (3, 4)):
        # F.batch_norm has no gradient in the statistics.
        def function(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            slope = scale * (var + epsilon).rsqrt()
            return torch.addcmul(bias.reshape(view), x - mean.reshape(view), slope.reshape(view))
    else:
        function = lambda x, s, b, mean, var: F.batch_norm(x, mean, var, s, b, eps=epsilon)  # noqa: E731
    if not any(node.wanted(i) for i in (1, 2, 3, 4)):
        return function
    node.extra(node.value(3))
    node.extra(node.value(4))
    return lambda *given: (function(*given[:-2]), *given[-2:], *given[-2:])  # nothing is learnt from the batch


def _affine(node: Node, epsilon: float, view: tuple[int, ...]) -> Function:
    """Fold constant scale, bias, mean and variance into one product and sum, which keeps no activations."""
    scale, bias, mean, var = (node.constant(i).double() for i in (1, 2, 3, 4))
    slope = scale / (var + epsilon).sqrt()
    for constant in (bias - mean * slope, slope):
        node.extra(constant.reshape(view).to(node.dtype(0)))
    return lambda x, offset, slope: torch.addcmul(offset.to(x.dtype), x, slope.to(x.dtype))


def _training(node: Node, epsilon: float) -> Function:
    """Convert BatchNormalization in training mode: normalised by the batch's own statistics."""
    momentum, axes = node.attr("momentum", 0.9), (0, *range(2, node.rank(0)))

    def function(x: Tensor, s: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
        y = F.batch_norm(x, None, None, s.to(x.dtype), b.to(x.dtype), training=True, eps=epsilon)
        now_var, now_mean = torch.var_mean(x, axes, correction=0)
        means = mean * momentum + now_mean.to(mean.dtype) * (1 - momentum)
        return y, means, var * momentum + now_var.to(var.dtype) * (1 - momentum)

    return function


@op("InstanceNormalization")
def instance_normalization(node: Node) -> Function:
    channels, epsilon = node.size(0, 1), node.attr("epsilon", 1e-5)
    # Faster than F.instance_norm.
    return lambda x, scale, bias: torch.group_norm(x, channels, scale, bias, epsilon)


@op("GroupNormalization")
def group_normalization(node: Node) -> Function:
    groups, epsilon = node.attr("num_groups"), node.attr("epsilon", 1e-5)
    if node.version >= 21:
        return lambda x, scale, bias: torch.group_norm(x, groups, scale, bias, epsilon)
    repeats = node.size(0, 1) // groups  # scale and bias had one number for each group
    if node.is_constant(1) and node.is_constant(2):
        for i in (1, 2):
            node.extra(node.derived(lambda given: given.repeat_interleave(repeats), i))
        return lambda x, scale, bias: torch.group_norm(x, groups, scale, bias, epsilon)

    def function(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return torch.group_norm(x, groups, scale.repeat_interleave(repeats), bias.repeat_interleave(repeats), epsilon)

    return function


@op("LayerNormalization")
def layer_normalization(node: Node) -> Function:
    axis, epsilon = node.attr("axis", -1), node.attr("epsilon", 1e-5)
    axis = axis + node.rank(0) if axis < 0 else axis
    shape = node.shape(0)[axis:]
    if node.wanted(1) or node.wanted(2):
        return _layer_with_statistics(node, tuple(range(axis, node.rank(0))), epsilon)
    if -1 in shape:
        return lambda x, s, b=None: _scaled(F.layer_norm(x, x.shape[axis:], None, None, epsilon), s, b)
    if all(node.shape(i) == shape for i in (1, 2) if node.has(i)):
        return lambda x, s, b=None: torch.layer_norm(x, shape, s, b, epsilon)
    return lambda x, s, b=None: _scaled(torch.layer_norm(x, shape, None, None, epsilon), s, b)


def _layer_with_statistics(node: Node, axes: tuple[int, ...], epsilon: float) -> Function:
    kept = node.dtype_of(node.attr("stash_type", 1))

    def function(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x.to(kept), axes, correction=0, keepdim=True)
        inverse = (var + epsilon).rsqrt()
        return _scaled(((x - mean) * inverse).to(x.dtype), scale, bias), mean, inverse

    return function


def _scaled(x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x * scale if bias is None else torch.addcmul(bias, x, scale)


@op("RMSNormalization")
def rms_normalization(node: Node) -> Function:
    axis, epsilon = node.attr("axis", -1), node.attr("epsilon", 1e-5)
    axis = axis + node.rank(0) if axis < 0 else axis
    shape = node.shape(0)[axis:]
    if -1 in shape:
        return lambda x, scale: F.rms_norm(x, x.shape[axis:], None, epsilon) * scale
    if node.shape(1) == shape:
        return lambda x, scale: torch.rms_norm(x, shape, scale, epsilon)
    return lambda x, scale: torch.rms_norm(x, shape, None, epsilon) * scale


@op("LRN")
def lrn(node: Node) -> Function:
    size, channels = node.attr("size"), node.size(0, 1)
    slope, power, bias = node.attr("alpha", 1e-4) / size, -node.attr("beta", 0.75), node.attr("bias", 1.0)
    before = (size - 1) // 2
    padding = [0] * 2 * (node.rank(0) - 2) + [before, size - 1 - before]

    def function(x: Tensor) -> Tensor:
        squares = F.pad(x * x, padding)
        total = squares.narrow(1, 0, channels)
        for first in range(1, size):  # faster than pooling over channels
            total = total + squares.narrow(1, first, channels)
        return x * torch.pow(total * slope + bias, power)

    return function


@op("LpNormalization")
def lp_normalization(node: Node) -> Function:
    power, axis = float(node.attr("p", 2)), node.attr("axis", -1)
    # The tiny least norm only makes 0 of 0 / 0.
    tiny = torch.finfo(node.dtype(0)).tiny
    return lambda x: F.normalize(x, power, axis, tiny)


@op("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> Function:
    axes = tuple(node.attr("axes", (0, 2, 3)))

    def function(x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (std + 1e-9)

    return function
