"""Move samples away from the teacher's decision boundary by querying classes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.quantities import Count, CountOrNone
from ...core.rng import Key
from ...teacher.signature import Signature
from ..source import Classify, Draft, Source
from ..step import Context, Leaves, Need
from .sign_opt import Box, Search

WHITE = 0.25  # the share of the tries with noise as fine as the samples
COARSER = (2, 3, 4, 6)  # how much coarser it is after that, in turn
OUTERMOST = 3.0  # standard deviations: the range that is searched where the valid one is not known


@dataclass(frozen=True)
class Boundary(Source):
    """Start from noise that the teacher calls class k, and move it step by step to where class k is most robust.

    ZSDB3KD (Wang, ICML 2021; the figures are those of the released code). Each step looks from every sample for the
    nearest point of another class (OPT and Sign-OPT, see `Search`) and gives the direction θ to it as the gradient,
    so that plain descent with step size 0.5 moves x ← clip(x − 0.5 θ), away from the boundary; θ and all distances
    are in units of the valid range. A move that changes the class is halved until it does not. The soft label is
    logit_j = 1 / d_j for every other class j, where d_j is the distance to where class j begins, and the sum of
    those for the sample's own class.

    40 steps of 5,000 queries make 200,000 queries for each sample. The batch should hold every class: its samples of
    class j are what d_j is looked for with, and a class of which there is none gets the logit 0. As in the paper's
    *boundary distance*, d_j is found by bisection along the lines to them; to the nearest of them, where the code
    takes 200 at random out of all. ``label_queries`` goes on from there to its *minimal boundary distance*. With a
    single other class the sum would be that class's own logit; it is doubled.

    Differences from the released code: each sample has its own directions and its own step in the line search, where
    the code shares them in a batch; the gradient's directions have length 1, where the code's have h; the random
    directions count among the queries; a search that no longer moves ends; classes that white noise does not show
    are looked for in coarser noise.

    Queries for each sample, at most: ``tries`` to start, ``queries`` in each step, and at the end
    1 + bisections + (classes − 1) · (starts · (1 + bisections) + label_queries).

    Attributes:
        directions: random ones to start a search from.
        probes: queries for one estimate of the gradient of the distance.
        queries: the most for one sample in one step.
        bisections: halvings of a distance. The code halves down to 1e-5, 22 times from noise as long as an MNIST
            image.
        tries: how often noise is drawn for the classes asked for, and directions for a sample, before that is
            given up. A sample whose class was not found keeps the class that its noise has.
        move: what the step size multiplies: ``unit``, a direction of length 1, as in the code; or ``distance``,
            the whole way to the boundary.
        starts: the samples of a class that its boundary is looked for with.
        label_queries: those spent on making d_j minimal, for each class; 20,000 in the code.
    """

    needs: ClassVar[tuple[Need, ...]] = ("labels",)

    directions: Count = 20
    probes: Count = 200
    queries: Count = 5000
    bisections: Count = 22
    tries: Count = 1000
    move: Literal["unit", "distance"] = "unit"
    starts: Count = 20
    label_queries: CountOrNone = 0

    def draft(
        self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0
    ) -> BoundaryDraft:
        return BoundaryDraft(self, samples, context, key)

    def unfit(self, signature: Signature) -> str | None:
        if signature.task == "multilabel":
            return "it asks for the one class of a sample, and this teacher's labels go together"
        least = self.directions + self.probes + 3 * (1 + self.bisections)
        if self.queries < least:
            return f"its queries are {self.queries}, and one search takes {least} with these directions and probes"
        return None


class BoundaryDraft(Draft):
    """Hold the samples as one leaf; the class of each is the teacher's class of its noise, from the first step on."""

    def __init__(self, source: Boundary, samples: int, context: Context, key: Key) -> None:
        signature, device = context.signature, context.device
        bounds = signature.bounds()
        self._known = bounds is not None
        low, high = bounds or (torch.full((1,), -OUTERMOST), torch.full((1,), OUTERMOST))
        self._cpu, self._box = Box(low, high), Box(low.to(device), high.to(device))
        self._source, self._key, self._classes = source, key, signature.classes
        self._shape, self._device = (samples, *signature.shape), device
        self._noise = key.at("noise").generator()
        self._steps = 0
        self.labels = None  # until the noise was sorted by class, in the first step
        self._x = self._draw_noise()
        self._good = self._x.clone()  # where each sample was last known to be of its class
        self.leaves = [Leaves([self._x])]

    def render(self) -> Tensor:
        return self._x

    def project(self) -> None:
        self._x.copy_(self._box.clip(self._x))

    @torch.no_grad()
    def gradients(self, classify: Classify, asked: Tensor) -> list[list[Tensor]]:
        source = self._source
        labels, spent = self._check_classes(classify, asked)
        search = Search(
            self._x,
            self._box,
            lambda points, rows: classify(points).to(labels) != labels[rows],
            source.queries,
            source.bisections,
        )
        search.spent += spent
        draw = self._key.at("search", self._steps).generator(self._device)
        search.try_random(source.directions, source.tries, draw)
        search.descend(source.probes, draw)
        self._steps += 1
        found = search.distance.isfinite()
        length = found.to(self._x) if source.move == "unit" else search.distance.where(found, 0.0)
        return [[search.theta * self._box.width * length.reshape(-1, *[1] * (self._x.dim() - 1))]]

    @torch.no_grad()
    def answers(self, classify: Classify, asked: Tensor) -> Tensor:
        labels, _ = self._check_classes(classify, asked)
        logits = self._x.new_zeros(len(labels), self._classes)
        for other in range(self._classes):
            pool, rows = (labels == other).nonzero().flatten(), (labels != other).nonzero().flatten()
            if len(pool) and len(rows):
                distance = self._distance(classify, rows, pool, other)
                logits[rows, other] = 1 / distance.clamp_min(1e-6)
        own, others = logits.sum(1), (logits > 0).sum(1)
        # The sum is the one logit itself where there is one other class, and 0 where there is none.
        own = torch.where(others == 1, 2 * own, torch.where(others == 0, 1.0, own))
        logits[torch.arange(len(labels), device=labels.device), labels] = own
        return logits

    def _distance(self, classify: Classify, rows: Tensor, pool: Tensor, other: int) -> Tensor:
        """Compute the distance from each of ``rows`` to class ``other``, by way of its nearest samples in ``pool``."""
        source = self._source
        x, goals = self._x[rows], self._x[pool]
        search = Search(
            x,
            self._box,
            lambda points, _: classify(points).to(rows) == other,
            source.label_queries,
            source.bisections,
        )
        apart = torch.cdist((x / self._box.width).flatten(1), (goals / self._box.width).flatten(1))
        nearest = apart.topk(min(source.starts, len(pool)), dim=1, largest=False).indices
        everyone = torch.arange(len(rows), device=rows.device)
        for column in nearest.T:
            way = (goals[column] - x) / self._box.width
            length = way.flatten(1).norm(dim=1)
            theta = way / length.clamp_min(1e-12).reshape(-1, *[1] * (way.dim() - 1))
            search.try_direction(everyone, theta, length)
        if source.label_queries:
            search.spent.zero_()  # the lines to the samples come on top
            search.descend(source.probes, self._key.at("labels", other).generator(self._device))
        return search.distance

    def _check_classes(self, classify: Classify, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples' classes and the queries [samples] that it took to see that they still have them."""
        spent = torch.zeros(len(self._x), dtype=torch.int64, device=self._device)
        if self.labels is None:
            self.labels = self._start(classify, asked.to(self._device))
        else:
            self._undo(classify, self.labels, spent)
        self._good.copy_(self._x)
        return self.labels, spent

    def _undo(self, classify: Classify, labels: Tensor, spent: Tensor) -> None:
        """Halve the last move of samples that left their class until they are back in it."""
        rows = torch.arange(len(labels), device=self._device)
        for _ in range(1 + self._source.bisections):
            spent[rows] += 1
            rows = rows[classify(self._x[rows]).to(labels) != labels[rows]]
            if not len(rows):
                return
            self._x[rows] = (self._x[rows] + self._good[rows]) / 2
        self._x[rows] = self._good[rows]

    def _start(self, classify: Classify, asked: Tensor) -> Tensor:
        """Draw noise until each sample is of the class asked for, or the tries are used up; return the classes.

        There are teachers that call all white noise the same; the classes still missing after some tries are looked
        for in coarser noise, which the code does not.
        """
        noise = self._x.clone()
        classes = labels = classify(noise).to(asked)
        missing = torch.ones_like(asked, dtype=torch.bool)
        for attempt in range(self._source.tries):
            if attempt:
                coarse = attempt >= self._source.tries * WHITE and 2 <= len(self._shape) - 1 <= 4
                noise = self._draw_noise(COARSER[attempt % len(COARSER)] if coarse else 1)
                classes = classify(noise).to(asked)
            for wanted in classes[torch.isin(classes, asked[missing])].unique().tolist():
                takers, givers = (missing & (asked == wanted)).nonzero(), (classes == wanted).nonzero()
                count = min(len(takers), len(givers))
                self._x[takers[:count, 0]] = noise[givers[:count, 0]]
                missing[takers[:count, 0]] = False
            if not missing.any():
                break
        return torch.where(missing, labels, asked)

    def _draw_noise(self, coarser: int = 1) -> Tensor:
        """Draw noise (U(0, 1) + 0.2) · a + N(0, 1) · b with a, b ~ U(0, 1) for each sample, as in the code.

        In units of the range; N(0, 1) in standard units where the range is not known. ``coarser`` noise has so much
        fewer
        values along each side and is enlarged to the samples' size.
        """
        draw, (samples, channels, *sides) = self._noise, self._shape
        shape = (samples, channels, *(max(1, side // coarser) for side in sides))
        noise = torch.randn(shape, generator=draw)
        if self._known:
            scale = torch.rand((2, samples, *[1] * (len(shape) - 1)), generator=draw)
            noise = (torch.rand(shape, generator=draw) + 0.2) * scale[0] + noise * scale[1]
        if coarser > 1:
            mode = ("linear", "bilinear", "trilinear")[len(sides) - 1]
            noise = F.interpolate(noise, size=sides, mode=mode, align_corners=False)
        if self._known:
            noise = self._cpu.low + self._cpu.width * noise
        return self._cpu.clip(noise).to(self._device)
