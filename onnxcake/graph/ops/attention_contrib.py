"""Convert attention as onnxruntime's transformer optimiser writes it (com.microsoft)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.remedies import around
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .attention_core import attend, attend_in_steps, band, both, continued, merge_heads, split_heads

_DOMAIN = "com.microsoft"
_REMEDY = around("without onnxruntime's transformer optimiser")


@op("Attention", domain=_DOMAIN)
def attention(node: Node) -> Function:
    if node.attr("do_rotary", 0) or node.attr("past_present_share_buffer", 0):
        raise Obstacle("rotary positions and shared caches inside it are not supported", _REMEDY)
    heads, scale, keep = node.attr("num_heads"), node.attr("scale") or None, node.wanted(1)
    sizes = list(node.attr("qkv_hidden_sizes") or ()) or [node.size(1, 1) // 3] * 3
    mask_of = _masks(node, key=0, mask=3, bias=5, past=4)
    triangle = mask_of is None and bool(node.attr("unidirectional", 0))

    def function(
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        mask: Tensor | None = None,
        past: Tensor | None = None,
        bias: Tensor | None = None,
        *_: Tensor,
    ) -> tuple[Tensor, ...]:
        q, k, v = (split_heads(part, heads) for part in F.linear(x, w.t(), b).split(sizes, -1))
        k, v, before = continued(k, v, *((None, None) if past is None else past.unbind(0)))
        whole = None if mask_of is None else mask_of(q, k, mask, bias, before)
        y = merge_heads(attend(q, k, v, whole, triangle, scale))
        return (y, torch.stack([k, v])) if keep else (y,)

    return function


@op("MultiHeadAttention", domain=_DOMAIN)
def multi_head_attention(node: Node) -> Function:
    _check(node)
    scale, scores = node.attr("scale") or None, node.wanted(3)
    heads_of, mask_of = _projected(node), _masks(node, key=1, mask=4, bias=5, past=6)
    triangle = mask_of is None and bool(node.attr("unidirectional", 0))

    def function(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        b: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        past_k: Tensor | None = None,
        past_v: Tensor | None = None,
        *_: Tensor,
    ) -> tuple[Tensor, ...]:
        q, k, v = heads_of(q, k, v, b)
        k, v, before = continued(k, v, past_k, past_v)
        whole = None if mask_of is None else mask_of(q, k, mask, bias, before)
        if not scores:
            return merge_heads(attend(q, k, v, whole, triangle, scale)), k, v
        if triangle:
            whole = band(q.shape[2], k.shape[2], 0, -1, 0, q.device)
        y, (raw, *_rest) = attend_in_steps(q, k, v, whole, scale)
        return merge_heads(y), k, v, raw

    return function


def _check(node: Node) -> None:
    if not node.has(1) or not node.has(2) or node.rank(0) != 3 or node.rank(1) == 5:
        raise Obstacle("its query, key and value are packed into one, which is not supported", _REMEDY)
    if node.has(8) or node.has(9):
        raise Obstacle("shared caches inside it are not supported", _REMEDY)
    tokens = (node.shape(0)[1], node.shape(1)[2 if node.rank(1) == 4 else 1])
    if node.attr("unidirectional", 0) and not node.has(6) and tokens[0] != tokens[1]:
        raise Obstacle("it only looks back, and at another number of tokens than its own", _REMEDY)


def _projected(node: Node) -> Function:
    """Build the function that adds the projections' bias and splits the heads of queries, keys and values."""
    heads, width = node.attr("num_heads"), node.size(0, 2)
    if node.rank(1) == 4:  # the bias, if there is one, is in the keys and values already
        return lambda q, k, v, b: (split_heads(q if b is None else q + b[:width], heads), k, v)
    sizes = [width, width, node.size(2, 2)]

    def function(q: Tensor, k: Tensor, v: Tensor, b: Tensor | None) -> tuple[Tensor, ...]:
        if b is not None:
            q, k, v = (x + part for x, part in zip((q, k, v), b.split(sizes), strict=True))
        return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)

    return function


def _masks(node: Node, key: int, mask: int, bias: int, past: int) -> Function | None:
    """Build the function that combines padding, bias and triangle into one mask, from the inputs at these places.

    None where there is at most the triangle. Padding adds a low number to the scores that it hides, so that a
    token that may look at nothing but padding looks at all of it.
    """
    low, causal = node.attr("mask_filter_value", -10000.0), bool(node.attr("unidirectional", 0))
    kind = _padding(node, mask, key) if node.has(mask) else ""
    if not (kind or node.has(bias) or (causal and node.has(past))):
        return None

    def function(q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None, before: int) -> Tensor | None:
        queries, keys = q.shape[2], k.shape[2]
        if mask is not None:
            seen = _padding_mask(kind, mask, keys)
            bias = both(torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, low), bias)
        return both(bias, band(queries, keys, before, -1, 0, q.device)) if causal else bias

    return function


def _padding(node: Node, mask: int, key: int) -> str:
    """Determine the form of the padding's description."""
    rank = node.rank(mask)
    if rank in (2, 3):
        return "tokens" if rank == 2 else "pairs"
    lengths, batches = ([seen.shape[0] for seen in node.value(index).seen] for index in (mask, key))
    for times, kind in ((1, "ends"), (2, "ends and starts")):
        if rank == 1 and lengths == [times * batch for batch in batches]:
            return kind
    raise Obstacle("its mask is in a form that is not supported", _REMEDY)


def _padding_mask(kind: str, mask: Tensor, keys: int) -> Tensor:
    """Convert the padding to a mask over (batch, heads, queries, keys): True where there is no padding."""
    if kind == "tokens":
        return mask[:, None, None, :] > 0
    if kind == "pairs":
        return mask[:, None] > 0
    places = torch.arange(keys, device=mask.device)
    if kind == "ends":
        return places < mask[:, None, None, None]
    ends, starts = mask[:, None, None, None].chunk(2)
    return (places < ends) & (places >= starts)
