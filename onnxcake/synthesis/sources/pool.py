"""Keep particles that live as long as the run: each batch moves some of them a few steps further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...core.quantities import Count, Part, Positive
from ...core.random_fields import fields
from ...core.rng import Key
from ..source import Source
from ..step import Context
from .pixels import PixelDraft

_BYTES = 256 << 20  # of a pool that sizes itself: it stays in memory, and in every checkpoint
_SAMPLES = 4000  # of one whose samples are small
_BATCHES = 2  # at least
_CONTRAST, _OF_VECTORS = (0.5, 16.0), (0.5, 4.0)


@dataclass(frozen=True)
class Pool(Source):
    """Draw samples from a pool, step them, and put them back.

    Persistent particles, as in the training of energy-based models (Du and Mordatch, NeurIPS 2019), whose losses may
    follow the student: a sample on which student and teacher once disagreed is there to be learnt from until it is
    drawn again. They begin as random fields, cut off at the teacher's range where that is known, and are kept in it.

    Attributes:
        size: particles; ``auto``: 4000, or as many as 256 MiB hold.
        renew: the share of those drawn that begin anew as random fields.
        contrast: the least and the largest deviation of a field, in standard units; ``auto``: from 0.5 to 16, but for
            vectors to 4, of which there would be little but the corners of their range beyond.
    """

    independent: ClassVar[bool] = False

    size: Count | Literal["auto"] = "auto"
    renew: Part = 0.03
    contrast: tuple[Positive, Positive] | Literal["auto"] = "auto"

    def init_state(self, context: Context) -> Particles:
        held = max(_BATCHES * context.batch, min(_SAMPLES, _BYTES // (4 * context.signature.size)))
        size = held if isinstance(self.size, str) else self.size
        start = self._fields(size, context, context.key.at("pool").generator())
        return Particles(start, context.signature.bounds())

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> PoolDraft:
        assert isinstance(lasting, Particles)
        generator, size = key.generator(), len(lasting.x)
        # Without repetition, so that no sample is put back twice; in whole shuffles where the pool is the smaller one.
        orders = [torch.randperm(size, generator=generator) for _ in range(-(-samples // size))]
        rows = torch.cat(orders)[:samples].to(lasting.x.device)
        start = lasting.x[rows]
        new = round(self.renew * samples)
        if new:
            start[:new] = lasting.cut(self._fields(new, context, generator).to(start))
        return PoolDraft(lasting, rows, start)

    def _fields(self, samples: int, context: Context, generator: torch.Generator) -> Tensor:
        shape, contrast = context.signature.shape, self.contrast
        if isinstance(contrast, str):
            contrast = _CONTRAST if len(shape) > 1 else _OF_VECTORS
        return fields(samples, shape, generator, contrast)


class Particles(nn.Module):
    """Hold the samples [size, …] in standard units, and the range that they are kept in."""

    x: Tensor

    def __init__(self, start: Tensor, bounds: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.bounded = bounds is not None
        for name, bound in zip(("low", "high"), bounds or (), strict=False):
            self.register_buffer(name, bound, persistent=False)
        self.register_buffer("x", self.cut(start))

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Return the lowest and highest value, where they are known."""
        return (self.get_buffer("low"), self.get_buffer("high")) if self.bounded else None

    def cut(self, x: Tensor) -> Tensor:
        """Clip values to the range."""
        return x if self.bounds is None else torch.clamp(x, *self.bounds)


class PoolDraft(PixelDraft):
    """Hold some of the particles as one leaf, and put them back after the last step."""

    def __init__(self, particles: Particles, rows: Tensor, start: Tensor) -> None:
        super().__init__(start, particles.bounds)
        self._particles, self._rows = particles, rows

    def settle(self) -> None:
        self._particles.x[self._rows] = self.leaves[0].tensors[0].detach()
