"""The losses of CAKE and of its anchors: a row each in the table, and what must hold for all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_method_losses import TABLE as OTHERS
from torch import Tensor, nn

from onnxcake.runtime.ort import Runtime
from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.losses.contrastive import Contrastive
from onnxcake.synthesis.losses.total_variation import TotalVariation
from onnxcake.synthesis.step import Loss, Step
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

SHAPE, CLASSES, GROUPS, ROWS = (2, 4, 5), 4, 3, 4

# Two rows of two samples; all values of the table are worked out from these by hand.
BY_HAND = Step(
    x=torch.tensor([[[0.0, 1], [2, 5]], [[0, 0], [0, 0]], [[-3, -3], [-3, -3]], [[1, 1], [1, 1]]]).unsqueeze(1),
    labels=torch.tensor([0, 1, 1, 0]),
    logits=torch.tensor([[0.0, 1], [2, 1], [0, 0], [3, 4]]),
    groups=2,
    targets=torch.tensor([1 / 4, 3 / 4]).repeat(4, 1),
)


@dataclass(frozen=True)
class Row:
    """What a loss must do.

    Attributes:
        loss: with the keys that the row is about.
        value: on `BY_HAND`.
        step_size: with which five steps bring it down on the teacher.
    """

    loss: Loss
    value: float
    step_size: float


TABLE = {
    # Three samples miss by one logit, ln(1 + e); the fourth has equal ones, ln 2; summed, over 2 rows.
    "classification": Row(Classification(), (3 * math.log(1 + math.e) + math.log(2)) / 2, 1.0),
    # The three are sure of the class that they see, by one logit: ln(1 + 1/e).
    "classification, self": Row(Classification("self"), (3 * math.log(1 + 1 / math.e) + math.log(2)) / 2, 1.0),
    # ln(e⁰ + e¹) less 3/4; once 2 + 1 of the logits' 5/4 more; and ln 2.
    "classification, targets": Row(
        Classification("targets"), (3 * math.log(1 + math.e) + math.log(2) - 3 / 4 - 1 / 4 - 3 / 4) / 2, 1.0
    ),
    "classification, temperature": Row(
        Classification(temperature=0.5), (3 * math.log(1 + math.e**2) + math.log(2)) / 2, 0.5
    ),
    # Squared distances 2² and 3² + 4², each pair twice; over 2 · 2 rows · 2 classes.
    "contrastive": Row(Contrastive(), 2 * (4 + 25) / (2 * 2 * 2), 0.1),
    # Only the first image varies: |2 − 0| + |5 − 1| downwards and 1 + 3 sideways, out of 4 images · 2 each.
    "total_variation": Row(TotalVariation(), 6 / 8 + 4 / 8, 1.0),
    "total_variation, sum": Row(TotalVariation("sum"), (6 + 4) / 4, 0.1),  # 4 images of 1 channel
}

every_loss = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


@pytest.fixture(scope="module")
def graph(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A smooth teacher out of an ONNX file, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(30, CLASSES))
    path = export(net, SHAPE, tmp_path_factory.mktemp("losses") / "teacher.onnx")
    return copy.deepcopy(Teacher.load(path).graph).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(samples: int) -> Tensor:
    return torch.arange(samples) % CLASSES


def targets(samples: int) -> Tensor:
    """Soft labels: 0.7 of the class asked for, 0.1 of each other one."""
    return 0.1 + 0.6 * F.one_hot(labels(samples), CLASSES).double()


def of_samples(loss: Loss, graph: nn.Module, groups: int = GROUPS) -> Callable[[Tensor], Tensor]:
    return lambda x: loss(Step(x, labels(len(x)), graph(x), groups, targets=targets(len(x))))


def gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    return torch.autograd.grad(value(leaf), leaf)[0]


def test_every_loss_has_a_row() -> None:
    named = {name.partition(",")[0]: type(row.loss) for name, row in (TABLE | OTHERS).items()}
    assert named == dict(LOSSES)
    assert not TABLE.keys() & OTHERS.keys()


@every_loss
def test_value_by_hand(row: Row) -> None:
    value = row.loss(BY_HAND)
    assert value.shape == ()
    assert value.item() == pytest.approx(row.value, rel=1e-6)


@every_loss
def test_gradient_equals_central_differences(row: Row, graph: nn.Module) -> None:
    x, h = normal(ROWS * GROUPS, *SHAPE), 1e-6
    value = of_samples(row.loss, graph)
    expected = torch.empty(x.numel(), dtype=torch.float64)
    with torch.no_grad():
        for number in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[number] = h
            step = step.view_as(x)
            expected[number] = (value(x + step) - value(x - step)) / (2 * h)
    found = gradient(value, x).flatten()
    assert found.isfinite().all() and found.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@every_loss
def test_gradient_is_finite_where_values_are_extreme(row: Row, graph: nn.Module) -> None:
    for x in (torch.zeros(6, *SHAPE), torch.full((6, *SHAPE), 1e6), -1e6 * torch.ones(6, *SHAPE)):
        assert gradient(of_samples(row.loss, graph), x.double()).isfinite().all()
    logits = torch.tensor([[0.0, 5e3], [5e3, 0.0]], requires_grad=True)
    x = torch.zeros(2, 1, 2, 2, requires_grad=True)
    step = Step(x, torch.tensor([0, 1]), logits, 2, targets=torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    loss = row.loss(step) + 0 * logits.sum() + 0 * x.sum()
    assert all(part.isfinite().all() for part in torch.autograd.grad(loss, [logits, x]))


@every_loss
def test_five_steps_bring_it_down(row: Row, graph: nn.Module) -> None:
    x, value = normal(ROWS * GROUPS, *SHAPE), of_samples(row.loss, graph)
    values = [value(x).item()]
    for _ in range(5):
        x = x - row.step_size * gradient(value, x)
        values.append(value(x).item())
    assert values == sorted(values, reverse=True) and values[-1] < 0.99 * values[0]


@every_loss
@pytest.mark.parametrize("rows", [(4,), (1, 3), (2, 2), (1, 1, 1, 1), (3, 1)], ids=str)
def test_chunks_of_whole_rows_make_the_whole(row: Row, rows: tuple[int, ...], graph: nn.Module) -> None:
    assert row.loss.scope in ("sample", "row")  # one of scope "batch" must not be computed in chunks
    x = normal(ROWS * GROUPS, *SHAPE)
    whole = Step(x, labels(len(x)), graph(x), GROUPS, targets=targets(len(x)))
    tensors = (whole.x, whole.labels, whole.logits, targets(len(x)))
    total = torch.zeros((), dtype=torch.float64)
    for part in zip(*(tensor.split([count * GROUPS for count in rows]) for tensor in tensors), strict=True):
        total += row.loss(Step(*part[:3], GROUPS, targets=part[3])) * len(part[0]) / len(x)
    torch.testing.assert_close(total, row.loss(whole), rtol=1e-12, atol=0)


@every_loss
def test_only_its_scope_matters(row: Row, graph: nn.Module) -> None:
    """A sample's gradient depends on the other samples of its scope and no others."""
    x = normal(ROWS * GROUPS, *SHAPE)
    other = x.clone()
    other[-GROUPS:] = normal(GROUPS, *SHAPE, seed=1)
    value = of_samples(row.loss, graph)
    before, after = (gradient(value, samples)[:-GROUPS] for samples in (x, other))
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-12)


