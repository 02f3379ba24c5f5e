"""What a processor without VNNI makes of products of bytes, simulated."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def saturating(a: Array, b: Array) -> Array:
    """a @ b as `vpmaddubsw` computes it: pairs of products are added in 16 bits, which saturate; those sums in 32."""
    wide = a.astype(np.int32)[:, :, None] * b.astype(np.int32)[None]
    wide = np.concatenate([wide, np.zeros((len(a), wide.shape[1] % 2, b.shape[1]), np.int32)], axis=1)
    return (wide[:, 0::2] + wide[:, 1::2]).clip(-(2**15), 2**15 - 1).sum(1)


def product(a: Array, b: Array) -> Array:
    """a @ b in 32 bits."""
    return a.astype(np.int32) @ b.astype(np.int32)
