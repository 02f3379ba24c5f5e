"""Build a plain convolutional network for pictures of any size and for signals."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ...core.quantities import Count
from ...teacher.signature import Signature
from . import fit

_LARGEST_SIDE = 40  # three stages see most of this; a longer side is halved before them
_LEAST_SIDE = 2  # halving stops here, so that a map keeps neighbours and BatchNorm more than one value
_MOST_GROWTH = 16  # times the width: the many halvings of a long signal would double it out of bounds


def cnn_small(signature: Signature, *, width: Count = 16, depth: Count = 3) -> nn.Module:
    """Stack convolutions of kernel 3, BatchNorm and ReLU, two in a stage; then average pooling and a linear layer.

    From the second stage on, each begins with stride 2 and twice the channels, where the size allows it.
    Long sides (224 pixels) are brought down by single convolutions of stride 2 before the first stage.

    Args:
        signature: of images [channels, height, width] or signals [channels, length], sides of 4 or more.
        width: channels of the first convolution.
        depth: stages.

    Raises:
        RecipeError: if inputs are neither images nor signals, or too small.
    """
    fit.positive("cnn-small", width=width, depth=depth)
    shape = signature.shape
    if len(shape) not in (2, 3) or min(shape[1:]) < fit.LEAST_IMAGE_SIDE:
        wanted = "images [channels, height, width] or signals [channels, length] with sides of at least 4"
        raise fit.misfit("cnn-small", wanted, signature)
    flat = len(shape) == 3
    layers: list[nn.Module] = []
    inputs, outputs = shape[0], width
    for strides in _strides(shape[1:], depth):
        if layers and 2 in strides:
            outputs = min(2 * outputs, _MOST_GROWTH * width)
        layers += _convolution2d(inputs, outputs, strides) if flat else _convolution1d(inputs, outputs, strides)
        inputs = outputs
    pool = nn.AdaptiveAvgPool2d(1) if flat else nn.AdaptiveAvgPool1d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(outputs, signature.classes))


def _strides(sides: tuple[int, ...], depth: int) -> Iterator[tuple[int, ...]]:
    """Iterate over the convolutions' strides; sides are halved one by one, since some inputs are long and thin."""
    while max(sides) > _LARGEST_SIDE:
        strides = _halving(sides, _LARGEST_SIDE)
        yield strides
        sides = _after(sides, strides)
    for stage in range(depth):
        strides = _halving(sides, _LEAST_SIDE if stage else max(sides))
        yield strides
        yield (1,) * len(sides)
        sides = _after(sides, strides)


def _halving(sides: tuple[int, ...], longer_than: int) -> tuple[int, ...]:
    return tuple(2 if side > longer_than else 1 for side in sides)


def _after(sides: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-side // stride) for side, stride in zip(sides, strides, strict=True))


def _convolution2d(inputs: int, outputs: int, strides: tuple[int, ...]) -> list[nn.Module]:
    height, width = strides
    convolution = nn.Conv2d(inputs, outputs, 3, (height, width), padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _convolution1d(inputs: int, outputs: int, strides: tuple[int, ...]) -> list[nn.Module]:
    convolution = nn.Conv1d(inputs, outputs, 3, strides[0], padding=1, bias=False)
    return [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
