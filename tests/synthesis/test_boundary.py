"""The boundary source on classifiers whose boundaries are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from onnxcake.core.rng import Key
from onnxcake.synthesis.source import Classify
from onnxcake.synthesis.sources.boundary import Boundary, BoundaryDraft
from onnxcake.synthesis.sources.sign_opt import Box, Search
from onnxcake.synthesis.step import Context
from onnxcake.teacher.capabilities import MethodInputs
from onnxcake.teacher.signature import Signature

CPU = torch.device("cpu")
SIZE = 12
NORMAL = torch.randn(SIZE, generator=Key(3).at("normal").generator())
NORMAL /= NORMAL.norm()
OFFSET = 0.3
QUICK: dict[str, Any] = {"directions": 10, "probes": 40, "queries": 900, "tries": 50}


def signature(classes: int = 2, size: int = SIZE, **more: Any) -> Signature:
    kind = more.pop("output_kind", "logits")
    return Signature("x", (size,), "y", kind, classes, **{"range": (-10.0, 10.0), **more})


def context(own: Signature) -> Context:
    return Context(own, MethodInputs(), Key(0), CPU, 8)


def half_spaces(x: Tensor) -> Tensor:
    """Class 1 where w·x + b > 0, with ‖w‖ = 1, so that |w·x + b| is the distance to the other class."""
    return (signed(x) > 0).long()


def signed(x: Tensor) -> Tensor:
    return x @ NORMAL + OFFSET


def sectors(x: Tensor) -> Tensor:
    """Three classes of 120° each in the plane of the first two numbers, the first around angle 0."""
    angle = torch.atan2(x[:, 1], x[:, 0])
    return torch.remainder(torch.round(angle / (2 * math.pi / 3)), 3).long()


def counted(classify: Classify) -> tuple[Classify, list[int]]:
    asked: list[int] = []

    def count(x: Tensor) -> Tensor:
        asked.append(len(x))
        return classify(x)

    return count, asked


def begun(
    source: Boundary, samples: int = 8, own: Signature | None = None, *, labels: Tensor | None = None, seed: int = 0
) -> tuple[BoundaryDraft, Tensor]:
    own = own or signature()
    labels = torch.arange(samples) % own.classes if labels is None else labels
    return source.draft(samples, context(own), Key(seed), None), labels


def search(x: Tensor, classify: Classify, queries: int = 3000, bisections: int = 22) -> Search:
    classes, box = classify(x), Box(torch.tensor(-10.0), torch.tensor(10.0))
    return Search(x, box, lambda points, rows: classify(points) != classes[rows], queries, bisections)


def inside(samples: int = 6) -> Tensor:
    return torch.randn(samples, SIZE, generator=Key(1).generator())


# --- the search --------------------------------------------------------------------------------------------


def test_a_bisection_finds_the_boundary_along_a_line() -> None:
    x = inside()
    own = search(x, half_spaces)
    towards = -NORMAL * signed(x).sign()[:, None]
    tilted = towards + 0.5 * torch.nn.functional.normalize(torch.randn(SIZE, generator=Key(2).generator()), dim=0)
    theta = tilted / tilted.norm(dim=1, keepdim=True)
    reached, nearer = own.try_direction(torch.arange(6), theta, torch.full((6,), 5.0))
    assert reached.all() and nearer.all()
    expected = signed(x).abs() / (theta * towards).sum(1)
    assert torch.allclose(own.distance * 20, expected, atol=3e-5)  # a unit is the range, 20 wide
    assert torch.equal(own.theta, theta)
    assert torch.equal(own.spent, torch.full((6,), 23))


def test_a_direction_that_is_no_better_costs_one_query_and_changes_nothing() -> None:
    x = inside()
    own = search(x, half_spaces)
    towards = -NORMAL * signed(x).sign()[:, None]
    own.try_direction(torch.arange(6), towards, torch.full((6,), 5.0))
    best, spent = own.distance.clone(), own.spent.clone()
    reached, nearer = own.try_direction(torch.arange(6), -towards, torch.full((6,), 5.0))
    assert not reached.any() and not nearer.any()
    assert torch.equal(own.distance, best) and torch.equal(own.theta, towards)
    assert torch.equal(own.spent, spent + 1)


def test_the_search_finds_the_nearest_point_of_the_other_class() -> None:
    x = inside(10)
    own = search(x, half_spaces)
    own.try_random(20, 100, Key(0).generator())
    first = own.distance.clone()
    own.descend(100, Key(1).generator())
    truth = signed(x).abs() / 20
    assert (first / truth).median() > 1.5  # random directions alone are far off
    assert (own.distance >= truth * (1 - 1e-4)).all()
    assert (own.distance <= truth * 1.02).all()
    assert ((own.theta @ NORMAL) * -signed(x).sign() > 0.98).all()
    assert torch.allclose(own.theta.norm(dim=1), torch.ones(10), atol=1e-5)


def test_the_gradient_of_signs_points_along_the_gradient_of_the_distance() -> None:
    """g(θ) = D / cos φ for a plane; its gradient on the sphere points away from the normal."""
    x = inside()
    own = search(x, half_spaces)
    towards = -NORMAL * signed(x).sign()[:, None]
    aside = torch.randn(6, SIZE, generator=Key(4).generator())
    aside -= (aside @ NORMAL)[:, None] * NORMAL
    theta = torch.nn.functional.normalize(towards + torch.nn.functional.normalize(aside, dim=1), dim=1)
    own.try_direction(torch.arange(6), theta, torch.full((6,), 5.0))
    found = own._sign_gradient(torch.arange(6), torch.full((6,), 1e-3), 400, Key(5).generator())
    uphill = theta * (theta * towards).sum(1, keepdim=True) - towards
    assert (torch.cosine_similarity(found, uphill) > 0.9).all()


@pytest.mark.parametrize("queries", [60, 300, 1000])
@pytest.mark.parametrize("classify", [half_spaces, lambda x: torch.zeros(len(x), dtype=torch.int64)])
def test_no_sample_spends_more_than_its_queries(classify: Classify, queries: int) -> None:
    count, asked = counted(classify)
    own = search(inside(), count, queries)
    asked.clear()
    own.try_random(10, 10_000, Key(0).generator())
    own.descend(30, Key(1).generator())
    assert own.spent.max() <= queries
    assert own.spent.min() > queries - 30 - 23 - 1  # and they are used
    assert int(own.spent.sum()) == sum(asked)


def test_where_there_is_no_boundary_the_distance_is_infinite() -> None:
    own = search(inside(), lambda x: torch.zeros(len(x), dtype=torch.int64))
    own.try_random(10, 40, Key(0).generator())
    own.descend(30, Key(1).generator())
    assert own.distance.isinf().all() and (own.spent == 40).all()


def test_points_outside_the_range_are_clipped_before_they_are_asked_about() -> None:
    def watched(x: Tensor) -> Tensor:
        assert x.abs().max() <= 10
        return half_spaces(x)

    own = search(inside() * 4, watched)
    own.try_random(10, 40, Key(0).generator())
    own.descend(30, Key(1).generator())


# --- the start ---------------------------------------------------------------------------------------------


def test_noise_is_drawn_until_it_is_of_the_classes_asked_for() -> None:
    own = signature(3, 2)
    draft, labels = begun(Boundary(**QUICK), 30, own)
    assert draft.labels is None
    draft.gradients(sectors, labels)
    assert torch.equal(sectors(draft.render()), labels)
    assert draft.labels is not None and torch.equal(draft.labels, labels)


def test_samples_of_a_class_that_is_never_found_keep_their_own() -> None:
    own = signature(4, 2)
    draft, labels = begun(Boundary(**QUICK), 40, own)
    count, asked = counted(sectors)  # never says 3
    draft.gradients(count, labels)
    kept = draft.labels
    assert kept is not None and torch.equal(sectors(draft.render()), kept)
    assert torch.equal(kept[labels != 3], labels[labels != 3]) and (kept != 3).all()
    assert asked[:50] == [40] * 50  # tries, for the batch together


def test_classes_that_white_noise_does_not_show_are_found_in_coarser_noise() -> None:
    own = Signature("x", (1, 12, 12), "y", "logits", 2, range=(-1.0, 1.0))

    def smooth(x: Tensor) -> Tensor:
        rough = (x[..., 1:] - x[..., :-1]).square().mean((1, 2, 3)) / x.var((1, 2, 3)).clamp_min(1e-9)
        return (rough < 1.0).long()  # 2 for white noise

    for tries, found in ((1, False), (20, True)):
        draft, labels = begun(Boundary(**{**QUICK, "tries": tries, "queries": 100}), 16, own)
        before = smooth(draft.render())
        assert (before == 0).all()
        draft.gradients(smooth, labels)
        kept = draft.labels
        assert kept is not None and bool((kept == labels).all()) == found
        assert torch.equal(smooth(draft.render()), kept) and draft.render().abs().max() <= 1


def test_the_first_noise_lies_in_the_valid_range() -> None:
    own = signature(range=(0.0, 1.0), location=(0.4,), deviation=(0.25,))
    raw = own.to_input(begun(Boundary(), 400, own)[0].render())
    assert raw.min() >= -1e-6 and raw.max() <= 1 + 1e-6
    # (U + 0.2) a + N b has mean 0.35; clipping at 0 raises it, clipping at 1 hardly lowers it.
    assert 0.38 < raw.mean() < 0.5 and (raw < 1e-6).float().mean() > 0.1
    unknown = begun(Boundary(), 400, signature(range=None))[0].render()
    assert unknown.abs().max() <= 3 and abs(float(unknown.mean())) < 0.05 and 0.9 < unknown.std() < 1.05


# --- the steps ---------------------------------------------------------------------------------------------


def test_the_gradient_leads_to_the_boundary_in_units_of_the_range() -> None:
    draft, labels = begun(Boundary(**QUICK), own=signature(range=None))  # searched 3 deviations either way
    ((gradient,),) = draft.gradients(half_spaces, labels)
    x = draft.render()
    assert torch.allclose(gradient.norm(dim=1), torch.full((8,), 6.0), rtol=1e-4)
    assert ((gradient @ NORMAL) * -signed(x).sign() > 0.98 * 6).all()


def test_the_gradient_may_be_as_long_as_the_way() -> None:
    draft, labels = begun(Boundary(**QUICK, move="distance"), own=signature(range=None))
    ((gradient,),) = draft.gradients(half_spaces, labels)
    truth = signed(draft.render()).abs()
    assert (gradient.norm(dim=1) >= truth * 0.999).all() and (gradient.norm(dim=1) <= truth * 1.05).all()
    assert torch.equal(half_spaces(draft.render() + gradient * 1.01), 1 - labels)


def test_a_step_is_as_long_in_raw_values_whatever_the_standard_units() -> None:
    """The paper's pixels lie in 0 … 1, and 0.5 of a direction is a move of length 0.5 in these."""
    own = signature(range=(0.0, 1.0), location=(0.4,), deviation=(0.25,))

    def classify(x: Tensor) -> Tensor:
        return (own.to_input(x).mean(1) > 0.5).long()

    draft, labels = begun(Boundary(**QUICK), own=own)
    ((gradient,),) = draft.gradients(classify, labels)
    before = own.to_input(draft.render())
    after = own.to_input(draft.render() - 0.5 * gradient)
    assert torch.allclose((after - before).norm(dim=1), torch.full((8,), 0.5), rtol=1e-3)
    assert ((after.mean(1) - 0.5).abs() > (before.mean(1) - 0.5).abs()).all()


