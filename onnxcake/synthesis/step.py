"""Define the parts of a method and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from ..core.rng import Key
from ..teacher.capabilities import MethodInputs
from ..teacher.signature import Signature

Scope = Literal["sample", "row", "batch"]
# What a part asks of the teacher, beyond its answers and their gradient, or of the run:
#   statistics   of values inside the teacher, to be matched
#   last_layer   the weights of its last linear layer
#   features     what goes into that layer
#   similarity   how alike the teacher holds two classes to be
#   labels       the class alone, through onnxruntime (a decision-based method)
#   student      the student's answers
#   data         real inputs, given with --data
Need = Literal["statistics", "last_layer", "features", "similarity", "labels", "student", "data"]


Answers = Callable[[Tensor], Tensor]  # inputs as the file takes them → answers


class Counter(Protocol):
    """Count samples that went through the teacher: with gradient, and without."""

    def __call__(self, passes: int, queries: int = 0) -> None: ...


def silent(passes: int, queries: int = 0) -> None:
    """Count nothing: a `Counter` for callers that need none."""


@dataclass(frozen=True)
class Context:
    """Hold what the parts of a method may know before the first step.

    Attributes:
        signature: of the teacher's input and output.
        view: what they may use inside the teacher.
        key: what their own randomness depends on.
        device: where tensors live.
        batch: samples in a batch.
    """

    signature: Signature
    view: MethodInputs
    key: Key
    device: torch.device
    batch: int


@dataclass
class Leaves:
    """Hold tensors that are stepped together.

    Attributes:
        tensors: stepped in place.
        rate: a factor on the step size.
        optimiser_state: the update's state of them. Whoever keeps the tensors for the next batch keeps this too.
    """

    tensors: list[Tensor]
    rate: float = 1.0
    optimiser_state: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass
class Step:
    """Hold one evaluation of the teacher on whole rows of samples.

    Attributes:
        x: samples in standard units [rows · groups, …], as the teacher saw them; a row's samples follow each other.
        labels: the classes asked for [rows · groups], int64.
        logits: the teacher's [rows · groups, classes].
        groups: samples in a row.
        multilabel: whether each logit is a yes or no of its own; the class asked for is then the one label to set.
        targets: soft labels asked for [rows · groups, classes], where the label policy gives such.
        taps: values inside the teacher, by name, that the losses' requirements were resolved to.
        ask: computes the student's logits of the samples; None if no loss needs the student.
        again: evaluates other samples [n, …] in standard units, the labels' order kept: for second views.
        draw: generator for randomness inside a loss.
    """

    x: Tensor
    labels: Tensor
    logits: Tensor
    groups: int = 1
    multilabel: bool = False
    targets: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    ask: Callable[[], Tensor] | None = None
    again: Callable[[Tensor], Step] | None = None
    draw: torch.Generator | None = None

    @property
    def rows(self) -> int:
        """Count the rows in this evaluation."""
        return self.x.shape[0] // self.groups

    @cached_property
    def student(self) -> Tensor:
        """Return the student's logits [rows · groups, classes]; computed once."""
        assert self.ask is not None, "a loss that looks at the student says so in its needs"
        return self.ask()


class Loss:
    """Base of losses: frozen dataclasses whose fields are their recipe keys; one file, one equation.

    A call returns a scalar: the mean over `scope`, so that a batch may be computed in chunks unless that is the batch.
    A loss that learns or remembers has `init_state`, whose result is passed to every call; its parameters are stepped
    with the samples, and its state is kept in checkpoints.
    """

    scope: ClassVar[Scope] = "sample"
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        raise NotImplementedError

    def unfit(self, signature: Signature) -> str | None:
        """Return why the loss does not apply to such inputs, or None."""
        return None

    @property
    def lasts(self) -> bool:
        """Tell whether the loss learns or remembers from one batch to the next."""
        return False

    def init_state(self, context: Context) -> nn.Module | None:
        """Return the state that the loss learns or remembers, at the start of a run; None if it has none."""
        return None

    def settle(self, step: Step, state: Any) -> None:
        """Update the state after the last step of each finished batch, without gradient."""


@dataclass(frozen=True)
class Weighted:
    """Hold a loss term of a recipe.

    Attributes:
        name: in the recipe.
        weight: on its value.
        loss: the term.
        after: the share of the run before which it does not count.
    """

    name: str
    weight: float
    loss: Loss
    after: float = 0.0


Parts = Mapping[str, type]


def optional(loss: Loss) -> bool:
    """Tell whether a method does without a loss where the teacher has nothing for it."""
    return getattr(loss, "optional", False)
