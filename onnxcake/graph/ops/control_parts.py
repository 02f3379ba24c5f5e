"""Limit unrolling of If, Loop and Scan, and read the structure of their bodies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor

from ..node import Host, Node
from ..values import Depends, Sizes, TooMuch, Value

MOST_TURNS = 4096  # of one loop that is unrolled


@contextmanager
def unrolling(builder: Host, turns: int, body: onnx.GraphProto) -> Iterator[None]:
    """Count ``turns`` iterations of a loop while they are built in the block; inner loops are multiplied by them."""
    count_turns(builder, turns, body)
    outer, builder.turns = builder.turns, builder.turns * turns
    try:
        yield
    finally:
        builder.turns = outer


def count_turns(builder: Host, turns: int, body: onnx.GraphProto, before: int = 0) -> None:
    """Count further iterations that a loop asks for, before they are built.

    Raises:
        TooMuch: if they exceed the limits.
    """
    asked, nodes, allowed = builder.turns * (before + turns), 1 + nodes_in(body), builder.limits.steps
    builder.unrolled += turns * nodes
    if before + turns > MOST_TURNS or max(asked * nodes, builder.unrolled) > allowed:
        raise TooMuch(
            f"it asks for {asked:,} iterations of {nodes:,} operators "
            f"(allowed: {MOST_TURNS:,} iterations, {allowed:,} operators in all)",
            "Give a smaller teacher.",
        )


def nodes_in(graph: onnx.GraphProto) -> int:
    """Count the nodes of a graph and its sub-graphs."""
    inner = (g for node in graph.node for a in node.attribute for g in (a.g, *a.graphs))
    return len(graph.node) + sum(nodes_in(g) for g in inner)


def origin(body: onnx.GraphProto, name: str) -> str:
    """Follow Identity nodes of a body back to the name that a name stands for."""
    aliases = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity" and not node.domain}
    while name in aliases:
        name = aliases[name]
    return name


def stays_true(builder: Host, body: onnx.GraphProto) -> bool:
    """Tell whether a Loop's body plainly leaves its condition as it is, or true: it is a `for` loop."""
    name = origin(body, body.output[0].name)
    if name == body.input[1].name:
        return True
    weights = {weight.name: weight for weight in body.initializer}
    weights |= {node.output[0]: node.attribute[0].t for node in body.node if node.op_type == "Constant"}
    if name in weights:
        return bool(onnx.numpy_helper.to_array(weights[name]).all())
    inside = {*(value.name for value in body.input), *(out for node in body.node for out in node.output)}
    value = None if name in inside else builder.look_up(name)
    return value is not None and value.depends == Depends.NOTHING and bool(value.seen[0])


def appended(body: onnx.GraphProto, source: str, result: str) -> str | None:
    """Return the name that a body appends to a sequence which it only appends to; else None."""
    maker = next((node for node in body.node if result in node.output), None)
    if maker is None or maker.op_type != "SequenceInsert" or len([name for name in maker.input if name]) != 2:
        return None
    readers = [node for node in body.node if reads(node, source)]
    alone = readers == [maker] and source not in {out.name for out in body.output}
    return maker.input[1] if alone and maker.input[0] == source else None


def reads(node: onnx.NodeProto, name: str) -> bool:
    """Tell whether a node, or one in its sub-graphs, reads a name."""
    inner = (g for a in node.attribute for g in (a.g, *a.graphs))
    return name in node.input or any(
        name in {out.name for out in graph.output} or any(reads(n, name) for n in graph.node) for graph in inner
    )


def same_kind(first: Any, second: Any) -> bool:
    """Tell whether two values, as seen at a trial batch, have the same shapes and types."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same_kind, first, second))
    return first is None and second is None


def declared(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return the shape that a body declares for a value, open sizes as 0."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def read_at_run_time(node: Node, reads: Sequence[Value]) -> None:
    """Pass the outer values that a run-time module's sub-graphs read, and the batch, to its function."""
    for value in reads:
        node.extra(value)
    node.extra(Sizes((1,), (0,)))


def stacked(node: Node, values: Sequence[Value], axis: int, declared_as: onnx.ValueInfoProto) -> Value:
    """Stack values along a new axis; return an empty tensor of the declared shape if there are none."""
    if values:
        return node.call(lambda *xs: torch.stack(xs, axis), *values)[0]
    shape = list(declared(declared_as))
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    dtype = node.dtype_of(declared_as.type.tensor_type.elem_type)
    return node.builder.constant(torch.zeros(shape, dtype=dtype))
