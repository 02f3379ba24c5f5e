"""Compute scaled dot-product attention, its masks and heads, for all operators that are a form of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split heads: (batch, tokens, heads · size) → (batch, heads, tokens, size)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Merge heads: (batch, heads, tokens, size) → (batch, tokens, heads · size)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Compute attention over (batch, heads, tokens, size); heads of k and v are shared evenly among those of q."""
    k, v = shared(q, k, v)
    if mask is not None and mask.dim() == 3:
        mask = mask.unsqueeze(0)  # the fused kernels want two or four dimensions
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


def shared(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the heads of k and v for those of q that share them."""
    times = q.shape[1] // k.shape[1]
    return (k, v) if times == 1 else (k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))


def attend_in_steps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Compute attention as `attend` does, and the scores: raw, soft-capped, masked, and as probabilities."""
    k, v = shared(q, k, v)
    root = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    raw = (q * root) @ (k * root).transpose(-2, -1)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    masked, dead = capped, None
    if mask is not None:
        bias = mask
        if mask.dtype == torch.bool:
            bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
        masked = capped + bias
        dead = (bias == -math.inf).all(-1, keepdim=True)
    # A token that may look at nothing gets zeros; a softmax over nothing would be NaN, in its gradient too.
    scores = masked if dead is None else masked.masked_fill(dead, 0.0)
    weights = torch.softmax(scores, -1, dtype=precision).to(q.dtype)
    weights = weights if dead is None else weights.masked_fill(dead, 0.0)
    return weights @ v, (raw, capped, masked, weights)


def continued(k: Tensor, v: Tensor, past_k: Tensor | None, past_v: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Prepend the keys and values of earlier tokens; return their number, too."""
    if past_k is None or past_v is None:
        return k, v, 0
    return torch.cat([past_k, k], 2), torch.cat([past_v, v], 2), past_k.shape[2]


def band(queries: int, keys: int, offset: int | Tensor, left: int, right: int, device: torch.device) -> Tensor:
    """Build the mask of keys each query may look at, from ``left`` before to ``right`` after its place; −1: no bound.

    The first query's place among the keys is ``offset``, a number, or one for each of the batch.
    """
    if isinstance(offset, Tensor):
        offset = offset.reshape(-1, 1, 1, 1)
    places = torch.arange(queries, device=device)[:, None] + offset
    others = torch.arange(keys, device=device)
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if left >= 0:
        allowed = allowed & (others >= places - left)
    if right >= 0:
        allowed = allowed & (others <= places + right)
    return allowed


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Combine two masks, each of truth values or of numbers that are added to the scores."""
    if first is None or second is None:
        return second if first is None else first
    if first.dtype == torch.bool and second.dtype == torch.bool:
        return first & second
    if first.dtype == torch.bool:
        return second.masked_fill(~first, -math.inf)
    return first.masked_fill(~second, -math.inf) if second.dtype == torch.bool else first + second
