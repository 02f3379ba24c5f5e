"""Arrange a network's convolution weights in memory, channels first or last; the values do not change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by rank: convolutions of two and of three dimensions


def lay_out(network: nn.Module, channels_last: bool) -> None:
    """Arrange all tensors of a network that may be the weights of convolutions.

    A tensor that cannot be arranged so stays as it is: layouts are only meant to be faster.
    """
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dim() in _LAST:
                parameter.data = _laid_out(parameter.data, channels_last)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dim() in _LAST:
                module._buffers[name] = _laid_out(buffer, channels_last)


def is_laid_out_last(network: nn.Module) -> bool:
    """Tell whether any tensor of a network has the channels last, and not first as well."""
    return any(
        tensor.dim() in _LAST and tensor.is_contiguous(memory_format=_LAST[tensor.dim()]) and not tensor.is_contiguous()
        for tensor in (*network.parameters(), *network.buffers())
    )


def has_layouts(network: nn.Module) -> bool:
    """Tell whether a network has tensors that can be arranged in more than one layout."""
    return any(tensor.dim() in _LAST for tensor in (*network.parameters(), *network.buffers()))


def _laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    try:
        return tensor.contiguous(memory_format=_LAST[tensor.dim()] if channels_last else torch.contiguous_format)
    except Exception:  # noqa: BLE001 - sparse, or of a type or device without this layout
        return tensor
