"""Write a weight as a matrix, and as two thinner ones by singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .folded_graph import Array

Numbers = np.ndarray[Any, np.dtype[np.float64]]
_EXACT = 256  # the longest shorter side that is worth double precision


@dataclass(frozen=True, eq=False)
class Factor:
    """Describe a weight that can be replaced by two low-rank factors, with ``rank`` numbers between them.

    Convolutions are split as keeps most: all of the kernel in one of the two and 1 × 1 in the other (Denton et al.,
    Exploiting Linear Structure within Convolutional Networks, NeurIPS 2014), or some of its axes in each (Jaderberg
    et al., Speeding up Convolutional Neural Networks with Low Rank Expansions, BMVC 2014, scheme 2).

    Attributes:
        name: of the weight, in the plain graph.
        operator: of the node that reads it.
        order: the axes of the weight, those of the first one before those of the second.
        lead: how many are the first one's.
        shape: of the weight as a matrix, [the first one's numbers for each rank, the second one's].
    """

    name: str
    operator: str
    order: tuple[int, ...]
    lead: int
    shape: tuple[int, int]
    weight: Array = field(repr=False)

    @property
    def full(self) -> int:
        """Return the rank at which nothing is lost."""
        return min(self.shape)

    @property
    def matrix(self) -> Array:
        """Return the weight as a matrix of this shape; in float32 if it is large."""
        kind = np.float64 if self.full <= _EXACT else np.float32
        return self.weight.transpose(self.order).reshape(self.shape).astype(kind)

    @property
    def values(self) -> Numbers:
        """Return its singular values, the largest first [full]."""
        values: Numbers = np.sqrt(self._spectrum[0])
        return values

    @cached_property
    def _spectrum(self) -> tuple[Numbers, Numbers]:
        """Return the squared singular values, and the singular vectors of its shorter side as columns."""
        small = torch.from_numpy(_wide(self.matrix))
        squares, vectors = torch.linalg.eigh(small @ small.T)
        return squares.flip(0).clamp(min=0.0).double().numpy(), vectors.flip(1).numpy()

    def parameters(self, rank: int) -> int:
        """Count the parameters of the two factors."""
        return rank * sum(self.shape)

    def halves(self, rank: int) -> tuple[Array, Array]:
        """Return the first factor [its axes …, rank] and the second [rank, its axes …], singular values shared evenly.

        Raises:
            ValueError: if the rank is not 1 … full.
        """
        if not 1 <= rank <= self.full:
            raise ValueError(f"{self.name}: rank {rank} is not within 1 … {self.full}")
        matrix = self.matrix
        small = _wide(matrix)
        squares, vectors = (part[..., :rank] for part in self._spectrum)
        roots = squares**0.25
        near = vectors * roots
        far = (vectors.T @ small) / np.where(roots, roots, np.inf)[:, None]
        first, second = (near, far) if small is matrix else (far.T, near.T)
        shape = [self.weight.shape[axis] for axis in self.order]
        kind = self.weight.dtype
        return (
            first.reshape(*shape[: self.lead], rank).astype(kind),
            second.reshape(rank, *shape[self.lead :]).astype(kind),
        )


def rank_for(factor: Factor, params: int) -> int:
    """Return the largest rank whose two factors have at most ``params`` parameters; 0 if not even one fits."""
    return min(factor.full, params // factor.parameters(1))


def energy(factor: Factor, rank: int) -> float:
    """Return the share of the squared singular values that ``rank`` keeps, 0 … 1."""
    squares = factor.values**2
    return float(squares[:rank].sum() / max(float(squares.sum()), 1e-300))


def _wide(matrix: Array) -> Array:
    """Return the matrix, transposed if it is higher than wide."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
