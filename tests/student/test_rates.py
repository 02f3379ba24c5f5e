"""The learning rate that a student takes after having tried several."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.rng import Key
from onnxcake.student.loss import Distillation
from onnxcake.student.optimisers import AdamOptimiser, CosineDecay
from onnxcake.student.training import DistillationBatch, Regime, Training

CPU, STEPS = torch.device("cpu"), 600


def network(normalised: bool = False) -> nn.Module:
    first = nn.Linear(6, 32), nn.BatchNorm1d(32) if normalised else nn.Identity(), nn.Tanh()
    return nn.Sequential(*first, nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


def begun(net: nn.Module, rates: tuple[float, ...], lr: float = 1e-2) -> Training:
    regime = Regime(
        steps=STEPS,
        batch=32,
        loss=Distillation(),
        optimiser=AdamOptimiser(lr=lr),
        learning_rate=CosineDecay(),
        checkpoint_every=500,
        lr_factors=rates,
    )
    return Training(net, regime, CPU)


def lessons(teacher: nn.Module, count: int, seed: int) -> Iterator[DistillationBatch]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(32, 6, generator=draw)
        yield DistillationBatch((x, 3 * teacher(x).detach(), torch.zeros(32, dtype=torch.long)))


class Apart:
    """A teacher, and students near to it and far from it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.teacher = network().eval()
        self.far, self.near = network(), copy.deepcopy(self.teacher)
        with torch.no_grad():
            self.near[5].weight.mul_(3.03)  # type: ignore[operator, union-attr]
            self.near[5].bias.mul_(3.03)  # type: ignore[operator, union-attr]

    def search_lr_factor(self, training: Training) -> float:
        trial = training.regime.trial_steps
        training.search_lr_factor(lambda: lessons(self.teacher, trial, 1), list(lessons(self.teacher, 4, 2)), Key(0))
        return training.rate


def test_who_is_near_is_stepped_less_than_who_is_far() -> None:
    apart = Apart()
    assert apart.search_lr_factor(begun(apart.far, (0.01, 0.1, 1.0))) == 1.0
    assert apart.search_lr_factor(begun(apart.near, (0.01, 0.1, 1.0))) == 0.01
    assert apart.search_lr_factor(begun(apart.near, (1.0,))) == 1.0


def test_the_student_is_as_it_was() -> None:
    apart = Apart()
    apart.far = network(normalised=True)
    before = copy.deepcopy(apart.far.state_dict())
    training = begun(apart.far, (0.1, 1.0))
    apart.search_lr_factor(training)
    assert all(torch.equal(value, before[name]) for name, value in apart.far.state_dict().items())
    assert training.step == 0 and not training.optimiser.state
    fresh = begun(copy.deepcopy(apart.far), (1.0,))
    for each in (training, fresh):
        each.rate = 1.0
        for lesson in lessons(apart.teacher, 3, 5):
            each.step_on(lesson)
    pairs = zip(training.student.parameters(), fresh.student.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_rate_taken_is_what_a_step_goes() -> None:
    moved: list[Tensor] = []
    for rate in (1.0, 0.1):
        torch.manual_seed(1)
        net = network()
        training, before = begun(net, (1.0,)), net[0].weight.detach().clone()  # type: ignore[index]
        training.rate = rate
        training.step_on(next(lessons(network(), 1, 3)))
        moved.append((net[0].weight.detach() - before).abs().max())  # type: ignore[index]
    assert float(moved[1] / moved[0]) == pytest.approx(0.1, rel=0.05)


def test_a_rate_at_which_all_is_lost_is_not_taken() -> None:
    apart = Apart()
    assert apart.search_lr_factor(begun(apart.far, (1.0, 1e12))) == 1.0


@pytest.mark.parametrize(("rates", "steps", "trial"), [((1.0,), 600, 0), ((1.0, 2.0), 600, 15), ((1.0, 2.0), 60, 0)])
def test_a_short_run_tries_nothing(rates: tuple[float, ...], steps: int, trial: int) -> None:
    regime = begun(network(), rates).regime
    object.__setattr__(regime, "steps", steps)
    assert regime.trial_steps == trial


@pytest.mark.parametrize(("rates", "taken"), [((4.0,), 4.0), ((0.1, 0.4), 0.4), ((0.1, 1.0, 4.0), 1.0)])
def test_what_is_not_tried_is_the_rate_nearest_to_1(rates: tuple[float, ...], taken: float) -> None:
    assert begun(network(), rates).rate == taken
