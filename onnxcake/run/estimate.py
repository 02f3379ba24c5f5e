"""Forecast what a run is going to do and how long that takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import torch

from ..core.prefetch import prefetch
from ..core.rng import Key
from ..core.units import duration, size
from ..core.waiting import waited
from ..runtime.ort import Runtime
from ..store.shard import Batch
from ..student.training import OPTIMISER, DistillationBatch, Rows
from ..synthesis.step import silent
from ..synthesis.synthesizer import Synthesizer
from .build import shortened, synthesizer_of, training_of
from .plan import Plan
from .prepare import Job

_TRIED = 2  # steps of a batch that is made for timing
_MOMENT_S = 0.7  # for timing a batch, a draft and a student step each, at least

Made = TypeVar("Made")


@dataclass(frozen=True)
class Forecast:
    """Hold the work that is left and its cost.

    Attributes:
        batches: still to be made.
        teacher_passes: samples through the teacher with gradient, for those.
        teacher_queries: samples through the teacher without gradient, what a decision-based source asks left out.
        store_bytes: of the finished set.
        student_steps: in all, but for those of rates that are tried.
        synthesis_s, training_s: seconds, from a little of each that is timed; what a student's steps need is made in
            the second where it is made anew for each.
    """

    batches: int
    teacher_passes: int
    teacher_queries: int
    store_bytes: int
    student_steps: int
    synthesis_s: float
    training_s: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.synthesis_s + self.training_s


def forecast(job: Job, runtime: Runtime, finished: int = 0, timed: tuple[float, float] | None = None) -> Forecast:
    """Time a little of the work and scale up; ``finished`` batches are there already.

    Args:
        timed: what `times` has told before.
    """
    synthesis, schedule, regime = job.synthesis, job.student_spec.schedule, job.student_spec.regime
    batches = synthesis.total + synthesis.held_out - (finished if schedule.rounds == 1 else 0)
    sample_bytes = 4 * (job.teacher.signature.size + job.teacher.signature.classes) + 8
    fresh = regime.total_steps if schedule.learn_from == "fresh" else 0
    asked = (batches if schedule.asks else synthesis.held_out) + (0 if regime.query_teacher else fresh)
    lesson = regime.batch if schedule.learn_from == "kept" else synthesis.batch
    queries = asked * synthesis.batch + (regime.total_steps * lesson if regime.query_teacher else 0)
    batch_s, step_s = timed or times(job, runtime)
    return Forecast(
        batches=batches,
        teacher_passes=batches * synthesis.batch * synthesis.steps if synthesis.has_gradient else 0,
        teacher_queries=queries,
        store_bytes=(job.layout.batches + job.layout.held_out) * synthesis.batch * sample_bytes,
        student_steps=regime.steps,
        synthesis_s=batches * batch_s,
        training_s=regime.total_steps * step_s,
    )


def describe(job: Job, ahead: Forecast) -> str:
    """Describe what is going to be done, in a few lines."""
    facts, signature, synthesis = job.teacher.facts, job.teacher.signature, job.synthesis
    shape = "×".join(map(str, signature.input_shape))
    student_spec, sizes = job.student_spec, f"{job.student_spec.parameters:,} parameters"
    int8 = f", int8, weights of {student_spec.weight_bits} bits" if student_spec.quantised else ""
    stepped = (
        "" if student_spec.regime.optimiser_key == OPTIMISER else f", stepped by {student_spec.regime.optimiser_key}"
    )
    lines = [
        f"teacher    {facts.name}: {shape} {signature.input_dtype} → {signature.classes} classes "
        f"({signature.output_kind.replace('_', '-')}), {facts.parameters:,} parameters",
        *(f"input      {assumption}" for assumption in signature.assumptions),
        *(f"given      {note}" for note in job.notes),
        f"recipe     {job.run.recipe.title}",
        *(f"instead    {note}" for note in job.view.notes),
        f"student    {_named(student_spec.architecture, student_spec.hyper)}{int8}, {sizes}"
        f"{_share(student_spec.parameters, facts.parameters)}{stepped}",
        _set(job, ahead),
        f"work       {ahead.batches} batches to make, {ahead.teacher_passes:,} teacher passes with "
        f"gradient, about {duration(ahead.synthesis_s)}; {ahead.student_steps:,} student steps, about "
        f"{duration(ahead.training_s)} ({', '.join(_how(job.plan))})",
    ]
    scaling = job.run.scaling
    if scaling is not None and (over := scaling.budget.exceeded(ahead.seconds)):
        lines.insert(0, f"budget     {over}")
    if not synthesis.has_gradient:
        lines[-1] = lines[-1].replace("0 teacher passes with gradient", "by asking for classes alone")
    return "\n".join(lines)


def _share(student: int, teacher: int) -> str:
    """Say how large a student is beside its teacher; nothing beside one that has no parameters at all."""
    return f", {student / teacher:.0%} of the teacher's" if teacher else ""


def _named(name: str, keys: dict[str, Any]) -> str:
    """Name an architecture with its keys, of which one may name another."""
    words = {
        key: _named(*next(iter(v.items()))) if isinstance(v, dict) else v for key, v in keys.items() if v is not None
    }
    inside = ", ".join(f"{key}={value}" for key, value in words.items())
    return f"{name} ({inside})" if inside else name


def _how(plan: Plan) -> list[str]:
    """Word how a run is computed."""
    how = [plan.device, f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"]
    how += ["channels last"] if plan.channels_last else []
    how += [f"{plan.workers} batches side by side"] if plan.workers > 1 else []
    return how if plan.dtype == "float32" else [*how, f"in {plan.dtype}"]


def _set(job: Job, ahead: Forecast) -> str:
    synthesis, kept = job.synthesis, job.layout.batches
    held_out = f" and {synthesis.held_out} held out" if synthesis.held_out else ""
    if kept:
        return f"set        {kept} batches of {synthesis.batch} samples{held_out}, {size(ahead.store_bytes)}"
    return (
        f"set        none is kept: {synthesis.rounds:,} rounds, "
        f"{job.student_spec.schedule.steps} student steps in each, batches of {synthesis.batch}"
    )


@waited("timing a batch and a student step")
def times(job: Job, runtime: Runtime, moment_s: float = _MOMENT_S) -> tuple[float, float]:
    """Time one batch, and one student step with all that it needs, in seconds; keep nothing of either.

    Args:
        moment_s: for timing a batch, a draft and a student step each, at least; each is made once at 0.
    """
    key = Key(0).at("timing")
    training = training_of(job.student_spec, key, job.plan, job.teacher, silent)
    short = shortened(job.synthesis, _TRIED if job.synthesis.has_gradient else 1)
    synthesizer = synthesizer_of(job, key, training, runtime, silent, short)
    training.student.eval()
    schedule, workers = job.student_spec.schedule, job.synthesis.workers
    torch.set_num_threads(1 if workers > 1 else job.plan.threads)
    whole, batch = _timed(lambda number: synthesizer.attempt(number, ask=schedule.asks), moment_s)
    fresh = (
        _timed(lambda number: synthesizer.fresh(key.at(number), ask=schedule.asks), moment_s)[0]
        if short.steps
        else whole
    )
    each = max(whole - fresh, 0.0) / max(short.steps, 1)
    torch.set_num_threads(job.plan.threads)
    memory, state, remember_s = schedule.memory, None, 0.0
    if memory is not None:
        kept = state = memory.init_state(synthesizer.context).to(synthesizer.teacher.device)
        remember_s = _timed(
            lambda number: memory.remember(kept, batch, 0, synthesizer, key.at("remember", number)), moment_s
        )[0]

    def lessons() -> Iterator[DistillationBatch]:
        for number in count():
            recalled = None if memory is None else memory.recall(state, synthesizer, key.at("recall", number))
            lesson = DistillationBatch(_rows(job, synthesizer, batch, key.at(number)), recalled)
            yield training.prepare(lesson, key.at("draw", number).generator())

    with prefetch(lessons(), job.plan.beside) as coming:
        step_s = _timed(lambda number: training.step_on(next(coming)), moment_s)[0]
    return (fresh + each * job.synthesis.steps) / workers + remember_s, step_s


def _rows(job: Job, synthesizer: Synthesizer, batch: Batch, key: Key) -> Rows:
    """Choose the rows of a step: a fresh draft, the batch, or as much of it as a step sees."""
    schedule, regime = job.student_spec.schedule, job.student_spec.regime
    if schedule.learn_from == "fresh":
        batch = synthesizer.fresh(key, ask=not regime.query_teacher)
    rows = batch.inputs, batch.logits, batch.labels
    if schedule.learn_from != "kept":
        return rows
    chosen = torch.arange(regime.batch, device=batch.inputs.device) % len(batch.inputs)
    return rows[0][chosen], rows[1][chosen], rows[2][chosen]


def _timed(act: Callable[[int], Made], moment_s: float) -> tuple[float, Made]:
    """Time an act: the median in seconds of as many as fit into a moment, the first left out if others do."""
    times: list[float] = []
    while True:
        start = time.perf_counter()
        made = act(len(times))
        times.append(time.perf_counter() - start)
        if sum(times) > moment_s:
            return statistics.median(times[1:] or times), made
