"""Run LSTM, GRU and RNN step by step, for variants that torch's fused kernels lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.text import shown
from ..values import Function, Obstacle

Activation = Callable[[Tensor], Tensor]
CellStep = Callable[..., tuple[Tensor, ...]]

# Name → whether it takes an alpha, a beta; and what it computes.
_ACTIVATIONS: dict[str, tuple[bool, bool, Callable[[float, float], Activation]]] = {
    "relu": (False, False, lambda a, b: torch.relu),
    "tanh": (False, False, lambda a, b: torch.tanh),
    "sigmoid": (False, False, lambda a, b: torch.sigmoid),
    "softsign": (False, False, lambda a, b: F.softsign),
    "softplus": (False, False, lambda a, b: F.softplus),
    "affine": (True, True, lambda a, b: lambda x: a * x + b),
    "leakyrelu": (True, False, lambda a, b: lambda x: F.leaky_relu(x, a)),
    "thresholdedrelu": (True, False, lambda a, b: lambda x: torch.where(x >= a, x, 0.0)),
    "scaledtanh": (True, True, lambda a, b: lambda x: a * torch.tanh(b * x)),
    "hardsigmoid": (True, True, lambda a, b: lambda x: (a * x + b).clamp(0, 1)),
    "elu": (True, False, lambda a, b: lambda x: F.elu(x, a)),
}
# For the others the standard and onnxruntime disagree, or say nothing.
_ALPHA = {"leakyrelu": 0.01, "hardsigmoid": 0.2, "elu": 1.0}
_BETA = {"hardsigmoid": 0.5}


@dataclass(frozen=True)
class RecurrentCell:
    """Describe one time step: the activations of each direction, and the operator's switches."""

    kind: str
    activations: tuple[tuple[Activation, ...], ...]
    clip: float | None
    input_forget: bool
    linear_before_reset: bool

    def clipped(self, x: Tensor) -> Tensor:
        """Clip the input of an activation."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], directions: int
) -> tuple[tuple[Activation, ...], ...]:
    """Return the functions of each direction; an alpha or beta goes to the next function that takes one."""
    alpha, beta = iter(alphas), iter(betas)
    made: list[Activation] = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise Obstacle(f"its activation {shown(name)} is not known")
        takes_alpha, takes_beta, make = _ACTIVATIONS[name]
        a = next(alpha, _ALPHA.get(name)) if takes_alpha else 0.0
        b = next(beta, _BETA.get(name)) if takes_beta else 0.0
        if a is None or b is None:
            raise Obstacle(f"its activation {name} comes without its alpha or beta", "Give activation_alpha and _beta.")
        made.append(make(a, b))
    each = len(made) // directions
    return tuple(tuple(made[d * each : (d + 1) * each]) for d in range(directions))


def loop(cell: RecurrentCell, reverse: tuple[bool, ...], batch_first: bool, sequence: bool) -> Function:
    """Build the layer as a function (x, w, r, b, lengths, h, c, p) → (y, h, c), inputs None where absent."""
    make, cells = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[cell.kind], cell.kind == "LSTM"

    def function(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None,
        lengths: Tensor | None,
        h: Tensor | None,
        c: Tensor | None,
        p: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        x = x.transpose(0, 1) if batch_first else x
        valid = None if lengths is None else _valid(x, lengths)
        starts = [_initial_state(x, r, state, batch_first) for state in ((h, c) if cells else (h,))]
        ys, states = [], []
        for d, backwards in enumerate(reverse):
            step, bias = make(cell, d, r[d], None if b is None else b[d], None if p is None else p[d])
            start = [state[d] for state in starts]
            y, state = _run(step, F.linear(x, w[d], bias), start, valid, backwards, sequence)
            ys.append(y)
            states.append(state)
        last = [torch.stack(pair, int(batch_first)) for pair in zip(*states, strict=True)]
        if not sequence:
            return None, *last
        whole = torch.stack([y for y in ys if y is not None], 1)  # time, direction, batch, hidden
        return whole.permute(2, 0, 1, 3) if batch_first else whole, *last

    return function


def _initial_state(x: Tensor, r: Tensor, given: Tensor | None, batch_first: bool) -> Tensor:
    """Return an initial state as (directions, batch, hidden)."""
    sizes = (r.shape[0], x.shape[1], r.shape[2])
    if given is None:
        return x.new_zeros(sizes)
    return (given.transpose(0, 1) if batch_first else given).expand(sizes)


def _valid(x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """Compute masks of the rows that are not past their end, for each time step."""
    times = torch.arange(x.shape[0], device=x.device)
    return (times[:, None] < lengths.expand(x.shape[1])).unsqueeze(2).unbind(0)


def _run(
    step: CellStep,
    gates: Tensor,
    state: Sequence[Tensor],
    valid: tuple[Tensor, ...] | None,
    backwards: bool,
    sequence: bool,
) -> tuple[Tensor | None, Sequence[Tensor]]:
    """Run all steps of one direction. Past its end a row keeps its state, and its output is zero."""
    inputs, ys = gates.unbind(0), []
    for t in reversed(range(len(inputs))) if backwards else range(len(inputs)):
        new = step(inputs[t], *state)
        if valid is not None:
            ys.append(torch.where(valid[t], new[0], 0.0))
            new = tuple(torch.where(valid[t], n, s) for n, s in zip(new, state, strict=True))
        else:
            ys.append(new[0])
        state = new
    if valid:  # empty sequences end in zeros, whatever they start from
        state = [torch.where(valid[0], s, 0.0) for s in state]
    if not sequence:
        return None, state
    if not ys:
        return state[0].new_zeros(0, *state[0].shape), state
    return torch.stack(ys[::-1] if backwards else ys), state


def _lstm(cell: RecurrentCell, d: int, r: Tensor, b: Tensor | None, p: Tensor | None) -> tuple[CellStep, Tensor | None]:
    """Build one step, and the bias that is added to the inputs of all steps beforehand."""
    (f, g, h_of), clip = cell.activations[d], cell.clipped
    peep_i, peep_o, peep_f = (None,) * 3 if p is None else p.chunk(3)

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        gate_i, gate_o, gate_f, gate_c = (x + F.linear(h, r)).chunk(4, -1)
        if peep_i is not None and peep_f is not None:
            gate_i, gate_f = gate_i + peep_i * c, gate_f + peep_f * c
        i = f(clip(gate_i))
        forget = 1 - i if cell.input_forget else f(clip(gate_f))
        c = forget * c + i * g(clip(gate_c))
        if peep_o is not None:
            gate_o = gate_o + peep_o * c
        return f(clip(gate_o)) * h_of(c), c

    return step, _sum_biases(b)


def _gru(cell: RecurrentCell, d: int, r: Tensor, b: Tensor | None, p: Tensor | None) -> tuple[CellStep, Tensor | None]:
    """Build a GRU's step and bias, as `_lstm` does."""
    (f, g), clip, linear_first = cell.activations[d], cell.clipped, cell.linear_before_reset
    sizes = [2 * r.shape[1], r.shape[1]]
    r_zr, r_h = r.split(sizes)
    bias, late = _sum_biases(b), None
    if b is not None and linear_first:  # the candidate's recurrent bias is added before the reset
        of_w, of_r = b.chunk(2)
        early, late = of_r.split(sizes)
        bias = of_w + F.pad(early, (0, sizes[1]))

    def step(x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        x_zr, x_h = x.split(sizes, -1)
        z, reset = f(clip(x_zr + F.linear(h, r_zr))).chunk(2, -1)
        new = g(clip(x_h + (reset * F.linear(h, r_h, late) if linear_first else F.linear(reset * h, r_h))))
        return (new + z * (h - new),)

    return step, bias


def _rnn(cell: RecurrentCell, d: int, r: Tensor, b: Tensor | None, p: Tensor | None) -> tuple[CellStep, Tensor | None]:
    """Build an RNN's step and bias, as `_lstm` does."""
    (f,), clip = cell.activations[d], cell.clipped
    return lambda x, h: (f(clip(x + F.linear(h, r))),), _sum_biases(b)


def _sum_biases(b: Tensor | None) -> Tensor | None:
    """Add the biases of the inputs and of the state."""
    if b is None:
        return None
    of_w, of_r = b.chunk(2)
    return of_w + of_r
