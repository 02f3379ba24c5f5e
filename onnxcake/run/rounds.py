"""Synthesis and student take turns: the whole of a method, whatever its regime.

One round is the offline case: make everything, then learn from what was kept. In many short ones the student
learns from the batch just made, or from fresh drafts, and what is made may depend on the student.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core import interrupt
from ..core.errors import StoreError
from ..core.json_files import EXACT, of
from ..core.prefetch import prefetch
from ..core.quantities import CountOrNone, Positive
from ..core.rng import Key
from ..core.text import first_line
from ..engine.threads import synthesize
from ..store.dataset import Samples, StoreDataset
from ..store.in_memory import InMemorySet
from ..store.shard import Batch
from ..store.store import Store
from ..student.training import DistillationBatch, Rows, Training
from ..synthesis.state import State
from ..synthesis.synthesizer import Synthesizer
from .checkpoints import Checkpoints
from .schedule import TrainingSchedule

POINTS = 20  # of the curve
_SAVE_S = 30.0  # between two checkpoints of short rounds, at most, and a round
_WAITING = "waiting"
_COMPARED = 4  # lessons that rates are compared on


@dataclass(frozen=True)
class CheckpointFacts:
    """Hold the facts of a checkpoint: the round and the student's step that come next, and the figures so far.

    Attributes:
        run_key: of the run, a digest.
        made: whether the round's batches are made already.
        rate: the factor on the learning rate that was chosen.
    """

    __pydantic_config__ = EXACT
    run_key: str
    round: CountOrNone
    made: bool
    step: CountOrNone
    rate: Positive
    curve: list[dict[str, int | float]]


@dataclass
class Rounds:
    """Hold a run under way.

    Attributes:
        synthesizer: makes samples; None where a finished set is learnt from.
        training: the student.
        store: what is kept.
        schedule: when the student learns, and from what.
        checkpoints: where the state is kept.
        key: what the order of samples, augmentations and recollections depend on.
        evaluate: gives the student's agreement on real inputs, for the curve; None if there are none.
        spent: seconds, teacher passes and teacher queries so far, for the curve.
        on_step: told after each student step.
        on_round: told after each round.
        beside: threads of torch that prepare the next lesson while the student takes one, and as many for the student;
            0 for one after the other.
    """

    synthesizer: Synthesizer | None
    training: Training
    store: Store
    schedule: TrainingSchedule
    checkpoints: Checkpoints
    key: Key
    evaluate: Callable[[nn.Module], float] | None = None
    spent: Callable[[], dict[str, Any]] = dict
    on_step: Callable[[], None] = lambda: None
    on_round: Callable[[], None] = lambda: None
    beside: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.round, self.made, self._latest = 0, False, _nothing()
        self._memory: nn.Module | None = None
        if self.schedule.memory is not None and self.synthesizer is not None:
            self._memory = self.schedule.memory.init_state(self.synthesizer.context).to(self.training.device)
        layout = self.store.layout
        self._pool: InMemorySet | None = None
        if self.schedule.rounds > 1 and layout.batches:
            self._pool = InMemorySet(layout.batches, layout.batch, layout.shape, layout.classes)
        self._saved, self._saved_at = 0, time.monotonic()
        self._resume()

    def run(self) -> nn.Module:
        """Do all that is left; return the student in eval mode.

        Raises:
            Diverged: if samples or student stay non-finite; what was finished is kept.
            Interrupted: after a checkpoint, if a signal came.
        """
        with nullcontext() if self.schedule.rounds == 1 else interrupt.deferred():
            while self.round < self.schedule.rounds and not interrupt.requested():
                self.make()
                with interrupt.deferred():
                    self._learn()
        self.training.student.eval()
        if self.synthesizer is not None:
            self._hold_out(self.synthesizer)
        return self.training.student

    def make(self) -> None:
        """Make this round's batches, unless an earlier start has made them."""
        if self.synthesizer is None or (self.made and self.schedule.rounds > 1):
            return
        self.training.student.eval()
        if self.schedule.rounds == 1:
            synthesize(self.synthesizer, self.store)
        else:
            each = self.synthesizer.synthesis.batches
            for index in range(self.round * each, (self.round + 1) * each):
                self._latest = self.synthesizer.make(index, self.schedule.asks)
                if self._pool is not None:
                    self.store.append(self._latest.cpu())
                    self._pool.extend(self._latest)
            if self.schedule.memory is not None:
                key = self.key.at("memory", self.round)
                self.schedule.memory.remember(self._memory, self._latest, self.round, self.synthesizer, key)
        self.made = True

    def _hold_out(self, synthesizer: Synthesizer) -> None:
        """Make the batches that the store still misses, each from what the last round has left, in any order."""
        missing = [index for index in self.store.missing() if self.store.batch(index) is None]
        ahead = synthesizer.synthesis.total - self.store.layout.batches  # those that were not kept
        left = {name: tensor.clone() for name, tensor in synthesizer.lasting.tensors().items()} if missing else {}
        for index in missing:
            synthesizer.lasting.restore(left)
            self.store.append(replace(synthesizer.make(ahead + index).cpu(), index=index))

    def _learn(self) -> None:
        """Take this round's student steps, and go on to the next round; stop between two steps if a signal came."""
        before = max(self.round - self.schedule.first, 0) * self.schedule.steps
        steps = self.schedule.steps if self.round >= self.schedule.first else 0
        anywhere = self.schedule.learn_from == "kept"  # else a round's samples are nowhere but here
        if steps and not self.training.step and self.training.regime.trial_steps:
            self._choose_rate()
            if interrupt.requested():
                return
        with prefetch(self._lessons(before, steps), self.beside) as lessons:
            for lesson in lessons:
                self.training.step_on(lesson)
                self._look()
                self.on_step()
                if not anywhere or self.training.step == before + steps:
                    continue
                stop = interrupt.requested()
                if stop or self.training.step % self.training.regime.checkpoint_every == 0:
                    self._save()
                if stop:
                    return
        self.round, self.made = self.round + 1, False
        self.on_round()
        late = time.monotonic() - self._saved_at > _SAVE_S
        due = self.training.step - self._saved >= self.training.regime.checkpoint_every
        if late or due or interrupt.requested() or self.round == self.schedule.rounds:
            self._save()

    def _choose_rate(self) -> None:
        """Search the learning rate: try each on samples as the student will see, and compare them on a few others."""
        steps, key = self.training.regime.trial_steps, self.key.at("rates")
        held = list(self._others(key.at("held"), _COMPARED))
        self.training.search_lr_factor(lambda: self._others(key.at("trial"), steps), held, key)

    def _others(self, key: Key, count: int) -> Iterator[DistillationBatch]:
        """Make batches that are none of the run's; fewer if a signal comes."""
        kept = self._kept().endless(self.training.regime.batch, key) if self.schedule.learn_from == "kept" else None
        for number in range(count):
            if interrupt.requested():
                return
            yield DistillationBatch(self._new(key.at(number), number) if kept is None else next(kept))

    def _new(self, key: Key, number: int) -> Rows:
        """Fresh drafts, or the batch that was just made."""
        batch = self._latest
        if self.schedule.learn_from == "fresh":
            assert self.synthesizer is not None, "what is not kept has to be made"
            batch = self.synthesizer.fresh(key, number, ask=not self.training.regime.query_teacher)
        return batch.inputs, batch.logits, batch.labels

    def _lessons(self, before: int, steps: int) -> Iterator[DistillationBatch]:
        """Iterate over the distillation batches of this round's steps, without those that are done.

        Args:
            before: steps of earlier rounds.
            steps: of this one.
        """
        done = self.training.step
        for step, lesson in zip(range(done, before + steps), self._drawn(done - before, done), strict=False):
            draw = self.key.at("augment", step).generator() if self.training.regime.augment else None
            yield self.training.prepare(lesson, draw)

    def _drawn(self, first: int, step: int) -> Iterator[DistillationBatch]:
        """Draw batches from the round's step ``first`` on, which is the run's ``step``."""
        schedule, synthesizer = self.schedule, self.synthesizer
        if schedule.learn_from == "kept":
            key = self.key if schedule.rounds == 1 else self.key.at("round", self.round)
            for rows in self._kept().endless(self.training.regime.batch, key, first):
                yield DistillationBatch(rows)
        assert synthesizer is not None, "what is not kept has to be made"
        for number in range(first, schedule.steps):
            key = self.key.at("round", self.round, number)
            rows = self._new(key.at("fresh"), step + number - first)
            memory = (
                None if schedule.memory is None else schedule.memory.recall(self._memory, synthesizer, key.at("recall"))
            )
            yield DistillationBatch(rows, memory)

    def _kept(self) -> Samples:
        return StoreDataset(self.store) if self._pool is None else self._pool

    def _look(self) -> None:
        """Add a point to the curve, a few times over the run."""
        step, total = self.training.step, self.training.regime.steps
        if self.evaluate is not None and step * POINTS // total > (step - 1) * POINTS // total:
            agreement = self.evaluate(self.training.student.eval())
            self.curve.append({**self.spent(), "student_steps": step, "agreement": agreement})

    # --- checkpoints -------------------------------------------------------------------------------------------

    @property
    def _lasting(self) -> State:
        """Collect what lasts between rounds, besides student and store."""
        if self.synthesizer is None:
            return State({}, {})
        own = self.synthesizer.lasting
        if self._memory is None:
            return own
        held = getattr(self._memory, "leaves", None)
        return State({**own.modules, "memory": self._memory}, {**own.leaves, "memory": held})

    def _save(self) -> None:
        self.training.check_finite()  # what is not finite is not kept
        tensors = {**self.training.tensors(), **self._lasting.tensors()}
        for batch in self.store.waiting if self._pool is not None else ():
            named = {"inputs": batch.inputs, "logits": batch.logits, "labels": batch.labels}
            named["attempts"] = torch.tensor(batch.attempts)
            tensors |= {f"{_WAITING}.{batch.index}.{name}": tensor for name, tensor in named.items()}
        facts = {"round": self.round, "made": self.made, "step": self.training.step, "curve": self.curve}
        facts["rate"] = self.training.rate
        number = (
            self.training.step
            if self.schedule.rounds == 1
            else self.round * (self.schedule.steps + 1)
            + (self.training.step - max(self.round - self.schedule.first, 0) * self.schedule.steps if self.made else 0)
        )
        self.checkpoints.save(number, tensors, facts)
        self._saved, self._saved_at = self.training.step, time.monotonic()

    def _resume(self) -> None:
        made = self._restored()
        if self.schedule.rounds > 1 and self.round < self.schedule.rounds:
            self.store.forget(made)  # they are made again; on a card not always to the same bits

    def _restored(self) -> int:
        """Put back the newest state; return the number of kept batches that it knows."""
        found = self.checkpoints.newest()
        if found is None:
            return 0
        tensors, facts = found
        state = self._checked(facts)
        made = (state.round + state.made) * (self.synthesizer.synthesis.batches if self.synthesizer else 0)
        if self._pool is not None and not self._refill(tensors, made):
            self.checkpoints.clear()  # a shard is damaged: what came after it depends on it, so the run begins anew
            return 0
        try:
            self._lasting.restore({k: v for k, v in tensors.items() if not k.startswith(("student.", "optimiser."))})
            self.training.restore(tensors, state.step)
        except torch.OutOfMemoryError:
            raise
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise self._foreign(f"its tensors do not fit: {first_line(error)}") from error
        self.training.rate = state.rate
        self.round, self.made = state.round, state.made
        self.curve = list(state.curve)
        self._saved = self.training.step
        return made if self._pool is not None else 0

    def _checked(self, facts: dict[str, Any]) -> CheckpointFacts:
        """Check that a checkpoint's facts can be those of this run.

        Raises:
            StoreError: otherwise.
        """
        try:
            found = of(facts, CheckpointFacts)
        except ValueError as error:
            raise self._foreign(str(error)) from error
        schedule = self.schedule
        before = max(found.round - schedule.first, 0) * schedule.steps
        within = found.made or schedule.rounds == 1  # a set that is given is not made
        most = before + (schedule.steps if within and schedule.first <= found.round < schedule.rounds else 0)
        known = {*self.spent(), "student_steps", "agreement"}
        whole = all(known <= point.keys() for point in found.curve)
        if found.round > schedule.rounds or not before <= found.step <= most or not whole:
            raise self._foreign(f"it tells of round {found.round} and step {found.step}, with other figures")
        return found

    def _foreign(self, why: str) -> StoreError:
        return StoreError(
            f"the newest checkpoint is not one of this run: {why}",
            where=self.checkpoints.folder,
            remedy="Remove it, and the run goes on from the one before; or choose another --out.",
        )

    def _refill(self, tensors: dict[str, Tensor], made: int) -> bool:
        """Put the first ``made`` batches back into the pool; tell whether they are all there."""
        assert self._pool is not None
        batches = [_waiting(tensors, index) or self.store.batch(index) for index in range(made)]
        whole = [batch for batch in batches if batch is not None]
        if len(whole) < made:
            return False
        for batch in whole:
            if f"{_WAITING}.{batch.index}.inputs" in tensors:
                self.store.append(batch)
            self._pool.extend(batch)
        return True


def _waiting(tensors: dict[str, Tensor], index: int) -> Batch | None:
    """Read a batch out of a checkpoint; None if there is none."""
    named = [tensors.get(f"{_WAITING}.{index}.{name}") for name in ("inputs", "logits", "labels", "attempts")]
    inputs, logits, labels, attempts = named
    if inputs is None or logits is None or labels is None or attempts is None:
        return None
    return Batch(index, inputs, logits, labels, int(attempts))


def _nothing() -> Batch:
    empty = torch.empty(0)
    return Batch(0, empty, empty, empty)
