"""Fit weights of a graph to what its steps should compute, by least squares, as the graph is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .module import Graph, GraphStep, name_of

LAYERS = ("Conv", "Gemm", "MatMul")  # what gives values that are linear in its weight
_PATIENCE = 5  # turns without a gain

Weights = Mapping[Any, Tensor]  # by slot


def made(step: GraphStep) -> int | None:
    """Return the slot of a step's result."""
    return step.results[0]


class Fit:
    """Fit the weights of some steps as the graph is run, and let the graph go on with the fitted weights.

    Args:
        steps: the numbers of consecutive steps: layers, and steps that are affine in their outputs.
        target: what the last step should compute.
        held: mask of the inputs that are held out from the fit.
        turns: iterations of conjugate gradients, at most.
    """

    def __init__(self, graph: Graph, steps: Sequence[int], target: Tensor, held: Tensor, turns: int) -> None:
        self.graph, self.steps, self.target, self.held, self.turns = graph, steps, target, held, turns
        self._given: dict[int, tuple[Any, ...]] = {}

    @property
    def functions(self) -> dict[int, Callable[..., Any]]:
        """Return the functions for `Graph.with_functions`."""
        return {number: partial(self._called, number) for number in self.steps}

    def _called(self, number: int, *given: Any) -> Any:
        # Without the gradients of parameters; they are the graph's own numbers still, and change as it is fitted.
        self._given[number] = tuple(one.detach() if isinstance(one, Tensor) else one for one in given)
        if number != self.steps[-1]:
            return self.graph.steps[number].function(*given)
        for slots in reversed(self._halves()):
            self._fit(slots)
        value = self._value({})
        self._given.clear()
        return value

    def _halves(self) -> list[list[int]]:
        """Group the slots that are fitted together: of a product the first factor's weight, and all the rest."""
        halves: list[list[int]] = []
        for number in self.steps:
            step = self.graph.steps[number]
            places = slice(2, 3) if step.op == "BatchNormalization" else slice(None)  # its shift: it is not divided by
            fitted = [slot for slot in step.arguments[places] if slot in self.graph.weights]
            if step.op in LAYERS:
                halves.append([])
            halves[-1] += fitted
        return halves

    def _value(self, weights: Weights) -> Tensor:
        """Compute the last step's output, with these weights in place of the graph's."""
        value: Any = None
        for before, number in zip([None, *self.steps], self.steps, strict=False):
            step = self.graph.steps[number]
            given_by = None if before is None else made(self.graph.steps[before])
            given = [
                value if given_by is not None and slot == given_by else weights.get(slot, own)
                for slot, own in zip(step.arguments, self._given[number], strict=True)
            ]
            value = step.function(*given)
        assert isinstance(value, Tensor)
        return value

    def _fit(self, slots: list[int]) -> None:
        """Step weights, in which the output is affine, to the least squared distance from the target.

        Conjugate gradients on the normal equations (Hestenes and Stiefel, 1952), started from the present weights. They
        move
        first where the inputs vary most; they are stopped where the held-out inputs gain no more.
        """
        now = {slot: self.graph.get_parameter(name_of(slot)) for slot in slots}
        nothing = {slot: torch.zeros_like(weight) for slot, weight in now.items()}
        base, moved = self._value(nothing), nothing
        rest = self.target - self._value({})
        best, chosen, since = _mean_square(rest[self.held]), nothing, 0
        slope = self._gradient(nothing, rest)
        way, size = slope, _square(slope)
        for _ in range(self.turns):
            along = self._value(way) - base
            length = float(along[~self.held].double().square().sum())
            if not (size > 0 and length > 0 and since < _PATIENCE):
                break
            step = size / length
            moved = {slot: moved[slot] + step * way[slot] for slot in slots}
            rest = rest - step * along
            lost, since = _mean_square(rest[self.held]), since + 1
            if lost < best:
                best, chosen, since = lost, moved, 0
            slope = self._gradient(nothing, rest)
            size, before = _square(slope), size
            way = {slot: slope[slot] + size / before * way[slot] for slot in slots}
        for slot, weight in now.items():
            weight.data += chosen[slot]

    def _gradient(self, at: Weights, rest: Tensor) -> dict[int, Tensor]:
        """Compute half of the negative gradient of the squared distance, over the inputs that are fitted to."""
        fitted = rest.clone()
        fitted[self.held] = 0
        with torch.enable_grad():
            leaves = {slot: weight.clone().requires_grad_() for slot, weight in at.items()}
            slopes = torch.autograd.grad(self._value(leaves), list(leaves.values()), fitted)
        return dict(zip(leaves, slopes, strict=True))


def _square(weights: Weights) -> float:
    return sum(float(weight.double().square().sum()) for weight in weights.values())


def _mean_square(rest: Tensor) -> float:
    return float(rest.double().square().mean())
