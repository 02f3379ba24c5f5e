"""The distillation loss, against its formula in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxcake.student.loss import Distillation

ASKED = torch.tensor([0, 1, 2, 0, 1])


def draw(seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(0), draw(1)


def gradient(loss: Callable[[Tensor], Tensor], student: Tensor = STUDENT) -> Tensor:
    leaf = student.clone().requires_grad_(True)
    return torch.autograd.grad(loss(leaf), leaf)[0]


def soft_cross_entropy(student: Tensor) -> Tensor:
    """What CAKE's code trains on."""
    return -(TEACHER.softmax(1) * student.log_softmax(1)).sum(1).mean()


def test_by_hand() -> None:
    """Teacher ¼, ¾ and student ½, ½: KL = ¼ ln ½ + ¾ ln 3/2; CE to the teacher's class ln 2."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert Distillation()(student, teacher, torch.tensor([0])).item() == pytest.approx(kl)
    both = Distillation(hard=2.0, soft=3.0)(student, teacher, torch.tensor([0])).item()
    assert both == pytest.approx(2 * math.log(2) + 3 * kl)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 20.0])
def test_the_soft_term_is_tau_squared_times_kl(tau: float) -> None:
    p, q = (TEACHER / tau).softmax(1), (STUDENT / tau).softmax(1)
    expected = tau**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(Distillation(temperature=tau)(STUDENT, TEACHER, ASKED), expected)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 20.0])
def test_its_gradient_is_tau_times_the_difference_of_probabilities(tau: float) -> None:
    """∂/∂s τ² KL(p ‖ q) = τ (q − p), for each of n samples."""
    p, q = (TEACHER / tau).softmax(1), (STUDENT / tau).softmax(1)
    found = gradient(lambda student: Distillation(temperature=tau)(student, TEACHER, ASKED))
    torch.testing.assert_close(found, tau * (q - p) / len(STUDENT))


def test_hot_temperatures_match_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: the gradient goes to (s − t) / nC with both centred."""
    found = gradient(lambda student: Distillation(temperature=1e4)(student, TEACHER, ASKED))
    difference = STUDENT - TEACHER
    centred = (difference - difference.mean(1, keepdim=True)) / STUDENT.numel()
    torch.testing.assert_close(found, centred, rtol=1e-2, atol=1e-4)


