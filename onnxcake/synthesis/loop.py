"""The one loop: noise → samples on which the teacher tells its boundary.

It is the only place that steps samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Diverged
from ..rng import Key
from ..store import Batch, Store
from ..teacher import Teacher
from .labels import Labels
from .schedules import SCHEDULES
from .sources import Draft, Source
from .step import Step, Weighted
from .update import UPDATES, Update

ATTEMPTS = 3  # a batch that diverges is started afresh, each time with another key
_LOOK_EVERY = 50  # steps between two looks at whether the losses are finite

Tick = Callable[[int], None]  # told how many samples were stepped


@dataclass(frozen=True)
class Synthesis:
    """How a set is made: the parts that a recipe named, fitted to a teacher.

    Attributes:
        source, labels, losses, update: the parts.
        groups: samples in a row.
        batch: samples in a batch, a multiple of ``groups``.
        batches: in the set that a student learns from.
        held_out: batches made besides, spread over the same schedule, that no student learns from.
        steps: for each batch.
        reference_batch: the batch that step size and weights were chosen for. Losses are means, so a sample's
            own gradient shrinks as the batch grows; it is scaled back to what it is at this size.
        chunk: samples that go through the teacher at once, a multiple of ``groups``.
    """

    source: Source
    labels: Labels
    losses: tuple[Weighted, ...]
    update: Update
    groups: int
    batch: int
    batches: int
    held_out: int
    steps: int
    reference_batch: int
    chunk: int

    def position(self, index: int) -> float:
        """Where batch ``index`` lies in the schedule over the set; held-out batches lie evenly in it."""
        if index < self.batches:
            return index / self.batches
        return (index - self.batches + 0.5) / self.held_out

    @property
    def teacher_passes(self) -> int:
        """Samples through the teacher with gradient, for the whole set, held-out batches included."""
        return (self.batches + self.held_out) * self.batch * self.steps


def synthesize(
    teacher: Teacher, synthesis: Synthesis, store: Store, key: Key, tick: Tick = lambda samples: None
) -> None:
    """Makes every batch that the store misses; the store keeps what is finished at any moment.

    Raises:
        Diverged: if a batch stays non-finite after fresh starts.
    """
    for index in store.missing():
        store.append(_with_fresh_starts(teacher, synthesis, index, key, tick))


def _with_fresh_starts(teacher: Teacher, synthesis: Synthesis, index: int, key: Key, tick: Tick) -> Batch:
    failures: list[_NotFinite] = []
    for attempt in range(ATTEMPTS):
        try:
            return make_batch(teacher, synthesis, index, key, attempt, tick)
        except _NotFinite as failure:
            failures.append(failure)
    step = ", ".join(str(failure.step) for failure in failures)
    term = failures[-1].term
    raise Diverged(
        f"{f'the loss term {term.name!r} is' if term else 'the samples are'} not finite at step {step} "
        f"of batch {index} ({ATTEMPTS} starts from different noise)",
        where=teacher.name,
        remedy=f"Lower the step size or that term's weight, for example -o {_smaller_steps(synthesis.update)}. "
        "Finished batches are kept; another recipe needs another --out.",
    )


def _smaller_steps(update: Update) -> str:
    """An override that makes the recipe's steps ten times smaller."""
    name = next(name for name, kind in UPDATES.items() if isinstance(update, kind))
    schedule = next(name for name, kind in SCHEDULES.items() if isinstance(update.step_size, kind))
    key, value = next(iter(vars(update.step_size).items()))
    return f"synthesis.update.{name}.step_size.{schedule}.{key}={value / 10:g}"


def make_batch(
    teacher: Teacher,
    synthesis: Synthesis,
    index: int,
    key: Key,
    attempt: int = 0,
    tick: Tick = lambda samples: None,
) -> Batch:
    """Batch ``index``, a pure function of the arguments before ``tick``."""
    key = key.at("batch", index, attempt)
    device, rows = teacher.device, synthesis.batch // synthesis.groups
    labels = synthesis.labels(rows, synthesis.groups, teacher.signature.classes, key.at("labels").generator()).to(
        device
    )
    draft = synthesis.source.draft(synthesis.batch, teacher.signature, key.at("start"), device)
    noise = key.at("noise").generator(device)
    step_size = synthesis.update.step_size(synthesis.position(index))
    trace = torch.zeros(synthesis.steps, len(synthesis.losses), device=device)
    for step in range(synthesis.steps):
        gradients = _gradients(teacher, synthesis, draft, labels, trace[step])
        with torch.no_grad():
            for leaf, gradient in zip(draft.leaves, gradients, strict=True):
                synthesis.update(leaf, gradient, step_size, noise)
            draft.project()
        if (step + 1) % _LOOK_EVERY == 0:
            _check(trace[: step + 1], synthesis.losses)
        tick(synthesis.batch)
    _check(trace, synthesis.losses)
    return _finished(teacher, synthesis, draft, labels, index, attempt)


def _gradients(
    teacher: Teacher, synthesis: Synthesis, draft: Draft, labels: Tensor, trace: Tensor
) -> tuple[Tensor, ...]:
    """∂L/∂leaf for each leaf; the terms' values are added into ``trace`` [terms]."""
    x = draft.render()
    multilabel = teacher.signature.task == "multilabel"
    parts = []
    for rows in _chunks(synthesis):
        part = x[rows].detach().requires_grad_(True)
        step = Step(part, labels[rows], teacher.logits_of_standard(part), synthesis.groups, multilabel)
        values = [term.loss(step) for term in synthesis.losses]
        trace.add_(torch.stack(values).detach(), alpha=len(part) / synthesis.batch)  # the terms are means
        weighted = [value * term.weight for term, value in zip(synthesis.losses, values, strict=True)]
        total = torch.stack(weighted).sum() * (len(part) / synthesis.reference_batch)
        parts.append(torch.autograd.grad(total, part)[0])
    gradient = parts[0] if len(parts) == 1 else torch.cat(parts)
    if x is draft.leaves[0]:
        return (gradient,)
    return torch.autograd.grad(x, draft.leaves, gradient)


def _chunks(synthesis: Synthesis) -> Iterator[slice]:
    for start in range(0, synthesis.batch, synthesis.chunk):
        yield slice(start, min(start + synthesis.chunk, synthesis.batch))


def _finished(teacher: Teacher, synthesis: Synthesis, draft: Draft, labels: Tensor, index: int, attempt: int) -> Batch:
    """The last iterate with what the teacher says to it."""
    with torch.no_grad():
        inputs = teacher.signature.whole(teacher.signature.to_input(draft.render()))
        logits = torch.cat([teacher.logits(inputs[rows]) for rows in _chunks(synthesis)])
    if not (inputs.isfinite().all() and logits.isfinite().all()):
        raise _NotFinite(None, synthesis.steps)
    return Batch(index, inputs.cpu(), logits.float().cpu(), labels.cpu(), attempt)


class _NotFinite(Exception):
    """Of a loss term, or (None) of the finished samples."""

    def __init__(self, term: Weighted | None, step: int) -> None:
        self.term, self.step = term, step


def _check(trace: Tensor, losses: tuple[Weighted, ...]) -> None:
    """Finds the first step and the first term at which a loss was not finite."""
    if math.isfinite(float(trace.sum())):
        return
    finite = trace.isfinite().cpu()
    if finite.all():
        return
    step = int((~finite.all(dim=1)).nonzero()[0])
    term = int((~finite[step]).nonzero()[0])
    raise _NotFinite(losses[term], step)
