"""Labels, schedules, updates and the pixel source, against their formulas and priors."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from onnxcake.core.rng import Key
from onnxcake.synthesis.labels import LABELS
from onnxcake.synthesis.labels.hard import Balanced, Independent, RowPermutation
from onnxcake.synthesis.replay import MEMORIES
from onnxcake.synthesis.schedules import SCHEDULES, Constant, Cosine, Decay
from onnxcake.synthesis.source import Targets
from onnxcake.synthesis.sources import SOURCES
from onnxcake.synthesis.sources.pixels import PixelDraft, Pixels
from onnxcake.synthesis.step import Context, Leaves
from onnxcake.synthesis.updates import UPDATES, Adam, Langevin, Sgd, Sign
from onnxcake.teacher.capabilities import LastLayer, MethodInputs
from onnxcake.teacher.signature import Signature

CPU = torch.device("cpu")
SIGMAS = 5  # seeds are fixed, so a bound is passed once and for all; a wrong distribution is far outside


def generator(*path: str | int) -> torch.Generator:
    return Key(0).at(*path).generator()


def follows(counts: Tensor, shares: Tensor) -> bool:
    """Pearson's χ² of counts against shares, within its mean plus five deviations."""
    assert counts[shares == 0].sum() == 0
    counts, shares = counts[shares > 0].double(), shares[shares > 0].double()
    expected = shares / shares.sum() * counts.sum()
    freedom = len(counts) - 1
    return bool(((counts - expected).square() / expected).sum() < freedom + SIGMAS * math.sqrt(2 * freedom))


def counted(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=classes)


def context(signature: Signature, **view: Any) -> Context:
    return Context(signature, MethodInputs(**view), Key(0).at("parts"), CPU, 8)


def inputs(shape: tuple[int, ...] = (2, 3, 3), classes: int = 4, **values: Any) -> Signature:
    return Signature("x", shape, "y", "logits", classes, **values)


def test_the_bound_tells_distributions_apart() -> None:
    shares = torch.tensor([0.2, 0.3, 0.5])
    assert follows(torch.tensor([2010, 2995, 4995]), shares)
    assert not follows(torch.tensor([2200, 3000, 4800]), shares)


# --- labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [None, (1.0, 2.0, 3.0, 0.5, 1.5)], ids=["uniform", "prior"])
@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_labels_of_a_row_all_differ(groups: int, prior: tuple[float, ...] | None) -> None:
    labels = RowPermutation(prior)(400, groups, 5, generator("differ", groups)).labels
    assert labels.dtype == torch.int64 and labels.shape == (400 * groups,)
    assert labels.min() >= 0 and labels.max() < 5
    assert all(len(set(row)) == groups for row in labels.view(-1, groups).tolist())


def test_every_permutation_is_as_likely() -> None:
    rows = RowPermutation()(24_000, 3, 4, generator("uniform")).labels.view(-1, 3).tolist()
    orders = list(itertools.permutations(range(4), 3))
    counts = torch.tensor([rows.count(list(order)) for order in orders])
    assert counts.sum() == 24_000 and follows(counts, torch.ones(len(orders)))


def test_rows_are_drawn_without_replacement_by_the_prior() -> None:
    """p(i, j) = p_i · p_j / (1 − p_i): first one by the prior, then by the prior among the others."""
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4])
    pairs = RowPermutation(tuple(prior.tolist()))(40_000, 2, 4, generator("pairs")).labels.view(-1, 2)
    shares = prior[:, None] * prior[None, :] / (1 - prior[:, None])
    shares.fill_diagonal_(0)
    assert follows(counted(pairs[:, 0], 4), prior)
    assert follows(counted(pairs[:, 0] * 4 + pairs[:, 1], 16), shares.flatten())


@pytest.mark.parametrize("prior", [None, (5.0, 0.0, 1.0, 4.0)], ids=["uniform", "prior"])
def test_independent_labels_follow_the_prior(prior: tuple[float, ...] | None) -> None:
    labels = Independent(prior)(10_000, 3, 4, generator("independent")).labels
    shares = torch.ones(4) if prior is None else torch.tensor(prior)
    assert labels.dtype == torch.int64 and labels.shape == (30_000,)
    assert follows(counted(labels, 4), shares)
    rows = labels.view(-1, 3)
    joint = shares[:, None] * shares[None, :]
    assert follows(counted(rows[:, 0] * 4 + rows[:, 1], 16), joint.flatten()), "a row's labels know of each other"


