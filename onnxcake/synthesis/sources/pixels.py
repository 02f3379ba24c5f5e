"""Optimise the samples themselves, from noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.quantities import Number, Positive
from ...core.random_fields import fields
from ...core.rng import Key
from ...teacher.signature import Signature
from ..source import Draft, Source
from ..step import Context, Leaves


@dataclass(frozen=True)
class Pixels(Source):
    """Optimise free values, one for each number of an input, started from the prior p(x).

    Attributes:
        prior: the noise to start from, in standard units: ``normal`` N(mean, std²), as in CAKE, or
            ``uniform`` of the same mean and deviation; or ``fields``, smooth random fields times ``std``, moved by
            ``mean`` (see `onnxcake.core.random_fields`).
        mean: of the prior.
        std: of the prior.
        clip: keep the values in the teacher's valid range after each step, fields from the start (CAKE does not);
            ``known``: where there is one.
    """

    prior: Literal["normal", "uniform", "fields"] = "normal"
    mean: Number = 0.0
    std: Positive = 1.0
    clip: bool | Literal["known"] = False

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> PixelDraft:
        shape, generator = (samples, *context.signature.shape), key.generator()
        # Drawn on the CPU whatever the device, so that a key means the same start everywhere.
        if self.prior == "normal":
            start = torch.randn(shape, generator=generator)
        elif self.prior == "fields":
            start = fields(samples, context.signature.shape, generator)
        else:
            start = (torch.rand(shape, generator=generator) * 2 - 1) * 3**0.5
        bounds = context.signature.bounds() if self.clip else None
        device = context.device
        limits = None if bounds is None else (bounds[0].to(device), bounds[1].to(device))
        draft = PixelDraft((start * self.std + self.mean).to(device), limits)
        if self.prior == "fields":
            draft.project()
        return draft

    def unfit(self, signature: Signature) -> str | None:
        if self.clip is True and signature.range is None:
            return "it clips to the valid range, which is not known; give --range LO,HI"
        return None


class PixelDraft(Draft):
    """Hold the samples as one leaf."""

    def __init__(self, start: Tensor, bounds: tuple[Tensor, Tensor] | None) -> None:
        self.leaves = [Leaves([start])]
        self._bounds = bounds

    def render(self) -> Tensor:
        return self.leaves[0].tensors[0]

    def project(self) -> None:
        if self._bounds is not None:
            torch.clamp(self.leaves[0].tensors[0], *self._bounds, out=self.leaves[0].tensors[0])
