"""Build students by name: functions ``(signature, **hyper) → nn.Module``.

The module maps [batch, *signature.shape] float32 in standard units to logits [batch, classes].
Keyword-only arguments are the architecture's recipe keys. Parameters are drawn from torch's global generator,
which the caller seeds. An architecture that does not fit the input raises `RecipeError`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...core.extensions import Registry
from .cnn import cnn_small
from .lenet import lenet5, lenet5_half
from .mlp import mlp
from .resnet import resnet8, resnet18, resnet20, resnet34, wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2
from .vit import vit_small


def _misfit(made: object) -> str | None:
    return None if callable(made) else "a function (signature, **keys) that returns a torch module"


_BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "lenet5-half": lenet5_half,
    "mlp": mlp,
    "cnn-small": cnn_small,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "wrn-16-1": wrn_16_1,
    "wrn-16-2": wrn_16_2,
    "wrn-40-1": wrn_40_1,
    "wrn-40-2": wrn_40_2,
    "vit-small": vit_small,
}
ARCHITECTURES = Registry("onnxcake.architectures", _misfit, _BUILT_IN)
