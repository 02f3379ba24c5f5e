"""Step the student; no other module does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import Diverged
from ..core.rng import Key
from ..teacher.autotune import Dtype, autocast
from .feature_match import ActivationRecorder, Match
from .loss import Distillation, decisions
from .optimisers import OPTIMISERS, LearningRate, Optimiser, set_rate
from .retain import retained_loss
from .student import Student

OPTIMISER = "student.optimiser"  # where a recipe names it, for weights drawn from noise at least
_LOOK_EVERY = 50  # steps between two looks at whether the loss is finite
_TRIAL, _SHARE = 30, 40  # steps at each rate that is tried: at most, and one in so many of the run's
_LEAST = 5  # that tell anything
# Of losses after a trial the least may be exceeded by so much for the sake of a higher rate: a run has more steps to
# settle in. Anything from 1.2 to 1.38 takes the same rates for the ten students in RESULTS.md, and whole runs at others
# were worse there, or the same but for chance.
_ALIKE = 1.3

Rows = tuple[Tensor, Tensor, Tensor]  # inputs [n, …], the teacher's logits [n, classes], labels asked for [n]
# inputs, names of values inside the teacher → logits, those values
Ask = Callable[[Tensor, tuple[str, ...]], tuple[Tensor, dict[str, Tensor]]]
Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Regime:
    """Describe how a student learns.

    Attributes:
        steps: in all.
        batch: samples for each.
        loss, optimiser, learning_rate: the parts that a recipe named.
        checkpoint_every: steps between two checkpoints.
        multilabel: whether each logit is a yes or no of its own.
        query_teacher: whether the teacher answers the student's (augmented) inputs anew at each step.
        augment: changes of the student's inputs.
        match: losses on values inside teacher and student.
        retain: the inner step size of the acquire/retain step, or None.
        optimiser_key: where a recipe named the optimiser.
        lr_factors: factors on the optimiser's learning rate, of which `Training.search_lr_factor` chooses one; the one
            nearest to 1 is taken where none can be tried.
    """

    steps: int
    batch: int
    loss: Distillation
    optimiser: Optimiser
    learning_rate: LearningRate
    checkpoint_every: int
    multilabel: bool = False
    query_teacher: bool = False
    augment: tuple[Change, ...] = ()
    match: Match | None = None
    retain: float | None = None
    optimiser_key: str = OPTIMISER
    lr_factors: tuple[float, ...] = (1.0,)

    @property
    def trial_steps(self) -> int:
        """Return the steps of each trial of a learning-rate factor; 0 without a choice, or if the run is too short."""
        steps = min(_TRIAL, self.steps // _SHARE)
        return steps if len(self.lr_factors) > 1 and steps >= _LEAST else 0

    @property
    def total_steps(self) -> int:
        """Count all steps, those of the learning-rate search included."""
        return self.steps + self.trial_steps * len(self.lr_factors)


@dataclass(frozen=True)
class DistillationBatch:
    """Hold the samples of one step: new ones, and some out of a memory."""

    fresh: Rows
    memory: Rows | None = None

    @property
    def rows(self) -> Rows:
        """Return all rows: the fresh ones, then those of the memory."""
        if self.memory is None:
            return self.fresh
        both = [torch.cat(pair) for pair in zip(self.fresh, self.memory, strict=True)]
        return both[0], both[1], both[2]


class Training:
    """Hold a student, its optimiser and the step they have reached.

    Args:
        student: network from the teacher's inputs to logits.
        regime: how it learns.
        device: where it learns.
        ask: the teacher, for a regime that queries it.
        dtype: dtype of the student's operators where they gain by it; weights and losses are in float32.

    Attributes:
        rate: the factor on the optimiser's learning rate.
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
        self.rate = min(regime.lr_factors, key=lambda rate: abs(math.log(rate)))
        self.step, self.loss = 0, math.nan
        self._last: Tensor | None = None  # the loss of the last step, not looked at yet
        record = student.record if isinstance(student, Student) else partial(ActivationRecorder, student)
        self._recorder = None if regime.match is None else record(regime.match.student_modules)

    @property
    def finished(self) -> bool:
        """Tell whether all steps are done."""
        return self.step >= self.regime.steps

    def prepare(self, lesson: DistillationBatch, draw: torch.Generator | None = None) -> DistillationBatch:
        """Prepare a batch: augment it, and query the teacher anew where the regime asks for that.

        Nothing of it depends on the student: another thread may prepare the next one during a step.

        Args:
            draw: generator for augmentations.
        """
        if self.regime.retain is None:
            return DistillationBatch(self._prepared(lesson.rows, draw))
        fresh = self._prepared(lesson.fresh, draw)
        return DistillationBatch(fresh, None if lesson.memory is None else self._prepared(lesson.memory, draw))

    def step_on(self, lesson: DistillationBatch) -> None:
        """Make one step on a batch from `prepare`.

        Raises:
            Diverged: at a loss or weights that are not finite; checked now and then.
        """
        loss = self._backward(lesson, self.step, self.regime.steps)
        self.step, self._last = self.step + 1, loss
        if self.step % _LOOK_EVERY == 0 or self.finished:
            self.check_finite()

    def search_lr_factor(
        self, lessons: Callable[[], Iterable[DistillationBatch]], held: Sequence[DistillationBatch], key: Key
    ) -> None:
        """Search the learning rate: try each factor for some steps, and take the highest whose loss is near the least.

        Each trial starts from the student as it is and follows the schedule that the learning rate has over the whole
        run;
        then the student is restored. "Near" is within `_ALIKE` of the least loss. A student that is near to its teacher
        must
        not be stepped far, and one that is far from it may be.

        Args:
            lessons: as many batches as `Regime.trial_steps`, the same at each call.
            held: batches that the losses are compared on.
            key: what augmentations draw from.
        """
        start = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        lost: dict[float, float] = {}
        for rate in self.regime.lr_factors:
            self.rate = rate
            for number, lesson in enumerate(lessons()):
                prepared = self.prepare(lesson, key.at("augment", number).generator())
                self._backward(prepared, number, self.regime.trial_steps)
            lost[rate] = sum(self._loss(each, key.at("held", number)) for number, each in enumerate(held))
            self.student.load_state_dict(start)
            self.optimiser = self.regime.optimiser.build(self.student.parameters())
        least = min(lost.values())
        self.rate = max(
            rate for rate, loss in lost.items() if loss <= max(_ALIKE * least, least)
        )  # below zero by rounding

    def _loss(self, lesson: DistillationBatch, key: Key) -> float:
        """Compute the loss of a batch without learning from it; infinite if it is not finite."""
        with torch.no_grad():
            loss = float(self.loss_of(self.student, self._prepared(lesson.rows, key.generator())))
        return loss if math.isfinite(loss) else math.inf

    def _backward(self, lesson: DistillationBatch, number: int, steps: int) -> Tensor:
        """Make step ``number`` of ``steps``; return its loss."""
        factor, momentum = self.regime.learning_rate.at(number, steps)
        set_rate(self.optimiser, self.regime.optimiser.lr * self.rate * factor, momentum)
        self.optimiser.zero_grad(set_to_none=True)
        self.student.train()
        if self.regime.retain is None:
            loss = self.loss_of(self.student, lesson.rows)
        else:
            loss = retained_loss(self.student, self.loss_of, lesson.fresh, lesson.memory, self.regime.retain)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def loss_of(self, student: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
        """Compute the regime's loss on rows."""
        inputs, logits, labels = rows
        with autocast(self.device, self.dtype):
            own = student(inputs)
        given = (own.float(), logits, labels)
        loss = self.regime.loss(*(decisions(*given) if self.regime.multilabel else given))
        if self.regime.match is not None and self._recorder is not None:
            assert self._ask is not None, "values inside the teacher were asked for with the regime"
            taken = {name: value.float() for name, value in self._recorder.pop_values().items()}
            loss = loss + self.regime.match(self._ask(inputs, self.regime.match.teacher_taps)[1], taken)
        return loss

    def _prepared(self, rows: Rows, draw: torch.Generator | None) -> Rows:
        inputs, logits, labels = (tensor.to(self.device) for tensor in rows)
        for change in self.regime.augment:
            assert draw is not None
            inputs = change(inputs, draw)
        if self.regime.query_teacher:
            assert self._ask is not None, "a live regime is given the teacher"
            with torch.no_grad():
                logits = self._ask(inputs, ())[0]
        return inputs, logits, labels

    def check_finite(self) -> None:
        """Record the last step's loss.

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
        """Return the state, as plain tensors for a checkpoint."""
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            held = {name: value for name, value in state.items() if isinstance(value, Tensor)}
            tensors |= {f"optimiser.{number}.{name}": value for name, value in held.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restore the state that `tensors` returned."""
        state: dict[int, dict[str, Any]] = {}
        weights: dict[str, Tensor] = {}
        learnt = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, entry = rest.partition(".")
                state.setdefault(int(number), {})[entry] = _in_layout_of(value, learnt[int(number)])
            elif kind == "student":
                weights[rest] = value
        self.student.load_state_dict(weights)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.step = step


def _in_layout_of(moment: Tensor, weight: Tensor) -> Tensor:
    """Copy a state tensor into its weight's memory layout, as fused optimisers walk through both in one order."""
    return torch.empty_like(weight).copy_(moment) if moment.shape == weight.shape else moment.clone()
