"""Convert LSTM, GRU and RNN: by torch's fused kernels where they fit, else by a loop over the time steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.remedies import around
from ...core.text import shown
from ..node import Node
from ..registry import op
from ..values import Depends, Function, Obstacle, Unfit, Value
from .recurrent_loop import RecurrentCell, activations, loop

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates among ONNX's: ifgo of iofc, rzn of zrh
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class _Layer:
    """Describe a recurrent layer: the operator, its directions (True: from the end), sizes and outputs."""

    kind: str
    reverse: tuple[bool, ...]
    hidden: int
    batch_first: bool
    sequence: bool

    @property
    def time(self) -> int:
        """Return the axis of the time steps in the data; the batch has the other one of the first two."""
        return int(self.batch_first)


@op("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> Function:
    layer = _layer(node)
    names = [name.lower() for name in node.attr("activations", _DEFAULTS[node.op] * len(layer.reverse))]
    if len(names) != len(_DEFAULTS[node.op]) * len(layer.reverse):
        raise Obstacle(f"it names {len(names)} activations, which does not fit its directions")
    weights = [_value_or_none(node, index) for index in (1, 2, 3)]
    rest = (_lengths(node, layer), _state(node, 5, layer), _state(node, 6, layer), _peepholes(node))
    _check_sizes(node, layer, rest[1:3])
    node.declare_results(*(_outputs_at(node, layer, trial) for trial in (0, 1)))
    kernel = _kernel(node, names, len(layer.reverse)) if rest[0] is None and rest[3] is None else None
    for index in range(1, len(node.inputs)):
        node.take(index)
    if kernel is not None:
        return _fused(node, layer, kernel, rest[1:3])
    cell = RecurrentCell(
        node.op,
        activations(names, node.attr("activation_alpha", ()), node.attr("activation_beta", ()), len(layer.reverse)),
        node.attr("clip", 0.0) or None,
        bool(node.attr("input_forget", 0)),
        bool(node.attr("linear_before_reset", 0)),
    )
    return _with_absent(node, [*weights, *rest], loop(cell, layer.reverse, layer.batch_first, layer.sequence))


def _layer(node: Node) -> _Layer:
    direction = node.attr("direction", "forward")
    reverse = _DIRECTIONS.get(direction.lower())
    if reverse is None:
        raise Obstacle(f"its direction {shown(direction)} is not one of {', '.join(_DIRECTIONS)}")
    if node.shape(2)[0] != len(reverse):
        raise Obstacle(f"its weights are for {node.shape(2)[0]} directions, and it has {len(reverse)}")
    return _Layer(node.op, reverse, node.size(2, 2), bool(node.attr("layout", 0)), node.wanted(0))


def _check_sizes(node: Node, layer: _Layer, states: Sequence[Value | None]) -> None:
    """Check that data, weights and states fit one another, as their product is not tried step by step on meta tensors.

    Raises:
        Unfit: if not.
    """
    directions, gates = len(layer.reverse), _GATES[layer.kind] * layer.hidden
    if node.rank(0) != 3:
        raise Unfit(f"its data have {node.rank(0)} dimensions, not 3")
    wanted = {
        1: (directions, gates, node.shape(0)[2]),
        2: (directions, gates, layer.hidden),
        3: (directions, 2 * gates),
    }
    for index, shape in wanted.items():
        if node.has(index) and node.shape(index) != shape:
            raise Unfit(f"its input {index} has the shape {list(node.shape(index))}, where {list(shape)} fits")
    for value in states:
        for trial, seen in enumerate(() if value is None else value.seen):
            batch = node.value(0).seen[trial].shape[1 - layer.time]
            front = (batch, directions) if layer.batch_first else (directions, batch)
            rows = seen.dim() == 3 and seen.shape[1 - layer.time] in (1, batch)
            if not rows or tuple(seen.shape)[layer.time] != directions or seen.shape[2] != layer.hidden:
                fits = [*front, layer.hidden]
                raise Unfit(f"its initial state has the shape {list(seen.shape)}, where {fits} fits a batch of {batch}")


def _outputs_at(node: Node, layer: _Layer, trial: int) -> tuple[Tensor | None, ...]:
    """Build the outputs at a trial batch, as meta tensors: every time step, and the last states."""
    x = node.value(0).seen[trial]
    batch, length = x.shape[1 - layer.time], x.shape[layer.time]
    directions, hidden = len(layer.reverse), layer.hidden
    if layer.batch_first:
        whole, last = (batch, length, directions, hidden), (batch, directions, hidden)
    else:
        whole, last = (length, directions, batch, hidden), (directions, batch, hidden)
    states = 2 if layer.kind == "LSTM" else 1
    shapes = [whole if layer.sequence else None, *[last] * states]
    return tuple(None if shape is None else torch.empty(shape, dtype=x.dtype, device="meta") for shape in shapes)


def _with_absent(node: Node, values: Sequence[Value | None], function: Function) -> Function:
    """Wrap a function to be called with those of the values that are given, and None for the others."""
    there = [value is not None for value in values]
    for value in values:
        if value is not None:
            node.extra(value)

    def called(x: Tensor, *given: Tensor) -> Any:
        rest = iter(given)
        return function(x, *[next(rest) if one else None for one in there])

    return called


def _value_or_none(node: Node, index: int) -> Value | None:
    return node.value(index) if node.has(index) else None


def _peepholes(node: Node) -> Value | None:
    """Return the weights through which the gates see the cell; None where there are none, or zeros."""
    return None if node.is_constant(7) and not node.sample(7).any() else _value_or_none(node, 7)


def _lengths(node: Node, layer: _Layer) -> Value | None:
    """Return the sequences' lengths; None where all are known to be as long as the data."""
    if not node.has(4):
        return None
    value = node.value(4)
    if value.depends == Depends.DATA:
        return value
    longest = [x.shape[layer.time] for x in node.value(0).seen]
    if all(bool((lens == most).all()) for lens, most in zip(value.seen, longest, strict=True)):
        return None
    return _for_any_batch(node, value, 0, layer)


