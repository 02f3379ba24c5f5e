"""What a source and a draft are: what is optimised, and how it becomes samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..core.rng import Key
from ..teacher.signature import Signature
from .step import Context, Leaves, Need

Classify = Callable[[Tensor], Tensor]  # samples in standard units → the classes that the teacher names, int64


@dataclass(frozen=True)
class Targets:
    """What samples are asked to be: classes [n] int64, and soft labels [n, classes] where the policy gives such."""

    labels: Tensor
    targets: Tensor | None = None


class Draft:
    """Samples in the making."""

    leaves: list[Leaves]

    def told(self, asked: Targets) -> None:
        """What the samples are asked to be, before they are rendered: for sources that begin with that."""

    def render(self) -> Tensor:
        """The samples in standard units [samples, …], differentiable in the leaves."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the losses, of the leaves as last rendered; None if there is none."""
        return None

    def project(self) -> None:
        """Brings the leaves back into what is allowed, after a step."""

    def saw(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Told each step's gradients, one list for each of the `leaves`, before the step is taken."""

    def outer(self) -> tuple[Leaves, list[Tensor]] | None:
        """What lasts beyond this draft, and the gradient to step it by once, after the last step (meta-learning)."""
        return None

    def settle(self) -> None:
        """Told that the last step is done, without gradient: a source that lasts takes back what it needs."""

    def gradients(self, classify: Classify, asked: Tensor) -> Sequence[Sequence[Tensor]] | None:
        """The gradients found by asking for classes alone; None if they come from the losses, as they do but for
        decision-based sources. Answers may be kept for `answers`."""
        return None

    def answers(self, classify: Classify, asked: Tensor) -> Tensor | None:
        """The logits of the finished samples where the teacher gives none; None if it gives them."""
        return None

    def asked(self) -> Tensor | None:
        """The labels [samples] that the samples came with, in place of those asked for; None if they came without."""
        return None


class Source:
    """A frozen dataclass whose fields are its recipe keys.

    ``independent`` says that a batch depends on its key alone: nothing lasts from one batch to the next, so that
    batches can be made in any order.
    """

    independent: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def init_state(self, context: Context) -> nn.Module | None:
        """What lasts from one batch to the next; kept in checkpoints."""
        return None

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> Draft:
        """A start for ``samples`` samples.

        Args:
            key: what randomness depends on.
            lasting: what `begin` returned, as it is now.
            number: of the batch in the run.
        """
        raise NotImplementedError

    def unfit(self, signature: Signature) -> str | None:
        """Why this source cannot be used for such inputs, or None."""
        return None
