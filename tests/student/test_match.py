"""Losses over pairs of values inside teacher and student: by hand, against differences, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.errors import RecipeError
from onnxcake.student.feature_match import MATCHES, ActivationRecorder, AttentionTransfer, FeatureDistance, Fsp, Match


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PAIR = {"t": "s"}
TWO = ({"t": "s", "t2": "s2"},)


def flow_by_hand(first: Tensor, second: Tensor) -> Tensor:
    """The definition, entry by entry."""
    n, channels, height, width = first.shape
    matrix = torch.zeros(n, channels, second.shape[1], dtype=first.dtype)
    for a in range(height):
        for b in range(width):
            matrix += first[:, :, None, a, b] * second[:, None, :, a, b] / (height * width)
    return matrix


# --- values ------------------------------------------------------------------------------------------------


def test_features_by_hand() -> None:
    """(1² + 0² + 2² + 3²) / 4."""
    teacher, student = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[2.0, 2], [1, 7]])
    assert FeatureDistance(PAIR)({"t": teacher}, {"s": student}).item() == pytest.approx(3.5)


def test_attention_by_hand() -> None:
    """Teacher: squares 1, 4 over one channel, so (1, 4) / √17. Student: means (1, 1), so (1, 1) / √2."""
    teacher = torch.tensor([[[1.0, -2.0]]])
    student = torch.tensor([[[1.0, 0.0], [1.0, -math.sqrt(2)]]])
    expected = ((1 / 17**0.5 - 0.5**0.5) ** 2 + (4 / 17**0.5 - 0.5**0.5) ** 2) / 2
    assert AttentionTransfer(PAIR)({"t": teacher}, {"s": student}).item() == pytest.approx(expected)


def test_attention_looks_at_where_and_not_at_how_much() -> None:
    maps = draw(0, 3, 5, 4, 4)
    assert AttentionTransfer(PAIR)({"t": maps}, {"s": -7 * maps}).item() == pytest.approx(0, abs=1e-15)
    assert AttentionTransfer(PAIR)({"t": maps}, {"s": maps.flip(3)}) > 1e-4


def test_attention_brings_the_teachers_map_to_the_students_sides() -> None:
    teacher = draw(0, 2, 5, 8, 8)
    blocks = teacher.square().mean(1).reshape(2, 4, 2, 4, 2).mean((2, 4))  # the mean of each 2×2
    student = blocks.sqrt()[:, None].expand(2, 3, 4, 4)
    assert AttentionTransfer(PAIR)({"t": teacher}, {"s": student}).item() == pytest.approx(0, abs=1e-15)
    assert AttentionTransfer(PAIR)({"t": teacher}, {"s": student.flip(2)}) > 1e-4


def test_fsp_by_hand() -> None:
    teacher = {"t": draw(0, 3, 2, 4, 5), "t2": draw(1, 3, 6, 4, 5)}
    student = {"s": draw(2, 3, 2, 2, 3), "s2": draw(3, 3, 6, 2, 3)}
    difference = flow_by_hand(teacher["t"], teacher["t2"]) - flow_by_hand(student["s"], student["s2"])
    expected = difference.pow(2).sum() / 3
    torch.testing.assert_close(Fsp(TWO)(teacher, student), expected)


def test_weights_and_pairs_add_up() -> None:
    teacher = {"t": draw(0, 2, 3, 4, 4), "t2": draw(1, 2, 3, 4, 4)}
    student = {"s": draw(2, 2, 3, 4, 4), "s2": draw(3, 2, 3, 4, 4)}
    both = FeatureDistance({"t": "s", "t2": "s2"})(teacher, student)
    torch.testing.assert_close(
        both, FeatureDistance(PAIR)(teacher, student) + FeatureDistance({"t2": "s2"})(teacher, student)
    )
    match = Match(
        [FeatureDistance({"t2": "s2"}, weight=2.0), AttentionTransfer(PAIR, weight=3.0), Fsp(TWO, weight=0.5)]
    )
    expected = (
        2 * FeatureDistance({"t2": "s2"})(teacher, student)
        + 3 * AttentionTransfer(PAIR)(teacher, student)
        + Fsp(TWO)(teacher, student) / 2
    )
    torch.testing.assert_close(match(teacher, student), expected)
    assert match.teacher_taps == ("t2", "t") and match.student_modules == ("s2", "s")


def test_zskts_weight_is_the_default() -> None:
    assert AttentionTransfer(PAIR).weight == 250


# --- gradients ---------------------------------------------------------------------------------------------


TERMS = [FeatureDistance({"t": "s", "t2": "s2"}), AttentionTransfer({"t": "s", "t2": "s2"}), Fsp(TWO)]


def test_every_term_is_here() -> None:
    assert {type(term) for term in TERMS} == set(MATCHES.values())


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_gradients_are_those_of_differences(term: Any) -> None:
    teacher = {"t": draw(0, 2, 3, 2, 2), "t2": draw(1, 2, 4, 2, 2)}
    starts = [draw(2, 2, 3, 2, 2).requires_grad_(True), draw(3, 2, 4, 2, 2).requires_grad_(True)]
    assert torch.autograd.gradcheck(lambda s, s2: Match([term])(teacher, {"s": s, "s2": s2}), starts)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_five_steps_bring_the_student_closer(term: Any) -> None:
    teacher = {"t": draw(0, 2, 3, 2, 2), "t2": draw(1, 2, 4, 2, 2)}
    leaves = [draw(2, 2, 3, 2, 2).requires_grad_(True), draw(3, 2, 4, 2, 2).requires_grad_(True)]
    optimiser = torch.optim.Adam(leaves, lr=0.1)
    values = []
    for _ in range(6):
        loss = Match([term])(teacher, {"s": leaves[0], "s2": leaves[1]})
        values.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert values[5] < 0.8 * values[0]


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = draw(0, 2, 3, 2, 2).requires_grad_(True), draw(1, 2, 3, 2, 2).requires_grad_(True)
    Match([FeatureDistance(PAIR)])({"t": teacher}, {"s": student}).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_dead_maps_have_a_finite_gradient(term: Any) -> None:
    """ReLU may leave nothing of a map, and a norm of zero has no slope."""
    teacher = {"t": draw(0, 2, 3, 2, 2), "t2": draw(1, 2, 4, 2, 2)}
    leaf = torch.zeros(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    Match([term])(teacher, {"s": leaf, "s2": draw(3, 2, 4, 2, 2)}).backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "shapes", "words"),
    [
        (
            FeatureDistance(PAIR),
            {"t": (2, 3, 4, 4), "s": (2, 5, 4, 4)},
            r"features cannot compare 't' \[3, 4, 4\] with 's' \[5",
        ),
        (AttentionTransfer(PAIR), {"t": (2, 3, 4, 4), "s": (2, 3)}, r"attention .* 't' \[3, 4, 4\] with 's' \[3\]"),
        (
            Fsp(TWO),
            {"t": (2, 3, 4, 4), "t2": (2, 3, 2, 2), "s": (2, 3, 4, 4), "s2": (2, 3, 4, 4)},
            r"fsp cannot compare 't' \[3, 4, 4\] with 't2' \[3, 2, 2\]",
        ),
        (
            Fsp(TWO),
            {"t": (2, 3, 4, 4), "t2": (2, 3, 4, 4), "s": (2, 3, 4, 4), "s2": (2, 6, 4, 4)},
            r"fsp cannot compare 't2' \[3, 4, 4\] with 's2' \[6, 4, 4\]",
        ),
    ],
    ids=["features", "attention", "fsp sizes", "fsp channels"],
)
def test_what_cannot_be_compared_is_refused(term: Any, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    values = {name: draw(0, *shape) for name, shape in shapes.items()}
    with pytest.raises(RecipeError, match=words) as caught:
        Match([term])(values, values)
    assert caught.value.remedy


# --- watching a network ------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 5)), nn.Linear(5, 2))


def test_a_watch_keeps_what_modules_give_and_their_graph() -> None:
    net, x = network(), torch.ones(2, 3)
    with ActivationRecorder(net, ("0", "1.1")) as watch:
        net(torch.zeros(2, 3))
        net(x)
        taken = watch.pop_values()
    torch.testing.assert_close(taken, {"0": net[0](x), "1.1": net[1](net[0](x))})
    taken["1.1"].sum().backward()
    assert net[0].weight.grad is not None and net[2].weight.grad is None


def test_a_watch_forgets_what_was_taken_and_lets_go() -> None:
    net = network()
    watch = ActivationRecorder(net, ("0",))
    net(torch.ones(1, 3))
    watch.pop_values()
    with pytest.raises(RecipeError, match="never called"):
        watch.pop_values()
    watch.close()
    net(torch.ones(1, 3))
    with pytest.raises(RecipeError, match="never called"):
        watch.pop_values()


def test_an_unknown_module_is_refused_with_those_that_exist() -> None:
    with pytest.raises(RecipeError, match=r"no module '1.0.conv'") as caught:
        ActivationRecorder(network(), ("0", "1.0.conv"))
    assert caught.value.remedy == "It has 0, 1, 1.0, 1.1, 2."
