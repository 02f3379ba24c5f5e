"""Convert rotary position embeddings (Su et al., 2021): pairs of numbers rotated by an angle by position."""

from __future__ import annotations

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .attention_core import merge_heads, split_heads


@op("RotaryEmbedding")
def rotary_embedding(node: Node) -> Function:
    heads, packed = node.attr("num_heads", 0), node.rank(0) == 3
    dim, neighbours = node.attr("rotary_embedding_dim", 0), bool(node.attr("interleaved", 0))
    if packed and not heads:
        raise Obstacle("its input has three dimensions, and it does not say how many heads it holds")
    axis = 2 if packed else 1  # where the heads are; they all turn alike

    def function(x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
        if places is not None:
            cos, sin = cos[places], sin[places]
        cos, sin = cos.unsqueeze(axis), sin.unsqueeze(axis)
        if packed:
            return _rotate(x.unflatten(2, (heads, -1)), cos, sin, dim, neighbours).flatten(2)
        return _rotate(x, cos, sin, dim, neighbours)

    return function


@op("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding_of_onnxruntime(node: Node) -> Function:
    if node.attr("is_packed_batching", 0):
        raise Obstacle("packed batches inside it are not supported")
    if node.attr("scale", 1.0) not in (0.0, 1.0):
        raise Obstacle("onnxruntime's kernels do not agree on what its scale does")
    heads, packed, from_one = node.attr("num_heads", 0), node.rank(0) == 3, node.rank(1) == 1
    dim, neighbours = node.attr("rotary_embedding_dim", 0), bool(node.attr("interleaved", 0))
    if packed and not heads:
        heads = node.size(0, 2) // (dim or 2 * node.size(2, 1))

    def function(x: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = split_heads(x, heads) if packed else x
        if from_one:  # the first token's place; the others follow
            places = places + torch.arange(x.shape[2], device=x.device).unsqueeze(0)
        y = _rotate(x, cos[places].unsqueeze(1), sin[places].unsqueeze(1), dim, neighbours)
        return merge_heads(y) if packed else y

    return function


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, dim: int, neighbours: bool) -> Tensor:
    """Rotate the first ``dim`` (0: all) of each token's numbers: neighbours in pairs, or i and i + dim/2."""
    turned, rest = (x[..., :dim], x[..., dim:]) if dim else (x, None)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if neighbours else turned.chunk(2, -1)
    parts = [cos * a - sin * b, sin * a + cos * b]
    if neighbours:
        parts = [torch.stack(parts, -1).flatten(-2)]
    return torch.cat(parts if rest is None else [*parts, rest], -1)
