"""A frozen graph's kernels, recorded once on CUDA and played again.

A small network on a fast card waits for its kernels to be launched, one call from Python each; played from a CUDA
graph (`torch.cuda.CUDAGraph`) they start in one call. Shapes must be those recorded, and weights must lie where they
were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_OFTEN = 3  # calls of one kind before it is recorded
_MOST = 8  # kinds: each holds the activations of its batch
_WARM = 3  # runs before a recording, in which libraries choose their kernels

_Kind = tuple[Any, ...]


class Replay:
    """Computes what ``network`` does; once started, from recordings where a kind of call has come a few times.

    Played, it is differentiable once, at the inputs alone. What cannot be recorded, as where a size depends on values,
    is computed as ever.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network
        self.start(False)

    def start(self, on: bool = True) -> None:
        """From now on recordings are made and played, or not; those made before are dropped, as weights may move."""
        self._on = on
        self._recorded: dict[_Kind, _Recording | None] = {}
        self._seen: Counter[_Kind] = Counter()

    def __call__(self, inputs: Tensor) -> Tensor:
        recording = self._of(inputs)
        if recording is None:
            return self._network(inputs)
        played: Tensor = _Played.apply(inputs, recording)
        return played

    def _of(self, inputs: Tensor) -> _Recording | None:
        if not self._on or inputs.device.type != "cuda":
            return None
        with_gradient = torch.is_grad_enabled() and inputs.requires_grad
        kind = (inputs.shape, inputs.dtype, torch.is_autocast_enabled("cuda"), with_gradient)
        self._seen[kind] += 1
        if kind not in self._recorded and self._seen[kind] >= _OFTEN and len(self._recorded) < _MOST:
            try:
                self._recorded[kind] = _Recording(self._network, inputs, with_gradient)
            except RuntimeError:  # it waits for the card, or asks it for a size
                self._recorded[kind] = None
        return self._recorded.get(kind)


class _Recording:
    """Forward, and backward if it is wanted, on buffers of their own."""

    def __init__(self, network: Callable[[Tensor], Tensor], like: Tensor, with_gradient: bool) -> None:
        self.turn = 0  # how often forward has been played: whose activations lie in the buffers
        self.inputs = like.detach().clone().requires_grad_(with_gradient)
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                logits = network(self.inputs)
                if with_gradient:
                    torch.autograd.grad(logits, self.inputs, torch.ones_like(logits))
        here.wait_stream(aside)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward):
            logits = network(self.inputs)
        if with_gradient:
            self.cotangent = torch.zeros_like(logits)
            with torch.cuda.graph(self._backward, pool=self._forward.pool()):
                (self.gradient,) = torch.autograd.grad(logits, self.inputs, self.cotangent)
        self.logits = logits.detach()

    @torch.no_grad()
    def play(self, inputs: Tensor) -> int:
        """Computes `logits`; returns the turn."""
        self.inputs.copy_(inputs)
        self._forward.replay()
        self.turn += 1
        return self.turn

    @torch.no_grad()
    def back(self, cotangent: Tensor) -> Tensor:
        """The gradient at what was played last."""
        self.cotangent.copy_(cotangent)
        self._backward.replay()
        return self.gradient.clone()


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, recording: _Recording) -> Tensor:
        ctx.recording, ctx.turn = recording, recording.play(inputs)
        ctx.save_for_backward(inputs)
        return recording.logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        recording, (inputs,) = ctx.recording, ctx.saved_tensors
        if recording.turn != ctx.turn:  # another call has used the buffers since
            ctx.turn = recording.play(inputs)
        return recording.back(cotangent), None
