"""Describe what a teacher's graph holds besides its answers: statistics, last layer, inner values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Origin = Literal["batch_norm", "recorded", "whitening"]


@dataclass(frozen=True)
class ActivationStatistics:
    """Hold mean and variance of values inside the teacher, channel by channel, over the data it was trained on.

    Attributes:
        taps: the values' names [batch, channels, …].
        means: one [channels] for each tap.
        variances: one [channels] for each tap, biased.
        origin: the running statistics of BatchNormalization; recorded by the data's owner; or what a folded
            BatchNormalization leaves of it on average, mean 0 and variance 1 of each convolution's output.
        scale: factor of a sum over the taps: more than 1 where some of the layers' statistics are lost, less
            where others stand in for them.
    """

    taps: tuple[str, ...]
    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    origin: Origin
    scale: float = 1.0


@dataclass(frozen=True)
class LastLayer:
    """Hold the linear layer that makes logits out of features: logits = features · weightᵀ + bias.

    Attributes:
        weight: [classes, features].
        bias: [classes].
        features: the tap of the layer's input, [batch, features].
    """

    weight: Tensor
    bias: Tensor
    features: str


@dataclass(frozen=True)
class TeacherCapabilities:
    """List what a teacher's graph holds besides its answers.

    Attributes:
        statistics: of its BatchNormalization nodes, if any are left.
        convolutions: the taps of convolutions' outputs [batch, channels, …], in order, but for the one that
            makes the logits.
        last_layer: if the logits come from a linear layer with constant weights.
        maps: taps of rank 4, each the last before the sides shrink, in order, which attention transfer compares.
        names: each tap's name in the file.
    """

    statistics: ActivationStatistics | None = None
    convolutions: tuple[str, ...] = ()
    last_layer: LastLayer | None = None
    maps: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class MethodInputs:
    """Hold what a method may use in a run: its requirements, resolved against the teacher's capabilities.

    Attributes:
        statistics: to be matched; None if the method needs none.
        last_layer: weights and features; None if there are none, or none are needed.
        similarity: how alike the teacher holds two classes to be [classes, classes], in −1 … 1; None if not needed.
        maps: taps for attention maps.
        data: real inputs that the user gave, in standard units [n, …], and their labels [n] if they have any.
        notes: each substitute that was taken, in words for the user.
    """

    statistics: ActivationStatistics | None = None
    last_layer: LastLayer | None = None
    similarity: Tensor | None = None
    maps: tuple[str, ...] = ()
    data: tuple[Tensor, Tensor | None] | None = None
    notes: tuple[str, ...] = ()
