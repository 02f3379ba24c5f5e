"""Train with quantisation: a student learns with the rounding that its int8 file will have.

Jacob et al., *Quantization and training of neural networks for efficient integer-arithmetic-only inference*,
CVPR 2018, section 3. Weights are rounded per output channel, symmetrically, to int8 (or to seven bits of it, with which
no processor's products saturate); what goes into a layer per tensor, with a zero point, to uint8. BatchNorm, biases and
what lies between the layers stay float.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LEAST_SCALE = torch.finfo(torch.float32).eps  # of a layer that has only ever seen zeros
_LEAST_SHARE = 0.01  # of a batch in the moving average, as in torch's own observers


def quantised(net: nn.Module, weight_bits: int = 8) -> nn.Module:
    """Replace the network's convolutions and linear layers by `QuantisedLayer` in place; return the network.

    In training mode the ranges of their inputs follow the batches; in eval mode they stay.
    """
    if type(net) in LAYERS:
        return QuantisedLayer(net, weight_bits)
    if not isinstance(net, QuantisedLayer):
        for name, child in net.named_children():
            setattr(net, name, quantised(child, weight_bits))
    return net


class QuantisedLayer(nn.Module):
    """Compute a convolution or linear layer with rounded weights on rounded inputs.

    The gradient goes straight through the rounding where a value lies within its range, and is zero beyond.
    """

    def __init__(self, layer: nn.Module, weight_bits: int = 8) -> None:
        super().__init__()
        self.inputs, self.layer, self.weight_bits = Range(), layer, weight_bits

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output."""
        layer, x = self.layer, self.inputs(x)
        assert isinstance(layer, LAYERS)
        weight = rounded_weight(layer.weight, self.weight_bits)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        convolved: Tensor = layer._conv_forward(x, weight, layer.bias)  # pads as the layer does
        return convolved


class Range(nn.Module):
    """Round values to 256 levels between the least and the largest, which it learns from the batches it sees.

    The two are means over the first hundred batches, and exponential moving averages from there on. Zero is
    always a level (section 2.1 of the paper): padding and ReLU's zeros stay exact. Before the first batch
    nothing is rounded.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the values, rounded."""
        if self.training:
            self._follow(x.detach())
        elif not _captured() and self.batches == 0:
            return x
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        scale = ((high - low) / 255).clamp(min=_LEAST_SCALE)
        zero = (-low / scale).round().clamp(0, 255)
        if _captured():
            return _in_onnx(x, scale, zero, torch.uint8)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero.to(torch.int32), 0, 255)

    def _follow(self, x: Tensor) -> None:
        self.batches.add_(1)  # in place, all three: whoever lends the module other buffers gets those updated
        share = self.batches.reciprocal().clamp(min=_LEAST_SHARE)
        low, high = x.aminmax()
        self.low.add_(share * (low - self.low))
        self.high.add_(share * (high - self.high))


def rounded_weight(weight: Tensor, bits: int = 8) -> Tensor:
    """Round weights, channel by channel of the first axis, to 2ᵇ − 1 levels between ± the largest magnitude."""
    last = 2 ** (bits - 1) - 1
    scale = (weight.detach().flatten(1).abs().amax(1) / last).clamp(min=_LEAST_SCALE)
    zero = torch.zeros_like(scale)
    if _captured():
        return _in_onnx(weight, scale, zero, torch.int8, {"axis": 0})
    return torch.fake_quantize_per_channel_affine(weight, scale, zero.to(torch.int32), 0, -128, 127)


def _captured() -> bool:
    """Tell whether torch's current exporter runs; the one before it traces, and knows torch's own rounding."""
    return torch.onnx.is_in_onnx_export() and not torch.jit.is_tracing()  # type: ignore[attr-defined]


def _in_onnx(x: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype, attributes: Any = None) -> Tensor:
    """Round by the two ONNX operators themselves."""
    from torch.onnx.ops import symbolic  # torch 2.8; before, only the exporter that traces writes quantised students

    zero = zero.to(dtype)
    rounded = symbolic("QuantizeLinear", (x, scale, zero), attributes, dtype=dtype, shape=x.shape)
    return symbolic("DequantizeLinear", (rounded, scale, zero), attributes, dtype=x.dtype, shape=x.shape)
