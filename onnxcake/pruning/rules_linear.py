"""Follow convolutions, matrix products and recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx

from ..graph.values import Sizes
from .dependencies import Call, CannotFollow, Writer, rewrite, rule
from .indices import BY_NATURE, Axes, Axis
from .rules_elementwise import aligned


@rule("Conv")
def convolution(call: Call) -> list[Axes]:
    """Follow x [n, groups · inner, …], weight [groups · outer, inner, …]; groups fall whole, or a channel in each."""
    x, weight = call.input(0), call.input(1)
    groups = call.attr("group", 1)
    across = [len(weight[0]) // groups, len(weight[1])]
    outer, _ = call.indices.split(weight[0], [groups, across[0]])
    given, inner = call.indices.split(x[1], [groups, across[1]])
    call.indices.unite(given, outer)
    call.indices.unite(inner, weight[1])
    return [_convolved(call, weight[0], given)]


@rule("ConvTranspose")
def transposed(call: Call) -> list[Axes]:
    """Follow x [n, groups · inner, …], weight [groups · inner, outer, …]."""
    x, weight = call.input(0), call.input(1)
    groups = call.attr("group", 1)
    call.indices.unite(x[1], weight[0])
    given, _ = call.indices.split(x[1], [groups, len(weight[0]) // groups])
    return [_convolved(call, call.indices.merged([given, weight[1]]), given)]


def _convolved(call: Call, channels: Axis, groups: Axis) -> Axes:
    for axis in (*call.input(0)[2:], *call.input(1)[2:]):
        call.indices.hold(axis, why=BY_NATURE)
    bias = call.optional(2)
    if bias is not None:
        call.indices.unite(bias[0], channels)
    call.facts["groups"] = groups
    return [call.input(0)[0], channels, *map(call.indices.kept, call.out_shape()[2:])]


@rewrite("Conv", "ConvTranspose")
def fewer_groups(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Set ``group`` to the number of groups that stay."""
    if call.attr("group", 1) > 1:
        set_attribute(node, "group", writer.count(call.facts["groups"]))


@rule("Gemm")
def gemm(call: Call) -> list[Axes]:
    """Follow a · b + c, each transposed if requested."""
    a, b = (call.input(i)[:: -1 if call.attr(name, 0) else 1] for i, name in ((0, "transA"), (1, "transB")))
    call.indices.unite(a[1], b[0])
    out = [a[0], b[1]]
    bias = call.optional(2)
    return [out if bias is None else aligned(call.indices, [out, bias])]


@rule("MatMul")
def product(call: Call) -> list[Axes]:
    """Follow […, n, k] · […, k, m], the axes before broadcast; a vector is a single row or column."""
    a, b = call.input(0), call.input(1)
    call.indices.unite(a[-1], b[-2] if len(b) > 1 else b[0])
    before = aligned(call.indices, [a[:-2], b[:-2]])
    return [[*before, *a[:-1][-1:], *(b[-1:] if len(b) > 1 else [])]]


@rule("Einsum")
def einsum(call: Call) -> list[Axes]:
    """Unite the axes of each letter."""
    terms = call.attr("equation").decode().replace(" ", "")
    if "->" not in terms or "." in terms:
        raise CannotFollow
    given, made = terms.split("->")
    letters: dict[str, Axis] = {}
    for place, term in enumerate(given.split(",")):
        for letter, axis in zip(term, call.input(place), strict=True):
            if letter in letters and len(letters[letter]) == len(axis):
                call.indices.unite(letters[letter], axis)
            if letter not in letters or len(letters[letter]) < len(axis):
                letters[letter] = axis
    return [[letters[letter] for letter in made]]


_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@rule(*_GATES)
def recurrent(call: Call) -> list[Axes]:
    """Follow x [steps, n, in], weights [directions, gates · hidden, in or hidden]; directions lose the same units."""
    if call.attr("layout", 0):
        raise CannotFollow
    gates, indices = _GATES[call.op], call.indices
    x, weight, again = (call.input(i) for i in range(3))
    hidden = again[2]
    indices.unite(x[2], weight[2])
    indices.unite(weight[1], np.tile(hidden, gates))
    indices.unite(again[1], np.tile(hidden, gates))
    for place, times in ((3, 2 * gates), (5, 0), (6, 0), (7, 3)):  # bias, first state, first cell, peepholes
        value = call.optional(place)
        if value is not None:
            indices.unite(value[-1], np.tile(hidden, times) if times else hidden)
            for axis in value[:-1]:
                indices.hold(axis)
    for axes in (weight, again):
        indices.hold(axes[0])
    indices.hold(x[0])
    call.facts["hidden"] = hidden
    directions = indices.kept(len(weight[0]))
    state = [directions, x[1], hidden]
    return [[x[0], *state[:1], *state[1:]], state, state][: len(call.proto.output)]


@rewrite(*_GATES)
def narrower(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Set ``hidden_size`` to what stays; let lengths and initial states that were stored for one batch follow any."""
    if "hidden" not in call.facts:
        return
    set_attribute(node, "hidden_size", writer.count(call.facts["hidden"]))
    batch = writer.shape(call.proto.input[0])
    for place, axis in ((4, 0), (5, 1), (6, 1)):
        if call.has(place) and call.proto.input[place] in call.graph.constants and batch.slope[1]:
            node.input[place] = for_any_batch(call, place, axis, (batch.slope[1], batch.base[1]), writer)


def for_any_batch(call: Call, place: int, axis: int, rows: tuple[int, int], writer: Writer) -> str:
    """Repeat the first row of a constant along its batch, whose rows are equal where the batch is free.

    Args:
        rows: number for each input of the batch, and number to add.
    """
    axes = call.axes[place] or []
    row = call.proto.input[place]
    if len(axes[axis]) > 1:
        row = writer.node("Gather", [row, writer.ints([0])], axis=axis)
    slope, base = [0] * len(axes), [writer.count(one) for one in axes]
    slope[axis], base[axis] = rows
    return writer.node("Expand", [row, writer.sizes(Sizes(tuple(slope), tuple(base)))])


def set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    """Set an attribute to another value."""
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
    node.attribute.append(onnx.helper.make_attribute(name, value))
