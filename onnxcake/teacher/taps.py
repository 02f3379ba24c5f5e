"""Return values inside a teacher together with its answer.

A tap is a value's safe name in the graph, such as ``v12``, and optionally a form: ``v12:pooled`` is the value's mean
over all places, ``v12:rows`` one row for each input, ``v12:turned`` its transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.text import did_you_mean, shown
from ..graph.convert import Converted, Pieces, in_pieces
from ..graph.layout import is_laid_out_last, lay_out
from ..graph.module import Graph
from ..graph.values import Depends
from ..onnxfile.rename import INPUT
from .open_graph import OpenGraph
from .scores import Logits
from .signature import OutputKind

_FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": lambda value: value,
    "pooled": lambda value: value.flatten(2).mean(2),
    "rows": lambda value: value.flatten(1),
    "turned": lambda value: value.t(),
}


class Tapped(nn.Module):
    """Compute inputs → (logits, the values of ``taps``) in one pass."""

    def __init__(self, opened: OpenGraph, kind: OutputKind, taps: Sequence[str]) -> None:
        super().__init__()
        end, names = opened.end(kind), [tap.partition(":")[0] for tap in taps]
        graph = opened.converted.module(end, *names)
        if isinstance(graph, Pieces):
            shapes = [tuple(opened.converted.values[name].seen[0].shape[1:]) for name in (end, *names)]
            graph = _SplitOutputs(graph, opened.safe.input_shape, shapes)
        self.graph, self.logits = graph, Logits(kind, end != opened.output)
        self.forms = [_FORMS[tap.partition(":")[2]] for tap in taps]

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        scores, *values = self.graph(inputs)
        return self.logits(scores), tuple(form(value) for form, value in zip(self.forms, values, strict=True))

    def share(self, other: nn.Module) -> None:
        """Share the constants that another module of the same file holds already, wherever they are.

        Constants of this module alone are arranged in memory as the other's are.
        """
        lay_out(self, is_laid_out_last(other))
        held = {name: graph for graph in other.modules() if isinstance(graph, Graph) for name in graph._buffers}
        for graph in self.modules():
            if isinstance(graph, Graph):
                for name in graph._buffers.keys() & held.keys():
                    graph._buffers[name] = held[name]._buffers[name]


class _JoinedOutputs(nn.Module):
    """Join all outputs of a graph to one row of numbers for each input."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([value.reshape(len(x), -1) for value in self.graph(x)], 1)


class _SplitOutputs(nn.Module):
    """Return the outputs, of these shapes without the batch, of a graph that is run in pieces of its fixed batch."""

    def __init__(self, pieces: Pieces, input_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.rows = in_pieces(_JoinedOutputs(pieces.graph), pieces.batch, input_shape)  # type: ignore[arg-type]
        self.shapes, self.sizes = shapes, [math.prod(shape) for shape in shapes]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        parts = self.rows(x).split(self.sizes, 1)
        return tuple(part.reshape(len(x), *shape) for part, shape in zip(parts, self.shapes, strict=True))


def by_input(graph: Converted, tap: str) -> bool:
    """Tell whether a tap is a float tensor with one entry for each input along its first axis."""
    name, _, form = tap.partition(":")
    value = graph.values.get(name)
    if value is None or value.depends != Depends.DATA or not isinstance(value.seen[0], Tensor):
        return False
    if value.seen[0].dtype != torch.float32 or not value.seen[0].dim():
        return False
    batches = [len(seen) for seen in graph.values[INPUT].seen]
    if form == "turned" and batches[0] == batches[1]:  # run in pieces, which are joined along the first axis
        return False
    return [len(_FORMS[form](seen)) for seen in value.seen] == batches


def shape_of(opened: OpenGraph, tap: str) -> tuple[int, ...]:
    """Return a tap's shape, without the batch."""
    name, _, form = tap.partition(":")
    return tuple(_FORMS[form](opened.converted.values[name].seen[0]).shape[1:])


def tap_of(opened: OpenGraph, name: str) -> str:
    """Return the tap of the value that the file calls ``name``.

    Raises:
        UsageError: if there is none, or it has no row for each input.
    """
    graph = opened.converted
    known = {own: safe for safe, own in opened.safe.value_names.items() if safe in graph.values}
    if name not in known:
        raise UsageError(
            f"it has no value called {shown(name)}{did_you_mean(name, known)}",
            where=opened.name,
            remedy="Name a value as the file does: what a node gives, not the node.",
        )
    if not by_input(graph, known[name]):
        raise UsageError(
            f"its value {shown(name)} does not hold numbers for each input",
            where=opened.name,
            remedy="Name what a layer gives for a batch of inputs, such as a convolution's output.",
        )
    return known[name]
