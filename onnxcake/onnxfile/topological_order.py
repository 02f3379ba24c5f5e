"""Sort a model's nodes topologically: some converters write a node after those that read it, and onnxruntime sorts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import onnx

from ..core.errors import BadTeacherFile
from ..core.text import shown
from .walk import graphs

_NAMED = 6  # values of a circle that a message names


def sort_nodes(proto: onnx.ModelProto, name: str) -> None:
    """Sort the nodes of every graph, sub-graph and function body so that each follows those that it reads.

    Nodes keep their order as far as that allows; what is sorted already is not touched.

    Args:
        name: the file's, for messages.

    Raises:
        BadTeacherFile: if values depend on each other in a circle.
    """
    for body in reversed((*proto.functions, *graphs(proto))):  # sub-graphs before the nodes that hold them
        order = _sorted(body.node, name)
        if order is not None:
            copies = [onnx.NodeProto.FromString(body.node[place].SerializeToString()) for place in order]
            del body.node[:]
            body.node.extend(copies)


def _sorted(nodes: Sequence[onnx.NodeProto], name: str) -> list[int] | None:
    """Return the sorted order of nodes, as indices (Kahn, 1962); None if they are in order."""
    makers = {value: place for place, node in enumerate(nodes) for value in node.output if value}
    before = [{makers[value] for value in _outer_reads(node) if value in makers} for node in nodes]
    if all(place > last for place, earlier in enumerate(before) for last in earlier):
        return None
    after: list[list[int]] = [[] for _ in nodes]
    for place, earlier in enumerate(before):
        for one in earlier:
            after[one].append(place)
    waiting = [len(earlier) for earlier in before]
    ready = [place for place, count in enumerate(waiting) if not count]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for later in after[place]:
            waiting[later] -= 1
            if not waiting[later]:
                heapq.heappush(ready, later)
    if len(order) < len(nodes):
        raise _cycle_error(nodes, before, set(range(len(nodes))) - set(order), name)
    return order


def _outer_reads(node: onnx.NodeProto) -> set[str]:
    """Collect the outer names that a node reads: its inputs, and what its sub-graphs read and do not make."""
    names = {value for value in node.input if value}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= _outer_reads_of_graph(graph)
    return names


def _outer_reads_of_graph(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= _outer_reads(node)
    return names - _values_of(graph)


def _values_of(graph: Any) -> set[str]:
    made = {value.name for value in (*graph.input, *graph.initializer)}
    made |= {sparse.values.name for sparse in graph.sparse_initializer}
    return made | {value for node in graph.node for value in node.output}


def _cycle_error(
    nodes: Sequence[onnx.NodeProto], before: Sequence[set[int]], left: Iterable[int], name: str
) -> BadTeacherFile:
    """Find a cycle among the unsorted nodes, and word the error that names it."""
    left = set(left)
    path = [min(left)]
    while (earlier := min(before[path[-1]] & left)) not in path:
        path.append(earlier)
    circle = path[path.index(earlier) :][::-1]
    values = [shown(next((value for value in nodes[place].output if value), "")) for place in circle]
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return BadTeacherFile(
        f"its values {', '.join(values[:_NAMED])}{more} depend on each other in a circle"
        if len(values) > 1
        else f"its value {values[0]} depends on itself",
        where=name,
        remedy="No runtime can compute it. Copy the file again, or ask its vendor for a sound one.",
    )
