"""Make samples by a generator that starts from the classes asked for, through a layer of noise (NAYER)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.quantities import Count
from ...core.rng import Key
from ..generator_networks import Head, generator
from ..source import Draft, Source, Targets
from ..step import Context, Leaves
from .generator import LearntNetwork


@dataclass(frozen=True)
class NoisyLayer(Source):
    """Compute x = G(W y + b): y one-hot, W ~ N(0, 1) anew for each batch and stepped with G, which lasts.

    Tran et al., NAYER, CVPR 2024. Each run of as many samples as there are classes has a layer of its own (their "K
    to 1"), so that samples of one class differ. One-hot classes stand for their text embeddings, which need names.
    """

    independent: ClassVar[bool] = False

    latent: Count = 1000
    width: Count = 64
    head: Head = "range"

    def init_state(self, context: Context) -> LearntNetwork:
        with context.key.at("generator").as_default():
            return LearntNetwork(generator(context.signature, latent=self.latent, width=self.width, head=self.head))

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> NoisyDraft:
        assert isinstance(lasting, LearntNetwork)
        shape = (-(-samples // context.signature.classes), context.signature.classes, self.latent)
        return NoisyDraft(lasting, torch.randn(shape, generator=key.generator()).to(context.device))


class NoisyDraft(Draft):
    """Hold the noisy layers [layers, classes, latent] and the generator after them."""

    def __init__(self, lasting: LearntNetwork, layers: Tensor) -> None:
        self.leaves = [lasting.leaves, Leaves([layers, torch.zeros_like(layers[:, 0])])]
        self._network, self._classes = lasting.network, layers.shape[1]

    def condition(self, asked: Targets) -> None:
        classes, places = F.one_hot(asked.labels, self._classes).float(), torch.arange(len(asked.labels))
        self._rows, self._layer = classes, (places // self._classes).to(asked.labels.device)

    def render(self) -> Tensor:
        weight, bias = self.leaves[1].tensors
        x: Tensor = self._network(torch.einsum("nc,ncl->nl", self._rows, weight[self._layer]) + bias[self._layer])
        return x
