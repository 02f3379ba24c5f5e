"""Train a graph in its file's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.arrays import Array
from ..onnxfile.walk import reaching
from .convert import Converted
from .module import Graph, name_of
from .weights import Weight, weights_of

Function = Callable[..., Any]


@dataclass(frozen=True)
class Trained:
    """Hold a trainable module, and the file's names of its parameters and statistics.

    Attributes:
        graph: [batch, …] → the value(s) that were asked for; its weights are parameters.
        weights: by the names of the module's parameters and of those of its buffers that are statistics.
        names: the file's name of each.
    """

    graph: Graph
    weights: dict[str, Weight] = field(repr=False)
    names: dict[str, str] = field(repr=False)
    _apart: Callable[[], Graph] = field(repr=False)

    @property
    def parameters(self) -> int:
        """Count the numbers that are trained."""
        return sum(parameter.numel() for parameter in self.graph.parameters())

    def draw(self, inputs: Tensor) -> None:
        """Draw the weights anew, from the default generator, and set the statistics to those of ``inputs``."""
        for name, parameter in self.graph.named_parameters():
            self.weights[name].draw(parameter)
        apart = self._apart()
        apart.load_state_dict(self.graph.state_dict())
        _set_statistics(apart, inputs)
        self.graph.load_state_dict(apart.state_dict())

    def values(self) -> dict[str, Array]:
        """Return the present numbers of weights and statistics, by the file's names."""
        state = self.graph.state_dict()
        return {name: state[own].cpu().numpy() for own, name in self.names.items()}


def trained(converted: Converted, *outputs: str) -> Trained:
    """Build the trainable graph that ends in ``outputs``, of a model that was converted to be trained."""
    found = weights_of(converted.safe)
    statistics = [name for name, weight in found.items() if weight.role == "statistic"]
    parts = [name for name in found if name not in statistics], statistics
    graph = converted.trained(outputs, *parts)
    named = {name_of(converted.values[name].slot): name for name in found}
    held = [name for name in graph.state_dict() if name in named]
    names = {name: converted.safe.value_names[named[name]] for name in held}
    weights = {name: found[named[name]] for name in held}
    # What is asked for is computed: so no normalisation is a part of its convolution.
    ends = [*outputs, *_inputs_of_batch_norms(converted, outputs)]
    return Trained(graph, weights, names, lambda: converted.trained(ends, *parts))


def _inputs_of_batch_norms(converted: Converted, outputs: Sequence[str]) -> list[str]:
    """List the inputs of the BatchNormalizations that the outputs depend on."""
    kept = reaching(converted.safe.model.graph.node, *outputs)
    return [node.input[0] for node in kept if node.op_type == "BatchNormalization" and not node.domain]


@torch.no_grad()
def _set_statistics(graph: Graph, inputs: Tensor) -> None:
    """Set the statistics of every BatchNormalization to those of its input for ``inputs``, as in training."""
    state = {slot for slot in graph.constants if name_of(slot) in graph.state_dict()}
    steps = {
        number: _settling(step.function)
        for number, step in enumerate(graph.steps)
        if step.op == "BatchNormalization" and len(step.arguments) == 5 and state.issuperset(step.arguments[3:])
    }
    graph.with_functions(steps)(inputs)


def _settling(function: Function) -> Function:
    def settled(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Any:
        axes = (0, *range(2, x.dim()))
        if mean.shape == (x.shape[1],):
            mean.copy_(x.mean(axes))
            var.copy_(x.var(axes, correction=0))
        return function(x, scale, shift, mean, var)

    return settled
