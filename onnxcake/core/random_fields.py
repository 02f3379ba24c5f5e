"""Draw random fields: noise of every smoothness and every contrast, for inputs of any shape.

White noise tells a network little about what it does on real inputs, which are smooth at some scale, often flat at the
ends of their range, and sharply bounded in between. A Gaussian random field that is blurred at a scale of its own,
stretched to a contrast of its own and cut off at the range looks like that in many ways at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARPEST = 0.25  # least deviation of the blur, in pixels: as good as no blur
_SMOOTHEST = 0.2  # greatest deviation of the blur, as a share of the side, which then holds two or three waves
_UNLIKE = math.log(2)  # standard deviation of the log of the blur between the sides of one image
_COARSE = (2, 4, 8, 16)  # pixels in a side of the noise that is enlarged


def fields(
    samples: int, shape: tuple[int, ...], generator: torch.Generator, contrast: tuple[float, float] = (0.5, 4.0)
) -> Tensor:
    """Draw Gaussian random fields [samples, *shape] in standard units, not clipped to any range.

    Each sample is white noise, blurred along each side by a Gaussian whose deviation is drawn log-uniformly from a
    quarter of a place to a fifth of the side; sides wrap around. An image is about as smooth along one side as along
    the others: one draw for all, and a factor 2^N(0, 1) for each. It is brought to a deviation c, log-uniform in
    ``contrast``, and moved by c · N(0, 1). The channels of images have a part in common, which is between none and all.
    Shapes of rank 2 are blurred both ways, as either may be time, and by draws of their own, as the other then is none;
    vectors are not, as their places have no order.

    Args:
        generator: on the CPU, so that a key means the same fields everywhere.
        contrast: the least and the largest c.
    """
    x = torch.randn(samples, *shape, generator=generator)
    alike = torch.rand(samples, generator=generator) if len(shape) > 2 else None
    for side in _smooth_axes(shape):
        x = _blur(x, side, generator, alike)
    if len(shape) > 2 and shape[0] > 1:
        share = _broadcast_to_batch(torch.rand(samples, generator=generator), x)
        x = x / _root_mean_square(x)
        common = x.mean(1, keepdim=True) * math.sqrt(shape[0])
        x = share.sqrt() * common + (1 - share).sqrt() * x
    low, high = map(math.log, contrast)
    scale = _broadcast_to_batch((low + (high - low) * torch.rand(samples, generator=generator)).exp(), x)
    middle = _broadcast_to_batch(torch.randn(samples, generator=generator), x)
    return scale * (x / _root_mean_square(x) + middle)


def coarse(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw images of the shape of ``like`` [n, channels, height, width], of mean 0 and deviation 1, from coarse noise.

    Normal noise on grids of 2 to 16 places a side is enlarged bilinearly; each image is a sum of all sizes in random
    proportions.
    """
    count, channels, *size = like.shape
    total = torch.zeros_like(like)
    for side in _COARSE:
        noise = torch.randn(count, channels, *(min(side, pixels) for pixels in size), generator=generator)
        share = torch.rand(count, 1, 1, 1, generator=generator)
        total += share * F.interpolate(noise, size, mode="bilinear", align_corners=False)
    total -= total.mean((1, 2, 3), keepdim=True)
    return total / total.std((1, 2, 3), keepdim=True)


def _smooth_axes(shape: tuple[int, ...]) -> range:
    """Return the axes of a batch along which neighbouring values are correlated."""
    return range(1, 3) if len(shape) == 2 else range(2, len(shape) + 1)


def _blur(x: Tensor, side: int, generator: torch.Generator, alike: Tensor | None) -> Tensor:
    """Blur each sample along axis ``side`` through its spectrum, by a deviation drawn for the sample.

    Args:
        alike: each sample's smoothness on all of its axes [samples], 0 … 1; None to draw one for this axis alone.
    """
    size = x.shape[side]
    low, high = math.log(_SHARPEST), math.log(max(_SMOOTHEST * size, _SHARPEST))
    if alike is None:
        exponent = low + (high - low) * torch.rand(len(x), generator=generator)
    else:
        moved = low + (high - low) * alike + _UNLIKE * torch.randn(len(x), generator=generator)
        exponent = moved.clamp(low, high)
    deviation = exponent.exp()
    frequencies = torch.fft.rfftfreq(size)
    passed = (-2 * (math.pi * deviation[:, None] * frequencies).square()).exp()
    shape = [len(x)] + [1] * (x.dim() - 1)
    shape[side] = len(frequencies)
    blurred: Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=side) * passed.reshape(shape), n=size, dim=side)
    return blurred


def _root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each sample, shaped to broadcast; the mean is 0 up to chance."""
    return _broadcast_to_batch(x.flatten(1).square().mean(1).sqrt().clamp_min(1e-6), x)


def _broadcast_to_batch(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