def test_at_temperature_one_it_is_the_soft_cross_entropy_less_an_entropy() -> None:
    torch.testing.assert_close(
        gradient(lambda student: Distillation()(student, TEACHER, ASKED)), gradient(soft_cross_entropy)
    )
    entropy = -(TEACHER.softmax(1) * TEACHER.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(Distillation()(STUDENT, TEACHER, ASKED), soft_cross_entropy(STUDENT) - entropy)


@pytest.mark.parametrize(("source", "labels"), [("teacher", TEACHER.argmax(1)), ("asked", ASKED)])
def test_hard_labels(source: Any, labels: Tensor) -> None:
    assert not torch.equal(TEACHER.argmax(1), ASKED)
    hard = Distillation(hard=0.7, soft=0.0, temperature=5.0, hard_labels=source)
    torch.testing.assert_close(hard(STUDENT, TEACHER, ASKED), 0.7 * F.cross_entropy(STUDENT, labels))


def test_terms_add_up() -> None:
    parts = [Distillation(hard=0.3, soft=0.0), Distillation(soft=0.6, temperature=4.0)]
    both = Distillation(hard=0.3, soft=0.6, temperature=4.0)
    total = sum(part(STUDENT, TEACHER, ASKED) for part in parts)
    torch.testing.assert_close(both(STUDENT, TEACHER, ASKED), total)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_it_is_zero_where_both_agree_whatever_the_offset(tau: float) -> None:
    loss = Distillation(temperature=tau)
    offset = torch.linspace(-9, 9, 5, dtype=torch.float64)[:, None]
    assert loss(TEACHER + offset, TEACHER, ASKED).item() == pytest.approx(0, abs=1e-12)
    assert loss(STUDENT, TEACHER, ASKED) > 0.1
    torch.testing.assert_close(loss(STUDENT + offset, TEACHER - offset, ASKED), loss(STUDENT, TEACHER, ASKED))


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_logits_have_a_finite_loss_and_gradient(scale: float) -> None:
    """The logarithm of a probability that underflows is −87 at a teacher that ends in Softmax."""
    student, teacher = draw(2, scale).float(), draw(3, scale).float()
    teacher[0] = torch.tensor([0.0, -87.34, -87.34, -87.34])
    for loss in (Distillation(hard=1.0), Distillation(hard=1.0, temperature=20.0)):
        assert loss(student, teacher, ASKED).isfinite()
        assert gradient(lambda leaf, loss=loss: loss(leaf, teacher, ASKED), student).isfinite().all()  # type: ignore[misc]


def test_it_is_a_mean_over_samples() -> None:
    loss = Distillation(hard=0.5, temperature=2.0)
    each = [loss(STUDENT[i : i + 1], TEACHER[i : i + 1], ASKED[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(loss(STUDENT, TEACHER, ASKED), torch.stack(each).mean())


def test_l1_by_hand() -> None:
    """|1 − 3|, |2 − 0|, |0 − 0| and |4 − 3| over four."""
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    asked = torch.tensor([0, 1])
    assert Distillation(soft=0.0, l1=2.0)(student, teacher, asked).item() == pytest.approx(2 * 5 / 4)
    # Differences (−2, 2) of mean 0 and (0, 1) of mean ½: |−2|, |2|, |−½|, |½| over four.
    assert Distillation(soft=0.0, l1=1.0, centred=True)(student, teacher, asked).item() == pytest.approx(5 / 4)


def test_centred_l1_does_not_see_an_offset_and_the_plain_one_does() -> None:
    """A teacher that ends in Softmax gives log-probabilities: its logits less a number for each row."""
    given = TEACHER.log_softmax(1)
    centred, plain = (Distillation(soft=0.0, l1=1.0, centred=centred) for centred in (True, False))
    torch.testing.assert_close(centred(STUDENT, given, ASKED), centred(STUDENT, TEACHER, ASKED))
    assert centred(TEACHER, given, ASKED).item() == pytest.approx(0, abs=1e-12)
    assert plain(TEACHER, given, ASKED) > 1


def test_centring_both_sides() -> None:
    """What the option is said to do, word by word."""
    student, teacher = (each - each.mean(1, keepdim=True) for each in (STUDENT, TEACHER))
    loss = Distillation(soft=0.0, l1=0.3, centred=True)
    torch.testing.assert_close(loss(STUDENT, TEACHER, ASKED), 0.3 * F.l1_loss(student, teacher))


@pytest.mark.parametrize("loss", [Distillation(soft=0.0, l1=1.0), Distillation(soft=0.0, l1=1.0, centred=True)])
def test_the_gradient_of_l1_is_that_of_differences(loss: Distillation) -> None:
    leaf = STUDENT.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda student: loss(student, TEACHER, ASKED), leaf)


def test_temperature_leaves_l1_alone_and_terms_add_up() -> None:
    l1, soft = Distillation(soft=0.0, l1=0.5, temperature=9.0), Distillation(temperature=4.0)
    torch.testing.assert_close(l1(STUDENT, TEACHER, ASKED), F.l1_loss(STUDENT, TEACHER) / 2)
    both = Distillation(l1=0.5, temperature=4.0)(STUDENT, TEACHER, ASKED)
    torch.testing.assert_close(both, l1(STUDENT, TEACHER, ASKED) + soft(STUDENT, TEACHER, ASKED))


TERMS = [
    Distillation(hard=1.0, soft=0.0),
    Distillation(temperature=20.0),
    Distillation(soft=0.0, l1=1.0),
    Distillation(soft=0.0, l1=1.0, centred=True),
]


@pytest.mark.parametrize("loss", TERMS)
def test_five_steps_lower_it(loss: Distillation) -> None:
    leaf = STUDENT.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([leaf], lr=0.3)
    values = []
    for _ in range(6):
        value = loss(leaf, TEACHER, ASKED)
        values.append(value.item())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert values[5] < 0.7 * values[0]
