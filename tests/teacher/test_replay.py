"""A graph's kernels played again on CUDA give what computing them anew gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.rng import Key
from onnxcake.teacher.replay import Replay


class Counted(nn.Module):
    """A small network that knows how often it was computed."""

    def __init__(self) -> None:
        super().__init__()
        with Key(0).at("net").as_default():
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))
        self.requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x)
        return logits


def drawn(number: int, samples: int, device: str) -> Tensor:
    return torch.randn(samples, 1, 8, 8, generator=Key(number).generator()).to(device).requires_grad_(True)


def test_on_a_processor_it_computes_as_ever() -> None:
    net = Counted()
    replay = Replay(net)
    replay.start()
    for number in range(6):
        x = drawn(number, 5, "cpu")
        assert torch.equal(replay(x), net.net(x))
    assert net.calls == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnCuda:
    def test_logits_and_gradients_are_those_of_the_network(self) -> None:
        net = Counted().to("cuda")
        replay = Replay(net)
        replay.start()
        for number in range(8):
            x, weight = drawn(number, 6, "cuda"), torch.randn(6, 3, device="cuda")
            told, wanted = replay(x), net.net(x)
            torch.testing.assert_close(told, wanted)
            found = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (told, wanted)]
            torch.testing.assert_close(*found)
        before = net.calls
        replay(drawn(9, 6, "cuda"))
        assert net.calls == before  # played, not computed

    def test_a_gradient_is_that_of_its_own_call(self) -> None:
        net = Counted().to("cuda")
        replay = Replay(net)
        replay.start()
        for number in range(4):
            replay(drawn(number, 6, "cuda"))
        one, other = drawn(10, 6, "cuda"), drawn(11, 6, "cuda")
        logits = replay(one).square().sum(), replay(other).square().sum()
        for x, value in zip((one, other), logits, strict=True):
            wanted = torch.autograd.grad(net.net(x).square().sum(), x)[0]
            torch.testing.assert_close(torch.autograd.grad(value, x)[0], wanted)

    def test_shapes_and_precisions_do_not_meet(self) -> None:
        net = Counted().to("cuda")
        replay = Replay(net)
        replay.start()
        for number in range(5):
            for samples in (3, 6):
                x = drawn(number, samples, "cuda")
                torch.testing.assert_close(replay(x), net.net(x))
                with torch.no_grad():
                    torch.testing.assert_close(replay(x), net.net(x))
                with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                    torch.testing.assert_close(replay(x), net.net(x))

    def test_weights_that_moved_are_forgotten(self) -> None:
        net = Counted().to("cuda")
        replay = Replay(net)
        replay.start()
        for number in range(4):
            replay(drawn(number, 6, "cuda"))
        net.to(memory_format=torch.channels_last)
        with torch.no_grad():
            net.net[0].weight.mul_(2)
        replay.start()
        x = drawn(5, 6, "cuda")
        for _ in range(4):
            torch.testing.assert_close(replay(x), net.net(x))

    def test_what_waits_for_the_card_is_computed(self) -> None:
        def waits(x: Tensor) -> Any:
            return x.flatten(1)[:, :3] * float(x.detach().abs().sum() > 0)

        replay = Replay(waits)
        replay.start()
        for number in range(5):
            x = drawn(number, 6, "cuda")
            torch.testing.assert_close(replay(x), x.flatten(1)[:, :3])
