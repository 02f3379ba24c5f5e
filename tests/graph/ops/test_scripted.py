"""Control flow as torch.jit.script exports it: values and gradients of the file are those of the module."""

from __future__ import annotations

import io
import warnings

import onnx
import pytest
import torch
from harness import built
from torch import Tensor, nn


class Cell(nn.Module):
    """Return what all of them have; the weights are always the same."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.linspace(-1, 1, 16).reshape(4, 4).sin()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 3)
        self.inner.weight.data, self.outer.weight.data = numbers, numbers[:3].cos() - 0.5


class Counted(Cell):
    """A `for` with a fixed end, which uses its number."""

    def forward(self, x: Tensor) -> Tensor:
        for i in range(4):
            x = torch.tanh(self.inner(x)) + x * i * 0.1
        return self.outer(x)


class Sampled(Cell):
    """A list with one element for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        rows: list[Tensor] = []
        for i in range(x.size(0)):
            rows.append(self.outer(torch.tanh(self.inner(x[i]))))
        return torch.stack(rows)


class Written(Cell):
    """A tensor that is written to sample by sample."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.size(0), 3)
        for i in range(x.size(0)):
            y[i] = self.outer(self.inner(x[i]))
        return y


class Stepped(Cell):
    """A recurrence over a dimension of known size, which collects its states."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unsqueeze(2) * torch.ones(4)
        state, states = torch.zeros(x.size(0), 4), torch.jit.annotate(list[Tensor], [])
        for t in range(parts.size(1)):
            state = torch.tanh(self.inner(state) + parts[:, t])
            states.append(state)
        return self.outer(torch.stack(states, 1)).mean(1)


class Doubting(Cell):
    """A `while` that the data end."""

    def forward(self, x: Tensor) -> Tensor:
        turns = 0
        while bool((x * x).sum() < 200.0) and turns < 20:
            x = x * 1.3 + torch.tanh(self.inner(x))
            turns += 1
        return self.outer(x)


class Choosing(Cell):
    """An `if` that the data decide."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x) if bool(x.sum() > 0) else torch.sin(x)
        return self.outer(y)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("kind", [Counted, Sampled, Written, Stepped, Doubting, Choosing])
def test_values_and_gradient(kind: type[Cell], opset: int) -> None:
    module, file = torch.jit.script(kind().eval()), io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(2, 4),), file, opset_version=opset, dynamo=False, **names)
    graph = built(onnx.load_from_string(file.getvalue()))
    for sign in (1, -1):
        x = (sign * torch.linspace(-0.5, 1.5, 20).reshape(5, 4)).requires_grad_()
        ours, theirs = graph(x), module(x)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x))
