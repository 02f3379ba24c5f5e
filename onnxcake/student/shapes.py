"""Find the shapes of an architecture's weights without making them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..teacher.signature import Signature
from .architectures import ARCHITECTURES

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def shapes_of(name: str, hyper: dict[str, Any], signature: Signature) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the weights of convolutions and linear layers, in the order in which inputs meet them.

    Raises:
        RecipeError: if the architecture does not fit the inputs.
    """
    met: list[tuple[int, ...]] = []
    with torch.device("meta"):
        net = ARCHITECTURES[name](signature, **hyper)
        for layer in net.modules():
            if isinstance(layer, _LAYERS):
                layer.register_forward_hook(lambda layer, *_: met.append(tuple(layer.weight.shape)))
        net.eval()(torch.zeros(2, *signature.shape))
    return tuple(met)
