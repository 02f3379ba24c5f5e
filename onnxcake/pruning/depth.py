"""Find the residual blocks of a graph, remove some of them, and score how much each matters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..onnxfile.rename import INPUT
from ..onnxfile.walk import reaching, read_by
from .cut import cut
from .dependencies import follow
from .factor import Numbers
from .folded_graph import Array, FoldedGraph

Answers = Callable[[bytes], Array]  # a model's logits [n, classes], always to the same inputs


@dataclass(frozen=True)
class ResidualBlock:
    """Describe the residual block of an addition y = x + f(x), which can become y = x.

    Attributes:
        add: the sum, y.
        skip: the value left without the block, x.
        nodes: the first outputs of the nodes that make f(x), in order.
        operators: of these nodes.
        parameters: numbers in the float weights that only they read.
    """

    add: str
    skip: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    parameters: int


def blocks(graph: FoldedGraph) -> tuple[ResidualBlock, ...]:
    """Find the residual blocks that can be left out, in order; one may lie within another.

    A block has weights (an activation that is written out may add to its own input too), its addition alone reads its
    outputs, and its addition is not the last node.
    """
    readers = _readers(graph)
    found = []
    for place, node in enumerate(graph.nodes):
        if node.domain or node.op_type not in ("Add", "Sum") or len(node.input) != 2 or node.output[0] == graph.output:
            continue
        for skip in node.input:
            same = graph.shapes.get(skip) == graph.shapes[node.output[0]]
            inside = _inside(graph, readers, place, skip) if same else []
            block = _block(graph, readers, node.output[0], skip, inside)
            if block is not None:
                found.append(block)
    return tuple(found)


def without(graph: FoldedGraph, left_out: Iterable[ResidualBlock]) -> FoldedGraph:
    """Remove blocks from the graph: their sums become their skips, and nodes that are no longer read go."""
    instead = {block.add: block.skip for block in left_out}
    for name in instead:  # what it was added to may be such a sum itself
        while instead[name] in instead:
            instead[name] = instead[instead[name]]
    nodes = [_redirected(node, instead) for node in graph.nodes if node.output[0] not in instead]
    nodes = reaching(nodes, graph.output)
    there = {name for node in nodes for name in (*read_by(node), *node.output)}
    return replace(
        graph,
        nodes=tuple(nodes),
        constants={name: array for name, array in graph.constants.items() if name in there},
        names={name: called for name, called in graph.names.items() if name in there},
        sizes={name: sizes for name, sizes in graph.sizes.items() if name in there},
        kinds={name: kind for name, kind in graph.kinds.items() if name in there},
        shapes={name: shapes for name, shapes in graph.shapes.items() if name in there},
    )


def without_least(graph: FoldedGraph, candidates: Sequence[ResidualBlock], answers: Answers) -> FoldedGraph:
    """Remove the one of these blocks which matters least to the answers."""
    return without(graph, [candidates[int(block_scores(graph, candidates, answers).argmin())]])


def block_scores(graph: FoldedGraph, candidates: Sequence[ResidualBlock], answers: Answers) -> Numbers:
    """Compute how much the logits change when each block alone is left out [blocks].

    It is the root of the squared change over the squared differences between inputs: 0 if nothing changes, 1 if the
    logits change as much as between inputs; infinite if the logits are no longer finite.
    """
    followed = follow(graph)
    calls = {tuple(call.proto.output): call for call in followed.calls}

    def logits(part: FoldedGraph) -> Numbers:
        # What was found out about a node still holds: the values around a block have the same shape without it.
        kept = tuple(replace(calls[tuple(node.output)], proto=node, graph=part) for node in part.nodes)
        model = cut(replace(followed, graph=part, calls=kept), [], INPUT, part.output)
        return answers(model.SerializeToString()).astype(np.float64)

    whole = logits(graph)
    spread = max(float(np.linalg.norm(whole - whole.mean(0))), 1e-300)
    changes = [np.linalg.norm(logits(without(graph, [block])) - whole) / spread for block in candidates]
    return np.nan_to_num(np.array(changes, np.float64), nan=np.inf, posinf=np.inf)


# What is inside


def _readers(graph: FoldedGraph) -> dict[str, set[int]]:
    """Map each value to the indices of the nodes that read it; the output's reader stands behind all nodes."""
    readers: dict[str, set[int]] = {graph.output: {len(graph.nodes)}}
    for place, node in enumerate(graph.nodes):
        for name in read_by(node):
            readers.setdefault(name, set()).add(place)
    return readers


def _inside(graph: FoldedGraph, readers: dict[str, set[int]], add: int, skip: str) -> list[int]:
    """Find the indices of the nodes that serve one operand of an addition alone; none unless they read the other."""
    inside = {add}
    reads: set[str] = set()
    for place in range(add - 1, -1, -1):
        made = [name for name in graph.nodes[place].output if name in readers]
        if made and skip not in made and all(readers[name] <= inside for name in made):
            inside.add(place)
            reads |= read_by(graph.nodes[place])
    return sorted(inside - {add}) if skip in reads else []


def _block(
    graph: FoldedGraph, readers: dict[str, set[int]], add: str, skip: str, inside: Sequence[int]
) -> ResidualBlock | None:
    """Build a block if it has weights; else return None."""
    nodes = [graph.nodes[place] for place in inside]
    constants = [name for name in sorted(set().union(*map(read_by, nodes))) if name in graph.constants]
    parameters = sum(
        graph.constants[name].size
        for name in constants
        if graph.constants[name].dtype.kind == "f" and graph.constants[name].size > 1 and readers[name] <= set(inside)
    )
    names = tuple(next(filter(None, node.output)) for node in nodes)
    return ResidualBlock(add, skip, names, tuple(node.op_type for node in nodes), parameters) if parameters else None


def _redirected(node: onnx.NodeProto, instead: dict[str, str]) -> onnx.NodeProto:
    """Return the node, or a copy that reads other values, in its sub-graphs too."""
    if not read_by(node) & instead.keys():
        return node
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    _rename(changed, instead)
    return changed


def _rename(node: onnx.NodeProto, instead: dict[str, str]) -> None:
    node.input[:] = [instead.get(name, name) for name in node.input]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, instead)
            for value in graph.output:
                value.name = instead.get(value.name, value.name)