def test_independent_rows_may_be_wider_than_there_are_classes() -> None:
    assert Independent()(4, 10, 3, generator("wide")).labels.shape == (40,)


@pytest.mark.parametrize("policy", [RowPermutation, Independent])
def test_classes_of_no_weight_are_never_asked_for(policy: type[RowPermutation | Independent]) -> None:
    labels = policy(prior=(0.0, 1.0, 0.0, 1.0))(500, 2, 4, generator("zero")).labels
    assert set(labels.tolist()) == {1, 3}


@pytest.mark.parametrize(("rows", "groups", "classes"), [(12, 1, 4), (4, 3, 4), (5, 3, 4), (1, 2, 7)])
def test_balanced_labels_take_turns(rows: int, groups: int, classes: int) -> None:
    labels = Balanced()(rows, groups, classes, generator("turns")).labels
    assert labels.dtype == torch.int64 and labels[:classes].tolist() == list(range(classes))[: rows * groups]
    often = counted(labels, classes)
    assert often.sum() == rows * groups and often.max() - often.min() <= 1, "each as often, or once more"


@pytest.mark.parametrize(
    ("policy", "classes", "groups", "why"),
    [
        (RowPermutation(), 3, 4, "only 3 classes"),
        (RowPermutation((1.0, 1.0, 0.0)), 3, 3, "3 weights, at least 3 of them above zero"),
        (RowPermutation((1.0, 1.0)), 3, 2, "3 weights, at least 2"),
        (Independent((1.0, 1.0)), 3, 5, "3 weights, at least 1"),
        (Independent((0.0, 0.0, 0.0)), 3, 1, "at least 1 of them above zero"),
        (RowPermutation((1.0, 1.0, 0.0)), 3, 2, None),
        (RowPermutation(), 3, 3, None),
        (Independent((0.0, 0.0, 1.0)), 3, 9, None),
        (Balanced(), 3, 9, None),
    ],
)
def test_policies_say_what_they_cannot_do(policy: Any, classes: int, groups: int, why: str | None) -> None:
    said = policy.unfit(classes, groups)
    assert said is None if why is None else why in said
    if why is None:
        assert policy(2, groups, classes, generator("fits")).labels.shape == (2 * groups,)


def asked_by(name: str, noise: torch.Generator) -> Targets:
    """What a policy by its name asks of 150 samples of a teacher of six classes."""
    weight = torch.randn(6, 9, generator=generator("weight"))
    unit = torch.nn.functional.normalize(weight, dim=1)
    last = LastLayer(weight, torch.zeros(6), "features")
    policy = LABELS[name]()
    begun = policy.init_state(context(inputs(classes=6), last_layer=last, similarity=unit @ unit.T))
    asked: Targets = policy(50, 3, 6, noise, begun)
    return asked


@pytest.mark.parametrize("name", LABELS)
def test_labels_depend_on_the_generator_alone(name: str) -> None:
    asked = [asked_by(name, generator("key", n)) for n in (0, 0, 1)]
    for one, other, same in ((0, 1, True), (0, 2, name == "balanced")):
        assert torch.equal(asked[one].labels, asked[other].labels) == same
    assert all(each.labels.shape == (150,) and each.labels.dtype == torch.int64 for each in asked)
    if asked[0].targets is None:
        return
    first, second, third = (each.targets for each in asked)
    assert first is not None and second is not None and third is not None
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert first.shape == (150, 6) and first.min() >= 0
    torch.testing.assert_close(first.sum(1), torch.ones(150))


def test_which_policies_ask_for_soft_labels() -> None:
    soft = {name for name in LABELS if asked_by(name, generator("soft")).targets is not None}
    assert soft == {"dirichlet", "features"}


# --- schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "magnitude", "batches"), [(0.1, 4.0, 500), (0.01, 4.0, 100), (2.0, 0.0, 7)])
def test_decay_over_the_set(start: float, magnitude: float, batches: int) -> None:
    """ε_m = ε₀ · 10^(−magnitude · m / M): methods.md 2.2.4."""
    linear, cosine = Decay(start, magnitude), Decay(start, magnitude, "cosine")
    for batch in range(batches):
        position = batch / batches
        assert linear(position) == pytest.approx(start * 10 ** (-magnitude * position), rel=1e-12)
        bend = (1 - math.cos(math.pi * position)) / 2
        assert cosine(position) == pytest.approx(start * 10 ** (-magnitude * bend), rel=1e-12)


