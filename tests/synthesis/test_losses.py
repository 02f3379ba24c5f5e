"""Find every loss in the one table, and compare those of CAKE with the form of its code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_method_losses import CLASSES, SHAPE, TABLE, gradient, normal
from torch import Tensor

from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.losses.contrastive import Contrastive
from onnxcake.synthesis.losses.total_variation import TotalVariation
from onnxcake.synthesis.step import Step


def labels(samples: int) -> Tensor:
    return torch.arange(samples) % CLASSES


def test_every_loss_has_a_row() -> None:
    assert {name.partition(",")[0]: type(row.loss) for name, row in TABLE.items()} == dict(LOSSES)


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
