"""Soft-label policies against the moments of their distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onnxcake.core.rng import Key
from onnxcake.synthesis.labels.soft import LEAST, Dirichlet, Features
from onnxcake.synthesis.source import Targets
from onnxcake.synthesis.step import Context
from onnxcake.teacher.capabilities import LastLayer, MethodInputs
from onnxcake.teacher.signature import Signature

SIGMAS = 5  # seeds are fixed, so a bound is passed once and for all; a wrong distribution is far outside
SIMILARITY = torch.tensor([[1.0, 0.2, -0.6], [0.2, 1.0, 0.1], [-0.6, 0.1, 1.0]])


def context(**view: object) -> Context:
    signature = Signature("x", (4,), "y", "logits", 3)
    return Context(signature, MethodInputs(**view), Key(0), torch.device("cpu"), 8)  # type: ignore[arg-type]


def drawn(policy: Dirichlet | Features, samples: int, own: Context, *, groups: int = 1, seed: int = 0) -> Targets:
    generator, begun = Key(seed).generator(), policy.init_state(own)
    return policy(samples // groups, groups, 3, generator, begun)  # type: ignore[arg-type]


def targets(asked: Targets) -> Tensor:
    assert asked.targets is not None
    return asked.targets.double()


# --- Dirichlet ---------------------------------------------------------------------------------------------


def test_concentrations_are_the_rows_from_0_to_1_times_the_scale() -> None:
    rows = torch.tensor([[1, 0.5, 0], [1 / 9, 1, 0], [0, 0.4375, 1]])
    alpha = Dirichlet((1.0, 0.1)).init_state(context(similarity=SIMILARITY))
    assert torch.allclose(alpha, torch.cat([rows + LEAST, rows * 0.1 + LEAST]).double(), atol=1e-6)


def test_the_released_code_undoes_the_scale() -> None:
    own = context(similarity=SIMILARITY)
    once = Dirichlet((1.0,)).init_state(own)
    assert torch.equal(Dirichlet((1.0, 0.1), scaled="before").init_state(own), torch.cat([once, once]))
    a, b = (drawn(policy, 600, own) for policy in (Dirichlet((1.0, 1.0)), Dirichlet((1.0, 0.1), scaled="before")))
    assert torch.equal(targets(a), targets(b))


def test_the_min_max_of_the_whole_matrix_changes_nothing() -> None:
    whole = (SIMILARITY - SIMILARITY.min()) / (SIMILARITY.max() - SIMILARITY.min())
    a, b = (Dirichlet().init_state(context(similarity=matrix)) for matrix in (SIMILARITY, whole))
    assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.1, 20.0])
def test_dirichlet_targets_have_the_moments_of_theory(scale: float) -> None:
    policy, own, samples = Dirichlet((scale,)), context(similarity=SIMILARITY), 60_000
    asked, alpha = drawn(policy, samples, own), policy.init_state(own)
    for label in range(3):
        s = targets(asked)[asked.labels == label]
        total = alpha[label].sum()
        mean = alpha[label] / total
        variance = mean * (1 - mean) / (total + 1)
        assert ((s.mean(0) - mean).abs() <= SIGMAS * (variance / len(s)).sqrt() + 1e-5).all()
        assert torch.allclose(s.var(0), variance, rtol=0.05, atol=5e-4)
        covariance = -mean[0] * mean[1] / (total + 1)
        assert float(torch.cov(s[:, :2].T)[0, 1]) == pytest.approx(float(covariance), rel=0.05, abs=1e-3)


def test_dirichlet_targets_are_distributions() -> None:
    asked = drawn(Dirichlet((1e-3, 1.0, 1e3)), 3000, context(similarity=SIMILARITY))
    assert asked.targets is not None and asked.targets.dtype == torch.float32 and asked.targets.isfinite().all()
    assert torch.allclose(asked.targets.sum(1), torch.ones(3000), atol=1e-5) and asked.targets.min() >= 0


def test_every_class_gets_every_scale_equally_often() -> None:
    policy, own = Dirichlet((1e3, 1e-3)), context(similarity=SIMILARITY)
    asked = drawn(policy, 600, own, groups=3)
    assert asked.labels.dtype == torch.int64 and torch.equal(torch.bincount(asked.labels), torch.full((3,), 200))
    single = targets(asked).amax(1) > 0.999  # the small scale's: a single class, if not always the one asked for
    for label in range(3):
        assert int(single[asked.labels == label].sum()) == pytest.approx(100, abs=3)
    begins = {int(drawn(policy, 1, own, seed=seed).labels[0]) for seed in range(30)}
    assert begins == {0, 1, 2}  # batches smaller than the classes come to all of them too


def test_classes_that_are_all_alike_share_alike() -> None:
    alpha = Dirichlet((2.0,)).init_state(context(similarity=torch.ones(3, 3)))
    assert torch.allclose(alpha, torch.full((3, 3), 2.0 + LEAST, dtype=torch.float64))


def test_a_policy_without_scales_is_refused() -> None:
    assert Dirichlet(()).unfit(3, 1) is not None and Dirichlet().unfit(3, 1) is None


# --- features ----------------------------------------------------------------------------------------------

WEIGHT = torch.tensor([[1.0, 0.5, -1.0, 0.3], [0.2, -0.8, 0.4, 0.9], [-0.7, 0.1, 0.6, -0.2]])
BIAS = torch.tensor([0.3, -0.2, 0.1])


def last_layer(weight: Tensor, bias: Tensor) -> Context:
    return context(last_layer=LastLayer(weight, bias, "features"))


def logits(asked: Targets) -> Tensor:
    """What the targets' softmax was taken of, but for each row's mean."""
    log = targets(asked).log()
    return log - log.mean(1, keepdim=True)


def centred(covariance: Tensor) -> Tensor:
    centre = torch.eye(3, dtype=torch.float64) - 1 / 3
    return centre @ covariance.double() @ centre


def test_features_are_correlated_as_the_weights_columns_are() -> None:
    asked = drawn(Features(1.2, rectified=False), 100_000, last_layer(WEIGHT, BIAS))
    columns = WEIGHT / WEIGHT.norm(dim=0)
    expected = centred(1.2**2 * WEIGHT @ (columns.T @ columns) @ WEIGHT.T)
    assert torch.allclose(torch.cov(logits(asked).T), expected, rtol=0.03, atol=0.02)
    assert torch.allclose(logits(asked).mean(0), (BIAS - BIAS.mean()).double(), atol=0.05)


def test_features_may_pass_a_relu() -> None:
    """For z ~ N(0, σ²): E max(z, 0) = σ/√2π, Var = σ² (1/2 − 1/2π)."""
    asked = drawn(Features(1.5), 100_000, last_layer(torch.eye(3), torch.zeros(3)))
    difference = logits(asked)[:, 0] - logits(asked)[:, 1]
    assert float(difference.var()) == pytest.approx(2 * 1.5**2 * (0.5 - 0.5 / math.pi), rel=0.03)
    one = drawn(Features(1.5), 100_000, last_layer(torch.diag(torch.tensor([1.0, 1e-9, 1e-9])), torch.zeros(3)))
    rise = logits(one)[:, 0] - logits(one)[:, 1]
    assert float(rise.min()) > -1e-5 and float(rise.mean()) == pytest.approx(1.5 / math.sqrt(2 * math.pi), rel=0.02)


def test_without_a_last_layer_logits_follow_the_similarity() -> None:
    asked = drawn(Features(2.0), 100_000, context(similarity=SIMILARITY))
    assert torch.allclose(torch.cov(logits(asked).T), centred(4.0 * SIMILARITY), rtol=0.03, atol=0.03)
    assert logits(asked).mean(0).abs().max() < 0.05


def test_temperature_divides_the_logits() -> None:
    own = last_layer(WEIGHT, BIAS)
    one, four = (drawn(Features(temperature=temperature), 500, own) for temperature in (1.0, 4.0))
    assert torch.allclose(logits(one), 4 * logits(four), atol=1e-4)
    assert torch.equal(one.labels, four.labels)


def test_the_labels_are_the_targets_largest() -> None:
    asked = drawn(Features(), 600, last_layer(WEIGHT, BIAS), groups=3)
    assert asked.targets is not None and asked.targets.shape == (600, 3) and asked.targets.dtype == torch.float32
    assert torch.equal(asked.labels, asked.targets.argmax(1))


@pytest.mark.parametrize("policy", [Dirichlet(), Features()])
def test_soft_labels_depend_on_their_generator_alone(policy: Dirichlet | Features) -> None:
    own, state = context(similarity=SIMILARITY, last_layer=LastLayer(WEIGHT, BIAS, "features")), torch.get_rng_state()
    first, again, other = drawn(policy, 60, own), drawn(policy, 60, own), drawn(policy, 60, own, seed=1)
    assert torch.equal(targets(first), targets(again)) and torch.equal(first.labels, again.labels)
    assert not torch.equal(targets(first), targets(other))
    assert torch.equal(torch.get_rng_state(), state)
