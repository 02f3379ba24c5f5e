"""Convert Attention as ONNX defines it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .attention_core import attend, attend_in_steps, band, both, continued, merge_heads, split_heads


@op("Attention")
def attention(node: Node) -> Function:
    heads = (node.attr("q_num_heads", 0), node.attr("kv_num_heads", 0))
    packed = node.rank(0) == 3
    if packed and not all(heads):
        raise Obstacle("its inputs have three dimensions, and it does not say how many heads they hold")
    core, mask_of = _core(node), _mask(node)

    def function(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if packed:
            q, k, v = split_heads(q, heads[0]), split_heads(k, heads[1]), split_heads(v, heads[1])
        k, v, past = continued(k, v, past_k, past_v)
        if mask_of is not None:
            mask = mask_of(q, k, mask, past, lengths)
        y, *scores = core(q, k, v, mask)
        return merge_heads(y) if packed else y, k, v, *scores

    return function


def _core(node: Node) -> Function:
    """Build the function from queries, keys, values and a mask to the output, and to the scores if they are wanted."""
    scale, softcap, mode = node.attr("scale"), node.attr("softcap", 0.0), node.attr("qk_matmul_output_mode", 0)
    # The plain triangle is the fused kernels' own; any other mask is spelled out.
    triangle = bool(node.attr("is_causal", 0)) and _mask(node) is None
    if not softcap and not node.wanted(3):
        return lambda q, k, v, mask: (attend(q, k, v, mask, triangle, scale),)
    precision = node.dtype_of(node.attr("softmax_precision")) if node.attr("softmax_precision") else None

    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        if triangle:
            mask = band(q.shape[2], k.shape[2], 0, -1, 0, q.device)
        y, stages = attend_in_steps(q, k, v, mask, scale, softcap, precision)
        return y, stages[mode]

    return function


def _mask(node: Node) -> Function | None:
    """Build the function that combines mask, window and padding into one mask; None where the triangle is all."""
    left, right = node.attr("left_window_size", -1), node.attr("right_window_size", -1)
    right = 0 if node.attr("is_causal", 0) else right
    windowed = left >= 0 or right >= 0
    shifted = windowed and node.has(4)
    triangle = left < 0 and bool(node.attr("is_causal", 0))
    if not (node.has(3) or node.has(6) or shifted or (windowed and not triangle)):
        return None

    def function(q: Tensor, k: Tensor, mask: Tensor | None, past: int, lengths: Tensor | None) -> Tensor | None:
        queries, keys = q.shape[2], k.shape[2]
        if mask is not None and mask.shape[-1] < keys:
            missing = keys - mask.shape[-1]
            mask = F.pad(mask, (0, missing), value=False if mask.dtype == torch.bool else -math.inf)
        if windowed:
            offset = past if lengths is None else lengths - queries
            mask = both(band(queries, keys, offset, left, right, q.device), mask)
        if lengths is not None:
            mask = both(torch.arange(keys, device=q.device) < lengths.reshape(-1, 1, 1, 1), mask)
        return mask

    return function
