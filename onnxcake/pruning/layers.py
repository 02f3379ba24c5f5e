"""Report how a teacher's layers were cut, one by one, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from ..graph.cost import of_node
from .choices import weights_of
from .cut import Cutter
from .dependencies import Call
from .folded_graph import FoldedGraph
from .goal import CutLayer, Shape


def layers(teacher: FoldedGraph, cutter: Cutter, called: Mapping[str, str]) -> Iterator[CutLayer]:
    """Iterate over the teacher's nodes that hold weights, as cut; the two nodes of low-rank factors count as one.

    Args:
        cutter: what was cut: the teacher's graph or one with low-rank factors in it.
        called: the file's names of nodes.
    """
    weights, left = weights_of(teacher), weights_of(cutter.graph)
    for node, calls in _nodes(teacher, cutter.followed.calls):
        own = [name for name in dict.fromkeys(node.input) if name in weights]
        largest = [
            max(names, key=lambda name: left[name].size) for call in calls if (names := _weights_read(call, left))
        ]
        if not own or not largest:
            continue
        yield CutLayer(
            name=called.get(node.name, node.op_type),
            op=node.op_type,
            shapes=(
                max((weights[name] for name in own), key=lambda array: array.size).shape,
                *(cutter.shape_of(name) or () for name in largest),
            ),
            parameters=(
                sum(weights[name].size for name in own),
                sum(cutter.size(name) for call in calls for name in _weights_read(call, left)),
            ),
            multiply_adds=(multiply_adds_of(teacher, [node]), multiply_adds_left(calls, cutter)),
            held=", ".join(dict.fromkeys(why for name in largest for why in _holding_operators(cutter, name))),
        )


def multiply_adds_of(graph: FoldedGraph, nodes: Iterable[onnx.NodeProto]) -> int:
    """Count the multiply-adds of some of a graph's nodes, for one input."""
    shapes: dict[str, Shape] = {name: first for name, (first, _) in graph.shapes.items()}
    shapes |= {name: array.shape for name, array in graph.constants.items()}
    each = (of_node(node, list(map(shapes.get, node.input)), list(map(shapes.get, node.output))) for node in nodes)
    return round(sum(each) / graph.batches[0])


def multiply_adds_left(calls: Iterable[Call], cutter: Cutter) -> int:
    """Count the multiply-adds of some nodes of a cut graph, for one input."""
    total = 0
    for call in calls:
        ins, outs = (
            [cutter.shape_of(name) if name else None for name in names]
            for names in (call.proto.input, call.proto.output)
        )
        total += of_node(call.proto, ins, outs)
    return round(total / cutter.graph.batches[0])


def _nodes(teacher: FoldedGraph, calls: Iterable[Call]) -> Iterator[tuple[onnx.NodeProto, list[Call]]]:
    """Pair each node of the teacher with those that now make its output."""
    known = {tuple(node.output): node for node in teacher.nodes}
    parts: list[Call] = []
    for call in calls:
        parts.append(call)
        if (node := known.get(tuple(call.proto.output))) is not None:  # else the first of a product
            yield node, parts
            parts = []


def _weights_read(call: Call, weights: Mapping[str, object]) -> list[str]:
    return [name for name in dict.fromkeys(call.proto.input) if name in weights]


def _holding_operators(cutter: Cutter, name: str) -> Iterable[str]:
    return filter(None, map(cutter.followed.indices.why, cutter.followed.fresh[name]))