@every_loss
def test_it_is_a_frozen_dataclass_of_recipe_keys(row: Row) -> None:
    assert is_dataclass(row.loss) and type(row.loss)(), "all keys have defaults"
    with pytest.raises(FrozenInstanceError):
        row.loss.scope = "batch"  # type: ignore[misc]
    assert "scope" not in {field.name for field in fields(row.loss)}


# --- labels, one by one ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        # Of the logits 0, ln 3 and −ln 3, set are with shares 1/2, 3/4 and 1/4.
        (Classification(), math.log(2) + math.log(4 / 3) + math.log(4 / 3)),  # asked for the second alone
        (Classification("self"), math.log(2) + math.log(4 / 3) + math.log(4 / 3)),
        (Classification("targets"), math.log(2) + math.log(4) + (math.log(4) + math.log(4 / 3)) / 2),
        (Classification(temperature=0.5), math.log(2) + math.log(10 / 9) + math.log(10 / 9)),
    ],
    ids=["asked", "self", "targets", "temperature"],
)
def test_a_multi_label_teacher_is_asked_label_by_label(loss: Classification, value: float) -> None:
    logits = torch.tensor([[0.0, math.log(3), -math.log(3)]])
    step = Step(torch.zeros(1, 1), torch.tensor([1]), logits, multilabel=True, targets=torch.tensor([[1.0, 0.0, 0.5]]))
    assert loss(step).item() == pytest.approx(value, rel=1e-6)


