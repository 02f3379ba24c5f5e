"""Indices that stand and fall together: what is said of axes holds, whatever falls."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcake.pruning.indices import KEPT, Indices


def mask(indices: Indices, axis: Any, dropped: set[int]) -> list[bool]:
    """Say which indices of an axis stay."""
    return [not (indices.atoms(int(element)) & dropped) for element in axis]


def test_a_fresh_axis_falls_index_by_index_but_a_single_index_stays() -> None:
    indices = Indices()
    axis = indices.fresh(3)
    assert [len(indices.atoms(int(element))) for element in axis] == [1, 1, 1]
    assert indices.size == 3
    assert indices.fresh(1).tolist() == indices.kept(1).tolist() == [KEPT]


def test_united_axes_fall_together_across_others() -> None:
    indices = Indices()
    first, second, third = (indices.fresh(4) for _ in range(3))
    indices.unite(first, second)
    indices.unite(third, second[::-1])
    (atom,) = indices.atoms(int(first[0]))
    assert mask(indices, first, {atom}) == mask(indices, second, {atom}) == [False, True, True, True]
    assert mask(indices, third, {atom}) == [True, True, True, False]


def test_what_is_held_holds_all_that_is_united_with_it_and_says_why() -> None:
    indices = Indices()
    first, second, third = indices.fresh(2), indices.fresh(2), indices.fresh(2)
    indices.unite(first, second)
    indices.because("TopK")
    indices.hold(second[:1])
    indices.because("Softmax")
    indices.unite(third, first)
    assert [bool(indices.atoms(int(e))) for axis in (first, second, third) for e in axis] == [False, True] * 3
    assert [indices.why(axis) for axis in (first, second, third)] == ["TopK", "TopK", "Softmax"]
    assert indices.why(indices.fresh(2)) == ""


def test_axes_of_unequal_lengths_are_held() -> None:
    indices = Indices()
    first, second = indices.fresh(2), indices.fresh(3)
    indices.unite(first, second)
    assert not any(indices.atoms(int(element)) for element in (*first, *second))


def test_a_flattened_axis_falls_by_both_of_its_factors_and_comes_apart_again() -> None:
    indices = Indices()
    outer, inner = indices.fresh(2), indices.fresh(3)
    flat = indices.merged([outer, inner])
    (atom,) = indices.atoms(int(inner[1]))
    assert mask(indices, flat, {atom}) == [True, False, True] * 2
    before = indices.size
    again = indices.split(flat, [2, 3])
    assert [axis.tolist() for axis in again] == [outer.tolist(), inner.tolist()]
    assert indices.size == before


def test_channels_over_places_come_apart_without_the_places() -> None:
    """[channels · height · width] as a Gemm reads it: only channels fall."""
    indices = Indices()
    channels = indices.fresh(4)
    flat = indices.merged([channels, indices.kept(3), indices.kept(2)])
    (atom,) = indices.atoms(int(channels[2]))
    assert mask(indices, flat, {atom}) == [place // 6 != 2 for place in range(24)]


def test_channels_in_groups_fall_by_group_or_in_all_groups_alike() -> None:
    indices = Indices()
    channels = indices.fresh(6)
    groups, inner = indices.split(channels, [2, 3])
    (group,), (place,) = indices.atoms(int(groups[1])), indices.atoms(int(inner[0]))
    assert mask(indices, channels, {group}) == [True] * 3 + [False] * 3
    assert mask(indices, channels, {place}) == [False, True, True] * 2


def test_one_held_channel_of_a_group_holds_its_group_and_its_place_in_all() -> None:
    indices = Indices()
    channels = indices.fresh(6)
    groups, inner = indices.split(channels, [2, 3])
    indices.hold(channels[:1])
    assert [bool(indices.atoms(int(element))) for element in (*groups, *inner)] == [False, True, False, True, True]


SIZES = (2, 3, 4, 6, 8, 12)
steps = st.tuples(
    st.sampled_from(["fresh", "unite", "hold", "merge", "split", "join", "cut"]), *[st.integers(0, 99)] * 3
)


@settings(max_examples=150, deadline=None)
@given(told=st.lists(steps, min_size=3, max_size=14), seed=st.integers(0, 99))
def test_whatever_was_said_is_true_of_whatever_falls(told: list[Any], seed: int) -> None:
    """Facts that were stated early still hold after all that came later."""
    indices, axes, same, blocks = Indices(), [], [], []
    for what, a, b, c in told:
        if what == "fresh" or not axes:
            axes.append(indices.fresh(SIZES[a % len(SIZES)]))
        first, second = axes[a % len(axes)], axes[b % len(axes)]
        if what == "unite":
            indices.unite(first, second)
            if len(first) == len(second):
                same.append((first, second))
        elif what == "hold":
            indices.hold(first[c % len(first) :])
            same.append((first[c % len(first) :], indices.kept(len(first) - c % len(first))))
        elif what == "merge" and len(first) * len(second) <= 64:
            axes.append(indices.merged([first, second]))
            blocks.append((axes[-1], first, second))
        elif what == "split":
            parts = [d for d in range(1, len(first) + 1) if len(first) % d == 0]
            outer = parts[c % len(parts)]
            one, other = indices.split(first, [outer, len(first) // outer])
            axes += [one, other]
            blocks.append((first, one, other))
        elif what == "join" and len(first) + len(second) <= 24:
            axes.append(np.concatenate([first, second]))
        elif what == "cut":
            axes.append(first[: 1 + c % len(first)])
    atoms = sorted({atom for axis in axes for element in axis for atom in indices.atoms(int(element))})
    draw = np.random.default_rng(seed)
    for share in (0.2, 0.5, 0.8):
        dropped = {atom for atom in atoms if draw.random() < share}
        for one, other in same:
            assert mask(indices, one, dropped) == mask(indices, other, dropped)
        for whole, one, other in blocks:
            product = np.outer(mask(indices, one, dropped), mask(indices, other, dropped))
            assert mask(indices, whole, dropped) == product.reshape(-1).tolist()
