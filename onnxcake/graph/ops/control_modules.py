"""Run If, Loop, Scan and SequenceMap as modules, where branches and lengths are decided at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..module import Graph


class Branches(nn.Module):
    """Run one of the two graphs of an If; the first reads ``split`` of the outer values."""

    def __init__(self, then: Graph, other: Graph, split: int) -> None:
        super().__init__()
        self.then, self.other, self.split = then, other, split

    def forward(self, condition: Tensor, *rest: Any) -> tuple[Any, ...]:
        """Return the outputs of the graph that the condition chooses; ``rest`` are the outer values, and the batch."""
        *reads, (batch,) = rest
        if bool(condition):
            return tuple(self.then.run(batch, *reads[: self.split]))
        return tuple(self.other.run(batch, *reads[self.split :]))


class Chosen(Branches):
    """Run both graphs of an If in a graph that torch.vmap runs in pieces, and choose the outputs for each piece.

    Gradients flow through the graph that was chosen alone. In the other one a logarithm or a quotient may be infinite,
    and zero times infinity would be no number: so they are cut off where that graph reads outer values.
    """

    def forward(self, condition: Tensor, *rest: Any) -> tuple[Any, ...]:
        """Return the chosen outputs as `Branches` does; ``condition`` holds one value."""
        *reads, (batch,) = rest
        yes = condition.reshape(())
        then = self.then.run(batch, *(_detach_unless(yes, value) for value in reads[: self.split]))
        other = self.other.run(batch, *(_detach_unless(~yes, value) for value in reads[self.split :]))
        return tuple(_select(yes, a, b) for a, b in zip(then, other, strict=True))


def _detach_unless(taken: Tensor, value: Any) -> Any:
    """Detach a value where a branch is not taken, so that gradients flow back through the taken branch alone."""
    if isinstance(value, Tensor):
        return torch.where(taken, value, value.detach()) if value.is_floating_point() else value
    return type(value)(_detach_unless(taken, v) for v in value) if isinstance(value, (list, tuple)) else value


def _select(yes: Tensor, first: Any, second: Any) -> Any:
    if isinstance(first, Tensor):
        return torch.where(yes, first, second)
    return [_select(yes, a, b) for a, b in zip(first, second, strict=True)] if isinstance(first, list) else first


class LoopModule(nn.Module):
    """Run a Loop.

    Args:
        body: from (iteration number, condition, states, outer values) to (condition, states, scan outputs).
        states: number of states.
        lists: indices of the states that iterations append to; the body outputs the appended value.
        kept: for each state and scan output, whether it is wanted.
        always: whether the condition can be left alone.
        most: iterations, after which the loop is given up.
    """

    def __init__(
        self, body: Graph, states: int, lists: tuple[int, ...], kept: tuple[bool, ...], always: bool, most: int
    ) -> None:
        super().__init__()
        self.body, self.states, self.lists, self.kept, self.always, self.most = body, states, lists, kept, always, most

    def forward(self, turns: Any, condition: Tensor | None, *rest: Any) -> tuple[Any, ...]:
        """Run the iterations; ``rest``: states, a zero, one iteration's scan output shapes, outer values, batch."""
        states, rest = list(rest[: self.states]), rest[self.states :]
        scans = len(self.kept) - self.states
        zero, shapes, reads, (batch,) = rest[0], rest[1 : 1 + scans], rest[1 + scans : -1], rest[-1]
        going: Any = True if condition is None else condition
        most = self.most + 1 if turns is None else turns[0] if isinstance(turns, tuple) else int(turns)
        collected: list[list[Any]] = [[] for _ in self.kept]
        for j in self.lists:
            collected[j] = list(states[j])
        turn = 0
        while turn < most and (self.always or bool(going)):
            if turn == self.most:
                raise RuntimeError(f"a Loop of the model runs for more than {self.most:,} iterations")
            going, *outputs = self.body.run(batch, zero + turn, going, *states, *reads)
            for j, value in enumerate(outputs):
                if j >= self.states or j in self.lists:
                    if self.kept[j]:
                        collected[j].append(value)
                else:
                    states[j] = value
            turn += 1
        for j in self.lists:
            states[j] = collected[j]
        ends = zip(collected[self.states :], shapes, self.kept[self.states :], strict=True)
        return (*states, *(_stacked(values, shape, zero) if kept else None for values, shape, kept in ends))


