"""Augment samples by random changes that leave their class: between a source and the teacher, or before the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.quantities import Count, Positive, Share
from ..teacher.signature import Signature
from .step import Parts

Pixels = Count | Literal["auto"]
_SIDE = 14  # of which one pixel is


class Augment:
    """Base of augmentations: frozen dataclasses whose fields are their recipe keys.

    A call returns the changed samples in standard units [n, …], differentiable in the given ones. Random numbers are
    drawn
    on the generator's device, and moved to the samples'.
    """

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        raise NotImplementedError

    def unfit(self, signature: Signature) -> str | None:
        """Return why the augmentation does not apply to such inputs, or None."""
        return None


@dataclass(frozen=True)
class Jitter(Augment):
    """Roll the whole batch by one random offset along each side, values leaving on one end coming back on the other.

    DeepInversion's (Yin et al., CVPR 2020): ±2 pixels on CIFAR-10, ±30 on ImageNet. Signals are rolled in time.

    Attributes:
        pixels: largest offset, either way; ``auto``: a fourteenth of each side, 2 of 28, and none where there are no
            sides.
    """

    pixels: Pixels = 2

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        sides = tuple(range(2, x.dim()))
        if not sides:
            return x
        offsets = [
            int(torch.randint(-most, most + 1, (), generator=draw, device=draw.device))
            for most in (_largest_offset(self.pixels, x.shape[side]) for side in sides)
        ]
        return torch.roll(x, offsets, sides)

    def unfit(self, signature: Signature) -> str | None:
        return None if self.pixels == "auto" else _without_sides(signature)


@dataclass(frozen=True)
class Flip(Augment):
    """Mirror half of the images, left to right.

    Attributes:
        whole_batch: one toss for all, as in DeepInversion, in place of one for each image.
    """

    whole_batch: bool = False

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        tosses = torch.rand(1 if self.whole_batch else len(x), generator=draw, device=draw.device) < 0.5
        return torch.where(tosses.to(x.device).reshape(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)

    def unfit(self, signature: Signature) -> str | None:
        if signature.is_image:
            return None
        return f"it mirrors images, and inputs of shape {list(signature.shape)} are none"


@dataclass(frozen=True)
class Crop(Augment):
    """Pad each sample with zeros, the mean in standard units, and cut a window of its own size out at random.

    Attributes:
        padding: on each end of each side.
    """

    padding: Count = 4

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        padded = F.pad(x, [self.padding] * 2 * (x.dim() - 2))
        return _windows(padded, x, draw)

    def unfit(self, signature: Signature) -> str | None:
        return _without_sides(signature)


@dataclass(frozen=True)
class Shift(Augment):
    """Move each sample by a random offset along each side, its edge repeated into the free places.

    Attributes:
        pixels: largest offset, either way; ``auto``: a fourteenth of each side, 2 of 28, and none where there are no
            sides.
    """

    pixels: Pixels = 2

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        padded = x
        for side in range(2, x.dim()):
            # By hand: torch's own replicating pad adds up its gradient in no fixed order on a GPU.
            sizes = [-1] * x.dim()
            sizes[side] = _largest_offset(self.pixels, x.shape[side])
            ends = padded.narrow(side, 0, 1), padded.narrow(side, x.shape[side] - 1, 1)
            padded = torch.cat([ends[0].expand(sizes), padded, ends[1].expand(sizes)], side)
        return _windows(padded, x, draw)

    def unfit(self, signature: Signature) -> str | None:
        return None if self.pixels == "auto" else _without_sides(signature)


@dataclass(frozen=True)
class Mixup(Augment):
    """Mix some samples with another of the batch: λ x + (1 − λ) x′, λ ~ U(½, 1), for answers that are queried anew.

    The mixture of mixup (Zhang et al., ICLR 2018) without its mixture of labels: what lies between two samples is where
    a classifier decides, and only the teacher knows how.

    Attributes:
        share: of the samples that are mixed.
    """

    share: Share = 0.5

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        own = 1 - torch.rand(len(x), generator=draw, device=draw.device) / 2
        mixed = torch.rand(len(x), generator=draw, device=draw.device) < self.share
        own = torch.where(mixed, own, torch.ones_like(own)).to(x).reshape(-1, *[1] * (x.dim() - 1))
        others = torch.randperm(len(x), generator=draw, device=draw.device).to(x.device)
        return torch.lerp(x[others], x, own)


@dataclass(frozen=True)
class NoiseAugment(Augment):
    """Add N(0, std²) to every value.

    Attributes:
        std: in standard units.
    """

    std: Positive = 0.1

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        return x + torch.randn(x.shape, generator=draw, device=draw.device).to(x) * self.std


@dataclass(frozen=True)
class Augments:
    """Apply several augmentations, one after the other; none returns the samples as they are.

    Attributes:
        parts: in their order.
    """

    parts: tuple[Augment, ...] = ()

    def __call__(self, x: Tensor, draw: torch.Generator) -> Tensor:
        for part in self.parts:
            x = part(x, draw)
        return x

    def unfit(self, signature: Signature) -> str | None:
        """Return the first reason why one of them does not apply to such inputs, or None."""
        return next((reason for part in self.parts if (reason := part.unfit(signature))), None)


def _largest_offset(pixels: Pixels, side: int) -> int:
    return round(side / _SIDE) if isinstance(pixels, str) else pixels


def _windows(padded: Tensor, like: Tensor, draw: torch.Generator) -> Tensor:
    """Cut a window of the shape of ``like`` out of each padded sample, its position drawn for each side."""
    for side in range(2, like.dim()):
        size, spare = like.shape[side], padded.shape[side] - like.shape[side]
        starts = torch.randint(spare + 1, (len(like), 1), generator=draw, device=draw.device).to(like.device)
        index = starts + torch.arange(size, device=like.device)
        shape = [len(like)] + [1] * (like.dim() - 1)
        shape[side] = size
        sizes = list(padded.shape)
        sizes[side] = size
        padded = padded.gather(side, index.reshape(shape).expand(sizes))
    return padded


def _without_sides(signature: Signature) -> str | None:
    if len(signature.shape) > 1:
        return None
    return f"it moves samples along their sides, and inputs of shape {list(signature.shape)} have none"


AUGMENTS: Parts = {
    "jitter": Jitter,
    "flip": Flip,
    "crop": Crop,
    "shift": Shift,
    "mixup": Mixup,
    "noise": NoiseAugment,
}