def test_steps_move_samples_away_from_the_boundary_and_never_out_of_their_class() -> None:
    own = signature(3, 2)
    source = Boundary(**{**QUICK, "queries": 400})
    draft, labels = begun(source, 12, own)
    depths: list[float] = []
    for _ in range(6):
        ((gradient,),) = draft.gradients(sectors, labels)
        assert torch.equal(sectors(draft.render()), labels)
        depths.append(float(margin(draft.render(), labels).mean()))
        draft.leaves[0].tensors[0].sub_(0.05 * gradient)
        draft.project()
        assert draft.render().abs().max() <= 10
    assert depths == sorted(depths) and depths[-1] > depths[0] + 1.5


def margin(x: Tensor, labels: Tensor) -> Tensor:
    """Distance from inside a sector of ±60° to its two edges."""
    angle = torch.atan2(x[:, 1], x[:, 0]) - labels * (2 * math.pi / 3)
    aside = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    return x.norm(dim=1) * torch.sin((math.pi / 3 - aside.abs()).clamp(0, math.pi / 2))


def test_a_move_out_of_the_class_is_halved_until_it_stays() -> None:
    draft, labels = begun(Boundary(**QUICK))
    draft.gradients(half_spaces, labels)
    good = draft.render().clone()
    depth = signed(good).abs()
    away = -NORMAL * signed(good).sign()[:, None]
    steps = torch.tensor([0.5, 1.5, 1.5, 3.5, 3.5, 7.5, 1.5, 0.5])  # of the way to the boundary
    draft.leaves[0].tensors[0].add_(away * (depth * steps)[:, None])
    draft.gradients(half_spaces, labels)
    kept = torch.tensor([0.5, 0.75, 0.75, 0.875, 0.875, 0.9375, 0.75, 0.5])
    assert torch.allclose(draft.render(), good + away * (depth * kept)[:, None], atol=1e-5)


