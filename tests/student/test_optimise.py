"""Optimisers and schedules, against torch's own and against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onnxcake.student.muon import orthogonal
from onnxcake.student.optimisers import (
    LEARNING_RATES,
    OPTIMISERS,
    AdamOptimiser,
    AdamWOptimiser,
    ConstantRate,
    CosineDecay,
    Milestones,
    MuonOptimiser,
    OneCycle,
    SgdOptimiser,
    set_rate,
)


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(0.5))]


def rates(optimiser: torch.optim.Optimizer) -> tuple[float, float]:
    """Learning rate, and momentum or its counterpart."""
    (group,) = optimiser.param_groups
    return group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]


# --- one cycle ---------------------------------------------------------------------------------------------


CYCLES = {
    "default": OneCycle(),
    "short warm-up": OneCycle(warm_up=0.1),
    "half": OneCycle(warm_up=0.5, div=10, final_div=100),
    "nearly all": OneCycle(warm_up=0.999),
    "all": OneCycle(warm_up=1.0),
    "momentum": OneCycle(momentum_high=0.99, momentum_low=0.5),
    "upside down": OneCycle(div=0.5, final_div=0.5),
}
SINGLE = [("short warm-up", 10), ("half", 2), ("all", 1)]  # a warm-up of one step: torch divides zero by zero
FEW_AND_MANY = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 33, 100, 501]
ROWS = [(name, steps) for name in CYCLES for steps in FEW_AND_MANY if (name, steps) not in SINGLE]


@pytest.mark.parametrize(("name", "steps"), ROWS)
@pytest.mark.parametrize("kind", [SgdOptimiser(lr=0.5), AdamWOptimiser(lr=3e-3)], ids=["sgd", "adamw"])
def test_one_cycle_is_that_of_torch(kind: Any, name: str, steps: int) -> None:
    """Learning rate and momentum at every step."""
    cycle = CYCLES[name]
    ours, theirs = kind.build(weights()), kind.build(weights())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        theirs,
        kind.lr,
        total_steps=steps,
        pct_start=cycle.warm_up,
        div_factor=cycle.div,
        final_div_factor=cycle.final_div,
        max_momentum=cycle.momentum_high,
        base_momentum=cycle.momentum_low,
    )
    for step in range(steps):
        factor, momentum = cycle.at(step, steps)
        set_rate(ours, kind.lr * factor, momentum)
        assert rates(ours) == pytest.approx(rates(theirs), rel=1e-6, abs=1e-15), f"step {step}"
        theirs.step()
        if step + 1 < steps:
            scheduler.step()


@pytest.mark.parametrize(("name", "steps"), SINGLE)
def test_a_warm_up_of_a_single_step(name: str, steps: int) -> None:
    """It begins at the low end and falls from the peak at once after it."""
    cycle = CYCLES[name]
    assert cycle.at(0, steps) == pytest.approx((1 / cycle.div, 0.95))
    factors = [cycle.at(step, steps)[0] for step in range(1, steps)]
    assert factors == sorted(factors, reverse=True)


@given(steps=st.integers(1, 3000), warm_up=st.floats(1e-3, 1), share=st.floats(0, 1))
def test_one_cycle_stays_within_its_bounds(steps: int, warm_up: float, share: float) -> None:
    step = min(int(share * steps), steps - 1)
    factor, momentum = OneCycle(warm_up=warm_up).at(step, steps)
    assert 1 / 25 / 1e4 - 1e-12 <= factor <= 1 + 1e-12
    assert momentum is not None and 0.85 - 1e-12 <= momentum <= 0.95 + 1e-12


def test_one_cycle_of_cakes_students() -> None:
    """div 25, final_div 1e4, peak after three tenths: methods.md 2.3."""
    cycle, steps = OneCycle(), 1000
    assert cycle.at(0, steps) == pytest.approx((1 / 25, 0.95))
    assert cycle.at(299, steps) == pytest.approx((1.0, 0.85))
    assert cycle.at(999, steps) == pytest.approx((1 / 25 / 1e4, 0.95))


# --- the other schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 101])
def test_cosine(steps: int, final: float) -> None:
    """final + (1 − final) (1 + cos π step/steps) / 2, which is torch's annealing."""
    optimiser = SgdOptimiser(lr=0.5).build(weights())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps, eta_min=0.5 * final)
    for step in range(steps):
        factor, momentum = CosineDecay(final).at(step, steps)
        assert momentum is None
        assert factor == pytest.approx(final + (1 - final) * (1 + math.cos(math.pi * step / steps)) / 2)
        assert 0.5 * factor == pytest.approx(rates(optimiser)[0], abs=1e-12)
        optimiser.step()
        scheduler.step()
    assert CosineDecay(final).at(0, steps)[0] == 1


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 30, 1000])
@pytest.mark.parametrize("after", [(0.4, 0.8), (0.1, 0.3, 0.7), (0.5,), (0.2, 0.2), ()])
def test_milestones_are_those_of_torch(after: tuple[float, ...], steps: int) -> None:
    """At the nearest step: 0.1 · 30 and 0.7 · 10 are a little more than 3 and 7 in floats."""
    optimiser = SgdOptimiser(lr=0.5).build(weights())
    milestones = [round(share * steps) for share in after]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.2)
    for step in range(steps):
        factor, momentum = Milestones(after, 0.2).at(step, steps)
        assert momentum is None
        assert 0.5 * factor == pytest.approx(rates(optimiser)[0]), f"step {step}"
        optimiser.step()
        scheduler.step()


