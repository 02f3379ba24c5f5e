"""Build LeNet-5 and its half: LeCun et al. 1998, *Gradient-based learning applied to document recognition*.

As the data-free literature has it since DAFL (Chen et al. 2019): ReLU, max pooling, all maps connected.
"""

from __future__ import annotations

from torch import nn

from ...teacher.signature import Signature
from . import fit

_KERNEL = 5
_LEAST_SIDE = 16  # below it, nothing is left for the third convolution
_PAPER_SIDE = 32  # shorter sides are padded, so that 28 pixels leave the paper's 5×5 too


def lenet5(signature: Signature) -> nn.Module:
    """Build LeNet-5 with 6, 16 and 120 maps and 84 hidden units, for images of 16×16 or more.

    Raises:
        RecipeError: if inputs are not such images.
    """
    return _lenet("lenet5", signature, maps=(6, 16, 120), hidden=84)


def lenet5_half(signature: Signature) -> nn.Module:
    """Build LeNet-5 with half the maps and units: 3, 8, 60 and 42; the usual student of `lenet5`.

    Raises:
        RecipeError: if inputs are not images of 16×16 or more.
    """
    return _lenet("lenet5-half", signature, maps=(3, 8, 60), hidden=42)


def _lenet(name: str, signature: Signature, *, maps: tuple[int, int, int], hidden: int) -> nn.Module:
    channels, *sides = fit.image_shape(name, signature, least_side=_LEAST_SIDE)
    padding = [2 if side < _PAPER_SIDE else 0 for side in sides]
    height, width = (_remaining_side(side, pad) for side, pad in zip(sides, padding, strict=True))
    return nn.Sequential(
        nn.Conv2d(channels, maps[0], _KERNEL, padding=(padding[0], padding[1])),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(maps[0], maps[1], _KERNEL),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(maps[1], maps[2], (min(_KERNEL, height), min(_KERNEL, width))),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),  # nothing to do at 28 and 32 pixels, where the third convolution leaves 1×1
        nn.Flatten(),
        nn.Linear(maps[2], hidden),
        nn.ReLU(),
        nn.Linear(hidden, signature.classes),
    )


def _remaining_side(side: int, padding: int) -> int:
    """Compute the side of the third convolution's input."""
    for pad in (padding, 0):
        side = (side + 2 * pad - _KERNEL + 1) // 2
    return side
