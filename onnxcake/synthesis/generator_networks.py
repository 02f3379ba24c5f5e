"""Build networks that make samples out of noise, and encoders back, for inputs of any shape.

The image generator is the one that the field shares (Chen et al., DAFL, ICCV 2019; Fang et al., DFAD, 2019;
Micaelli and Storkey, ZSKT, NeurIPS 2019; Fang et al., CMI, IJCAI 2021): a linear layer to a small map, then nearest
up-sampling, convolution 3, BatchNorm and LeakyReLU 0.2 until the map is as large as the image. Signals are made in
the same way with one side instead of two, everything else by a multilayer perceptron. BatchNorm takes the statistics
of the batch at hand, so a network needs two samples or more, and a sample depends on those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from ..teacher.signature import Signature

Head = Literal["tanh_norm", "norm", "range"]

_SLOPE = 0.2  # of LeakyReLU below zero
_LONGEST_START = 8  # a side of the map that the linear layer gives
_LEAST_DOUBLINGS = 2  # a side of 28 starts from 7, and one of 8 from 2
_LONGEST_END = 4  # a side of the map that the encoder reads
_LEAST_CONVOLUTIONS = 3
_HIDDEN = 4  # times the width: units of the perceptron's hidden layers
_NORMS: dict[int, type[_BatchNorm]] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


def generator(
    signature: Signature,
    *,
    latent: int,
    width: int = 64,
    head: Head = "tanh_norm",
    epsilon: float = 1e-5,
    spectral_norm: bool = False,
) -> nn.Module:
    """Build a network from z [n, latent] to samples in standard units [n, *signature.shape].

    Args:
        signature: of the samples: images [channels, height, width] and signals [channels, length] of any sides, or
            anything else, which is taken as a vector.
        latent: numbers in z.
        width: channels of the last hidden layers; those of the first ones are twice as many, so that 64 gives the
            published 128, 128 and 64 channels at 32×32 and 128, 128, 64, 64, 64 at 224×224.
        head: its last operators. ``tanh_norm`` is Tanh, then BatchNorm without learned scale: mean 0 and deviation 1 in
            every channel (DAFL, DFAD, PRE-DFKD). ``norm`` is BatchNorm with learned scale and no Tanh (ZSKT).
            ``range`` is a sigmoid from the lowest to the highest valid value (CMI, Fast-DFKD; their convolutions
            before BatchNorm have no bias); where no range is known, it is ``tanh_norm``.
        epsilon: of the BatchNorm after each hidden layer; the first and the last keep 1e-5. DAFL and PRE-DFKD have
            0.8 there.
        spectral_norm: divide each convolution's weight by its largest singular value (Miyato et al., ICLR 2018), as
            PRE-DFKD does; a perceptron has none.
    """
    bounds = signature.bounds()
    if head == "range" and bounds is None:
        head = "tanh_norm"
    sides = signature.shape[1:]
    if len(sides) in (1, 2):
        bias = head != "range"
        layers = _upwards(signature.shape, latent, width, bias=bias, epsilon=epsilon, spectral_norm=spectral_norm)
        layers += _normalised(head, len(sides), signature.shape[0])
    else:
        units = _HIDDEN * width
        layers = [*_dense(latent, units, epsilon), *_dense(units, units, epsilon), nn.Linear(units, signature.size)]
        layers += [*_normalised(head, 0, signature.size), nn.Unflatten(1, signature.shape)]
    if head == "range" and bounds is not None:
        layers.append(SigmoidToRange(*bounds))
    return nn.Sequential(*layers)


def encoder(signature: Signature, *, latent: int, width: int = 64, epsilon: float = 1e-5) -> Encoder:
    """Build a network from samples in standard units [n, *signature.shape] to a normal distribution over z.

    Convolutions 3 of stride 2 with ``width``, then twice as many channels, down to sides of 4, where the encoder of
    PRE-DFKD (Binici et al., AAAI 2022) ends too; a perceptron for vectors.

    Args:
        latent: numbers in z.
        width: channels of the first convolution.
        epsilon: of the BatchNorm after each layer.
    """
    channels, *sides = signature.shape
    if len(sides) not in (1, 2):
        units = _HIDDEN * width
        layers = [nn.Flatten(), *_dense(signature.size, units, epsilon), *_dense(units, units, epsilon)]
        return Encoder(nn.Sequential(*layers), units, latent)
    halvings = [_doublings_from(_LONGEST_END, side) for side in sides]
    layers, outputs = [], width
    for number in range(max(_LEAST_CONVOLUTIONS, *halvings)):
        strides = tuple(2 if number < most else 1 for most in halvings)
        layers += [_convolution(channels, outputs, strides), _NORMS[len(sides)](outputs, eps=epsilon)]
        layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
        channels, outputs = outputs, 2 * width
    left = [_divided(side, 2**most) for side, most in zip(sides, halvings, strict=True)]
    return Encoder(nn.Sequential(*layers, nn.Flatten()), channels * math.prod(left), latent)


def initialise_normal(network: nn.Module, deviation: float = 0.02) -> None:
    """Draw weights from N(0, deviation²), scales of BatchNorm from N(1, deviation²); set biases to 0 (DCGAN; CMI).

    Draws from torch's default generator.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, deviation)
        elif isinstance(module, _BatchNorm) and module.affine:
            nn.init.normal_(module.weight, 1.0, deviation)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Compute mean and log variance of z, each [n, latent]."""

    def __init__(self, body: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.body = body
        self.mean, self.log_variance = nn.Linear(features, latent), nn.Linear(features, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.mean(features), self.log_variance(features)


class CentreCrop(nn.Module):
    """Cut out the middle of a map that has become larger than the image."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        for axis, side in enumerate(self.sides, start=2):
            x = x.narrow(axis, (x.shape[axis] - side) // 2, side)
        return x


class SigmoidToRange(nn.Module):
    """Scale a sigmoid to lowest … highest value, both broadcastable to one sample; values never lie beyond."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(self.low, self.high, x.sigmoid())


def _upwards(
    shape: tuple[int, ...], latent: int, width: int, *, bias: bool, epsilon: float, spectral_norm: bool
) -> list[nn.Module]:
    """Build the layers from z to a map [n, *shape]: each block doubles the short sides, and the surplus is cut off."""
    channels, *sides = shape
    doublings = [_doublings(side) for side in sides]
    start = tuple(_divided(side, 2**most) for side, most in zip(sides, doublings, strict=True))
    inputs, grown = 2 * width, start
    layers: list[nn.Module] = [nn.Linear(latent, inputs * math.prod(start))]
    layers += [nn.Unflatten(1, (inputs, *start)), _NORMS[len(sides)](inputs)]
    for factors, outputs in _blocks(doublings, width):
        if 2 in factors:
            layers.append(nn.Upsample(scale_factor=tuple(float(factor) for factor in factors)))
        layers.append(_convolution(inputs, outputs, (1,) * len(sides), bias, spectral_norm))
        layers += [_NORMS[len(sides)](outputs, eps=epsilon), nn.LeakyReLU(_SLOPE, inplace=True)]
        inputs, grown = outputs, tuple(side * factor for side, factor in zip(grown, factors, strict=True))
    layers.append(_convolution(inputs, channels, (1,) * len(sides), spectral_norm=spectral_norm))
    return layers if grown == tuple(sides) else [*layers, CentreCrop(tuple(sides))]


def _blocks(doublings: list[int], width: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Iterate over each block's factor on every side, and its channels; sides with fewer doublings are doubled last."""
    blocks = max(_LEAST_DOUBLINGS, *doublings)
    for number in range(blocks):
        factors = tuple(2 if number >= blocks - most else 1 for most in doublings)
        yield factors, 2 * width if number < blocks // 2 else width


def _doublings(side: int) -> int:
    """Count the doublings of a side of the first map; its own length stays 2 or more, where the image's is."""
    wanted = max(_LEAST_DOUBLINGS, _doublings_from(_LONGEST_START, side))
    return max(0, min(wanted, (side // 2).bit_length() - 1))


def _doublings_from(start: int, side: int) -> int:
    """Count the doublings of ``start`` until it is ``side`` or more."""
    return (_divided(side, start) - 1).bit_length()


def _divided(side: int, by: int) -> int:
    """Divide, rounded up."""
    return -(-side // by)


def _convolution(
    inputs: int, outputs: int, strides: tuple[int, ...], bias: bool = True, spectral_norm: bool = False
) -> nn.Module:
    layer: nn.Module
    if len(strides) == 2:
        layer = nn.Conv2d(inputs, outputs, 3, (strides[0], strides[1]), padding=1, bias=bias)
    else:
        layer = nn.Conv1d(inputs, outputs, 3, strides[0], padding=1, bias=bias)
    return parametrizations.spectral_norm(layer) if spectral_norm else layer


def _dense(inputs: int, outputs: int, epsilon: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, eps=epsilon), nn.LeakyReLU(_SLOPE, inplace=True)]


def _normalised(head: Head, sides: int, channels: int) -> list[nn.Module]:
    """Build the part of a head that works channel by channel; a vector has one value in each."""
    if head == "range":
        return []
    norm = _NORMS[sides](channels, affine=head == "norm")
    return [nn.Tanh(), norm] if head == "tanh_norm" else [norm]
