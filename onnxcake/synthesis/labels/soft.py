"""Draw soft labels: distributions over the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.quantities import Positive
from ..source import Targets
from ..step import Context, Need
from .hard import Labels

LEAST = 1e-4  # concentration of the class that is least like the one asked for


@dataclass(frozen=True)
class Dirichlet(Labels):
    """Draw soft labels around a class, in which classes that the teacher holds to be similar share (ZSKD).

    s ~ Dir(β c_k + 1e-4) for class k, where c_k is row k of the classes' similarity brought to 0 … 1 by its least
    and largest value (Nayak et al., ICML 2019; the 1e-4 is the released code's). Similarity is the cosine of the
    classes' weights in the teacher's last layer; a min–max over the whole matrix first, as in the code, changes
    nothing. Classes and β go in turn, from a random one on, so that all are asked for equally often.

    Attributes:
        scales: β, each for an equal share of the samples. A large one gives labels near the mean c_k / Σ c_k, a
            small one labels near a single class.
        scaled: whether β multiplies the row ``after`` its min–max, as in the paper, or ``before``. The released
            code does it before, so that the min–max undoes it and every sample is drawn with β = 1.
    """

    needs: ClassVar[tuple[Need, ...]] = ("similarity",)

    scales: tuple[Positive, ...] = (1.0, 0.1)
    scaled: Literal["after", "before"] = "after"

    def init_state(self, context: Context) -> Tensor:
        """Compute the concentrations [scales · classes, classes], float64, those of the first scale first."""
        similarity = context.view.similarity
        assert similarity is not None, "resolved with the needs"
        rows = similarity.detach().double().cpu()
        least, largest = rows.min(1, keepdim=True).values, rows.max(1, keepdim=True).values
        # Where a class is as much like every other as like itself, all share alike.
        alike = torch.where(largest > least, (rows - least) / (largest - least).clamp_min(1e-300), 1.0)
        return torch.cat([alike * (scale if self.scaled == "after" else 1.0) + LEAST for scale in self.scales])

    def __call__(
        self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Tensor | None = None
    ) -> Targets:
        assert begun is not None, "what `begin` gave"
        first = torch.randint(len(begun), (1,), generator=generator)
        turn = (first + torch.arange(rows * groups)) % len(begun)
        return Targets(turn % classes, _dirichlet(begun[turn], generator).float())

    def unfit(self, classes: int, groups: int) -> str | None:
        return None if self.scales else "labels.dirichlet.scales is empty; it needs one value at least"


def _dirichlet(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Divide gamma variates by their sum, computed by their logarithms, as those of small α underflow.

    G_α is distributed as G_{α+1} U^{1/α} with U uniform (Marsaglia and Tsang, 2000).
    """
    gamma = torch._standard_gamma(alpha + 1, generator=generator)
    uniform = 1 - torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype)  # in (0, 1]
    return torch.softmax(gamma.log() + uniform.log() / alpha, dim=1)


@dataclass(frozen=True)
class Features(Labels):
    """Compute soft labels by the teacher's last layer from features drawn from a normal distribution.

    s ~ N(0, σ² R), targets = softmax(W max(s, 0) + b), labels = their argmax (Wang, AAAI 2021). The paper models the
    output of the layer before the last, with R_ij = cos(w_i, w_j) of that layer's weight rows, one row for each
    feature. Here R is the cosine of the last layer's weight columns, again one for each feature: two features are
    correlated as far as they speak for the same classes. Where the teacher's last layer is not at hand, logits are
    drawn straight from N(0, σ² R) with R the classes' similarity.

    Attributes:
        sigma: σ; 1.5 for MNIST and 2.0 for CIFAR-10 in the paper.
        rectified: whether a ReLU lies between the features drawn and the last layer, as in the paper's networks.
        temperature: of the softmax.
    """

    needs: ClassVar[tuple[Need, ...]] = ("last_layer", "similarity")

    sigma: Positive = 1.5
    rectified: bool = True
    temperature: Positive = 1.0

    def init_state(self, context: Context) -> Drawing:
        """Compute the matrices that the logits are drawn with."""
        last, similarity = context.view.last_layer, context.view.similarity
        if last is not None:
            weight = last.weight.detach().double().cpu()
            # Rᵢⱼ = ŵᵢ·ŵⱼ, so that s = Ŵᵀ z has that covariance for z ~ N(0, 1), one for each class.
            factor = weight / weight.norm(dim=0, keepdim=True).clamp_min(1e-12)
            return Drawing(factor, weight, last.bias.detach().double().cpu())
        assert similarity is not None, "resolved with the needs"
        values, vectors = torch.linalg.eigh(similarity.detach().double().cpu())
        return Drawing((vectors * values.clamp_min(0).sqrt()).T)

    def __call__(
        self, rows: int, groups: int, classes: int, generator: torch.Generator, begun: Drawing | None = None
    ) -> Targets:
        assert begun is not None, "what `begin` gave"
        z = torch.randn(rows * groups, len(begun.factor), generator=generator, dtype=torch.float64)
        drawn = z @ begun.factor * self.sigma
        if begun.weight is not None and begun.bias is not None:
            drawn = (drawn.clamp_min(0) if self.rectified else drawn) @ begun.weight.T + begun.bias
        return Targets(drawn.argmax(1), torch.softmax(drawn / self.temperature, dim=1).float())


@dataclass(frozen=True)
class Drawing:
    """Hold z ~ N(0, 1) [classes] → features or logits, z · factor; and, for features, the layer that makes logits.

    Attributes:
        factor: [classes, features], or [classes, classes] for logits.
        weight: [classes, features].
        bias: [classes].
    """

    factor: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
