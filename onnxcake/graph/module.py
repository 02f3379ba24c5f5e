"""Run a graph as a straight list of tensor functions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .values import Function, Sizes


@dataclass(frozen=True)
class GraphStep:
    """Call one function: its arguments as slots or sizes, and the slots of its results (None: not kept).

    ``several`` says that it returns a tuple; ``name`` and ``op`` are those of the node it comes from.
    """

    function: Function
    arguments: tuple[int | Sizes | None, ...]
    results: tuple[int | None, ...]
    several: bool
    name: str
    op: str


Watch = Callable[[GraphStep, list[Any], Any], None]


class Graph(nn.Module):
    """Run steps in order on the model's input tensor(s); the first one's length is the batch.

    Args:
        constants: by slot, the constants that the steps read.
        weights: the slots of those that are parameters; if there are any, the others are no part of the state.
        statistics: the slots of those that are a part of the state nevertheless.
    """

    def __init__(
        self,
        steps: Sequence[GraphStep],
        constants: dict[int, Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        weights: Collection[int] = (),
        statistics: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        results = (slot for step in self.steps for slot in step.results if slot is not None)
        self._slots = 1 + max((*self.inputs, *self.outputs, *constants, *results), default=-1)
        self._lists = {slot: value for slot, value in constants.items() if not isinstance(value, Tensor)}
        tensors = {slot: value for slot, value in constants.items() if isinstance(value, Tensor)}
        self._weights = tuple(slot for slot in tensors if slot in weights)
        self._places = tuple(slot for slot in tensors if slot not in weights)
        for slot, tensor in tensors.items():
            if slot in weights:
                self.register_parameter(name_of(slot), nn.Parameter(tensor.clone()))
            else:  # what belongs to the state is a copy, as it may be written to
                kept = tensor.clone() if slot in statistics else tensor
                self.register_buffer(name_of(slot), kept, persistent=not weights or slot in statistics)
        for number, step in enumerate(self.steps):
            if isinstance(step.function, nn.Module):
                self.add_module(f"m{number}", step.function)
        self._calls = tuple(self._compiled())

    @property
    def constants(self) -> frozenset[int]:
        """Return the slots of the constant tensors."""
        return frozenset((*self._weights, *self._places))

    @property
    def weights(self) -> frozenset[int]:
        """Return the slots of the constant tensors that are parameters."""
        return frozenset(self._weights)

    def _compiled(self) -> list[tuple[Any, ...]]:
        """List (function, arguments, whether all are slots, result, slots that are free afterwards) of each step."""
        last: dict[int, int] = {}
        for number, step in enumerate(self.steps):
            for slot in (*step.arguments, *step.results):
                if isinstance(slot, int):
                    last[slot] = number
        free: dict[int, list[int]] = {}
        for slot, number in last.items():
            if slot not in self.outputs:
                free.setdefault(number, []).append(slot)
        calls: list[tuple[Any, ...]] = []
        for number, step in enumerate(self.steps):
            plain = all(isinstance(a, int) for a in step.arguments)
            result = step.results if step.several else step.results[0]
            calls.append((step.function, step.arguments, plain, result, tuple(free.get(number, ()))))
        return calls

    def with_functions(self, functions: Mapping[int, Function]) -> Graph:
        """Return the same graph, its constants shared, with other functions for the steps of these numbers."""
        twin = copy.copy(self)
        twin._calls = tuple((functions.get(number, call[0]), *call[1:]) for number, call in enumerate(self._calls))
        return twin

    def run(self, batch: int, *inputs: Any, watch: Watch | None = None) -> list[Any]:
        """Compute all outputs for a batch of the model's inputs, ``inputs`` in this graph's order.

        ``watch`` is called with each step, its arguments, and its result.
        """
        values: list[Any] = [None] * self._slots
        for slot, constant in zip(self._places, self._buffers.values(), strict=True):
            values[slot] = constant
        for slot, weight in zip(self._weights, self._parameters.values(), strict=True):
            values[slot] = weight
        for slot, listed in self._lists.items():
            values[slot] = listed
        for slot, given in zip(self.inputs, inputs, strict=True):
            values[slot] = given
        for number, (function, arguments, plain, result, free) in enumerate(self._calls):
            if plain:
                given = [values[slot] for slot in arguments]
            else:
                given = [_resolved(a, values, batch) for a in arguments]
            out = function(*given)
            if watch is not None:
                watch(self.steps[number], given, out)
            if type(result) is int:
                values[result] = out
            else:
                for slot, one in zip(result, out):  # noqa: B905 - results that the node does not name are dropped
                    if slot is not None:
                        values[slot] = one
            for slot in free:
                values[slot] = None
        return [values[slot] for slot in self.outputs]

    def forward(self, *inputs: Tensor) -> Any:
        """Return the output, or a tuple of them if there are several."""
        out = self.run(inputs[0].shape[0] if inputs and inputs[0].dim() else 1, *inputs)
        return out[0] if len(out) == 1 else tuple(out)


def name_of(slot: int) -> str:
    """Return the name of a slot's constant in the module."""
    return f"c{slot}"


def _resolved(argument: int | Sizes | None, values: list[Any], batch: int) -> Any:
    if argument is None:
        return None
    return argument.at(batch) if isinstance(argument, Sizes) else values[argument]
