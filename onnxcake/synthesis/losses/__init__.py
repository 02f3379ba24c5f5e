"""List the losses on samples by their recipe keys: one file, one equation each."""

import dataclasses

from ...core.extensions import Registry
from ..step import Loss
from .activation import Activation
from .balance import Balance
from .classification import Classification
from .contrastive import Contrastive
from .disagreement import Disagreement
from .instance_contrast import InstanceContrast
from .l2 import L2
from .sample_entropy import SampleEntropy
from .statistics import Statistics
from .total_variation import TotalVariation
from .total_variation_l2 import TotalVariationL2


def _misfit(made: object) -> str | None:
    fits = isinstance(made, type) and issubclass(made, Loss) and dataclasses.is_dataclass(made)
    return None if fits else "a dataclass that inherits onnxcake.synthesis.step.Loss"


_BUILT_IN: dict[str, type] = {
    "activation": Activation,
    "balance": Balance,
    "classification": Classification,
    "contrastive": Contrastive,
    "disagreement": Disagreement,
    "instance_contrast": InstanceContrast,
    "l2": L2,
    "sample_entropy": SampleEntropy,
    "statistics": Statistics,
    "total_variation": TotalVariation,
    "total_variation_l2": TotalVariationL2,
}
LOSSES = Registry("onnxcake.losses", _misfit, _BUILT_IN)
