"""Compute uint16, uint32 and uint64, for which torch has storage but hardly any arithmetic, in int64."""

from __future__ import annotations

import torch
from torch import Tensor

from ..values import Function

WIDE = frozenset({torch.uint16, torch.uint32, torch.uint64})
UNSIGNED = WIDE | {torch.uint8}
_SIGN = -(2**63)  # the top bit of an int64


def modular(function: Function, dtype: torch.dtype) -> Function:
    """Wrap a function that is right modulo 2⁶⁴ (sums, products, bits) for tensors of ``dtype``."""
    if dtype not in WIDE:
        return function
    return lambda *xs: function(*[_cast_or_none(x, torch.int64) for x in xs]).to(dtype)


def ordering(function: Function, dtype: torch.dtype, *, back: bool = True) -> Function:
    """Wrap a function that only compares for tensors of ``dtype``; ``back``: its result is of that dtype too."""
    if dtype not in WIDE:
        return function

    def wide(*xs: Tensor | None) -> Tensor:
        out: Tensor = function(*[None if x is None else ordered(x) for x in xs])
        return unordered(out, dtype) if back else out

    return wide


def ordered(x: Tensor) -> Tensor:
    """Convert to int64 in the same order."""
    signed = x.to(torch.int64)
    return signed ^ _SIGN if x.dtype == torch.uint64 else signed


def unordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert back from `ordered`."""
    return (x ^ _SIGN if dtype == torch.uint64 else x).to(dtype)


def quotient(x: Tensor, y: Tensor) -> Tensor:
    """Divide uint64, operands and result given as int64 of the same bits."""
    half = (((x >> 1) & ~_SIGN) // torch.where(y > 0, y, 1)) << 1  # at most one too small, for y below 2⁶³
    below = half + _at_least(x - half * y, y)
    return torch.where(y > 0, below, _at_least(x, y))


def shifted_right(x: Tensor, places: Tensor) -> Tensor:
    """Shift uint64 right, given and returned as int64 of the same bits; ``places`` lie in 0…64."""
    return torch.where(places > 0, ((x >> 1) & ~_SIGN) >> (places - 1).clamp(min=0), x)


def _at_least(x: Tensor, y: Tensor) -> Tensor:
    return ((x ^ _SIGN) >= (y ^ _SIGN)).to(torch.int64)


def _cast_or_none(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)