def test_cakes_step_sizes() -> None:
    schedule = Decay(start=0.1, magnitude=4)
    assert schedule(0) == 0.1
    assert schedule(0.25) == pytest.approx(1e-2) and schedule(0.5) == pytest.approx(1e-3)
    assert 1e-5 < schedule(499 / 500) < 1.02e-5


@given(
    start=st.floats(1e-6, 1e3),
    magnitude=st.floats(0, 10),
    shape=st.sampled_from(["linear", "cosine"]),
    positions=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_decay_only_falls(start: float, magnitude: float, shape: Any, positions: tuple[float, float]) -> None:
    schedule = Decay(start, magnitude, shape)
    early, late = (schedule(position) for position in sorted(positions))
    low, high = start * 10**-magnitude, start
    assert high * (1 + 1e-9) >= early >= late * (1 - 1e-9) and late >= low * (1 - 1e-9)


def test_shapes_of_decay_meet_at_the_ends_and_in_the_middle() -> None:
    linear, cosine = Decay(0.1, 3), Decay(0.1, 3, "cosine")
    for position in (0, 0.5, 1):
        assert linear(position) == pytest.approx(cosine(position))
    assert cosine(0.25) > linear(0.25) and cosine(0.75) < linear(0.75)


def test_constant() -> None:
    assert {Constant(0.3)(position) for position in (0, 0.1, 0.999)} == {0.3}


@pytest.mark.parametrize(("start", "final"), [(0.1, 0.0), (2.0, 0.5), (0.1, 0.4)])
def test_cosine(start: float, final: float) -> None:
    """η = η₁ + (η₀ − η₁)(1 + cos πs)/2: by hand at 0, ⅓, ½, ⅔ and 1, where the cosine is 1, ½, 0, −½ and −1."""
    schedule, reach = Cosine(start, final), start - final
    for position, share in ((0, 1), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1, 0)):
        assert schedule(position) == pytest.approx(final + share * reach, abs=1e-12)
    assert Cosine(start)(1) == pytest.approx(0, abs=1e-12)


# --- updates -----------------------------------------------------------------------------------------------


def test_sgd_is_plain_descent_and_draws_nothing() -> None:
    leaf, gradient, noise = torch.tensor([1.0, -2.0]), torch.tensor([10.0, 4.0]), generator("noise")
    before, storage = noise.get_state(), leaf.data_ptr()
    Sgd(Constant(1.0))(Leaves([leaf]), [gradient], 0.25, noise)
    assert leaf.tolist() == [-1.5, -3.0] and leaf.data_ptr() == storage
    assert torch.equal(noise.get_state(), before)


@pytest.mark.parametrize("update", [kind(Constant(1.0)) for kind in (Sgd, Langevin, Adam, Sign)], ids=UPDATES)
def test_every_leaf_is_stepped_and_rate_multiplies_the_step_size(update: Any) -> None:
    """Half the step size at twice the rate is the same to the bit, noise included."""
    starts = [torch.randn(3, 2, generator=generator("one")), torch.randn(5, generator=generator("two"))]
    slopes = [torch.randn(3, 2, generator=generator("three")), torch.randn(5, generator=generator("four"))]
    ends = []
    for rate, size in ((1.0, 0.5), (2.0, 0.25), (2.0, 0.5)):
        leaves = Leaves([start.clone() for start in starts], rate)
        storage, noise = [leaf.data_ptr() for leaf in leaves.tensors], generator("noise")
        for _ in range(3):
            update(leaves, [slope.clone() for slope in slopes], size, noise)
        assert [leaf.data_ptr() for leaf in leaves.tensors] == storage, "in place"
        ends.append(leaves.tensors)
    for start, plain, same, further in zip(starts, *ends, strict=True):
        assert torch.equal(plain, same)
        assert not (torch.isclose(plain, start).any() or torch.isclose(plain, further).any())


def test_signed_steps_move_every_value_alike() -> None:
    leaf = torch.zeros(4)
    Sign(Constant(1.0))(Leaves([leaf]), [torch.tensor([1e-30, -7.0, 0.0, 1e30])], 0.25, generator("noise"))
    assert leaf.tolist() == [-0.25, 0.25, 0.0, -0.25]


