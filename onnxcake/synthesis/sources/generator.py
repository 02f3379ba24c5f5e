"""Learn a generator from batch to batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import RecipeError
from ...core.quantities import Count, Positive
from ...core.rng import Key
from ..generator_networks import Head, generator
from ..source import Draft, Source, Targets
from ..step import Context, Leaves


@dataclass(frozen=True)
class Generator(Source):
    """Compute x = G(z), z ~ N(0, I) anew for each batch; G is stepped, and lasts over the whole run.

    As in DAFL (Chen et al., ICCV 2019), DFAD (Fang et al., 2019), ZSKT (Micaelli and Storkey, NeurIPS 2019), DFQ
    (Choi et al., CVPRW 2020), MB-DFKD and PRE-DFKD (Binici et al., 2022). G always normalises by the batch at hand.

    Attributes:
        latent: numbers in z.
        width: channels of the last hidden layers.
        head: what ends the network: ``tanh_norm``, ``norm`` (ZSKT) or ``range``; see `networks.generator`.
        epsilon: of the BatchNorm after hidden layers; 0.8 in DAFL and PRE-DFKD.
        spectral_norm: of the convolutions, as in PRE-DFKD.
        networks: generators that share a batch, each making as much of it as the others (DFQ).
        conditional: G is told the class asked for as well, one-hot beside z (the CAKE paper's generic baseline).
    """

    independent: ClassVar[bool] = False

    latent: Count = 100
    width: Count = 64
    head: Head = "tanh_norm"
    epsilon: Positive = 1e-5
    spectral_norm: bool = False
    networks: Count = 1
    conditional: bool = False

    def init_state(self, context: Context) -> LearntNetwork:
        with context.key.at("generator").as_default():
            made = [self._network(context) for _ in range(self.networks)]
        return LearntNetwork((made[0] if len(made) == 1 else NetworkEnsemble(made)).to(context.device))

    def draft(
        self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0
    ) -> GeneratorDraft:
        assert isinstance(lasting, LearntNetwork)
        z = latent_start(samples, self.latent, key, each=self.networks).to(context.device)
        return GeneratorDraft(lasting, z, context.signature.classes if self.conditional else 0)

    def _network(self, context: Context) -> nn.Module:
        return generator(
            context.signature,
            latent=self.latent + (context.signature.classes if self.conditional else 0),
            width=self.width,
            head=self.head,
            epsilon=self.epsilon,
            spectral_norm=self.spectral_norm,
        )


class LearntNetwork(nn.Module):
    """Hold a network whose parameters are leaves from one batch to the next.

    The leaves are the parameters themselves, which go on requiring a gradient between steps: whoever steps them
    does it in place, without gradient. They stay the same tensors when the network's state is loaded or moved, and
    keep the optimiser state, so that both go on where they were.

    Args:
        rate: a factor on the step size.
    """

    def __init__(self, network: nn.Module, rate: float = 1.0) -> None:
        super().__init__()
        self.network = network.train()
        self.leaves = Leaves(list(network.parameters()), rate)


class NetworkEnsemble(nn.Module):
    """Make a batch by several networks in equal parts, one after the other."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, z: Tensor) -> Tensor:
        parts = z.tensor_split(len(self.networks))
        return torch.cat([network(part) for network, part in zip(self.networks, parts, strict=True)])


class GeneratorDraft(Draft):
    """Hold one batch of z, which stays as it is, and the network whose parameters are the leaves.

    Args:
        classes: number of classes that are appended to z one-hot; 0 to append none.
    """

    def __init__(self, lasting: LearntNetwork, z: Tensor, classes: int = 0) -> None:
        self.leaves = [lasting.leaves]
        self._network, self._z, self._classes = lasting.network, z, classes

    def condition(self, asked: Targets) -> None:
        if self._classes:
            self._z = torch.cat([self._z, F.one_hot(asked.labels, self._classes).to(self._z)], 1)

    def render(self) -> Tensor:
        x: Tensor = self._network(self._z)
        return x


def latent_start(samples: int, latent: int, key: Key, each: int = 1) -> Tensor:
    """Draw z ~ N(0, I) [samples, latent], on the CPU for each device, so that a key means the same everywhere.

    Args:
        each: networks that share the samples.

    Raises:
        RecipeError: if a network would be left with one sample, whose BatchNorm has nothing to normalise by.
    """
    if samples < 2 * each:
        raise RecipeError(
            f"a generator normalises by its batch and needs 2 samples or more in it; {each} of them share {samples}",
            where="synthesis.batch",
            remedy=f"Make it {2 * each} or larger.",
        )
    return torch.randn(samples, latent, generator=key.generator())
