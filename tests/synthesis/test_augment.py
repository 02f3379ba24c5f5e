"""Augmentations: what they may do to a sample, how often, and that gradients pass."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onnxcake.core.rng import Key
from onnxcake.synthesis.augment import AUGMENTS, Augment, Augments, Crop, Flip, Jitter, Mixup, NoiseAugment, Shift
from onnxcake.teacher.signature import Signature

ALL = [Jitter(1), Flip(), Flip(whole_batch=True), Crop(1), Shift(1), Mixup(), NoiseAugment(0.5)]
IMAGES = torch.arange(6 * 2 * 4 * 5, dtype=torch.float32).reshape(6, 2, 4, 5) + 1


def signature(*shape: int) -> Signature:
    return Signature("x", shape, "y", "logits", 3)


def draws(number: int = 0) -> torch.Generator:
    return Key(number).at("augment").generator()


def placed(padded: Tensor, window: Tensor) -> tuple[int, int]:
    """Where a window lies in a padded image; the images' values all differ."""
    height, width = window.shape[1:]
    places = [
        (top, left)
        for top in range(padded.shape[1] - height + 1)
        for left in range(padded.shape[2] - width + 1)
        if torch.equal(padded[:, top : top + height, left : left + width], window)
    ]
    assert len(places) == 1
    return places[0]


def evenly(counts: Counter[tuple[int, int]], outcomes: int) -> bool:
    """All outcomes, each within five deviations of its share."""
    total = sum(counts.values())
    deviation = (total / outcomes * (1 - 1 / outcomes)) ** 0.5
    return len(counts) == outcomes and all(abs(n - total / outcomes) < 5 * deviation for n in counts.values())


def test_jitter_rolls_the_whole_batch_by_one_offset() -> None:
    draw, seen = draws(), Counter[tuple[int, int]]()
    for _ in range(1500):
        out = Jitter(1)(IMAGES, draw)
        offsets = [
            (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if torch.equal(torch.roll(IMAGES, (i, j), (2, 3)), out)
        ]
        assert len(offsets) == 1
        seen[offsets[0]] += 1
    assert evenly(seen, 9)


def test_jitter_rolls_signals_in_time() -> None:
    x, draw = torch.arange(24.0).reshape(2, 2, 6), draws()
    rolled = {tuple(Jitter(2)(x, draw).flatten().tolist()) for _ in range(60)}
    assert rolled == {tuple(torch.roll(x, i, 2).flatten().tolist()) for i in range(-2, 3)}


def test_flip_mirrors_half_of_the_images() -> None:
    x = IMAGES[:1].expand(4000, -1, -1, -1)
    out = Flip()(x, draws())
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert ((out == x).flatten(1).all(1) ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 2000) < 5 * 1000**0.5
    assert not torch.equal(mirrored[:2000], mirrored[2000:])


def test_flip_may_toss_once_for_all() -> None:
    draw, mirrored = draws(), 0
    for _ in range(400):
        out = Flip(whole_batch=True)(IMAGES, draw)
        assert torch.equal(out, IMAGES) or torch.equal(out, IMAGES.flip(3))
        mirrored += int(not torch.equal(out, IMAGES))
    assert abs(mirrored - 200) < 50


@pytest.mark.parametrize(("part", "mode"), [(Crop(1), "constant"), (Shift(1), "edge")])
def test_each_sample_is_cut_out_of_its_padded_self(part: Augment, mode: str) -> None:
    padding = ((0, 0), (0, 0), (1, 1), (1, 1))
    padded = torch.from_numpy(np.pad(IMAGES.numpy(), padding, mode=mode))  # type: ignore[call-overload]
    draw, seen = draws(), Counter[tuple[int, int]]()
    same = 0
    for _ in range(250):
        out = part(IMAGES, draw)
        places = [placed(*pair) for pair in zip(padded, out, strict=True)]
        seen.update(places)
        same += len(set(places)) == 1
    assert evenly(seen, 9) and same < 5  # each sample for itself


def test_crops_and_shifts_take_signals_and_wide_paddings() -> None:
    x = torch.arange(1.0, 7).reshape(1, 1, 6)
    long = F.pad(x, [9, 9])
    windows = {tuple(long[0, 0, i : i + 6].tolist()) for i in range(19)}
    draw = draws()
    assert {tuple(Crop(9)(x, draw)[0, 0].tolist()) for _ in range(300)} == windows
    assert tuple([6.0] * 6) in {tuple(Shift(9)(x, draw)[0, 0].tolist()) for _ in range(300)}


def test_noise_has_its_deviation() -> None:
    added = NoiseAugment(0.25)(torch.full((500, 3, 8, 8), 2.0), draws()) - 2
    assert abs(float(added.mean())) < 5 * 0.25 / 96_000**0.5
    assert float(added.std()) == pytest.approx(0.25, rel=0.02)
    assert abs(float(torch.corrcoef(added.flatten(1)[:2])[0, 1])) < 0.4


@pytest.mark.parametrize("part", ALL, ids=repr)
def test_gradients_pass(part: Augment) -> None:
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64, generator=draws(1)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: part(x, draws(2)), (x,))


