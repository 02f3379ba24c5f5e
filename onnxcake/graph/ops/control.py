"""Convert If and Loop: resolved while the graph is built where that can be, else decided at run time."""

from __future__ import annotations

import math
from typing import Any

import onnx
import torch

from ...core.remedies import SIZES, SOUND
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Sizes, TooMuch, Value
from .control_modules import Branches, Chosen, LoopModule
from .control_parts import (
    appended,
    count_turns,
    declared,
    origin,
    read_at_run_time,
    same_kind,
    stacked,
    stays_true,
    unrolling,
)

_UNKNOWN = "how often it turns depends on the data"
_REMEDY = SIZES


@op("If")
def if_(node: Node) -> Function | list[Value]:
    branches: tuple[onnx.GraphProto, onnx.GraphProto] = node.attr("then_branch"), node.attr("else_branch")
    if node.is_constant(0):
        return node.inline(branches[0 if bool(node.constant(0)) else 1], [])
    data = node.value(0).depends == Depends.DATA
    if data and math.prod(node.sample(0).shape) != 1:
        raise Obstacle("its condition holds a value for each input, and onnxruntime takes one", _REMEDY)
    if data:
        _check_own_batch(node, "takes a branch")
    then, then_reads, first = node.module(branches[0], [])
    other, other_reads, second = node.module(branches[1], [])
    for a, b in zip(first, second, strict=True):
        if not all(same_kind(x, y) for x, y in zip(a.seen, b.seen, strict=True)):
            raise Obstacle("the data decide which branch is taken, and the branches give different shapes", _REMEDY)
    read_at_run_time(node, (*then_reads, *other_reads))
    node.declare_results(*(tuple(value.seen[trial] for value in first) for trial in (0, 1)))
    pieces = node.builder.batches[0] == node.builder.batches[1]
    return (Chosen if data and pieces else Branches)(then, other, len(then_reads))


def _check_own_batch(node: Node, what: str) -> None:
    """Refuse to decide for a larger batch what a file decides for each batch of its own.

    Raises:
        Obstacle: if the batch that the file fixes is set free.
    """
    if node.builder.fixed_batch is not None:
        raise Obstacle(f"it {what} by the data, for each batch of {node.builder.fixed_batch}", _REMEDY)


@op("Loop")
def loop(node: Node) -> Function | list[Value]:
    if all(not node.has(i) or node.is_constant(i) for i in (0, 1)):
        outputs = _unrolled(node)
        if outputs is not None:
            return outputs
    return _at_run_time(node)


def _unrolled(node: Node) -> list[Value] | None:
    """Unroll a loop's iterations; return None if its condition depends on the data."""
    builder, body = node.builder, node.attr("body")
    most = int(node.sample(0)) if node.has(0) else math.inf
    go_on = node.value(1) if node.has(1) else builder.constant(torch.tensor(True))
    plain = stays_true(builder, body)  # all turns are taken
    if plain and most == math.inf and bool(go_on.seen[0]):
        raise TooMuch("it never ends", SOUND)
    states = [node.value(i) for i in range(2, len(node.inputs))]
    ends = body.output[1 + len(states) :]
    scans: list[list[Value]] = [[] for _ in ends]
    marks, turn = (len(builder.steps), len(builder.records)), 0
    with unrolling(builder, int(max(most, 0)) if plain and bool(go_on.seen[0]) else 1, body):
        while turn < most and bool(go_on.seen[0]):
            if turn and not plain:
                count_turns(builder, 1, body, turn)
            number = builder.constant(torch.full(_shape_of_iteration(body), turn))
            go_on, *outputs = node.inline(body, [number, go_on, *states])
            if go_on.depends != Depends.NOTHING:
                del builder.steps[marks[0] :], builder.records[marks[1] :]
                return None
            states = outputs[: len(states)]
            for collected, value in zip(scans, outputs[len(states) :], strict=True):
                collected.append(value)
            turn += 1
    return states + [stacked(node, values, 0, end) for values, end in zip(scans, ends, strict=True)]