def test_sgd_may_bound_the_move_of_each_value() -> None:
    """By clipping η ∇L, not the gradient: the step size still counts where it is small."""
    gradient = torch.tensor([0.1, -0.1, 8.0, -8.0, math.inf, -1e38])
    leaf = torch.zeros(6)
    Sgd(Constant(1.0), max_move=0.5)(Leaves([leaf]), [gradient.clone()], 2.0, generator("noise"))
    torch.testing.assert_close(leaf, torch.tensor([-0.2, 0.2, -0.5, 0.5, -0.5, 0.5]))
    free, bounded = torch.zeros(4), torch.zeros(4)
    Sgd(Constant(1.0))(Leaves([free]), [gradient[:4]], 0.01, generator("noise"))
    Sgd(Constant(1.0), max_move=0.5)(Leaves([bounded]), [gradient[:4]], 0.01, generator("noise"))
    assert torch.equal(free, bounded), "where nothing passes the bound, the bits are the same"


def test_langevin_adds_noise_of_variance_two_step_sizes() -> None:
    """x ← x − η ∇L + √(2η) n, the same n for the same generator."""
    leaf, gradient = torch.linspace(-1, 1, 5), torch.linspace(2, 3, 5)
    draw = torch.randn(5, generator=generator("noise"))
    expected = leaf - 0.02 * gradient + math.sqrt(2 * 0.02) * draw
    Langevin(Constant(1.0))(Leaves([leaf]), [gradient], 0.02, generator("noise"))
    torch.testing.assert_close(leaf, expected)


def test_langevin_noise_differs_from_step_to_step() -> None:
    noise, update = generator("noise"), Langevin(Constant(1.0))
    first, second = torch.zeros(1000), torch.zeros(1000)
    for leaf in (first, second):
        update(Leaves([leaf]), [torch.zeros(1000)], 0.5, noise)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < SIGMAS / math.sqrt(1000)
    assert first.std() == pytest.approx(1, abs=SIGMAS / math.sqrt(2000))


def test_adams_first_steps_by_hand() -> None:
    """m = 0.1 g and v = 0.001 g², corrected to g and g²: the first step is η · sign g, whatever the slope's size.
    The second, along −g: m = 0.09 g − 0.1 g, corrected to −g/19, and v to g² again, hence η/19 back."""
    leaf = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    slope, leaves, noise = torch.tensor([4.0, -1e-3, 25.0], dtype=torch.float64), Leaves([leaf]), generator("noise")
    before = noise.get_state()
    Adam(Constant(1.0), epsilon=1e-12)(leaves, [slope], 0.1, noise)
    torch.testing.assert_close(leaf, torch.tensor([0.9, -1.9, 0.4], dtype=torch.float64))
    Adam(Constant(1.0), epsilon=1e-12)(leaves, [-slope], 0.1, noise)
    back = 0.1 / 19
    torch.testing.assert_close(leaf, torch.tensor([0.9 + back, -1.9 - back, 0.4 + back], dtype=torch.float64))
    assert torch.equal(noise.get_state(), before), "nothing is drawn"


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.999), (0.0, 0.9)])
def test_adam_is_torchs(betas: tuple[float, float]) -> None:
    own = [torch.randn(4, 3, generator=generator("own")), torch.randn(2, generator=generator("more"))]
    theirs = [torch.nn.Parameter(tensor.clone()) for tensor in own]
    reference, leaves = torch.optim.Adam(theirs, lr=0.03, betas=betas, eps=1e-4), Leaves(own, rate=3.0)
    update = Adam(Constant(1.0), *betas, epsilon=1e-4)
    for number in range(20):
        slopes = [torch.randn(tensor.shape, generator=generator("slope", number)) for tensor in own]
        for parameter, slope in zip(theirs, slopes, strict=True):
            parameter.grad = slope.clone()
        reference.step()
        update(leaves, slopes, 0.01, generator("noise"))
    for mine, parameter in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, parameter.detach(), rtol=1e-5, atol=1e-6)


def test_adams_moments_last_as_long_as_the_leaves() -> None:
    """Two batches of one set of leaves go on; new leaves at the same place begin anew."""
    update = Adam(Constant(1.0))
    slopes = [torch.randn(6, generator=generator("slope", number)) for number in range(4)]
    together, apart = Leaves([torch.zeros(6)]), Leaves([torch.zeros(6)])
    for number, slope in enumerate(slopes):
        if number == 2:
            assert torch.equal(together.tensors[0], apart.tensors[0])
            apart = Leaves(apart.tensors)
        for leaves in (together, apart):
            update(leaves, [slope], 0.1, generator("noise"))
    assert int(together.optimiser_state["steps"][0]) == 4 and int(apart.optimiser_state["steps"][0]) == 2
    assert not torch.isclose(together.tensors[0], apart.tensors[0]).any()


# --- pixels ------------------------------------------------------------------------------------------------