@pytest.mark.parametrize("part", ALL, ids=repr)
def test_what_is_random_comes_from_the_generator_alone(part: Augment) -> None:
    state, before = torch.get_rng_state(), IMAGES.clone()
    first, again = part(IMAGES, draws(3)), part(IMAGES, draws(3))
    assert torch.equal(first, again) and first.shape == IMAGES.shape and first.dtype == IMAGES.dtype
    draw = draws(4)
    assert any(not torch.equal(part(IMAGES, draw), first) for _ in range(20))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(IMAGES, before)


def test_several_are_done_in_their_order() -> None:
    both, draw = Augments((Crop(1), NoiseAugment(0.1))), draws()
    assert torch.equal(both(IMAGES, draws()), NoiseAugment(0.1)(Crop(1)(IMAGES, draw), draw))
    assert Augments()(IMAGES, draws()) is IMAGES


def test_unfit_inputs_are_named() -> None:
    image, signal, table = signature(3, 8, 8), signature(2, 40), signature(7)
    assert not any(part.unfit(image) for part in ALL)
    assert [part.unfit(signal) is None for part in ALL] == [True, False, False, True, True, True, True]
    assert [part.unfit(table) is None for part in ALL] == [False] * 5 + [True, True]
    assert Augments((NoiseAugment(), Flip())).unfit(table) == Flip().unfit(table)
    assert Augments((NoiseAugment(), Flip())).unfit(image) is None


def test_every_augmentation_has_a_name() -> None:
    assert set(AUGMENTS.values()) == {type(part) for part in ALL}


def test_mixtures_lie_nearer_to_their_own_sample() -> None:
    x, draw = torch.randn(4000, 3, generator=Key(0).generator()), draws()
    out = Mixup(0.25)(x, draw)
    mixed = (out != x).any(1)
    assert abs(int(mixed.sum()) - 1000) < 5 * 750**0.5
    first = 0
    for row in torch.nonzero(mixed).flatten()[:50].tolist():
        # out = λ x + (1 − λ) x′ for one x′ of the batch: all three coordinates tell the same λ
        own = (out[row] - x) / (x[row] - x)
        spread = (own.amax(1) - own.amin(1)).nan_to_num(9)
        other = int(spread.argmin())
        assert spread[other] < 1e-3 and other != row
        assert 0.5 - 1e-3 <= float(own[other].mean()) <= 1
        first += float(own[other].mean()) < 0.75
    assert 10 < first < 40


def test_auto_moves_by_a_fourteenth_of_each_side_and_leaves_vectors() -> None:
    x = torch.arange(42.0 * 15).reshape(1, 1, 42, 15)
    draw, seen = draws(), set()
    for _ in range(400):
        out = Jitter("auto")(x, draw)
        seen.add((int(out[0, 0, 0, 0]) // 15, int(out[0, 0, 0, 0]) % 15))
    assert seen == {(-i % 42, -j % 15) for i in range(-3, 4) for j in range(-1, 2)}
    vectors = torch.randn(5, 7)
    for part in (Jitter("auto"), Shift("auto")):
        assert torch.equal(part(vectors, draw), vectors)
        assert part.unfit(signature(7)) is None
        assert type(part)().unfit(signature(7)) is not None
