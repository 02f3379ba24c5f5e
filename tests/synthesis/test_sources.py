"""Noise, data, generators and latent codes: statistics, keys, what lasts, and the meta step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.errors import RecipeError
from onnxcake.core.rng import Key
from onnxcake.synthesis.source import Draft, MetaDraft, Source, Targets
from onnxcake.synthesis.sources.data import Data
from onnxcake.synthesis.sources.generator import Generator, GeneratorDraft, LearntNetwork, NetworkEnsemble
from onnxcake.synthesis.sources.latent import Latent, LatentDraft, MetaLatent, MetaLatentDraft
from onnxcake.synthesis.sources.noise import Noise
from onnxcake.synthesis.sources.pixels import Pixels
from onnxcake.synthesis.sources.pool import Particles, Pool
from onnxcake.synthesis.step import Context, Leaves
from onnxcake.teacher.capabilities import MethodInputs
from onnxcake.teacher.signature import Signature

CPU = torch.device("cpu")
SIGMAS = 5
SHAPES = [(1, 8, 8), (3, 9, 13), (2, 16), (5,)]
SMALL: dict[str, Any] = {"latent": 6, "width": 4}
LEARNING: list[Source] = [Generator(**SMALL), Latent(**SMALL), MetaLatent(**SMALL), MetaLatent(**SMALL, meta="reptile")]


def context(
    shape: tuple[int, ...] = (2, 3, 3), *, view: MethodInputs | None = None, seed: int = 0, **values: Any
) -> Context:
    signature = Signature("x", shape, "y", "logits", 4, **values)
    return Context(signature, view or MethodInputs(), Key(seed).at("parts"), CPU, 8)


def key(number: int = 0) -> Key:
    return Key(0).at("batch", number, 0, "start")


def gradients(draft: Draft, wanted: float = 1.0) -> list[list[Tensor]]:
    """Of a plain loss, one list for each of the draft's leaves."""
    tensors = [tensor.requires_grad_(True) for leaves in draft.leaves for tensor in leaves.tensors]
    loss = (draft.render() - wanted).abs().mean()
    flat = list(torch.autograd.grad(loss, tensors))
    return [[flat.pop(0) for _ in leaves.tensors] for leaves in draft.leaves]


def stepped(draft: Draft, steps: int = 1, rate: float = 0.1) -> list[list[list[Tensor]]]:
    """Plain descent, as the loop does it; the gradients of every step."""
    seen = []
    for _ in range(steps):
        found = gradients(draft)
        seen.append([[gradient.clone() for gradient in group] for group in found])
        if isinstance(draft, MetaDraft):
            draft.saw(found)
        for leaves, group in zip(draft.leaves, found, strict=True):
            advance(leaves, group, rate)
    return seen


def advance(leaves: Leaves, group: Sequence[Tensor], rate: float) -> None:
    """Steps in place, and spoils the gradients, as an update may."""
    with torch.no_grad():
        for leaf, gradient in zip(leaves.tensors, group, strict=True):
            leaf -= rate * leaves.rate * gradient
            gradient.fill_(math.nan)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.5, 0.2)])
@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_noise_follows_its_prior(prior: Any, mean: float, std: float) -> None:
    draft = Noise(prior, mean, std).draft(4000, context(), key(), None)
    x = draft.render().double()
    assert draft.leaves == [] and x.shape == (4000, 2, 3, 3)
    error = std / math.sqrt(x.numel())
    assert x.mean().item() == pytest.approx(mean, abs=SIGMAS * error)
    assert x.std().item() == pytest.approx(std, abs=SIGMAS * error)
    inside = (((x - mean) / std).abs() < 1).double().mean().item()
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)) if prior == "normal" else 1 / math.sqrt(3), abs=0.01)


