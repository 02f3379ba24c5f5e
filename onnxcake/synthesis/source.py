"""Define a source, which begins drafts, and a draft, which says what is optimised and how it becomes samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ..core.rng import Key
from ..teacher.signature import Signature
from .step import Context, Leaves, Need

Classify = Callable[[Tensor], Tensor]  # samples in standard units → the classes that the teacher names, int64


@dataclass(frozen=True)
class Targets:
    """Hold what samples are to become: classes [n] int64, and soft labels [n, classes] where the policy gives such."""

    labels: Tensor
    targets: Tensor | None = None


class Draft:
    """Hold samples in the making: leaves, from which they are rendered, and what projects these after a step.

    What only some drafts need is declared by the protocols below.

    Attributes:
        leaves: groups of tensors that are stepped.
        labels: [samples] that the samples came with, in place of those asked for; None if they came without.
    """

    leaves: list[Leaves]
    labels: Tensor | None = None

    def render(self) -> Tensor:
        """Compute the samples in standard units [samples, …], differentiable in the leaves."""
        raise NotImplementedError

    def project(self) -> None:
        """Bring the leaves back into what is allowed, after a step; called without gradient."""


@runtime_checkable
class ConditionalDraft(Protocol):
    """Declare what a draft adds that renders samples of given classes, as a conditional generator does."""

    def condition(self, asked: Targets) -> None:
        """Take the classes, once, before the first rendering."""
        ...


@runtime_checkable
class RegularisedDraft(Protocol):
    """Declare what a draft adds that has a loss of its own besides the recipe's."""

    def penalty(self) -> Tensor:
        """Return the scalar to add to the losses, of the leaves as last rendered."""
        ...


@runtime_checkable
class PersistentDraft(Protocol):
    """Declare what a draft adds whose samples last beyond it, as particles do."""

    def settle(self) -> None:
        """Put the samples back after the last step; called without gradient."""
        ...


@runtime_checkable
class DecisionDraft(Protocol):
    """Declare what a draft adds that finds its gradients by asking the teacher for classes alone."""

    def gradients(self, classify: Classify, asked: Tensor) -> Sequence[Sequence[Tensor]]:
        """Find one list of gradients for each of the `leaves`, in place of the losses' gradients."""
        ...

    def answers(self, classify: Classify, asked: Tensor) -> Tensor:
        """Compute logits [samples, classes] of the finished samples, in place of the teacher's."""
        ...


@runtime_checkable
class MetaDraft(Protocol):
    """Declare what a draft adds whose steps teach a network that lasts beyond it (meta-learning)."""

    def saw(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Take note of a step's gradients, one list for each of the `leaves`, before the step is taken."""
        ...

    def outer(self) -> tuple[Leaves, list[Tensor]]:
        """Return the lasting leaves and the gradient to step them by, once, after the last step."""
        ...


class Source:
    """Begin drafts; a frozen dataclass whose fields are its recipe keys.

    Attributes:
        independent: a batch depends on its key alone: nothing lasts from one batch to the next, so that batches can be
            made in any order.
        needs: what the parts have to be given beside the teacher's logits.
    """

    independent: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def init_state(self, context: Context) -> nn.Module | None:
        """Make what lasts from one batch to the next and is kept in checkpoints; None for nothing."""
        return None

    def draft(self, samples: int, context: Context, key: Key, lasting: nn.Module | None, number: int = 0) -> Draft:
        """Begin a draft of ``samples`` samples.

        Args:
            key: all randomness depends on it.
            lasting: what `init_state` returned, as it is now.
            number: of the batch in the run.
        """
        raise NotImplementedError

    def unfit(self, signature: Signature) -> str | None:
        """Say why this source cannot be used for such inputs; None if it can."""
        return None
