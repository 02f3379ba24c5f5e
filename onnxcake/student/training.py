"""The one place that steps a student."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Diverged
from ..teacher.pace import Dtype, hurried
from .loss import Distillation, decisions
from .match import Match, Watch
from .optimise import OPTIMISERS, LearningRate, Optimiser, set_rate
from .retain import retained_loss
from .student import Student

OPTIMISER = "student.optimiser"  # where a recipe names it, for weights drawn from noise at least
_LOOK_EVERY = 50  # steps between two looks at whether the loss is finite

Rows = tuple[Tensor, Tensor, Tensor]  # inputs [n, …], the teacher's logits [n, classes], labels asked for [n]
# inputs, names of values inside the teacher → logits, those values
Ask = Callable[[Tensor, tuple[str, ...]], tuple[Tensor, dict[str, Tensor]]]
Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Regime:
    """How a student learns.

    Attributes:
        steps: in all.
        batch: samples for each.
        loss, optimiser, learning_rate: the parts that a recipe named.
        optimiser_key: where it named the optimiser.
        checkpoint_every: steps between two checkpoints.
        multilabel: whether each logit is a yes or no of its own.
        live: the teacher is asked about what the student sees, in place of the answers that came with it.
        augment: what changes inputs on their way to the student.
        match: what is compared besides the answers.
        retain: the inner step size of the acquire/retain step, or None.
    """

    steps: int
    batch: int
    loss: Distillation
    optimiser: Optimiser
    learning_rate: LearningRate
    checkpoint_every: int
    multilabel: bool = False
    live: bool = False
    augment: tuple[Change, ...] = ()
    match: Match | None = None
    retain: float | None = None
    optimiser_key: str = OPTIMISER


@dataclass(frozen=True)
class Lesson:
    """What one step is about: new samples, and some out of a memory."""

    fresh: Rows
    memory: Rows | None = None

    @property
    def rows(self) -> Rows:
        """All of them."""
        if self.memory is None:
            return self.fresh
        both = [torch.cat(pair) for pair in zip(self.fresh, self.memory, strict=True)]
        return both[0], both[1], both[2]


class Training:
    """A student, its optimiser and the step they have reached.

    Args:
        student: takes what the teacher takes.
        ask: the teacher, for a regime that asks it about what the student sees.
        dtype: what the student's operators compute in where they gain by it; weights and losses are in float32.
    """

    def __init__(
        self,
        student: nn.Module,
        regime: Regime,
        device: torch.device,
        ask: Ask | None = None,
        dtype: Dtype = "float32",
    ) -> None:
        self.student, self.regime, self.device, self._ask = student.to(device), regime, device, ask
        self.dtype: Dtype = dtype
        self.optimiser = regime.optimiser.build(student.parameters())
        self.step, self.loss = 0, math.nan
        self._last: Tensor | None = None  # the loss of the last step, not looked at yet
        watch = student.watch if isinstance(student, Student) else partial(Watch, student)
        self._watch = None if regime.match is None else watch(regime.match.student_modules)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.regime.steps

    def take(self, lesson: Lesson, draw: torch.Generator | None = None) -> None:
        """One step; ``draw`` is what augmentations draw from.

        Raises:
            Diverged: at a loss or weights that are not finite; looked at now and then.
        """
        factor, momentum = self.regime.learning_rate.at(self.step, self.regime.steps)
        set_rate(self.optimiser, self.regime.optimiser.lr * factor, momentum)
        self.optimiser.zero_grad(set_to_none=True)
        self.student.train()
        if self.regime.retain is None:
            loss = self.loss_of(self.student, self._prepared(lesson.rows, draw))
        else:
            fresh = self._prepared(lesson.fresh, draw)
            memory = None if lesson.memory is None else self._prepared(lesson.memory, draw)
            loss = retained_loss(self.student, self.loss_of, fresh, memory, self.regime.retain)
        loss.backward()
        self.optimiser.step()
        self.step, self._last = self.step + 1, loss.detach()
        if self.step % _LOOK_EVERY == 0 or self.finished:
            self.look()

    def loss_of(self, student: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
        """The regime's loss on rows."""
        inputs, logits, labels = rows
        with hurried(self.device, self.dtype):
            own = student(inputs)
        given = (own.float(), logits, labels)
        loss = self.regime.loss(*(decisions(*given) if self.regime.multilabel else given))
        if self.regime.match is not None and self._watch is not None:
            assert self._ask is not None, "values inside the teacher were asked for with the regime"
            taken = {name: value.float() for name, value in self._watch.taken().items()}
            loss = loss + self.regime.match(self._ask(inputs, self.regime.match.teacher_taps)[1], taken)
        return loss

    def _prepared(self, rows: Rows, draw: torch.Generator | None) -> Rows:
        inputs, logits, labels = (tensor.to(self.device) for tensor in rows)
        for change in self.regime.augment:
            assert draw is not None
            inputs = change(inputs, draw)
        if self.regime.live:
            assert self._ask is not None, "a live regime is given the teacher"
            with torch.no_grad():
                logits = self._ask(inputs, ())[0]
        return inputs, logits, labels

    def look(self) -> None:
        """Takes note of the last step's loss.

        Raises:
            Diverged: if it or the weights are not finite.
        """
        if self._last is None:
            return
        self.loss, self._last = float(self._last), None
        if math.isfinite(self.loss) and all(weights.isfinite().all() for weights in self.student.parameters()):
            return
        optimiser = self.regime.optimiser
        name = next(name for name, kind in OPTIMISERS.items() if isinstance(optimiser, kind))
        raise Diverged(
            f"the student's loss or weights are not finite at step {self.step}",
            where="the student",
            remedy=f"Lower the learning rate, for example -o {self.regime.optimiser_key}.{name}.lr="
            f"{optimiser.lr / 10:g}. "
            "The synthetic set is kept.",
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state, as plain tensors for a checkpoint."""
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            held = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            tensors |= {f"optimiser.{number}.{name}": value for name, value in held.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Puts back what `tensors` gave."""
        state: dict[int, dict[str, Any]] = {}
        weights: dict[str, Tensor] = {}
        learnt = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, entry = rest.partition(".")
                state.setdefault(int(number), {})[entry] = _like(value, learnt[int(number)])
            elif kind == "student":
                weights[rest] = value
        self.student.load_state_dict(weights)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.step = step


def _like(moment: Tensor, weight: Tensor) -> Tensor:
    """An optimiser's moment laid out in memory as its weight is: fused optimisers walk through both in one order."""
    return torch.empty_like(weight).copy_(moment) if moment.shape == weight.shape else moment.clone()