def test_the_blogs_noise_is_cut_to_the_range() -> None:
    """clip(N(0, 1), −1, 1): the tails, 15.9 % each, lie on the bounds."""
    there = context(range=(0.0, 1.0), mean=(0.5,), std=(0.5,))  # −1 … 1 in standard units
    draft = Noise(clip=True).draft(5000, there, key(), None)
    x, free = draft.render(), Noise().draft(5000, there, key(), None).render()
    assert torch.equal(x, free.clamp(-1, 1)) and free.abs().max() > 3
    tail = (1 - math.erf(1 / math.sqrt(2))) / 2
    for bound in (-1.0, 1.0):
        assert (x == bound).double().mean().item() == pytest.approx(tail, abs=SIGMAS * math.sqrt(tail / x.numel()))


def test_noise_is_clipped_only_where_a_range_is_known() -> None:
    assert Noise().unfit(context().signature) is None
    assert "range" in (Noise(clip=True).unfit(context().signature) or "")
    assert Noise(clip=True).unfit(context(range=(0.0, 1.0)).signature) is None


def test_noise_has_no_labels_and_nothing_that_lasts() -> None:
    draft = Noise().draft(3, context(), key(), Noise().init_state(context()))
    assert Noise.independent and Noise().init_state(context()) is None
    assert draft.labels is None and not isinstance(draft, MetaDraft) and draft.render() is draft.render()


# --- data --------------------------------------------------------------------------------------------------


def given(held: int, *, labelled: bool = True) -> Context:
    """Inputs that tell their own number, and labels that follow from it."""
    inputs = torch.arange(float(held)).view(-1, 1, 1, 1).expand(-1, 2, 3, 3).contiguous()
    return context(view=MethodInputs(data=(inputs, torch.arange(held) % 4 if labelled else None)))


def test_real_inputs_come_with_their_labels() -> None:
    draft = Data().draft(7, given(20), key(), None)
    x, labels = draft.render(), draft.labels
    assert Data.needs == ("data",) and Data.independent and draft.leaves == []
    assert x.shape == (7, 2, 3, 3) and labels is not None and labels.dtype == torch.int64
    assert torch.equal(labels, x[:, 0, 0, 0].long() % 4)
    assert Data().draft(7, given(20, labelled=False), key(), None).labels is None


@pytest.mark.parametrize(("held", "samples"), [(20, 7), (20, 20), (3, 8), (1, 4), (4, 8)])
def test_inputs_repeat_only_after_all_were_taken(held: int, samples: int) -> None:
    drawn: list[int] = []
    for number in range(12):
        x = Data().draft(samples, given(held), key(number), None, number).render()
        assert len(x) == samples
        drawn += x[:, 0, 0, 0].long().tolist()
    for start in range(0, len(drawn) - held + 1, held):
        assert sorted(drawn[start : start + held]) == list(range(held))


def test_each_order_of_inputs_is_another() -> None:
    orders = [Data().draft(40, given(40), key(), None, number).render()[:, 0, 0, 0].tolist() for number in range(5)]
    assert len({tuple(order) for order in orders}) == 5 and sorted(orders[0]) != orders[0]


# --- what all networks have in common ----------------------------------------------------------------------