# --- CAKE's code form: methods.md 2.1 ----------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (1, 4), (3, 2), (5, 3), (2, 10)])
def test_cakes_weights(rows: int, groups: int) -> None:
    samples = rows * groups
    x, logits, asked = normal(samples, *SHAPE), normal(samples, CLASSES, seed=1), labels(samples)
    step = Step(x, asked, logits, groups)
    sum_over_samples = F.cross_entropy(logits, asked, reduction="sum")
    torch.testing.assert_close(Classification()(step), sum_over_samples / rows)
    torch.testing.assert_close(Classification()(step), groups * F.cross_entropy(logits, asked))

    grouped = logits.unflatten(0, (rows, groups))
    pairs = (grouped[:, :, None] - grouped[:, None, :]).square()
    torch.testing.assert_close(Contrastive()(step), groups**2 / 2 * pairs.mean())

    along = (x[..., 1:, :] - x[..., :-1, :]).abs().mean((2, 3)) + (x[..., 1:] - x[..., :-1]).abs().mean((2, 3))
    assert along.shape == (samples, 2)  # for each image and channel
    torch.testing.assert_close(TotalVariation()(step), along.mean())


@pytest.mark.parametrize(("rows", "groups", "classes"), [(1, 1, 2), (2, 2, 2), (3, 5, 7), (4, 10, 10)])
def test_contrastive_is_the_sum_over_all_pairs(rows: int, groups: int, classes: int) -> None:
    """1/(2bC) Σ_b Σ_{i≠j} ‖t_i − t_j‖², pair by pair, far from the origin too."""
    for offset in (0.0, 100.0):
        logits = normal(rows * groups, classes) * 3 + offset
        total = 0.0
        for row in logits.unflatten(0, (rows, groups)):
            total += sum((row[i] - row[j]).square().sum().item() for i in range(groups) for j in range(groups))
        step = Step(torch.empty(len(logits), 1), labels(len(logits)), logits, groups)
        assert Contrastive()(step).item() == pytest.approx(total / (2 * rows * classes), rel=1e-9)


def test_contrastive_pulls_the_samples_of_a_row_together() -> None:
    logits = normal(4, 3).requires_grad_(True)
    pull = -torch.autograd.grad(Contrastive()(Step(torch.empty(4, 1), labels(4), logits, 2)), logits)[0]
    for row in (slice(0, 2), slice(2, 4)):
        difference = logits[row][1] - logits[row][0]
        torch.testing.assert_close(pull[row][0], -pull[row][1])
        assert pull[row][0] @ difference > 0


def test_total_variation_is_a_mean() -> None:
    """A ramp has the same value at every number of images, channels and repeated rows."""
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    for repeated in (ramp, ramp.expand(3, 2, 4, 6), ramp.expand(1, 1, 4, 6).repeat(1, 1, 5, 1), ramp + 7):
        assert TotalVariation()(Step(repeated, labels(len(repeated)), torch.empty(0), 1)).item() == 1.0


@pytest.mark.parametrize("side", [4, 16])
def test_the_pull_on_a_pixel_does_not_fall_with_the_resolution(side: int) -> None:
    """By ``sum``: one pixel that stands out of a flat image is pulled by its four neighbours alike."""
    x = torch.zeros(1, 1, side, side)
    x[0, 0, 1, 1] = 1.0
    pull = gradient(lambda x: TotalVariation("sum")(Step(x, labels(1), torch.empty(0), 1)), x)[0, 0, 1, 1]
    assert pull.item() == 4
    mean = gradient(lambda x: TotalVariation()(Step(x, labels(1), torch.empty(0), 1)), x)[0, 0, 1, 1]
    assert mean.item() == pytest.approx(4 / (side * (side - 1)))


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((1, 2, 2), True),
        ((3, 32, 32), True),
        ((20,), False),
        ((2,), False),
        ((3, 64), False),
        ((1, 1, 8), False),
        ((1, 8, 1), False),
        ((2, 3, 4, 5), False),
    ],
    ids=str,
)
def test_what_losses_fit(shape: tuple[int, ...], image: bool) -> None:
    signature = Signature("x", shape, "y", "logits", CLASSES)
    reasons: dict[str, Any] = {name: row.loss.unfit(signature) for name, row in TABLE.items()}
    why = None if image else f"it compares neighbouring pixels, and inputs of shape {list(shape)} are no images"
    assert reasons.pop("total_variation") == reasons.pop("total_variation, sum") == why
    assert set(reasons.values()) == {None}
