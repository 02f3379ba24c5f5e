"""Random fields: how smooth, how strong, and along which sides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onnxcake.core.random_fields import fields
from onnxcake.core.rng import Key


def drawn(samples: int, shape: tuple[int, ...], number: int = 0, contrast: tuple[float, float] = (0.5, 8.0)) -> Tensor:
    return fields(samples, shape, Key(number).at("fields").generator(), contrast)


def neighbours(x: Tensor, side: int) -> Tensor:
    """Each sample's correlation of values that follow each other along ``side``, which wraps around."""
    x = x - x.flatten(1).mean(1).reshape(-1, *[1] * (x.dim() - 1))
    return (x * x.roll(1, side)).flatten(1).mean(1) / x.square().flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(5,), (3, 16), (1, 8, 8), (3, 9, 13), (2, 3, 4, 5)], ids=str)
def test_any_shape_is_filled_from_its_key_alone(shape: tuple[int, ...]) -> None:
    x = drawn(6, shape)
    assert x.shape == (6, *shape) and x.isfinite().all()
    assert torch.equal(x, drawn(6, shape)) and not torch.equal(x, drawn(6, shape, 1))


def test_contrasts_are_even_in_their_logarithm() -> None:
    deviations = drawn(2000, (400,)).std(1, correction=0)
    places = (deviations / 0.5).log() / math.log(16)
    assert places.min() > -0.1 and places.max() < 1.1
    histogram = torch.histc(places, 4, 0, 1)
    assert (histogram > 2000 / 4 - 5 * 2000**0.5 / 2).all()


def test_the_middle_moves_with_the_contrast() -> None:
    x = drawn(4000, (900,))
    middles = x.mean(1) / x.std(1)
    assert abs(float(middles.mean())) < 5 / 4000**0.5 and abs(float(middles.std()) - 1) < 0.1


def test_vectors_have_no_neighbours() -> None:
    assert neighbours(drawn(500, (64,)), 1).mean().abs() < 0.02


@pytest.mark.parametrize(("shape", "sides"), [((1, 24, 24), (2, 3)), ((30, 30), (1, 2)), ((4, 3, 16, 16), (3, 4))])
def test_smoothness_goes_from_none_to_nearly_flat(shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    x = drawn(400, shape)
    for side in sides:
        alike = neighbours(x, side)
        assert alike.min() < 0.3 and alike.max() > 0.95 and 0.5 < alike.median() < 0.98


def test_an_image_is_about_as_smooth_along_one_side_as_along_the_other() -> None:
    def difference(shape: tuple[int, ...], sides: tuple[int, int]) -> Tensor:
        x = drawn(600, shape)
        one, other = (neighbours(x, side).clamp(1e-3, 1 - 1e-4) for side in sides)
        return (one.logit() - other.logit()).abs().median()

    assert 0.3 < difference((1, 32, 32), (2, 3)) < 0.7 * difference((32, 32), (1, 2))


def test_channels_have_from_nothing_to_all_in_common() -> None:
    x = drawn(500, (3, 16, 16))
    alike = torch.stack([torch.corrcoef(one.flatten(1))[0, 1] for one in x])
    assert alike.quantile(0.1) < 0.3 and alike.quantile(0.9) > 0.85
    single = drawn(5, (1, 16, 16))
    assert single.shape == (5, 1, 16, 16)


def test_a_side_of_one_is_left_alone() -> None:
    assert drawn(3, (1, 1, 7)).isfinite().all()