def _stacked(values: list[Tensor], shape: tuple[int, ...], zero: Tensor) -> Tensor:
    return torch.stack(values) if values else zero.new_zeros((0, *shape))


class Scanned(nn.Module):
    """Run a Scan.

    Args:
        body: from (states, one element of each input, outer values) to (states, one element of each output).
        states: number of states.
        axes, backward: of each input.
        out_axes, out_backward: of each output.
    """

    def __init__(
        self,
        body: Graph,
        states: int,
        axes: Sequence[int],
        backward: Sequence[bool],
        out_axes: Sequence[int],
        out_backward: Sequence[bool],
    ) -> None:
        super().__init__()
        self.body, self.states = body, states
        self.ins = tuple(zip(axes, backward, strict=True))
        self.outs = tuple(zip(out_axes, out_backward, strict=True))

    def forward(self, *given: Any) -> tuple[Any, ...]:
        """Run the steps; ``given``: the states, the inputs, the outer values, and the batch."""
        cut = self.states + len(self.ins)
        states, inputs, reads, (batch,) = given[: self.states], given[self.states : cut], given[cut:-1], given[-1]
        slices = [unbound(x, axis, back) for x, (axis, back) in zip(inputs, self.ins, strict=True)]
        collected: list[list[Tensor]] = [[] for _ in self.outs]
        for elements in zip(*slices, strict=True):
            outputs = self.body.run(batch, *states, *elements, *reads)
            states = tuple(outputs[: self.states])
            for values, value in zip(collected, outputs[self.states :], strict=True):
                values.append(value)
        ends = zip(collected, self.outs, strict=True)
        return (*states, *(torch.stack(values[::-1] if back else values, axis) for values, (axis, back) in ends))


def unbound(x: Tensor, axis: int, backward: bool) -> tuple[Tensor, ...]:
    """Split a tensor into slices along an axis, in the order of a Scan."""
    slices = x.unbind(axis)
    return slices[::-1] if backward else slices


class BatchedScan(nn.Module):
    """Run a Scan of opset 8, each sample of the batch by itself, up to its own length if lengths are given."""

    def __init__(self, scan: Scanned) -> None:
        super().__init__()
        self.scan = scan

    def forward(self, lengths: Tensor | None, *given: Any) -> tuple[Tensor, ...]:
        """Run the Scan for each sample; ``given`` as for the Scan, its states and inputs with the batch in front."""
        cut = self.scan.states + len(self.scan.ins)
        states, inputs, rest = given[: self.scan.states], given[self.scan.states : cut], given[cut:]
        rows = []
        for sample in range(inputs[0].shape[0]):
            whole = inputs[0].shape[1]
            length = whole if lengths is None else int(lengths[sample])
            row = self.scan(*(s[sample] for s in states), *(x[sample, :length] for x in inputs), *rest)
            rows.append((*row[: len(states)], *(_padded(out, whole) for out in row[len(states) :])))
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))


def _padded(x: Tensor, length: int) -> Tensor:
    missing = length - x.shape[0]
    return torch.cat([x, x.new_zeros((missing, *x.shape[1:]))]) if missing else x


class Mapped(nn.Module):
    """Run a SequenceMap: its graph once for each element of those inputs that are ``lists``."""

    def __init__(self, body: Graph, lists: Sequence[bool]) -> None:
        super().__init__()
        self.body, self.lists = body, tuple(lists)

    def forward(self, *given: Any) -> tuple[list[Any], ...]:
        """Run the graph for each element; ``given``: the inputs, the outer values, and the batch."""
        inputs, reads, (batch,) = given[: len(self.lists)], given[len(self.lists) : -1], given[-1]
        count = len(inputs[self.lists.index(True)])
        columns = [x if listed else [x] * count for x, listed in zip(inputs, self.lists, strict=True)]
        rows = [self.body.run(batch, *elements, *reads) for elements in zip(*columns, strict=True)]
        return tuple(list(values) for values in zip(*rows, strict=True))
