"""Build a multilayer perceptron: for tables, and for anything small."""

from __future__ import annotations

from torch import nn

from ...core.quantities import Count
from ...teacher.signature import Signature
from . import fit


def mlp(signature: Signature, *, hidden: tuple[Count, ...] = (128, 64)) -> nn.Module:
    """Stack fully connected layers with ReLU between them, for inputs of any shape.

    Args:
        hidden: units of each hidden layer; none at all gives a linear classifier.

    Raises:
        RecipeError: if a hidden layer has no units.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = signature.size
    for units in hidden:
        fit.positive("mlp", hidden=units)
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, signature.classes))
