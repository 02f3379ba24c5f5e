"""Convert sequences, as Python lists, and optionals, as a value or None."""

from __future__ import annotations

from typing import Any

import onnx
import torch

from ...core.remedies import SIZES, SOUND
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Sizes, Value
from .control_modules import Mapped
from .control_parts import read_at_run_time, unrolling

_REMEDY = SIZES


@op("SequenceConstruct")
def sequence_construct(node: Node) -> Function:
    return lambda *xs: list(xs)


@op("SequenceEmpty")
def sequence_empty(node: Node) -> list[Value]:
    return [node.builder.constant([])]


@op("SequenceInsert")
def sequence_insert(node: Node) -> Function:
    if not node.has(2):
        node.take(2)
        return lambda xs, x: [*xs, x]
    node.sizes(2)
    return lambda xs, x, place: [*xs[: place[0]], x, *xs[place[0] :]]


@op("SequenceErase")
def sequence_erase(node: Node) -> Function:
    if node.has(1):
        node.sizes(1)
    else:
        node.take(1)

    def function(xs: list[Any], place: tuple[int, ...] = (-1,)) -> list[Any]:
        kept = list(xs)
        del kept[place[0]]
        return kept

    return function


@op("SequenceAt")
def sequence_at(node: Node) -> Function:
    if node.value(1).depends == Depends.DATA:
        _check_same_shapes(node.value(0))
        return lambda xs, place: torch.stack(xs)[place.reshape(())]
    node.sizes(1)
    return lambda xs, place: xs[place[0]]


def _check_same_shapes(sequence: Value) -> None:
    for seen in sequence.seen:
        if len({(x.shape, x.dtype) for x in seen}) != 1:
            raise Obstacle("what it takes from a sequence of tensors of different shapes is not known now", _REMEDY)


@op("SequenceLength")
def sequence_length(node: Node) -> Function:
    first, second = ([len(seen)] for seen in node.value(0).seen)
    node.extra(Sizes.through(node.builder.batches, (first, second)))
    node.take(0)
    return lambda length: torch.tensor(length[0], dtype=torch.int64)


@op("ConcatFromSequence")
def concat_from_sequence(node: Node) -> Function:
    axis = node.attr("axis")
    if node.attr("new_axis", 0):
        return lambda xs: torch.stack(xs, axis)
    return lambda xs: torch.cat(xs, axis)


@op("SplitToSequence")
def split_to_sequence(node: Node) -> Function:
    axis = node.attr("axis", 0)
    if not node.has(1):
        node.take(1)
        if node.attr("keepdims", 1):
            return lambda x: list(x.split(1, axis))
        return lambda x: list(x.unbind(axis))
    node.sizes(1)
    if node.rank(1) == 0:
        return lambda x, size: list(x.split(size[0], axis))
    return lambda x, sizes: list(x.split(sizes, axis))


@op("SequenceMap")
def sequence_map(node: Node) -> Function | list[Value]:
    body: onnx.GraphProto = node.attr("body")
    inputs = [node.value(i) for i in range(len(node.inputs))]
    lists = tuple(isinstance(value.seen[0], list) for value in inputs)
    lengths = {len(seen) for value, listed in zip(inputs, lists, strict=True) if listed for seen in value.seen}
    if len(lengths) > 1:
        return _mapped_at_run_time(node, inputs, lists)
    (length,) = lengths
    if not length:
        return [node.builder.constant([]) for _ in body.output]
    with unrolling(node.builder, length, body):
        split = zip(inputs, lists, strict=True)
        given = [node.call(tuple, value, outputs=length) if listed else [value] * length for value, listed in split]
        rows = [node.inline(body, elements) for elements in zip(*given, strict=True)]
    return [node.call(lambda *xs: list(xs), *values)[0] for values in zip(*rows, strict=True)]


def _mapped_at_run_time(node: Node, inputs: list[Value], lists: tuple[bool, ...]) -> Function:
    """Convert a SequenceMap over sequences whose length is known only at run time, such as the batch's."""
    given = list(inputs)
    for i, listed in enumerate(lists):
        if listed:
            _check_same_shapes(inputs[i])
            given[i] = node.builder.fresh((inputs[i].seen[0][0], inputs[i].seen[1][0]))
    graph, reads, outputs = node.module(node.attr("body"), given)
    read_at_run_time(node, reads)
    first = inputs[lists.index(True)]
    node.declare_results(*(tuple([v.seen[trial]] * len(first.seen[trial]) for v in outputs) for trial in (0, 1)))
    return Mapped(graph, lists)


@op("Optional")
def optional(node: Node) -> list[Value]:
    return [node.value(0)] if node.has(0) else [node.builder.constant(None)]


@op("OptionalHasElement")
def optional_has_element(node: Node) -> list[Value]:
    there = node.has(0) and node.sample(0) is not None
    return [node.builder.constant(torch.tensor(there))]


@op("OptionalGetElement")
def optional_get_element(node: Node) -> list[Value]:
    if node.sample(0) is None:
        raise Obstacle("it takes the element of an empty optional", SOUND)
    return [node.value(0)]