def test_a_move_that_no_halving_saves_is_taken_back() -> None:
    draft, labels = begun(Boundary(**{**QUICK, "bisections": 4}))
    draft.gradients(half_spaces, labels)
    good = draft.render().clone()
    draft.leaves[0].tensors[0].add_(1.0)

    def only_there(x: Tensor) -> Tensor:
        return torch.where((x[:, None] == good[None]).all(2).any(1), half_spaces(x), 7)

    draft.gradients(only_there, labels)
    assert torch.equal(draft.render(), good)


def test_where_no_boundary_is_found_the_sample_rests() -> None:
    draft, _ = begun(Boundary(**QUICK))
    ((gradient,),) = draft.gradients(lambda x: torch.zeros(len(x), dtype=torch.int64), torch.zeros(8).long())
    assert (gradient == 0).all()


def test_a_step_asks_no_more_than_its_queries_for_each_sample() -> None:
    source = Boundary(**{**QUICK, "queries": 500})
    draft, labels = begun(source)
    count, asked = counted(half_spaces)
    draft.gradients(count, labels)
    assert sum(asked) <= 8 * (source.tries + source.queries)
    for _ in range(2):
        asked.clear()
        draft.leaves[0].tensors[0].add_(0.5)
        draft.gradients(count, labels)
        assert 8 * 200 < sum(asked) <= 8 * source.queries