def _state(node: Node, index: int, layer: _Layer) -> Value | None:
    """Return an initial state; None where it is absent or zeros."""
    if not node.has(index) or (index == 6 and layer.kind != "LSTM"):
        return None
    value = node.value(index)
    if value.depends != Depends.DATA and not any(bool(seen.any()) for seen in value.seen):
        return None
    return _for_any_batch(node, value, 1 - layer.time, layer)


def _for_any_batch(node: Node, value: Value, axis: int, layer: _Layer) -> Value:
    """Reduce a value that was stored for a fixed batch, and whose rows are the same, to one row along an axis."""
    free = node.dims(0).slope[1 - layer.time] != 0
    if value.depends != Depends.NOTHING or not free or value.seen[0].shape[axis] == 1:
        return value
    row = value.seen[0].narrow(axis, 0, 1)
    if not torch.equal(row.expand_as(value.seen[0]), value.seen[0]):
        raise Obstacle(
            "its initial state or its sequence lengths are stored for a fixed batch, and differ between the rows",
            around("with a free batch"),
        )
    return node.builder.constant(row.clone())


def _kernel(node: Node, names: list[str], directions: int) -> Function | None:
    """Return torch's fused kernel for the node, or None."""
    constant = all(node.is_constant(index) for index in (1, 2, 3) if node.has(index))
    linear_first = node.op != "GRU" or bool(node.attr("linear_before_reset", 0))
    if not constant or not linear_first or node.attr("clip", 0.0) or node.attr("input_forget", 0):
        return None
    if names == list(_DEFAULTS[node.op]) * directions:
        kernels: dict[str, Function] = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}
        return kernels[node.op]
    return torch.rnn_relu if node.op == "RNN" and names == ["relu"] * directions else None


def _fused(node: Node, layer: _Layer, kernel: Function, states: Sequence[Value | None]) -> Function:
    biased = node.has(3)
    given = [node.sample(index) for index in (1, 2, 3) if node.has(index)]
    weights = _reorder_gates(layer.kind, *given)
    shapes, sizes = [tuple(w.shape) for w in weights], [w.numel() for w in weights]
    directions, batch_first, time = len(layer.reverse), layer.batch_first, layer.time
    order = [place for direction in range(directions) for place in _places(direction, directions, biased)]
    flip, cells = layer.reverse == (True,), layer.kind == "LSTM"

    def function(x: Tensor, flat: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, ...]:
        views = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        start = (_initial_state(x, h, layer), _initial_state(x, c, layer)) if cells else _initial_state(x, h, layer)
        # "Training" keeps what the backward pass needs; there is no dropout.
        options = (biased, 1, 0.0, torch.is_grad_enabled(), directions == 2, batch_first)
        y, *last = kernel(x.flip(time) if flip else x, start, [views[place] for place in order], *options)
        y = (y.flip(time) if flip else y).unflatten(2, (directions, -1))
        if batch_first:
            return y, *[state.transpose(0, 1) for state in last]
        return y.transpose(1, 2), *last

    # One tensor, of which the kernel gets views: cuDNN wants it so, and it moves to a device as one.
    flat = node.derived(
        lambda *given: torch.cat([w.reshape(-1) for w in _reorder_gates(layer.kind, *given)]), *range(1, 3 + biased)
    )
    return _with_absent(node, [flat, *states], function)


def _initial_state(x: Tensor, given: Tensor | None, layer: _Layer) -> Tensor:
    """Return an initial state in the kernel's layout: (directions, batch, hidden)."""
    sizes = (len(layer.reverse), x.shape[1 - layer.time], layer.hidden)
    if given is None:
        return x.new_zeros(sizes)
    return (given.transpose(0, 1) if layer.batch_first else given).expand(sizes).contiguous()


def _reorder_gates(kind: str, w: Tensor, r: Tensor, b: Tensor | None = None) -> list[Tensor]:
    """Reorder the weights' gates to torch's order: of all directions first, then the biases."""
    gates, order = _GATES[kind], list(_ORDER[kind])

    def ordered(tensor: Tensor) -> Tensor:
        return tensor.reshape(gates, -1, *tensor.shape[1:])[order].reshape(tensor.shape)

    weights = [ordered(m[d]) for d in range(w.shape[0]) for m in (w, r)]
    if b is None:
        return weights
    return weights + [ordered(half) for one in b for half in one.chunk(2)]


def _places(direction: int, directions: int, biased: bool) -> tuple[int, ...]:
    """Return the indices of a direction's weights and biases in `_reorder_gates`."""
    weights = (2 * direction, 2 * direction + 1)
    return (*weights, *(2 * directions + w for w in weights)) if biased else weights
