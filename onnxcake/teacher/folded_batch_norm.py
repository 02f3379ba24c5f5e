"""Judge whether a teacher's exporter has folded BatchNormalization into the convolutions.

The file does not say. Evidence for it: many convolutions, as deep networks are hardly trained without any
normalisation; none of another kind; a bias in every one, as folding leaves it; and outputs that are near deviation 1
all the way, as BatchNormalization leaves them, where those of a network without one grow or shrink from layer to layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.random_fields import fields
from ..core.rng import Key
from .teacher import Teacher

_DEEP = 8  # convolutions at least; a network of fewer may well have been trained without
_NEAR = 4.0  # factor either way of the median channel's deviation from 1, on inputs that are not the training data
_SAMPLES = 8
# Other normalisations, and the root that is in them where an older exporter has written them out.
_OTHERS = {"LayerNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization", "LRN", "Sqrt"}
_OTHERS |= {"BatchNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
_OTHERS |= {"MeanVarianceNormalization"}


@torch.no_grad()
def seems_folded(teacher: Teacher, key: Key) -> bool:
    """Tell whether whitening may replace the statistics of a teacher that has none, judged on random fields."""
    found = teacher.whitening
    if found is None or len(found.taps) < _DEEP:
        return False
    nodes = teacher.opened.safe.model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    biased = all(len(makers[tap].input) > 2 and makers[tap].input[2] for tap in found.taps)
    if not biased or any(node.op_type in _OTHERS for node in nodes):
        return False
    signature = teacher.signature
    x = fields(_SAMPLES, signature.shape, key.at("folded").generator())
    if (bounds := signature.bounds()) is not None:
        x = torch.clamp(x, *bounds)
    # Not by `answer`, which would keep this graph as it lies in memory now, before the timing that lays it out.
    values = teacher.tapped(found.taps)(signature.to_input(x.to(teacher.device)))[1]
    return all(1 / _NEAR <= _median_deviation(value) <= _NEAR for value in values)


def _median_deviation(value: Tensor) -> float:
    """Compute the median over channels of the standard deviation of [batch, channels, …]."""
    return float(value.transpose(0, 1).flatten(1).std(1).median())
