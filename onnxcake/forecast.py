"""What a run is going to do and how long that takes, said before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from .job import Job
from .progress import duration, size
from .rng import Key
from .student import decisions, make
from .synthesis import Synthesis, make_batch
from .teacher import Teacher


@dataclass(frozen=True)
class Forecast:
    """What lies ahead.

    Attributes:
        batches: still to be made.
        teacher_passes: samples through the teacher with gradient, for those.
        store_bytes: of the finished set.
        student_steps: in all.
        synthesis_s, training_s: seconds, from two short timed batches and two timed student steps each.
    """

    batches: int
    teacher_passes: int
    store_bytes: int
    student_steps: int
    synthesis_s: float
    training_s: float


def forecast(job: Job, finished: int = 0) -> Forecast:
    """Times a little of the work and scales up; ``finished`` batches are there already."""
    synthesis, regime = job.synthesis, job.pupil.regime
    batches = synthesis.batches + synthesis.held_out - finished
    sample_bytes = 4 * (job.teacher.signature.size + job.teacher.signature.classes) + 8
    return Forecast(
        batches=batches,
        teacher_passes=batches * synthesis.batch * synthesis.steps,
        store_bytes=(synthesis.batches + synthesis.held_out) * synthesis.batch * sample_bytes,
        student_steps=regime.steps,
        synthesis_s=batches * synthesis.steps * _step_s(job.teacher, synthesis) if batches else 0.0,
        training_s=regime.steps * _student_step_s(job),
    )


def describe(job: Job, ahead: Forecast) -> str:
    """What is going to be done, in a few lines."""
    facts, signature, synthesis = job.teacher.facts, job.teacher.signature, job.synthesis
    shape = "×".join(map(str, signature.input_shape))
    held_out = f" and {synthesis.held_out} held out" if synthesis.held_out else ""
    hyper = ", ".join(f"{key}={value}" for key, value in job.pupil.hyper.items())
    pupil, sizes = job.pupil, f"{job.pupil.parameters:,} parameters"
    return "\n".join(
        [
            f"teacher    {facts.name}: {shape} {signature.input_dtype} → {signature.classes} classes "
            f"({signature.output_kind.replace('_', '-')}), {facts.parameters:,} parameters",
            *(f"input      {assumption}" for assumption in signature.assumptions),
            f"recipe     {job.run.recipe.title}",
            f"student    {pupil.architecture}{f' ({hyper})' if hyper else ''}, {sizes}, "
            f"{pupil.parameters / facts.parameters:.0%} of the teacher's",
            f"set        {synthesis.batches} batches of {synthesis.batch} samples{held_out}, {size(ahead.store_bytes)}",
            f"work       {ahead.batches} batches to make, {ahead.teacher_passes:,} teacher passes with "
            f"gradient, about {duration(ahead.synthesis_s)}; {ahead.student_steps:,} student steps, about "
            f"{duration(ahead.training_s)} ({job.plan.device}, {job.plan.threads} threads)",
        ]
    )


def _step_s(teacher: Teacher, synthesis: Synthesis) -> float:
    """Seconds of one step: the quicker of two batches of two steps, made for nothing but this."""
    times = []
    for number in (0, 1):
        start = time.perf_counter()
        make_batch(teacher, replace(synthesis, steps=2), number, Key(0).at("timing"))
        times.append((time.perf_counter() - start) / 2.5)  # the answers at the end cost half a step
    return min(times)


def _student_step_s(job: Job) -> float:
    """Seconds of one student step, the quicker of two."""
    student = make(job.pupil.architecture, job.pupil.hyper, job.pupil.signature, Key(0).at("timing"))
    student = student.to(job.teacher.device)
    optimiser, loss = job.pupil.regime.optimiser.build(student.parameters()), job.pupil.regime.loss
    shape, classes = job.pupil.signature.input_shape, job.pupil.signature.classes
    rows = torch.zeros(job.pupil.regime.batch, *shape, device=job.teacher.device)
    answers = rows.new_zeros(len(rows), classes)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        given = (student(rows), answers, answers.argmax(1))
        loss(*(decisions(*given) if job.pupil.regime.multilabel else given)).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return min(times)
