"""Scaled dot-product attention, its masks and heads, for all operators that are a form of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads · size) → (batch, heads, tokens, size)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, tokens, size) → (batch, tokens, heads · size)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Attention over (batch, heads, tokens, size); each head of k and v serves as many of q as there are to one."""
    k, v = shared(q, k, v)
    if mask is not None and mask.dim() == 3:
        mask = mask.unsqueeze(0)  # the fused kernels want two or four dimensions
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


def shared(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """k and v with their heads repeated for those of q."""
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
    """As `attend`, and the scores: raw, soft-capped, masked, and as probabilities."""
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
    """Keys and values with those of earlier tokens before them, and how many these are."""
    if past_k is None or past_v is None:
        return k, v, 0
    return torch.cat([past_k, k], 2), torch.cat([past_v, v], 2), past_k.shape[2]


def band(queries: int, keys: int, offset: int | Tensor, left: int, right: int, device: torch.device) -> Tensor:
    """Which keys each query may look at: from ``left`` before its place to ``right`` after it; −1 is without end.

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
    """Two masks as one; True or what is added to the scores, as each may be."""
    if first is None or second is None:
        return second if first is None else first
    if first.dtype == torch.bool and second.dtype == torch.bool:
        return first & second
    if first.dtype == torch.bool:
        return second.masked_fill(~first, -math.inf)
    return first.masked_fill(~second, -math.inf) if second.dtype == torch.bool else first + second
