"""Dequantise the rows of a quantised table where they are looked up.

onnxruntime's quantiser moves the dequantisation behind the operators that only place numbers, such as the transpose
before a recurrent layer. The first value of floats then has its batch elsewhere than first, and cannot be optimised.
"""

from __future__ import annotations

import itertools
from collections import Counter

import onnx

from .walk import nodes, read_by

# Operators of one input of data that place numbers and compute none.
_PLACING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}
_TABLES = {"Gather", "GatherElements", "GatherND"}


def dequantise_rows_early(proto: onnx.ModelProto) -> None:
    """Move a DequantizeLinear of one scale directly behind the look-up whose rows it reads, in place.

    It commutes with the operators between, so that no answer changes. A value between that is read elsewhere, or is
    an output, keeps its place.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in read_by(node))
    readers.update(value.name for value in graph.output)
    taken = {name for node in nodes(proto) for name in (*node.input, *node.output)}
    scalars = {tensor.name for tensor in graph.initializer if not tensor.dims}
    weights = {tensor.name for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "DequantizeLinear" or not scalars.issuperset(node.input[1:]):
            continue
        between: list[onnx.NodeProto] = []  # the last one first
        name = node.input[0]
        while name in makers and makers[name].op_type in _PLACING and not makers[name].domain and readers[name] == 1:
            between.append(makers[name])
            name = makers[name].input[0]
        table = makers.get(name)
        if not between or table is None or readers[name] != 1 or table.op_type not in _TABLES:
            continue
        if table.domain or table.input[0] not in weights:
            continue
        rows = next(free for n in itertools.count(1) if (free := f"{name}_dequantized_{n}") not in taken)
        taken.add(rows)
        _move_before(graph, node, between[::-1], rows)


def _move_before(graph: onnx.GraphProto, node: onnx.NodeProto, between: list[onnx.NodeProto], rows: str) -> None:
    """Move a node before those in ``between``, the last of which then has its output's name."""
    first, last, result = between[0], between[-1], node.output[0]
    passed = {name for one in between for name in one.output}
    described = [value for value in graph.value_info if value.name not in passed]
    early = onnx.NodeProto()
    early.CopyFrom(node)
    early.input[0], early.output[0] = first.input[0], rows
    first.input[0], last.output[0] = rows, result
    graph.node.remove(node)
    graph.node.insert(next(place for place, one in enumerate(graph.node) if rows in one.input), early)
    del graph.value_info[:]
    graph.value_info.extend(described)
