"""Define CMI's contrastive term: samples that the teacher can tell apart, in this batch and from earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.quantities import Count, Positive, Share
from ..step import Context, Loss, Need, Scope, Step

_PADDING = 8  # the global view of an image is shifted by up to its side divided by this: 4 of 32 pixels
_STRETCH = 4 / 3  # the largest ratio of a local view's two sides, before it is brought back to the image's shape
_NOISE = {"global": 0.05, "local": 0.2}  # what views of a vector differ by, in standard units


@dataclass(frozen=True)
class InstanceContrast(Loss):
    """Compute InfoNCE of two views of each sample, by the teacher's activations.

    L = mean_i − log exp(l_i·g_i/τ) / Σ_j exp(l_i·g_j/τ): contrastive model inversion (CMI, Fang et al., IJCAI 2021).
    l_i is a local view's projection and g_i a global view's, without gradient. A projection is a learned two-layer
    network, its output scaled to length 1, of the spatial means of the teacher's values at all taps. Finished samples
    lend their projections as further j, and as further rows i, whose mean is added to that of the batch's own rows.

    A local view is a resized crop, a global one a shifted copy; images are mirrored half of the time. Views of a
    vector are noisy copies of it.

    Attributes:
        temperature: τ.
        head: numbers in a projection.
        bank: finished samples that are remembered, the latest; each takes 8 bytes for each channel of the taps.
        negatives: of those, how many are compared with, drawn anew in every step.
        least: the area of the smallest crop, as a share of the image.
        global_view: ``drawn`` by the loss; or ``seen``, the samples as the teacher saw them, one pass through it less.
            The authors' code has the latter, in a recipe whose ``augment`` shifts and mirrors.
        mirror: whether views of images are mirrored; not for those that have a left and a right, such as digits.
        layers: how many of the taps are looked at, evenly spaced, the last among them.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[tuple[Need, ...]] = ("statistics",)

    temperature: Positive = 0.1
    head: Count = 256
    bank: Count = 40960
    negatives: Count = 4096
    least: Share = 0.25
    global_view: Literal["drawn", "seen"] = "drawn"
    mirror: bool = True
    layers: Count | Literal["all"] = "all"

    @property
    def lasts(self) -> bool:
        return True

    def init_state(self, context: Context) -> nn.Module | None:
        known = context.view.statistics
        assert known is not None, "needs are resolved before a run"
        count = len(known.taps) if isinstance(self.layers, str) else min(self.layers, len(known.taps))
        chosen = [(number + 1) * len(known.taps) // count - 1 for number in range(count)]
        width = sum(len(known.means[tap]) for tap in chosen)
        with context.key.at("instance_contrast").as_default():
            return _Memory([known.taps[tap] for tap in chosen], width, self.head)

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        local, whole = self._views(step, state)
        earlier = state.drawn(self.negatives, step.draw).to(local)
        anchors = state.project(torch.cat([local, earlier[:, 0]]))
        with torch.no_grad():
            candidates = state.project(torch.cat([whole, earlier[:, 1]]))
        alike = anchors @ candidates.T / self.temperature
        own = torch.arange(len(alike), device=alike.device)
        missed = F.cross_entropy(alike, own, reduction="none").split([len(local), len(earlier)])
        return torch.stack([rows.mean() for rows in missed if len(rows)]).sum()

    def settle(self, step: Step, state: Any) -> None:
        state.remember(torch.stack(self._views(step, state), 1), self.bank)

    def _views(self, step: Step, state: Any) -> tuple[Tensor, Tensor]:
        """Compute the activations of a local and of a global view of each sample, [samples, channels] each."""
        assert step.again is not None and step.draw is not None, "the loop gives both"
        with torch.no_grad():
            seen = step if self.global_view == "seen" else step.again(_global_view(step.x, self.mirror, step.draw))
            whole = state(seen)
        return state(step.again(_local_view(step.x, self.least, self.mirror, step.draw))), whole


class _Memory(nn.Module):
    """Hold the projection, and the teacher's activations for the two views of finished samples.

    Args:
        taps: the activations' names.
        width: their channels.
        numbers: in a projection.
    """

    bank: Tensor

    def __init__(self, taps: list[str], width: int, numbers: int) -> None:
        super().__init__()
        self.taps = taps
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, numbers))
        self.register_buffer("bank", torch.empty(0, 2, width))  # [samples, local and global, channels]; grows

    def forward(self, step: Step) -> Tensor:
        """Compute the spatial means of the taps [samples, channels]."""
        found = [step.taps[tap] for tap in self.taps]
        return torch.cat([tap if tap.dim() == 2 else tap.flatten(2).mean(2) for tap in found], 1)

    def project(self, seen: Tensor) -> Tensor:
        """Project [samples, channels] → [samples, numbers] of length 1."""
        return F.normalize(self.head(seen), dim=1)

    def drawn(self, most: int, draw: torch.Generator) -> Tensor:
        """Draw samples out of the bank [at most ``most``, 2, channels], none twice."""
        order = torch.randperm(len(self.bank), generator=draw, device=draw.device)
        return self.bank[order[:most].to(self.bank.device)]

    def remember(self, seen: Tensor, most: int) -> None:
        """Append finished samples [samples, 2, channels] to the bank, and drop its oldest."""
        self.bank = torch.cat([self.bank, seen.detach().to(self.bank)])[-most:]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        kept = state_dict.get(f"{prefix}bank")
        if kept is not None:
            self.bank = self.bank.new_empty(len(kept), *self.bank.shape[1:])  # however full it was
        super()._load_from_state_dict(state_dict, prefix, *others)