def draft(source: Pixels, signature: Signature, samples: int = 4000, number: int = 0) -> PixelDraft:
    return source.draft(samples, context(signature), Key(0).at(number), None)


def leaf_of(made: PixelDraft) -> Tensor:
    (leaves,) = made.leaves
    (leaf,) = leaves.tensors
    return leaf


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.5, 0.2)])
@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_the_prior_has_its_mean_and_deviation(prior: Any, mean: float, std: float) -> None:
    x = draft(Pixels(prior, mean, std), inputs()).render().double()
    assert x.shape == (4000, 2, 3, 3)
    error = std / math.sqrt(x.numel())
    assert x.mean().item() == pytest.approx(mean, abs=SIGMAS * error)
    assert x.std().item() == pytest.approx(std, abs=SIGMAS * error)  # that of a normal is smaller by √2
    tails = ((x - mean) / std).abs()
    if prior == "uniform":
        assert 1.72 < tails.max() <= math.sqrt(3) + 1e-6
        assert follows(torch.histc(x, 10), torch.ones(10))
    else:
        assert tails.max() > 3.5
        assert (tails < 1).double().mean() == pytest.approx(0.6827, abs=0.01)


def test_a_start_depends_on_its_key_alone() -> None:
    starts = []
    for n, noise in ((0, 1), (0, 2), (1, 2)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            starts.append(draft(Pixels(), inputs(), 5, n).render())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    assert Pixels.independent and Pixels().init_state(context(inputs())) is None


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        # four deviations wide, around its middle
        ({"range": (0.0, 1.0), "location": (0.5,), "deviation": (0.25,)}, [-2.0, -2.0], [2.0, 2.0]),
        ({"range": (0.0, 255.0), "location": (127.5,), "deviation": (63.75,)}, [-2.0, -2.0], [2.0, 2.0]),
        ({"range": (0.0, 1.0), "mean": (0.5,), "std": (0.25,)}, [-2.0, -2.0], [2.0, 2.0]),
        ({"range": (0.0, 1.0), "mean": (0.5, 0.1), "std": (0.5, 0.2)}, [-1.0, -0.5], [1.0, 4.5]),
    ],
    ids=["range", "bytes", "normalised", "by channel"],
)
def test_clipping_keeps_the_bounds(values: dict[str, Any], low: list[float], high: list[float]) -> None:
    signature = inputs(**values)
    clipped = draft(Pixels(std=5.0, clip=True), signature)
    leaf = leaf_of(clipped)
    start = leaf.clone()
    clipped.project()
    x = clipped.render()
    assert x is leaf, "the leaf is stepped in place"
    for channel in (0, 1):
        expected = start[:, channel].clamp(low[channel], high[channel])
        torch.testing.assert_close(x[:, channel], expected)
        assert x[:, channel].min() == pytest.approx(low[channel]) and x[:, channel].max() == pytest.approx(
            high[channel]
        )
    raw, (lowest, highest) = signature.to_raw(signature.to_input(x)), values["range"]
    assert raw.min().item() == pytest.approx(lowest, abs=1e-4) and raw.max().item() == pytest.approx(highest)


@pytest.mark.parametrize(
    ("source", "signature"),
    [(Pixels(), inputs(range=(0.0, 1.0))), (Pixels(clip=True), inputs())],
    ids=["not asked for", "no range is known"],
)
def test_without_bounds_nothing_is_clipped(source: Pixels, signature: Signature) -> None:
    free = draft(source, signature, 50)
    leaf_of(free).mul_(100)
    before = free.render().clone()
    free.project()
    assert torch.equal(free.render(), before)


@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 2, 3, 4)], ids=str)
def test_pixels_of_any_shape(shape: tuple[int, ...]) -> None:
    bounded = inputs(shape, range=(0.0, 1.0), mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
    clipped = draft(Pixels(clip=True, std=9.0), bounded, 6)
    clipped.project()
    assert clipped.render().shape == (6, *shape) and clipped.render().abs().max() == 2


# --- the registries ----------------------------------------------------------------------------------------

PARTS = {**LABELS, **SCHEDULES, **UPDATES, **SOURCES, **MEMORIES}


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_frozen_and_documented(name: str) -> None:
    part: Any = PARTS[name]
    assert part.__doc__ and not part.__doc__.startswith(f"{part.__name__}(")
    required = {field.name: 1.0 for field in fields(part) if field.name in ("value", "start", "magnitude", "step_size")}
    made = part(**required)
    with pytest.raises(FrozenInstanceError):
        setattr(made, next((field.name for field in fields(part)), "anything"), None)
    assert made == part(**required)
