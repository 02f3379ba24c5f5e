"""Convert layers and activations that onnxruntime's optimisers fuse with their neighbours (com.microsoft)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle

_DOMAIN = "com.microsoft"
_STATISTICS = "its saved mean and deviation, which are for training, are not supported"


@op("Gelu", domain=_DOMAIN)
def gelu(node: Node) -> Function:
    return F.gelu


@op("BiasGelu", domain=_DOMAIN)
def bias_gelu(node: Node) -> Function:
    return lambda x, bias: F.gelu(x + bias)


@op("FastGelu", domain=_DOMAIN)
def fast_gelu(node: Node) -> Function:
    return lambda x, bias=None: F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("QuickGelu", domain=_DOMAIN)
def quick_gelu(node: Node) -> Function:
    alpha = node.attr("alpha", 1.702)
    return F.silu if alpha == 1 else lambda x: x * torch.sigmoid(alpha * x)


@op("BiasSplitGelu", domain=_DOMAIN)
def bias_split_gelu(node: Node) -> Function:
    def function(x: Tensor, bias: Tensor) -> Tensor:
        left, right = (x + bias).chunk(2, -1)
        return left * F.gelu(right)

    return function


@op("BiasAdd", domain=_DOMAIN)
def bias_add(node: Node) -> Function:
    return lambda x, bias, skip: x + bias + skip


@op("SkipLayerNormalization", domain=_DOMAIN)
def skip_layer_norm(node: Node) -> Function:
    size, epsilon = node.shape(2), node.attr("epsilon", 1e-12)
    if node.wanted(1) or node.wanted(2):
        raise Obstacle(_STATISTICS)

    def function(
        x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        x = x + skip if bias is None else x + skip + bias
        return F.layer_norm(x, size, gamma, beta, epsilon), None, None, x

    return function


@op("SkipSimplifiedLayerNormalization", domain=_DOMAIN)
def skip_rms_norm(node: Node) -> Function:
    size, epsilon = node.shape(2), node.attr("epsilon", 1e-12)
    if node.wanted(1) or node.wanted(2):
        raise Obstacle(_STATISTICS)

    def function(x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None) -> tuple[Tensor | None, ...]:
        x = x + skip if bias is None else x + skip + bias
        return F.rms_norm(x, size, gamma, epsilon), None, None, x

    return function


@op("SimplifiedLayerNormalization")
def rms_norm(node: Node) -> Function:
    axis, epsilon = node.attr("axis", -1), node.attr("epsilon", 1e-5)
    axes = tuple(range(axis % node.rank(0), node.rank(0)))
    size = tuple(node.size(0, a) for a in axes)
    if not node.wanted(1):
        return lambda x, scale: F.rms_norm(x, size, scale.expand(size), epsilon)

    def function(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.rsqrt((x * x).mean(axes, keepdim=True) + epsilon)
        return x * inverse * scale, inverse

    return function


@op("EmbedLayerNormalization", domain=_DOMAIN)
def embed_layer_norm(node: Node) -> Function:
    size, epsilon = node.shape(5), node.attr("epsilon", 1e-12)

    def function(
        words: Tensor,
        segments: Tensor | None,
        word_table: Tensor,
        place_table: Tensor,
        segment_table: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        total = F.embedding(words, word_table)
        total = total + (place_table[: words.shape[1]] if places is None else F.embedding(places, place_table))
        if segments is not None and segment_table is not None:
            total = total + F.embedding(segments, segment_table)
        lengths = words.new_zeros(words.shape[0], dtype=torch.int32)
        if mask is not None:
            lengths = (mask == 1).sum(1, dtype=torch.int32)
        return F.layer_norm(total, size, gamma, beta, epsilon), lengths, total

    return function


@op("GroupNorm", domain=_DOMAIN)
def group_norm(node: Node) -> Function:
    normed = _group_norm(node)
    return lambda x, gamma, beta: normed(x, gamma, beta)


@op("SkipGroupNorm", domain=_DOMAIN)
def skip_group_norm(node: Node) -> Function:
    normed, flat, last = _group_norm(node), node.rank(3) == 2, bool(node.attr("channels_last", 1))

    def function(
        x: Tensor, gamma: Tensor, beta: Tensor, skip: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        skip = skip if bias is None else skip + (bias if last or flat else bias[:, None, None])
        if flat:
            skip = skip[:, None, None] if last else skip[:, :, None, None]
        x = x + skip
        return normed(x, gamma, beta), x

    return function


def _group_norm(node: Node) -> Function:
    groups, epsilon, silu = node.attr("groups"), node.attr("epsilon", 1e-5), node.attr("activation", 0) == 1
    last = bool(node.attr("channels_last", 1))

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y = F.group_norm(x.movedim(-1, 1) if last else x, groups, gamma, beta, epsilon)
        y = y.movedim(1, -1) if last else y
        return F.silu(y) if silu else y

    return function


@op("FusedMatMul", "TransposeMatMul", domain=_DOMAIN)
def fused_matmul(node: Node) -> Function:
    first, second = _transposition(node, 0, "A"), _transposition(node, 1, "B")
    alpha = node.attr("alpha", 1.0)
    if math.isclose(alpha, 1.0):
        return lambda a, b: first(a) @ second(b)
    return lambda a, b: first(a) @ second(b) * alpha


def _transposition(node: Node, index: int, letter: str) -> Function:
    """Build the function that transposes a factor before the product."""
    rank = node.rank(index)
    order = list(range(rank))
    if rank > 2 and node.attr(f"transBatch{letter}", 0):
        order = [*order[1:-1], 0, order[-1]]
    if rank > 1 and node.attr(f"trans{letter}", 0):
        order[-2:] = order[:-3:-1]
    return (lambda x: x) if order == sorted(order) else lambda x: x.permute(order)