def _global_view(x: Tensor, mirror: bool, draw: torch.Generator) -> Tensor:
    """Shift samples along each axis by whole steps, 0 moving in; mirror images half of the time, if ``mirror``."""
    if x.dim() < 3:
        return _noisy(x, _NOISE["global"], draw)
    for axis in range(2, x.dim()):
        most = x.shape[axis] // _PADDING
        shift = (_uniform(x, draw) * (2 * most + 1)).floor() - most
        x = _resampled(x, axis, shift, torch.ones_like(shift))
    return _mirrored(x, draw) if mirror else x


def _local_view(x: Tensor, least: float, mirror: bool, draw: torch.Generator) -> Tensor:
    """Cut pieces out of the samples, ``least`` of the area or more, and stretch them to it; mirror images likewise."""
    axes = x.dim() - 2
    if axes < 1:
        return _noisy(x, _NOISE["local"], draw)
    side = (least + (1 - least) * _uniform(x, draw)) ** (1 / axes)
    stretch = ((_uniform(x, draw) - 0.5) * math.log(_STRETCH)).exp() if axes == 2 else torch.ones_like(side)
    for axis in range(2, x.dim()):
        share = (side * (stretch if axis == 2 else 1 / stretch)).clamp(max=1)
        first = _uniform(x, draw) * (1 - share) * x.shape[axis]
        x = _resampled(x, axis, first, share)
    return _mirrored(x, draw) if mirror else x


def _resampled(x: Tensor, axis: int, first: Tensor, zoom: Tensor) -> Tensor:
    """Resample along an axis: value i comes from first + zoom · (i + ½), interpolated linearly.

    By a matrix for each sample, whose gradient is the same in every run, unlike that of gathering.

    Args:
        first, zoom: one each for every sample [n], in steps of the axis. What lies beyond its ends is 0.
    """
    length = x.shape[axis]
    steps = torch.arange(length, device=x.device, dtype=x.dtype)
    places = first[:, None] + zoom[:, None] * (steps + 0.5) - 0.5
    inside = (places >= -0.5) & (places <= length - 0.5)
    places = torch.where(inside, places.clamp(0, length - 1), places)  # the half step outside the ends' middles
    weights = (1 - (places[:, None, :] - steps[:, None]).abs()).clamp_min(0)  # [n, from, to]
    last = x.movedim(axis, -1)
    return (last.flatten(1, -2) @ weights).view_as(last).movedim(-1, axis)


def _mirrored(x: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror images [n, channels, height, width] left to right, half of them; return other samples as they are."""
    if x.dim() != 4:
        return x
    return torch.where((_uniform(x, draw) < 0.5)[:, None, None, None], x.flip(-1), x)


def _noisy(x: Tensor, deviation: float, draw: torch.Generator) -> Tensor:
    return x + deviation * torch.randn(x.shape, generator=draw, device=draw.device).to(x)


def _uniform(x: Tensor, draw: torch.Generator) -> Tensor:
    """Draw a number in 0 … 1 for each sample [n]."""
    return torch.rand(len(x), generator=draw, device=draw.device).to(x)
