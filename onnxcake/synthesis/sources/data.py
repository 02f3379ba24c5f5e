"""Take real inputs: the upper anchor, and proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.rng import Key
from ..source import Source
from ..step import Context, Need
from .noise import FixedDraft


@dataclass(frozen=True)
class Data(Source):
    """Take the user's inputs, with their labels if they have any: distillation as in Hinton et al. (2015).

    They are taken in a random order, each once before any is taken again; then in another.
    """

    needs: ClassVar[tuple[Need, ...]] = ("data",)

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> FixedDraft:
        assert context.view.data is not None, "what a source needs is there before it begins"
        inputs, labels = context.view.data
        rows = _rows(len(inputs), range(number * samples, (number + 1) * samples), context.key.at("data"))
        own = None if labels is None else labels[rows].to(context.device)
        return FixedDraft(inputs[rows].to(context.device), own)


def _rows(held: int, places: range, key: Key) -> Tensor:
    """Return the rows, out of ``held``, at these places of one random order after the other."""
    first, last = places.start // held, (places.stop - 1) // held
    orders = [torch.randperm(held, generator=key.at(epoch).generator()) for epoch in range(first, last + 1)]
    start = places.start - first * held
    return torch.cat(orders)[start : start + len(places)]
