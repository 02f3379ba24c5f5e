"""Convert a safe graph: build every value of it that can be built, and modules that end in chosen values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..onnxfile.rename import INPUT, SafeGraph
from ..onnxfile.walk import reaching
from .build import BATCHES, Builder
from .build_log import LIMITS, Blocked, Limits, Record
from .module import Graph
from .values import Depends, Obstacle, Value


@dataclass(frozen=True)
class Converted:
    """Hold the values of a converted graph and the nodes that could not be converted.

    Attributes:
        values: what is known of each value, by its safe name.
        blocked: the nodes that could not be converted, in order.
        records: the nodes that could, in order.
    """

    safe: SafeGraph
    values: dict[str, Value]
    blocked: list[Blocked]
    records: list[Record]
    _builder: Builder
    _input: Value
    _fixed: bool

    def module(self, *outputs: str) -> nn.Module:
        """Build the frozen module [batch, …] float32 → the named value(s), in eval mode."""
        graph = self._builder.finish([self._input], [self.values[name] for name in outputs])
        if not self._fixed:
            return graph
        return in_pieces(graph, self.safe.batch or 1, self.safe.input_shape)

    def trained(self, outputs: Sequence[str], weights: Sequence[str], statistics: Sequence[str]) -> Graph:
        """Build the trainable graph [batch, …] float32 → the named value(s), if it was converted to be trained.

        Args:
            weights: constants that become parameters, as far as the graph can be trained in them.
            statistics: constants that belong to its state, though they are not trained.
        """
        named = ([self.values[name] for name in names] for names in (outputs, weights, statistics))
        return self._builder.finish([self._input], *named)

    def nodes_reaching(self, output: str) -> list[Record]:
        """List the converted nodes that ``output`` depends on."""
        names = {node.name for node in reaching(self.safe.model.graph.node, output)}
        known = {node.name for node in self.safe.model.graph.node}
        # A function's or sub-graph's own nodes have names that only their caller knows.
        return [record for record in self.records if record.node in names or record.node not in known]

    def blockers(self, output: str) -> list[Blocked]:
        """List the blocked nodes that ``output`` depends on."""
        names = {node.name for node in reaching(self.safe.model.graph.node, output)}
        inner = {name for node in self.safe.model.graph.node if node.name in names for name in _inside(node)}
        # A function's or sub-graph's own nodes have names that only their caller knows.
        others = {node.name for node in self.safe.model.graph.node} - names - inner
        return [b for b in self.blocked if b.node not in others]

    @property
    def batch(self) -> int:
        """Return the first trial batch, which the shapes in `records` are of."""
        return self._builder.batches[0]

    @property
    def other_batch(self) -> int:
        """Return the second trial batch; the same as the first where the batch is fixed."""
        return self._builder.batches[1]

    def constant(self, name: str) -> Tensor | None:
        """Return the tensor of a name that depends on nothing; None for any other name."""
        value = self.values.get(name)
        if value is None or value.depends != Depends.NOTHING or not isinstance(value.seen[0], Tensor):
            return None
        return value.seen[0]


def convert(safe: SafeGraph, *, fixed: bool = False, limits: Limits = LIMITS, trained: bool = False) -> Converted:
    """Convert all that can be converted of a graph, floats in float32.

    Integer inputs are relaxed: the graph takes float32 in their place.

    Args:
        fixed: keep the batch that the file fixes (its graph is then run a piece at a time), instead of having
            it follow the input.
        trained: build for `Converted.trained`.
    """
    batches = (safe.batch, safe.batch) if fixed and safe.batch else BATCHES
    builder = Builder(batches=batches, fixed_batch=None if fixed else safe.batch, limits=limits, trained=trained)
    shapes = tuple((batch, *safe.input_shape) for batch in batches)
    source = builder.input((shapes[0], shapes[1]), torch.float32)
    known = {INPUT: source}
    for weight in safe.model.graph.initializer:
        if weight.name in safe.weights:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # shared with a read-only array on purpose: nobody writes to it
                tensor = torch.from_numpy(safe.weights[weight.name])
            known[weight.name] = builder.constant(tensor.to(builder.dtype_of(weight.data_type)))
    try:
        builder.graph(safe.model.graph, safe.opsets, known)
    except Obstacle as obstacle:  # before the first node: a weight of an unknown type
        builder.blocked.append(Blocked("", "weights", obstacle.why, obstacle.remedy))
    return Converted(safe, builder.values, builder.blocked, builder.records, builder, source, fixed)


def _inside(node: onnx.NodeProto) -> list[str]:
    return [
        name
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        for inner in graph.node
        for name in (inner.name, *_inside(inner))
    ]


def in_pieces(graph: Graph, batch: int, shape: tuple[int, ...]) -> nn.Module:
    """Wrap a graph of a fixed batch to take any batch, by torch.vmap where its operators allow that."""
    pieces = Vectorised(graph, batch)
    try:
        with torch.no_grad():
            pieces(torch.linspace(-2, 2, (batch + 1) * math.prod(shape)).reshape(batch + 1, *shape))
    except Exception:  # noqa: BLE001 - vmap lacks a rule, or a loop asks for values
        return Repeated(graph, batch)
    return pieces


class Pieces(nn.Module):
    """Run a graph of a fixed ``batch`` on any number of inputs: in pieces, the last one padded with zeros."""

    def __init__(self, graph: Graph, batch: int) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        missing = -count % self.batch
        if missing:
            x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
        return self.answers(x)[:count]

    def answers(self, x: Tensor) -> Tensor:
        """Return the graph's outputs for a whole number of pieces."""
        raise NotImplementedError


class Vectorised(Pieces):
    """Run all pieces at once, by torch.vmap."""

    def answers(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no rule for vmap
            out: Tensor = torch.vmap(self.graph)(x.unflatten(0, (-1, self.batch)))
        return out.flatten(0, 1)


class Repeated(Pieces):
    """Run one piece after the other."""

    def answers(self, x: Tensor) -> Tensor:
        return torch.cat([self.graph(piece) for piece in x.split(self.batch)])
