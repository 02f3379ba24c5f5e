"""Convert Scan: unrolled where its length is known and small, else as a module that runs its steps at run time."""

from __future__ import annotations

from typing import Any

import torch

from ...core.remedies import SIZES
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value
from .control_modules import BatchedScan, Scanned, unbound
from .control_parts import MOST_TURNS, nodes_in, read_at_run_time, same_kind, stacked, unrolling

_MOST_NODES = 20_000  # of one Scan that is unrolled; building more takes longer than it is worth


@op("Scan")
def scan(node: Node) -> Function | list[Value]:
    if node.version < 9:
        return _batched(node)
    body, inputs = node.attr("body"), node.attr("num_scan_inputs")
    states = len(node.inputs) - inputs
    axes = node.attr("scan_input_axes", [0] * inputs)
    backward = [bool(way) for way in node.attr("scan_input_directions", [0] * inputs)]
    outputs = len(body.output) - states
    out_axes = node.attr("scan_output_axes", [0] * outputs)
    out_backward = [bool(way) for way in node.attr("scan_output_directions", [0] * outputs)]
    length = node.shape(states)[axes[0]]
    whole = length * node.builder.turns * (1 + nodes_in(body))
    if 0 <= length <= MOST_TURNS and whole <= min(_MOST_NODES, node.builder.limits.steps):
        return _unrolled(node, length, axes, backward, out_axes, out_backward)
    elements = [_cut(node, states + i, (axis,)) for i, axis in enumerate(axes)]
    initial = [node.value(i) for i in range(states)]
    graph, reads, ends = node.module(body, [*(node.builder.fresh(value.seen) for value in initial), *elements])
    _check_states(initial, ends)
    read_at_run_time(node, reads)
    node.declare_results(*(_outputs_at(node, trial, initial, ends, states, axes[0], out_axes) for trial in (0, 1)))
    return Scanned(graph, states, axes, backward, out_axes, out_backward)


def _unrolled(
    node: Node,
    length: int,
    axes: list[int],
    backward: list[bool],
    out_axes: list[int],
    out_backward: list[bool],
) -> list[Value]:
    body, count = node.attr("body"), len(node.inputs) - len(axes)
    states = [node.value(i) for i in range(count)]
    slices = []
    for i, (axis, back) in enumerate(zip(axes, backward, strict=True), count):
        slices.append(node.call(_unbinding(axis, back), node.value(i), outputs=length))
    ends = body.output[count:]
    collected: list[list[Value]] = [[] for _ in ends]
    with unrolling(node.builder, length, body):
        for turn in range(length):
            outputs = node.inline(body, [*states, *(values[turn] for values in slices)])
            states = outputs[:count]
            for values, value in zip(collected, outputs[count:], strict=True):
                values.append(value)
    made = [
        stacked(node, values[::-1] if back else values, axis, end)
        for values, axis, back, end in zip(collected, out_axes, out_backward, ends, strict=True)
    ]
    return states + made


def _unbinding(axis: int, backward: bool) -> Function:
    return lambda x: unbound(x, axis, backward)


def _batched(node: Node) -> Function:
    """Convert version 8: [batch, …] states and [batch, time, …] inputs, of which the body sees neither axis."""
    body, inputs = node.attr("body"), node.attr("num_scan_inputs")
    states = len(node.inputs) - 1 - inputs
    backward = [bool(way) for way in node.attr("directions", [0] * inputs)]
    initial = [_cut(node, 1 + i, (0,)) for i in range(states)]
    elements = [_cut(node, 1 + states + i, (0, 0)) for i in range(inputs)]
    graph, reads, ends = node.module(body, [*initial, *elements])
    _check_states(initial, ends)
    read_at_run_time(node, reads)
    outputs = len(ends) - states
    given = []
    for trial in (0, 1):
        batch, length = node.value(1 + states).seen[trial].shape[:2]
        sizes = [(batch,)] * states + [(batch, length)] * outputs
        given.append(tuple(_empty(value.seen[trial], front) for value, front in zip(ends, sizes, strict=True)))
    node.declare_results(*given)
    return BatchedScan(Scanned(graph, states, [0] * inputs, backward, [0] * outputs, [False] * outputs))


def _cut(node: Node, index: int, axes: tuple[int, ...]) -> Value:
    """Return the value that a body is given for an input: one element along the axes."""
    first, second = node.value(index).seen
    for axis in axes:
        first, second = first.select(axis, 0), second.select(axis, 0)
    return node.builder.fresh((first, second))


def _check_states(initial: list[Value], ends: list[Value]) -> None:
    for number, (before, after) in enumerate(zip(initial, ends, strict=False)):
        if not all(map(same_kind, before.seen, after.seen)):
            raise Obstacle(f"its state {number} changes in shape", SIZES)


def _outputs_at(
    node: Node, trial: int, initial: list[Value], ends: list[Value], states: int, axis: int, out_axes: list[int]
) -> tuple[Any, ...]:
    """Build the outputs of a Scan at run time for a trial batch, as meta tensors."""
    length = node.value(states).seen[trial].shape[axis]
    given: list[Any] = [value.seen[trial] for value in initial]
    for value, out_axis in zip(ends[states:], out_axes, strict=True):
        seen = value.seen[trial]
        shape = list(seen.shape)
        shape.insert(out_axis if out_axis >= 0 else out_axis + len(shape) + 1, length)
        given.append(torch.empty(shape, dtype=seen.dtype, device="meta"))
    return tuple(given)


def _empty(seen: torch.Tensor, front: tuple[int, ...]) -> torch.Tensor:
    return torch.empty((*front, *seen.shape), dtype=seen.dtype, device="meta")
