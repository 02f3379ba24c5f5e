"""Reward large features of the teacher: samples that resemble the training data excite them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..step import Context, Loss, Need, Step


@dataclass(frozen=True)
class Activation(Loss):
    """Compute − mean |f|, f the input of the teacher's last linear layer, over samples and features.

    L_a of DAFL (Chen et al., ICCV 2019). 0 where the teacher has no such layer.
    """

    needs: ClassVar[tuple[Need, ...]] = ("features",)

    def init_state(self, context: Context) -> nn.Module | None:
        last = context.view.last_layer
        return None if last is None else _Features(last.features)

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        if state is None:
            return step.logits.sum() * 0  # still a function of the samples, as it may be the only term
        features: Tensor = state(step)
        return -features.abs().mean()


class _Features(nn.Module):
    """Return the features' tap.

    Args:
        tap: its name.
    """

    def __init__(self, tap: str) -> None:
        super().__init__()
        self.tap = tap

    def forward(self, step: Step) -> Tensor:
        return step.taps[self.tap]