def test_taking_a_move_back_counts_among_the_queries() -> None:
    draft, labels = begun(Boundary(**{**QUICK, "bisections": 200}))
    draft.gradients(half_spaces, labels)
    asked: list[int] = []

    def elsewhere_at_first(x: Tensor) -> Tensor:
        asked.append(len(x))
        return half_spaces(x) if len(asked) > 201 else torch.full((len(x),), 7)

    draft.gradients(elsewhere_at_first, labels)
    assert asked[:201] == [8] * 201 and 8 * (900 - 241) < sum(asked) <= 8 * 900


def test_the_same_key_gives_the_same_samples() -> None:
    def run(seed: int) -> tuple[Tensor, Tensor]:
        draft, labels = begun(Boundary(**{**QUICK, "queries": 300}), seed=seed)
        for _ in range(2):
            ((gradient,),) = draft.gradients(half_spaces, labels)
            draft.leaves[0].tensors[0].sub_(0.02 * gradient)
            draft.project()
        return draft.answers(half_spaces, labels), draft.render().clone()

    state = torch.get_rng_state()
    first, again, other = run(0), run(0), run(1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(torch.get_rng_state(), state)


# --- the soft labels ---------------------------------------------------------------------------------------


def answered(source: Boundary, x: Tensor, labels: Tensor, classify: Classify, own: Signature) -> Tensor:
    draft, _ = begun(source, len(x), own, labels=labels)
    draft.gradients(classify, labels)
    draft.leaves[0].tensors[0].copy_(x)
    draft._good.copy_(x)
    return draft.answers(classify, labels)


def polar(radius: float, *degrees: float) -> Tensor:
    angles = torch.tensor(degrees) * (math.pi / 180)
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def test_soft_labels_rank_the_classes_by_their_distance() -> None:
    x = polar(4.0, 40.0, -40.0, 0.0, 120.0, 160.0, 240.0, 200.0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    logits = answered(Boundary(**QUICK), x, labels, sectors, signature(3, 2))
    assert logits[0, 1] > 1.5 * logits[0, 2] and logits[1, 2] > 1.5 * logits[1, 1]
    assert torch.isclose(logits[2, 1], logits[2, 2], rtol=0.05)
    assert logits[4, 2] > logits[4, 0] and logits[6, 1] > logits[6, 0]
    assert torch.equal(logits.argmax(1), labels)
    others = logits.sum(1) - logits.gather(1, labels[:, None])[:, 0]
    assert torch.allclose(logits.gather(1, labels[:, None])[:, 0], others)


def test_a_soft_label_is_one_over_the_distance_along_the_nearest_line() -> None:
    """From 10° at radius 4 to the sample at 120°, the line crosses the edge at 60°; law of sines."""
    x, labels = polar(4.0, 10.0, 120.0, 240.0), torch.tensor([0, 1, 2])
    logits = answered(Boundary(**QUICK), x, labels, sectors, signature(3, 2))
    corner = math.radians(180 - 110) / 2  # at the sample, in the triangle of both samples and the origin
    way = 4 * math.sin(math.radians(50)) / math.sin(math.pi - corner - math.radians(50))
    assert float(logits[0, 1]) == pytest.approx(20 / way, rel=1e-3)  # a unit is the range, 20 wide


def test_a_soft_label_goes_by_the_nearest_samples() -> None:
    """The sample at 178° is nearer than that at 140°, though the line to it crosses the edge farther out."""
    x, labels = torch.cat([polar(4.0, 10.0, 178.0, 240.0), polar(9.0, 140.0)]), torch.tensor([0, 1, 2, 1])
    nearest, both = (
        20 / float(answered(Boundary(**QUICK, starts=starts), x, labels, sectors, signature(3, 2))[0, 1])
        for starts in (1, 20)
    )
    assert nearest == pytest.approx(4 * math.sin(math.radians(50)) / math.sin(math.radians(124)), rel=1e-3)
    assert both < 0.9 * nearest


def test_further_queries_make_the_distance_minimal() -> None:
    """From 50° the edge at 60° is 4 sin 10° away; along the line to 170° it is more than half as far again."""
    x, labels = polar(4.0, 50.0, 170.0, 270.0), torch.tensor([0, 1, 2])
    along, least = (
        20 / float(answered(Boundary(**QUICK, label_queries=queries), x, labels, sectors, signature(3, 2))[0, 1])
        for queries in (0, 1500)
    )
    assert along == pytest.approx(4 * math.sin(math.radians(10)) / math.sin(math.radians(140)), rel=1e-3)
    assert least == pytest.approx(4 * math.sin(math.radians(10)), rel=1e-3)


def test_the_soft_label_of_two_classes_prefers_its_own() -> None:
    draft, labels = begun(Boundary(**QUICK))
    draft.gradients(half_spaces, labels)
    logits = draft.answers(half_spaces, labels)
    own, other = logits.gather(1, labels[:, None]), logits.gather(1, 1 - labels[:, None])
    assert torch.allclose(own, 2 * other) and (other > 0).all()
    assert (20 / other[:, 0] >= signed(draft.render()).abs() * 0.999).all()


def test_a_class_without_a_sample_gets_no_weight() -> None:
    def one(x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.int64)

    draft, _ = begun(Boundary(**QUICK), own=signature(3))
    assert torch.equal(draft.answers(one, torch.ones(8).long()), torch.tensor([[0.0, 1.0, 0.0]]).expand(8, 3))


def test_soft_labels_ask_no_more_than_is_said() -> None:
    source = Boundary(**QUICK, starts=3, label_queries=200)
    draft, labels = begun(source, 15, signature(3, 2))
    draft.gradients(sectors, labels)
    count, asked = counted(sectors)
    draft.answers(count, labels)
    each = 1 + source.bisections + 2 * (source.starts * (1 + source.bisections) + source.label_queries)
    assert 15 * 2 * 3 < sum(asked) <= 15 * each


@pytest.mark.parametrize(
    ("source", "own", "reason"),
    [
        (Boundary(), signature(), None),
        (Boundary(), signature(output_kind="multilabel_logits"), "go together"),
        (Boundary(queries=200), signature(), "one search takes"),
    ],
)
def test_it_says_what_it_cannot_be_used_for(
    source: Boundary, own: Signature | Callable[..., Any], reason: str | None
) -> None:
    assert isinstance(own, Signature)
    said = source.unfit(own)
    assert said is None if reason is None else said is not None and reason in said