def _shape_of_iteration(body: onnx.GraphProto) -> tuple[int, ...]:
    """Return the shape of the iteration number: a scalar, or one number where the body declares that."""
    return (1,) if len(declared(body.input[0])) == 1 else ()


def _at_run_time(node: Node) -> Function:
    builder, body = node.builder, onnx.GraphProto()
    body.CopyFrom(node.attr("body"))
    initial = [node.value(i) for i in range(2, len(node.inputs))]
    states, lists = _states(node, body, initial)
    zero = torch.zeros(_shape_of_iteration(body), dtype=torch.int64)
    go_on = node.value(1) if node.has(1) else builder.constant(torch.tensor(True))
    condition = go_on if stays_true(builder, body) else builder.fresh(go_on.seen)
    graph, reads, (end, *outputs) = node.module(body, [builder.fresh((zero, zero)), condition, *states])
    always = all(value.depends == Depends.NOTHING and bool(value.seen[0]) for value in (go_on, end))
    turns = _turns(node) if always else None
    if turns is None:
        _check_own_batch(node, "turns as often as is decided")
    kept = tuple(node.wanted(i) for i in range(len(outputs)))
    for j, value in enumerate(initial):
        if j not in lists and not all(map(same_kind, value.seen, outputs[j].seen)):
            raise Obstacle(f"{_UNKNOWN}, and turning changes its state {j} in shape", _REMEDY)
    if turns is None and any(kept[j] for j in (*lists, *range(len(initial), len(kept)))):
        raise Obstacle(f"{_UNKNOWN}, and so does the size of its output", _REMEDY)
    node.extra(zero)
    for value in outputs[len(initial) :]:
        node.extra(_dims(node, value))
    read_at_run_time(node, reads)
    node.declare_results(*(_outputs_at(trial, turns, initial, lists, outputs, kept) for trial in (0, 1)))
    return LoopModule(graph, len(initial), lists, kept, always, builder.limits.steps)


def _states(node: Node, body: onnx.GraphProto, initial: list[Value]) -> tuple[list[Value], tuple[int, ...]]:
    """Return (the values that the body is given for its states, the indices of states that it appends to).

    Appended values are collected, as the scan outputs are: the body is changed to output them alone. A state that
    the body returns unchanged keeps its value, which may be a constant.
    """
    states, lists = list(initial), []
    for j, value in enumerate(initial):
        source, result = body.input[2 + j].name, body.output[1 + j].name
        added = appended(body, source, result) if isinstance(value.seen[0], list) else None
        if added is not None:
            body.output[1 + j].name = added
            lists.append(j)
        elif origin(body, result) != source:
            states[j] = node.builder.fresh(value.seen)
    return states, tuple(lists)


def _turns(node: Node) -> tuple[int, ...] | None:
    """Count the iterations of a loop without a condition at the two trial batches; None if they depend on the data."""
    if not node.has(0) or node.value(0).depends == Depends.DATA:
        return None
    node.sizes(0)
    return tuple(max(node.numbers(0).at(batch)[0], 0) for batch in node.builder.batches)


def _dims(node: Node, value: Value) -> Sizes:
    first, second = (tuple(seen.shape) for seen in value.seen)
    return Sizes.through(node.builder.batches, (first, second))


def _outputs_at(
    trial: int,
    turns: tuple[int, ...] | None,
    initial: list[Value],
    lists: tuple[int, ...],
    outputs: list[Value],
    kept: tuple[bool, ...],
) -> tuple[Any, ...]:
    """Build the outputs of a loop at run time for a trial batch, as meta tensors."""
    number = turns[trial] if turns else 0
    given = [value.seen[trial] for value in outputs]
    for j in lists:
        given[j] = initial[j].seen[trial] + [given[j]] * number
    for j in range(len(initial), len(outputs)):
        given[j] = torch.empty((number, *given[j].shape), dtype=given[j].dtype, device="meta")
    return tuple(value if keep else None for value, keep in zip(given, kept, strict=True))
