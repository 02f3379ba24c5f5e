"""Find the distance to a classifier's decision boundary by querying classes alone.

A query is one sample put to the classifier. Directions and distances are in units of the valid range, as if each
value lay in 0 … 1, and a point outside the range is clipped before it is asked about; so λ along θ means the
sample clip(x + λ · range · θ).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 4.0  # random directions are as long as noise of a deviation up to this
FIRST_STEP, RESTART_STEP, LEAST_STEP = 0.2, 1.0, 1e-4  # of the line search, on directions of length 1
TRIALS = 15  # steps that are tried either way in a line search
FIRST_NUDGE, LEAST_NUDGE = 1e-3, 5e-6  # of a direction, to see whether the boundary comes nearer
_POINTS, _NUMBERS = 2048, 2**24  # asked about at once, where the samples themselves are not more

# points [m, …] and which sample each is looked for from [m] → whether it lies beyond the boundary [m]
Beyond = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Box:
    """Hold the valid range: lowest and highest value in standard units, each broadcastable to one sample."""

    low: Tensor
    high: Tensor

    @property
    def width(self) -> Tensor:
        """Return one unit of distance, in standard units."""
        return self.high - self.low

    def clip(self, x: Tensor) -> Tensor:
        """Return the nearest samples in range."""
        return torch.clamp(x, self.low, self.high)


class Search:
    """Hold the nearest boundary found so far from each of n samples.

    OPT (Cheng et al., ICLR 2019) looks for the direction θ that minimises g(θ), the distance to the boundary along
    it. g costs a bisection, its sign compared with a known distance a single query; Sign-OPT (Cheng et al., ICLR
    2020) estimates the gradient by such signs.

    Attributes:
        theta: the best direction [n, …], of length 1.
        distance: g(theta) [n], from the far side; infinite where no boundary was found.
        spent: queries [n].
    """

    def __init__(self, x: Tensor, box: Box, beyond: Beyond, queries: int, bisections: int) -> None:
        """Limit the queries for a sample to ``queries``; each distance is halved ``bisections`` times."""
        self.theta = torch.zeros_like(x)
        self.distance = x.new_full((len(x),), math.inf)
        self.spent = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._x, self._box, self._beyond = x, box, beyond
        self._queries, self._bisections = queries, bisections

    def affords(self, queries: int) -> Tensor:
        """Tell which samples [n] may still spend so many queries."""
        return self.spent + queries <= self._queries

    def try_direction(self, rows: Tensor, theta: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Try a direction of length 1 for each of ``rows``, up to ``length`` or the best distance so far.

        Returns:
            whether the boundary was reached, and whether it is nearer than any before; each [rows]. One query for
            those that did not reach it, 1 + bisections for the others.
        """
        known = self.distance[rows]
        far = torch.minimum(length, known)
        reached = self._ask(rows, theta, far)
        where, inside = rows[reached], theta[reached]
        low, high = torch.zeros_like(far[reached]), far[reached]
        for _ in range(self._bisections if len(where) else 0):
            middle = (low + high) / 2
            across = self._ask(where, inside, middle)
            high, low = torch.where(across, middle, high), torch.where(across, low, middle)
        nearer = torch.zeros_like(reached)
        nearer[reached] = high < known[reached]
        self.distance[where], self.theta[rows[nearer]] = torch.minimum(high, known[reached]), theta[nearer]
        return reached, nearer

    def try_random(self, directions: int, tries: int, draw: torch.Generator) -> None:
        """Try random directions of random length, up to ``directions`` for each sample.

        Directions count from which the boundary was reached or lies farther than is known; at most ``tries`` are drawn.
        """
        left = torch.full_like(self.spent, directions)
        for _ in range(tries):
            rows = _indices((left > 0) & self.affords(1 + self._bisections))
            if not len(rows):
                return
            noise = torch.randn(self.theta[rows].shape, generator=draw, device=draw.device).to(self.theta)
            scale = torch.rand(len(rows), generator=draw, device=draw.device).to(self.distance) * REACH
            size = _norm(noise)
            length, known = scale * size, self.distance[rows]
            reached, _ = self.try_direction(rows, noise / _broadcast(size, noise), length)
            left[rows] -= (reached | (length > known)).long()

    def descend(self, probes: int, draw: torch.Generator) -> None:
        """Turn each sample's direction against the gradient of its distance until its queries are spent.

        Or until float32 shows no difference any more. ``probes`` are the queries for one gradient.
        """
        step = torch.full_like(self.distance, FIRST_STEP)
        nudge = torch.full_like(self.distance, FIRST_NUDGE)
        while True:
            able = self.affords(probes + 1 + self._bisections)
            rows = _indices(self.distance.isfinite() & (nudge >= LEAST_NUDGE) & able)
            if not len(rows):
                return
            self._line_search(rows, self._sign_gradient(rows, nudge[rows], probes, draw), step)
            stuck = rows[step[rows] < LEAST_STEP]
            nudge[stuck] *= 0.1
            step[stuck] = RESTART_STEP

    def _sign_gradient(self, rows: Tensor, nudge: Tensor, probes: int, draw: torch.Generator) -> Tensor:
        """Estimate 1/K Σ_k sign(g(θ + h u_k) − g(θ)) u_k for random u_k of length 1 (Sign-OPT)."""
        theta, distance = self.theta[rows], self.distance[rows]
        total = torch.zeros_like(theta)
        points = max(1, min(_POINTS // len(theta), _NUMBERS // theta.numel()))
        for first in range(0, probes, points):
            count = min(points, probes - first)
            u = torch.randn((count, *theta.shape), generator=draw, device=draw.device).to(theta).flatten(0, 1)
            u /= _broadcast(_norm(u), u)
            turned = theta.repeat(count, *[1] * (theta.dim() - 1)) + u * _broadcast(nudge.repeat(count), u)
            turned /= _broadcast(_norm(turned), turned)
            nearer = self._ask(rows.repeat(count), turned, distance.repeat(count))
            signed = torch.where(_broadcast(nearer, u), -u, u)
            total += signed.unflatten(0, (count, len(theta))).sum(0)
        return total / probes

    def _line_search(self, rows: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Double a sample's step as long as the boundary comes nearer; quarter it until it does, if it never did."""
        theta = self.theta[rows]

        def trial(trying: Tensor) -> Tensor:
            turned = theta[trying] - gradient[trying] * _broadcast(step[rows[trying]], theta)
            turned /= _broadcast(_norm(turned).clamp_min(1e-12), turned)
            nearer = torch.zeros_like(trying)
            nearer[trying] = self.try_direction(rows[trying], turned, self.distance[rows[trying]])[1]
            return nearer

        cost = 1 + self._bisections
        trying, ever = self.affords(cost)[rows], torch.zeros_like(rows, dtype=torch.bool)
        for _ in range(TRIALS):
            if not trying.any():
                break
            nearer = trial(trying)
            step[rows[trying]] *= 2
            ever |= nearer
            trying = nearer & self.affords(cost)[rows]
        trying = ~ever
        for _ in range(TRIALS):
            trying &= self.affords(cost)[rows] & (step[rows] >= LEAST_STEP)
            if not trying.any():
                break
            step[rows[trying]] *= 0.25
            trying &= ~trial(trying)

    def _ask(self, rows: Tensor, theta: Tensor, distance: Tensor) -> Tensor:
        self.spent.index_add_(0, rows, torch.ones_like(rows))
        points = self._x[rows] + self._box.width * theta * _broadcast(distance, theta)
        return self._beyond(self._box.clip(points), rows)


def _indices(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


def _norm(vectors: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return norm


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value for each sample to broadcast to the samples."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