@pytest.mark.parametrize("source", LEARNING, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_of_any_shape_follow_their_leaves(source: Source, shape: tuple[int, ...]) -> None:
    there = context(shape, range=(-2.0, 2.0))
    draft = source.draft(8, there, key(), source.init_state(there))
    assert draft.render().shape == (8, *shape)
    assert all(tensor.is_leaf and tensor.requires_grad for leaves in draft.leaves for tensor in leaves.tensors)
    before = (draft.render() - 1).abs().mean().item()
    stepped(draft, 5, rate=0.05)
    after = (draft.render() - 1).abs().mean().item()
    assert after < before, "five steps of descent"
    assert all(tensor.isfinite().all() for leaves in draft.leaves for tensor in leaves.tensors)


@pytest.mark.parametrize("source", [*LEARNING, Noise(), Data(), Pool(size=20), Pixels(prior="fields")], ids=repr)
def test_the_same_key_gives_the_same_bits(source: Source) -> None:
    def rendered(number: int, ambient: int) -> Tensor:
        with Key(ambient).as_default():  # whatever torch's own stream holds
            there = given(50)
            draft = source.draft(8, there, key(number), source.init_state(there), number)
            if draft.leaves:
                stepped(draft, 2)
            return draft.render()

    first, again, other = rendered(0, 1), rendered(0, 2), rendered(1, 1)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("source", [Generator(**SMALL), MetaLatent(**SMALL), Pool(size=20)], ids=repr)
def test_first_weights_depend_on_the_runs_seed(source: Source) -> None:
    first, again, other = (source.init_state(context(seed=seed)) for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert same(state(first), state(again)) and not same(state(first), state(other))


@pytest.mark.parametrize("source", LEARNING, ids=repr)
def test_one_sample_is_refused_with_the_reason(source: Source) -> None:
    with pytest.raises(RecipeError, match="2 samples"):
        source.draft(1, context((5,)), key(), source.init_state(context((5,))))


def test_latent_codes_are_standard_normal() -> None:
    source = Latent(latent=50, width=2)
    z = source.draft(1000, context((2,)), key(), None).leaves[0].tensors[0].detach().double()
    assert z.shape == (1000, 50)
    assert z.mean().item() == pytest.approx(0, abs=SIGMAS / math.sqrt(z.numel()))
    assert z.std().item() == pytest.approx(1, abs=SIGMAS / math.sqrt(2 * z.numel()))


# --- a generator that lasts --------------------------------------------------------------------------------


def begun(source: Generator | MetaLatent, there: Context) -> LearntNetwork:
    lasting = source.init_state(there)
    assert isinstance(lasting, LearntNetwork)
    return lasting


def test_what_a_batch_learns_the_next_one_knows() -> None:
    source, there = Generator(**SMALL), context()
    lasting = begun(source, there)
    assert not Generator.independent
    first = source.draft(8, there, key(0), lasting)
    before, second = first.render().detach(), source.draft(8, there, key(1), lasting)
    assert not torch.equal(before, second.render()), "z is drawn anew"
    stepped(first)
    assert not torch.equal(before, first.render())
    assert torch.equal(first.render(), source.draft(8, there, key(0), lasting).render())
    assert not isinstance(first, MetaDraft) and len(first.leaves) == 1


def test_moments_last_and_belong_to_the_parameters() -> None:
    source, there = Generator(**SMALL), context()
    lasting = begun(source, there)
    first = source.draft(8, there, key(0), lasting)
    first.leaves[0].optimiser_state["mean"] = [torch.ones_like(tensor) for tensor in first.leaves[0].tensors]
    second = source.draft(8, there, key(1), lasting)
    assert second.leaves[0] is first.leaves[0] is lasting.leaves and second.leaves[0].optimiser_state["mean"]
    parameters = list(lasting.parameters())
    assert all(leaf is parameter for leaf, parameter in zip(lasting.leaves.tensors, parameters, strict=True))


def test_a_loaded_state_goes_on_with_the_same_bits() -> None:
    source, there = Generator(**SMALL, spectral_norm=True), context()
    lasting = begun(source, there)
    stepped(source.draft(8, there, key(0), lasting), 2)
    kept = state(lasting)
    ahead = source.draft(8, there, key(1), lasting)
    stepped(ahead, 2)
    other = begun(source, context(seed=7))
    other.load_state_dict(kept)
    other.to(CPU)
    resumed = source.draft(8, there, key(1), other)
    assert all(leaf is parameter for leaf, parameter in zip(other.leaves.tensors, other.parameters(), strict=True))
    stepped(resumed, 2)
    assert same(state(lasting), state(other)) and torch.equal(ahead.render(), resumed.render())


def test_the_network_normalises_by_the_batch_at_hand() -> None:
    """Train mode, whatever the running statistics say (ZSKT)."""
    source, there = Generator(**SMALL), context()
    lasting = begun(source, there)
    draft = source.draft(64, there, key(), lasting)
    with torch.no_grad():
        for name, value in lasting.state_dict().items():
            if "running" in name:
                value.fill_(9.0)
    x = draft.render().transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_keys_reach_the_network() -> None:
    source = Generator(latent=7, width=3, head="norm", epsilon=0.8, spectral_norm=True)
    lasting = begun(source, context((2, 8, 8)))
    layers = list(lasting.network.modules())
    assert [layer.in_features for layer in layers if isinstance(layer, nn.Linear)] == [7]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    assert [(norm.num_features, norm.eps) for norm in norms] == [(6, 1e-5), (6, 0.8), (3, 0.8), (2, 1e-5)]
    assert norms[-1].affine and sum("original" in name for name, _ in lasting.named_parameters()) == 3


def test_networks_share_a_batch_and_learn_each_from_its_part() -> None:
    source, there = Generator(**SMALL, networks=3), context()
    lasting = begun(source, there)
    draft = source.draft(9, there, key(), lasting)
    x, together = draft.render(), lasting.network
    assert x.shape == (9, 2, 3, 3) and isinstance(together, NetworkEnsemble)
    z = torch.randn(9, 6, generator=key().generator())
    for number, network in enumerate(together.networks):
        part = slice(3 * number, 3 * number + 3)
        assert torch.equal(x[part], network(z[part]))
    assert not torch.equal(together.networks[0](z), together.networks[1](z))
    loss = x[3:6].square().mul(torch.arange(9.0).view(3, 3)).sum()
    found = [torch.autograd.grad(loss, network[0].weight, retain_graph=True)[0] for network in together.networks]
    assert [gradient.abs().max().item() > 0 for gradient in found] == [False, True, False]
    with pytest.raises(RecipeError, match="3 of them share 5"):
        source.draft(5, there, key(), lasting)


# --- latent and generator together -------------------------------------------------------------------------


def test_each_batch_restarts_from_its_key() -> None:
    """CMI: nothing of a batch is left for the next one, whatever was made between."""
    source, there = Latent(**SMALL), context()
    assert Latent.independent and source.init_state(there) is None
    first = source.draft(8, there, key(0), None)
    start = first.render().detach()
    stepped(first, 3)
    again, other = source.draft(8, there, key(0), None), source.draft(8, there, key(1), None)
    assert torch.equal(start, again.render()) and not torch.equal(first.render(), start)
    assert again.leaves[1].optimiser_state == {} and again.leaves[1].tensors[0] is not first.leaves[1].tensors[0]
    weights, others = again.leaves[1].tensors[0], other.leaves[1].tensors[0]
    assert not torch.equal(weights, others), "the network too, not z alone"


def test_restarted_weights_are_small_normal_numbers() -> None:
    weights = Latent(latent=64, width=16).draft(4, context((1, 8, 8)), key(), None).leaves[1].tensors[0].detach()
    assert weights.shape == (2 * 16 * 2 * 2, 64)
    error = 0.02 / math.sqrt(weights.numel())
    assert weights.mean().item() == pytest.approx(0, abs=SIGMAS * error)
    assert weights.std().item() == pytest.approx(0.02, abs=SIGMAS * error)
    assert weights.abs().max() > 0.06, "not uniform"


@pytest.mark.parametrize(
    ("source", "rates"),
    [
        (Latent(**SMALL), [1.0, 1.0]),
        (Latent(**SMALL, latent_rate=2.5), [2.5, 1.0]),
        (MetaLatent(**SMALL), [5.0, 1.0]),
        (MetaLatent(**SMALL, latent_rate=3.0, outer_rate=2.0), [3.0, 1.0]),
    ],
    ids=repr,
)
def test_z_has_a_step_size_of_its_own(source: Latent | MetaLatent, rates: list[float]) -> None:
    lasting = source.init_state(context())
    draft = source.draft(8, context(), key(), lasting)
    assert [leaves.rate for leaves in draft.leaves] == rates
    assert [tensor.shape for tensor in draft.leaves[0].tensors] == [(8, 6)]
    if isinstance(lasting, LearntNetwork):
        assert lasting.leaves.rate == source.outer_rate  # type: ignore[union-attr]


def test_samples_depend_on_z_and_on_the_network() -> None:
    draft = Latent(**SMALL).draft(8, context(range=(-2.0, 2.0)), key(), None)
    start = draft.render().detach()
    for leaves in draft.leaves:
        with torch.no_grad():
            leaves.tensors[0].add_(torch.randn(leaves.tensors[0].shape, generator=key(9).generator()))
        moved = draft.render().detach()
        assert not torch.equal(start, moved)
        start = moved


def test_samples_stay_in_the_range() -> None:
    draft = Latent(**SMALL).draft(8, context(range=(-2.0, 1.0)), key(), None)
    stepped(draft, 20, rate=50.0)
    assert draft.render().min() >= -2 and draft.render().max() <= 1


# --- the meta step -----------------------------------------------------------------------------------------


def test_the_lasting_network_is_not_touched_by_inner_steps() -> None:
    """Neither its weights nor the running statistics of its BatchNorm."""
    source, there = MetaLatent(**SMALL), context()
    lasting = begun(source, there)
    before = state(lasting)
    draft = source.draft(8, there, key(0), lasting)
    stepped(draft, 3)
    assert same(before, state(lasting)) and not MetaLatent.independent
    after = source.draft(8, there, key(0), lasting)
    assert torch.equal(after.leaves[1].tensors[0], lasting.leaves.tensors[0])
    assert not torch.equal(draft.leaves[1].tensors[0], lasting.leaves.tensors[0])
    assert after.leaves[1].optimiser_state == {}


def test_fomaml_steps_by_the_sum_of_the_inner_gradients() -> None:
    source, there = MetaLatent(**SMALL), context()
    lasting = begun(source, there)
    draft = source.draft(8, there, key(), lasting)
    seen = stepped(draft, 4)
    leaves, found = draft.outer()
    assert leaves is lasting.leaves
    for number, gradient in enumerate(found):
        expected = torch.stack([step[1][number] for step in seen]).double().sum(0)
        torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in found)
    sizes = [gradient.norm() for gradient in found]
    assert max(sizes) > 1.5 * max(seen[0][1][n].norm() for n in range(len(found))), "more than the first step's"


def test_reptile_steps_towards_where_the_copy_went() -> None:
    source, there = MetaLatent(**SMALL, meta="reptile"), context()
    lasting = begun(source, there)
    draft = source.draft(8, there, key(), lasting)
    stepped(draft, 3)
    leaves, found = draft.outer()
    assert leaves is lasting.leaves and not any(gradient.requires_grad for gradient in found)

    def apart() -> float:
        pairs = zip(lasting.leaves.tensors, draft.leaves[1].tensors, strict=True)
        return sum((theta - phi).detach().square().sum().item() for theta, phi in pairs)

    for theta, phi, gradient in zip(lasting.leaves.tensors, draft.leaves[1].tensors, found, strict=True):
        torch.testing.assert_close(gradient, 67 * (theta - phi).detach())
    before = apart()
    advance(leaves, found, 0.5 / (67 * leaves.rate))
    assert before > 0 and apart() == pytest.approx(before / 4, rel=1e-3), "half of the way"


def test_a_draft_that_was_never_stepped_moves_nothing() -> None:
    for source in (MetaLatent(**SMALL), MetaLatent(**SMALL, meta="reptile")):
        draft = source.draft(8, context(), key(), source.init_state(context()))
        assert all(gradient.abs().max() == 0 for gradient in draft.outer()[1])


def test_the_meta_step_makes_a_better_start() -> None:
    """After some batches, two inner steps come further than they did at first."""
    source, there = MetaLatent(**SMALL, outer_rate=2.0), context((2, 6, 6), range=(-3.0, 3.0))
    lasting = begun(source, there)

    def reached(number: int, *, learn: bool) -> float:
        draft = source.draft(8, there, key(number), lasting)
        stepped(draft, 2, rate=0.02)
        if learn:
            leaves, found = draft.outer()
            advance(leaves, found, 0.1)
        return (draft.render() - 1).abs().mean().item()

    before = reached(0, learn=False)
    for number in range(1, 12):
        reached(number, learn=True)
    assert reached(0, learn=False) < 0.8 * before


def test_drafts_are_what_the_loop_expects() -> None:
    there = context()
    for source, kind in zip(LEARNING, (GeneratorDraft, LatentDraft, MetaLatentDraft, MetaLatentDraft), strict=True):
        assert type(source.draft(8, there, key(), source.init_state(there))) is kind


def test_a_conditional_generator_follows_the_class_asked_for() -> None:
    source = Generator(latent=6, width=4, conditional=True)
    there = given(20)
    lasting = source.init_state(there)
    classes = there.signature.classes

    def made(labels: Tensor) -> Tensor:
        draft = source.draft(8, there, key(), lasting)
        draft.condition(Targets(labels))
        return draft.render()

    ones, others = torch.zeros(8, dtype=torch.int64), torch.full((8,), classes - 1)
    assert torch.equal(made(ones), made(ones)) and not torch.allclose(made(ones), made(others))
    free = Generator(latent=6, width=4)
    draft = free.draft(8, there, key(), held := free.init_state(there))
    before = draft.render()
    draft.condition(Targets(others))
    assert held is not None and torch.equal(draft.render(), before), "it is told nothing"


# --- particles ---------------------------------------------------------------------------------------------


def particles(source: Pool, there: Context) -> Particles:
    lasting = source.init_state(there)
    assert isinstance(lasting, Particles)
    return lasting


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_particles_are_put_back_where_they_were_and_nowhere_else(shape: tuple[int, ...]) -> None:
    there = context(shape, range=(-1.0, 1.0))
    source = Pool(size=20, renew=0.0)
    lasting = particles(source, there)
    before = lasting.x.clone()
    draft = source.draft(8, there, key(), lasting)
    taken = draft.render().detach().clone()
    rows = [next(i for i, x in enumerate(before) if torch.equal(x, one)) for one in taken]
    assert len(set(rows)) == 8
    stepped(draft, 3)
    with torch.no_grad():
        draft.project()
    assert torch.equal(lasting.x, before), "a draft that is not finished leaves them"
    draft.settle()
    assert torch.equal(lasting.x[rows], draft.render())
    others = [i for i in range(20) if i not in rows]
    assert torch.equal(lasting.x[others], before[others])
    assert lasting.x.abs().max() <= 1 and not lasting.x.requires_grad


def test_a_share_of_the_particles_begins_anew() -> None:
    there = context((1, 8, 8))
    source = Pool(size=40, renew=0.25)
    lasting = particles(source, there)
    x = source.draft(8, there, key(), lasting).render()
    old = [any(torch.equal(one, other) for other in lasting.x) for one in x]
    assert sum(old) == 6
    drawn = {tuple(source.draft(8, there, key(n), lasting).render()[:2].flatten().tolist()) for n in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize(("shape", "most"), [((1, 16, 16), 16.0), ((12, 20), 16.0), ((300,), 4.0)], ids=str)
def test_vectors_are_not_driven_into_the_corners_of_their_range(shape: tuple[int, ...], most: float) -> None:
    x = particles(Pool(size=2000), context(shape)).x.flatten(1)
    deviation = (x - x.mean(1, keepdim=True)).square().mean(1).sqrt()
    assert 0.8 * most < deviation.max() < 1.2 * most


def test_a_pool_sizes_itself() -> None:
    """4000 samples, or what 256 MiB hold, but two batches of 8 at least."""
    for shape, size in (((1, 8, 8), 4000), ((3, 224, 224), (256 << 20) // (4 * 3 * 224 * 224)), ((3, 2500, 2500), 16)):
        drawn: list[int] = []
        there = context(shape)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "onnxcake.synthesis.sources.pool.fields",
                lambda samples, shape, *_, drawn=drawn: (drawn.append(samples), torch.zeros(1))[1],
            )
            particles(Pool(), there)
        assert drawn == [size]


def test_particles_stay_within_the_range_from_the_start() -> None:
    bounded = context((2, 9), range=(0.0, 1.0), mean=(0.5,), std=(0.25,))
    for source in (Pool(size=50), Pixels(prior="fields", clip="known")):
        x = source.draft(8, bounded, key(), source.init_state(bounded)).render()
        assert x.min() == -2 and x.max() == 2
    free = Pixels(prior="fields", clip="known").draft(8, context((2, 9)), key(), None).render()
    assert free.abs().max() > 2
    assert Pixels(clip="known").unfit(context().signature) is None
    assert Pixels(clip=True).unfit(context().signature) is not None
