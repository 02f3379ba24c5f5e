"""Optimise the latent code and its generator together, for each batch anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...core.quantities import Count, Positive
from ...core.rng import Key
from ..generator_networks import Head, generator, initialise_normal
from ..source import Draft, Source
from ..step import Context, Leaves
from .generator import LearntNetwork, latent_start

_REPTILE = 67.0  # the authors' factor on θ − φ; Adam, which they step by it, divides it out again


@dataclass(frozen=True)
class Latent(Source):
    """Compute x = G(z): z and G both start afresh with each batch (CMI, Fang et al., IJCAI 2021).

    The weights of G are drawn from N(0, 0.02²), z from N(0, I).

    Attributes:
        latent: numbers in z.
        width: channels of the generator's last hidden layers.
        head: what ends the network; see `networks.generator`.
        latent_rate: the step size of z over that of G.
    """

    latent: Count = 256
    width: Count = 64
    head: Head = "range"
    latent_rate: Positive = 1.0

    def draft(
        self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0
    ) -> LatentDraft:
        with key.at("network").as_default():
            network = generator(context.signature, latent=self.latent, width=self.width, head=self.head)
            initialise_normal(network)
        z = latent_start(samples, self.latent, key.at("latent")).to(context.device)
        return LatentDraft(network.to(context.device), z, self.latent_rate)


@dataclass(frozen=True)
class MetaLatent(Source):
    """Compute x = G_φ(z), where φ starts from a θ that learns to be a good start (FastDFKD, Fang et al., AAAI 2022).

    Each batch steps a copy φ of θ together with z ~ N(0, I). Then θ itself takes one step: along the sum of φ's
    gradients in first-order MAML (Finn et al., ICML 2017), or along θ − φ in Reptile (Nichol et al., 2018).
    The authors also start the first layer of θ afresh once, 120 batches after the warm-up; that is left out.

    Attributes:
        latent: numbers in z.
        width: channels of the generator's last hidden layers.
        head: its last operators; see `networks.generator`.
        meta: direction that θ is stepped along.
        latent_rate: the step size of z over that of φ: 3, 3.3 and 5 for 2, 5 and 10 steps in the paper.
        outer_rate: the step size of θ over that of φ: the number of steps in the paper.
    """

    independent: ClassVar[bool] = False

    latent: Count = 256
    width: Count = 64
    head: Head = "range"
    meta: Literal["fomaml", "reptile"] = "fomaml"
    latent_rate: Positive = 5.0
    outer_rate: Positive = 10.0

    def init_state(self, context: Context) -> LearntNetwork:
        with context.key.at("generator").as_default():
            network = generator(context.signature, latent=self.latent, width=self.width, head=self.head)
        return LearntNetwork(network.to(context.device), self.outer_rate)

    def draft(
        self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0
    ) -> MetaLatentDraft:
        assert isinstance(lasting, LearntNetwork)
        z = latent_start(samples, self.latent, key).to(context.device)
        return MetaLatentDraft(lasting, z, self.latent_rate, self.meta)


class LatentDraft(Draft):
    """Hold two groups of leaves: z, and the parameters of its network."""

    def __init__(self, network: nn.Module, z: Tensor, latent_rate: float) -> None:
        self._network, self._z = network.train(), z.requires_grad_(True)
        self.leaves = [Leaves([z], latent_rate), Leaves(list(network.parameters()))]

    def render(self) -> Tensor:
        x: Tensor = self._network(self._z)
        return x


class MetaLatentDraft(LatentDraft):
    """Step a copy, running statistics and all, of the network that lasts: θ is not touched before the end."""

    def __init__(
        self, lasting: LearntNetwork, z: Tensor, latent_rate: float, meta: Literal["fomaml", "reptile"]
    ) -> None:
        super().__init__(copy.deepcopy(lasting.network), z, latent_rate)
        self._lasting, self._meta = lasting.leaves, meta
        self._sum = [torch.zeros_like(tensor) for tensor in lasting.leaves.tensors]

    def saw(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        for total, gradient in zip(self._sum, gradients[1], strict=True):
            total.add_(gradient)

    def outer(self) -> tuple[Leaves, list[Tensor]]:
        if self._meta == "fomaml":
            return self._lasting, self._sum
        pairs = zip(self._lasting.tensors, self.leaves[1].tensors, strict=True)
        return self._lasting, [_REPTILE * (theta - phi).detach() for theta, phi in pairs]
