"""Score how much each atom is worth keeping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..core.rng import Key
from .choices import Families, Numbers
from .folded_graph import Array

Slices = dict[tuple[str, int], Numbers]  # of each weight and axis: one number for each index


def from_weights(found: Families) -> Numbers:
    """Score atoms by the energy of the weights that fall with them.

    The group norm of structured pruning (Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, section
    3.3): the norms of all weights that fall together are added up, as none of them means much alone.
    """
    constants = found.followed.graph.constants
    return _scores_of_atoms(
        found, _slices(found, {name: np.square(constants[name], dtype=float) for name in found.weights})
    )


def from_responses(found: Families, draws: Iterable[Mapping[str, Array]]) -> Numbers:
    """Score atoms by how far the answers would move if their weights were zero, to first order.

    (Σ w · ∂z/∂w)² over the weights that fall with an atom, z a random sum of the logits, in the mean over draws
    (Molchanov
    et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8, with the answers in place of the
    loss:
    the teacher's own answers are where its loss is flat).

    Args:
        draws: of each weight, by name, w · ∂z/∂w; one mapping for each draw of z.
    """
    total: Slices = {}
    for draw in draws:
        for place, moved in _slices(found, draw).items():
            total[place] = total.get(place, np.zeros_like(moved)) + moved**2
    return _scores_of_atoms(found, total)


def at_random(found: Families, key: Key) -> Numbers:
    """Score atoms at random, as a baseline for the other scores."""
    draw = torch.rand(found.followed.indices.size + 1, generator=key.at("shrink", "scores").generator())
    return draw.double().numpy()


def _slices(found: Families, arrays: Mapping[str, Array]) -> Slices:
    """Sum over all other axes."""
    return {
        (name, place): np.asarray(array.sum(axis=tuple(i for i in range(array.ndim) if i != place)), float)
        for name, array in arrays.items()
        if name in found.atoms
        for place in range(array.ndim)
    }


def _scores_of_atoms(found: Families, slices: Slices) -> Numbers:
    """Average an atom's indices over all tensors, each in units of its own mean index, so that all count alike."""
    size = found.followed.indices.size + 1
    total, times = np.zeros(size), np.zeros(size)
    for (name, place), each in slices.items():
        for column in found.atoms[name][place].T:  # an index of several atoms speaks for each of them
            np.add.at(total, column, each / max(float(each.mean()), np.finfo(float).tiny))
            np.add.at(times, column, 1.0)
    scores: Any = total / np.maximum(times, 1.0)
    return scores  # type: ignore[no-any-return]
