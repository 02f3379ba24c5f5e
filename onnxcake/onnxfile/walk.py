"""Walk a model: its graphs, nodes and tensors, and what a value depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Iterate over the graph and the sub-graphs of its nodes and of the functions' nodes."""
    yield proto.graph
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Iterate over every node: the graph's, its sub-graphs', the functions'."""
    yield from nested(proto.graph.node)
    for function in proto.functions:
        yield from nested(function.node)


def nested(nodes: Any) -> Iterator[onnx.NodeProto]:
    """Iterate over nodes and those of their sub-graphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from nested(graph.node)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Iterate over every tensor: initialisers, node attributes, sparse ones, also in sub-graphs and functions."""
    for graph in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(proto):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def reaching(nodes: Sequence[onnx.NodeProto], *outputs: str, stop: str | None = None) -> list[onnx.NodeProto]:
    """List the (sorted) nodes that ``outputs`` depend on, outer values of sub-graphs included, after ``stop``."""
    wanted, kept = set(outputs) - {stop}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(read_by(node) - {stop})
    return kept[::-1]


def read_by(node: onnx.NodeProto) -> set[str]:
    """Collect the names of all values that a node reads, its sub-graphs' included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(value.name for value in inner.output)
            for one in inner.node:
                names |= read_by(one)
    return names
