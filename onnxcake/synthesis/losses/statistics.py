"""Match statistics inside the teacher: samples whose activations have the training data's mean and variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...core.quantities import Momentum, Positive
from ...teacher import capabilities
from ..step import Context, Loss, Need, Scope, Step

_EPSILON = 1e-5  # added to variances, as BatchNormalization does


@dataclass(frozen=True)
class Statistics(Loss):
    """Compute the distance of the batch's channel means and variances inside the teacher from the training data's.

    ``l2``: Σ_l ‖m_l − μ_l‖₂ + ‖v_l − σ²_l‖₂, R_feature of DeepInversion (Yin et al., CVPR 2020). The norms are
    not squared; v is the biased variance over batch and space of the values that go into a BatchNormalization.
    ``kl``: Σ_l Σ_c KL(N(m, v) ‖ N(μ, σ²)), L_BNS of DFQ (Choi et al., CVPR Workshops 2020), in nats; both variances
    with 10⁻⁵ added, which keeps it finite where a channel is constant.

    Attributes:
        distance: which.
        first: a factor on the first layer's term; 10 in DeepInversion's code for ImageNet.
        momentum: the share of earlier batches in m and v, from the second batch on; they come as an exponential moving
            average that each finished batch is added to once (Fast-DFKD, Fang et al., AAAI 2022: 0.9).
        recorded: only statistics that the data's owner has recorded will do (Lopes et al., 2017).
        optional: the term is left out where there are no statistics and whitening may do harm: where the teacher does
            not look as if BatchNormalization had been folded away. Otherwise whitening stands for them wherever there
            are convolutions, and the method is refused where there are none.
    """

    scope: ClassVar[Scope] = "batch"
    needs: ClassVar[tuple[Need, ...]] = ("statistics",)

    distance: Literal["l2", "kl"] = "l2"
    first: Positive = 1.0
    momentum: Momentum = 0.0
    recorded: bool = False
    optional: bool = False

    @property
    def lasts(self) -> bool:
        return self.momentum > 0

    def init_state(self, context: Context) -> nn.Module | None:
        assert context.view.statistics is not None, "needs are resolved before a run"
        return _Matched(context.view.statistics, self.momentum)

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        mean, variance = state(step)
        distance = self._gaussians if self.distance == "kl" else self._norms
        layers = distance(state, mean, variance)
        total: Tensor = (layers.sum() + (self.first - 1) * layers[0]) * state.scale
        return total

    def settle(self, step: Step, state: Any) -> None:
        if self.momentum:
            state.remember(step)

    @staticmethod
    def _norms(state: _Matched, mean: Tensor, variance: Tensor) -> Tensor:
        off = ((mean - state.mean).split(state.channels), (variance - state.variance).split(state.channels))
        norms = [torch.linalg.vector_norm(m) + torch.linalg.vector_norm(v) for m, v in zip(*off, strict=True)]
        return torch.stack(norms)

    @staticmethod
    def _gaussians(state: _Matched, mean: Tensor, variance: Tensor) -> Tensor:
        ratio = (variance + _EPSILON) / (state.variance + _EPSILON)
        shift = (mean - state.mean).square() / (state.variance + _EPSILON)
        divergence = (ratio + shift - ratio.log() - 1) / 2
        return torch.stack([layer.sum() for layer in divergence.split(state.channels)])


class _Matched(nn.Module):
    """Hold the statistics to match, and those of finished batches; all layers' channels in a row.

    Args:
        statistics: to match.
        momentum: share of finished batches.
    """

    mean: Tensor
    variance: Tensor
    earlier_mean: Tensor
    earlier_variance: Tensor
    share: Tensor

    def __init__(self, statistics: capabilities.ActivationStatistics, momentum: float) -> None:
        super().__init__()
        self.taps, self.scale, self.momentum = statistics.taps, statistics.scale, momentum
        self.channels = [len(mean) for mean in statistics.means]
        self.register_buffer("mean", torch.cat(statistics.means), persistent=False)
        self.register_buffer("variance", torch.cat(statistics.variances), persistent=False)
        if momentum:  # what is remembered ties a batch to those before it
            self.register_buffer("earlier_mean", torch.zeros_like(self.mean))
            self.register_buffer("earlier_variance", torch.zeros_like(self.variance))
            self.register_buffer("share", torch.zeros(()))  # the momentum, from the second batch on

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        """Compute mean and biased variance of each channel of the taps, mixed with those of finished batches."""
        found = [_Moments.apply(step.taps[tap]) for tap in self.taps]
        mean, variance = (torch.cat(layers) for layers in zip(*found, strict=True))
        if not self.momentum:
            return mean, variance
        return torch.lerp(mean, self.earlier_mean.to(mean), self.share.to(mean)), torch.lerp(
            variance, self.earlier_variance.to(variance), self.share.to(variance)
        )

    def remember(self, step: Step) -> None:
        """Add a finished batch to the moving average."""
        mean, variance = self(step)
        self.earlier_mean.copy_(mean)
        self.earlier_variance.copy_(variance)
        self.share.fill_(self.momentum)


class _Moments(torch.autograd.Function):
    """Compute mean and biased variance of each channel of [batch, channels, …].

    Twice as fast as `torch.var_mean` on a processor, whose own gradient walks through the values four times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        others = [axis for axis in range(x.dim()) if axis != 1]
        mean = x.mean(others, keepdim=True)
        ctx.count = x.numel() // x.shape[1]
        variance = torch.linalg.vector_norm(x - mean, 2, others).square() / ctx.count
        ctx.save_for_backward(x, mean)
        return mean.flatten(), variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        """Compute (to_mean + 2 (x − mean) to_variance) / count, in one pass over x."""
        x, mean = ctx.saved_tensors
        slope = (to_variance * (2 / ctx.count)).reshape(mean.shape)
        offset = (to_mean / ctx.count).reshape(mean.shape) - slope * mean
        return torch.addcmul(offset, x, slope)