def test_milestones_of_dafl() -> None:
    """Divided by ten after 800 and 1600 of 2000 epochs: methods.md 4.1."""
    factors = [Milestones().at(step, 2000)[0] for step in (0, 799, 800, 1599, 1600, 1999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant() -> None:
    assert {ConstantRate().at(step, 7) for step in range(7)} == {(1.0, None)}


@pytest.mark.parametrize("name", LEARNING_RATES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_have_finite_rates(name: str, steps: int) -> None:
    for step in range(steps):
        factor, momentum = LEARNING_RATES[name]().at(step, steps)
        assert 0 <= factor <= 1 and (momentum is None or 0 < momentum < 1)


# --- optimisers --------------------------------------------------------------------------------------------


def test_defaults_are_those_of_cakes_students() -> None:
    assert SgdOptimiser() == SgdOptimiser(lr=0.5, momentum=0.9, weight_decay=5e-4, nesterov=False)
    assert OneCycle() == OneCycle(warm_up=0.3, div=25, final_div=1e4)


@pytest.mark.parametrize(
    ("made", "theirs"),
    [
        (
            SgdOptimiser(0.3, 0.8, 1e-3, True),
            lambda w: torch.optim.SGD(w, 0.3, momentum=0.8, weight_decay=1e-3, nesterov=True, fused=True),
        ),
        (SgdOptimiser(0.3, 0.0, 0.0), lambda w: torch.optim.SGD(w, 0.3, fused=True)),
        # Without momentum there is nothing to look ahead along; torch refuses the pair.
        (SgdOptimiser(0.3, 0.0, 0.0, True), lambda w: torch.optim.SGD(w, 0.3, fused=True)),
        (
            AdamOptimiser(0.1, 0.8, 0.99, 0.2),
            lambda w: torch.optim.Adam(w, 0.1, (0.8, 0.99), weight_decay=0.2, fused=True),
        ),
        (
            AdamWOptimiser(0.1, 0.8, 0.99, 0.2),
            lambda w: torch.optim.AdamW(w, 0.1, (0.8, 0.99), weight_decay=0.2, fused=True),
        ),
    ],
    ids=["sgd", "plain", "nesterov without momentum", "adam", "adamw"],
)
def test_optimisers_step_as_those_of_torch(made: Any, theirs: Any) -> None:
    results = []
    for build in (made.build, theirs):
        parameters = weights()
        optimiser = build(parameters)
        for step in range(4):
            for parameter in parameters:
                parameter.grad = parameter.detach().sin() + step
            optimiser.step()
        results.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def stepped(optimiser: Any, *parameters: nn.Parameter, steps: int = 4) -> list[torch.Tensor]:
    """Where so many steps lead from gradients that are the weights' own sines, moved."""
    built = optimiser(list(parameters))
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = parameter.detach().sin() + step
        built.step()
    return [parameter.detach() for parameter in parameters]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(1, 6, 10), (2, 10, 6), (3, 7, 7)])
def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values(shape: tuple[int, ...]) -> None:
    given = drawn(*shape)
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    assert values.amax(1).div(values.amin(1)).min() > 2
    seen = left.mT @ orthogonal(given) @ right.mT
    level = seen.diagonal(dim1=1, dim2=2)
    assert (seen - torch.diag_embed(level)).abs().max() < 1e-4
    assert level.min() > 0.6 and level.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_steps_matrices_as_that_of_torch(shape: tuple[int, int]) -> None:
    """Which computes in bfloat16."""
    start = drawn(*shape)
    (ours,) = stepped(MuonOptimiser(0.01, 0.9, weight_decay=0.2).build, nn.Parameter(start.clone()))
    (theirs,) = stepped(
        lambda w: torch.optim.Muon(w, 0.01, momentum=0.9, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
        nn.Parameter(start.clone()),
    )
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


@pytest.mark.parametrize("shape", [(6,), (), (1, 6), (6, 1, 1), (9, 12)], ids=str)
def test_muon_steps_what_is_no_matrix_as_adam(shape: tuple[int, ...]) -> None:
    """And what is too wide a one."""
    (ours,) = stepped(MuonOptimiser(0.1, 0.5, 0.8, 0.99, 0.2, widest=8).build, nn.Parameter(drawn(*shape)))
    (theirs,) = stepped(AdamWOptimiser(0.1, 0.8, 0.99, 0.2).build, nn.Parameter(drawn(*shape)))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("shape", "sides"), [((6, 3, 2, 2), (6, 12)), ((1, 8, 5), (8, 5)), ((4, 1, 3, 3), (4, 9))])
def test_muon_steps_kernels_as_their_matrices(shape: tuple[int, ...], sides: tuple[int, int]) -> None:
    start = drawn(*shape)
    build = MuonOptimiser(0.1).build
    (flat,) = stepped(build, nn.Parameter(start.reshape(sides).clone()))
    alone, other, _ = stepped(
        build, nn.Parameter(start.clone()), nn.Parameter(-start), nn.Parameter(drawn(3))
    )  # two of one shape are orthogonalised at once
    torch.testing.assert_close(alone.reshape(sides), flat)
    assert not torch.allclose(other, -alone)
    if len(shape) == 4:
        (last,) = stepped(build, nn.Parameter(start.clone().to(memory_format=torch.channels_last)))
        torch.testing.assert_close(last.reshape(sides), flat)


def test_muon_leaves_what_has_no_gradient() -> None:
    weight, other = nn.Parameter(drawn(3, 4)), nn.Parameter(drawn(3, 4))
    optimiser = MuonOptimiser(0.1, weight_decay=0.1).build([weight, other])
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    assert torch.equal(other, drawn(3, 4)) and not torch.equal(weight, drawn(3, 4))


@pytest.mark.parametrize("sides", [(8, 72), (256, 2304)], ids=["small", "large"])
def test_muon_leaves_the_threads_as_they_were(sides: tuple[int, int]) -> None:
    before, step = torch.get_num_threads(), list[torch.Tensor]()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            step += stepped(MuonOptimiser(0.1).build, nn.Parameter(drawn(*sides)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(step[0], step[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rates_are_put_in_and_nothing_else(name: str) -> None:
    optimiser = OPTIMISERS[name](lr=0.1).build(weights())
    before = dict(optimiser.param_groups[0])
    set_rate(optimiser, 0.7, None)
    assert rates(optimiser) == (0.7, 0.95 if name == "muon" else 0.9)
    set_rate(optimiser, 0.6, 0.5)
    after = dict(optimiser.param_groups[0])
    assert rates(optimiser) == (0.6, 0.5)
    changed = {key for key in before if before[key] is not after[key]}
    assert changed == {"lr", "momentum" if name in ("sgd", "muon") else "betas"}
    if "betas" in changed:
        assert after["betas"] == (0.5, 0.999)
