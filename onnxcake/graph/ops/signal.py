"""Convert Fourier transforms, their window functions, and the mel scale.

A complex tensor's last dimension has size two: the real and the imaginary part.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value

_WINDOWS = {  # the shares of the constant, and of one and two waves
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@op("DFT")
def dft(node: Node) -> Function:
    axis = (node.ints(2) or (-2,))[0] if node.version >= 20 else node.attr("axis", 1)
    length = (node.ints(1) or (None,))[0]
    for index in (1, 2):
        if len(node.inputs) > index:
            node.take(index)
    axis %= node.rank(0)
    if axis == node.rank(0) - 1:
        raise Obstacle("its axis is the last one, which holds the real and imaginary parts")
    inverse, half = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    is_real = node.size(0, -1) == 1
    if half and not inverse and not is_real:
        raise Obstacle("half a transform of complex numbers does not say enough", "Set its attribute onesided to 0.")
    if half and inverse:
        return lambda x: torch.fft.irfft(_complex(x), length, axis).unsqueeze(-1)
    if half:
        return lambda x: torch.view_as_real(torch.fft.rfft(x.squeeze(-1), length, axis))
    if inverse:  # that of real numbers comes as a conjugate yet to be taken
        return lambda x: torch.view_as_real(torch.fft.ifft(_complex(x), length, axis).resolve_conj())
    return lambda x: torch.view_as_real(torch.fft.fft(_complex(x), length, axis))


def _complex(x: Tensor) -> Tensor:
    """Convert numbers to torch's complex ones, or drop the last axis if they are real."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])


@op("STFT")
def stft(node: Node) -> Function:
    (step,) = node.ints(1)
    length = (node.ints(3) or (None,))[0]
    if length is None:
        length = node.size(2, 0) if node.has(2) else node.size(0, 1)
    if len(node.inputs) > 3:
        node.take(3)
    flat = node.rank(0) == 2  # real numbers, without a last dimension to say so
    half = bool(node.attr("onesided", 1))
    if half and not flat and node.size(0, 2) != 1:
        raise Obstacle("half a transform of complex numbers does not say enough", "Set its attribute onesided to 0.")
    transform = torch.fft.rfft if half else torch.fft.fft

    def function(x: Tensor, window: Tensor | None = None) -> Tensor:
        frames = (x if flat else _complex(x)).unfold(1, length, step)
        return torch.view_as_real(transform(frames if window is None else frames * window))

    return function


@op(*_WINDOWS)
def window(node: Node) -> list[Value]:
    (size,) = node.ints(0)
    constant, one, two = _WINDOWS[node.op]
    waves = size if node.attr("periodic", 1) else size - 1
    angles = torch.arange(size, dtype=torch.float64) * (2 * math.pi / max(waves, 1))
    made = constant - one * angles.cos() + two * (2 * angles).cos()
    return [node.builder.constant(made.to(node.dtype_of(node.attr("output_datatype", 1))))]


@op("MelWeightMatrix")
def mel_weights(node: Node) -> list[Value]:
    (bands,), (length,), (rate,) = node.ints(0), node.ints(1), node.ints(2)
    edges = [2595 * math.log10(1 + node.constant(i).item() / 700) for i in (3, 4)]
    step = (edges[1] - edges[0]) / (bands + 2)
    hertz = [700 * (10 ** ((edges[0] + k * step) / 2595) - 1) for k in range(bands + 2)]
    places = [int((length + 1) * h // rate) for h in hertz]
    weights = torch.zeros(length // 2 + 1, bands, dtype=torch.float64)
    for band, (low, centre, high) in enumerate(zip(places, places[1:], places[2:], strict=False)):
        if high > len(weights):
            raise Obstacle("its bands reach beyond half the sample rate")
        for place in range(low, centre):
            weights[place, band] = (place - low) / (centre - low)
        weights[centre, band] = 1.0
        for place in range(centre + 1, high):
            weights[place, band] = (high - place) / (high - centre)
    return [node.builder.constant(weights.to(node.dtype_of(node.attr("output_datatype", 1))))]
