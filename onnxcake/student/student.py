"""Define the student: a network in standard units with the teacher's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import RecipeError
from ..core.rng import Key
from ..teacher.signature import Signature
from .architectures import ARCHITECTURES
from .feature_match import ActivationRecorder
from .quantise import quantised as quantise


class Student(nn.Module):
    """Compute logits [batch, classes] of inputs [batch, …] in the file's own units.

    Args:
        signature: the teacher's.
        net: standard units [batch, …] → logits [batch, classes].
    """

    def __init__(self, signature: Signature, net: nn.Module) -> None:
        super().__init__()
        self.signature, self.net = signature, net

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.net(self.signature.to_standard(inputs))
        return logits

    def record(self, modules: Sequence[str]) -> ActivationRecorder:
        """Record the outputs of ``modules`` of the network.

        Raises:
            RecipeError: if it has no such module.
        """
        return ActivationRecorder(self.net, modules)


def make(
    name: str, hyper: dict[str, Any], signature: Signature, key: Key, *, weight_bits: int | None = None
) -> Student:
    """Make a fresh student of a named architecture, its weights drawn from ``key``.

    Args:
        weight_bits: of the int8 file whose rounding it learns with, from the first step on; None for a float student.

    Raises:
        RecipeError: if the architecture does not fit the inputs.
    """
    with key.at("student", "weights").as_default():
        net = ARCHITECTURES[name](signature, **hyper)
    return Student(signature, net if weight_bits is None else quantise(net, weight_bits))


def parameters(make_net: Callable[[], nn.Module]) -> int:
    """Count the weights that a network would have, without making them.

    Raises:
        RecipeError: if they are more than can be counted.
    """
    try:
        with torch.device("meta"):
            return count(make_net())
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise RecipeError("a student of this size fits no memory", remedy="Choose smaller sizes for it.") from error


def count(module: nn.Module) -> int:
    """Count the numbers in a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
