"""Put the parts of a run together: the student with its training, the synthesizer, and their turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..core.progress import Progress, Stage
from ..core.rng import Key
from ..evaluate.agreement import top_classes
from ..evaluate.probes.parts import Probe
from ..runtime.ort import Runtime
from ..store.store import Store
from ..student.student import Student
from ..student.training import Ask, Training
from ..synthesis.spec import Synthesis
from ..synthesis.step import Counter
from ..synthesis.synthesizer import Synthesizer
from ..teacher import autotune
from ..teacher.teacher import Teacher
from . import folder as runs
from .checkpoints import Checkpoints
from .cost import RunCost
from .plan import Plan
from .prepare import Job
from .rounds import Rounds
from .student_spec import StudentSpec

_WATCHED = 2000  # of the probe's samples, for the curve


def training_of(student_spec: StudentSpec, key: Key, plan: Plan, teacher: Teacher | None, count: Counter) -> Training:
    """Make a fresh student and its training.

    Args:
        teacher: for a regime that asks it; None where a finished set stands for it.
        count: told how much it is asked.
    """
    student = student_spec.student(key)
    autotune.apply(plan.pace, student)
    ask = None if teacher is None else _asked_of(teacher, plan.dtype, count)
    dtype: autotune.Dtype = "float32" if student_spec.quantised else plan.dtype  # what rounds to int8 has to be exact
    return Training(student, student_spec.regime, torch.device(plan.device), ask, dtype)


def _asked_of(teacher: Teacher, dtype: autotune.Dtype, count: Counter) -> Ask:
    """Wrap the teacher, whose inner values are asked for by the file's own names."""

    def ask(inputs: Tensor, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        taps = tuple(map(teacher.tap, names))
        with autotune.autocast(teacher.device, dtype):
            logits, values = teacher.answer(inputs, taps)
        count(0, len(inputs))
        return logits.float(), {name: values[tap].float() for name, tap in zip(names, taps, strict=True)}

    return ask


def synthesizer_of(
    job: Job, key: Key, training: Training, runtime: Runtime, count: Counter, synthesis: Synthesis | None = None
) -> Synthesizer:
    """Make a job's synthesizer; ``synthesis`` stands in place of the job's, to try a little of it."""
    synthesis = synthesis or job.synthesis
    classify = None if synthesis.has_gradient else _classes(job.teacher, runtime)
    return Synthesizer(
        job.teacher,
        synthesis,
        key,
        view=job.view,
        student=training.student if "student" in synthesis.needs else None,
        classify=classify,
        count=count,
    )


def watcher(teacher: Teacher, probe: Probe) -> Callable[[nn.Module], float]:
    """Measure a student's agreement with the teacher on some of the probe's inputs, both in torch."""
    rows = np.unique(np.linspace(0, len(probe.inputs) - 1, _WATCHED).astype(np.int64))  # probes may be sorted by class
    inputs = torch.from_numpy(probe.inputs[rows]).to(teacher.device)

    @torch.no_grad()
    def decisions(net: Callable[[Tensor], Tensor]) -> Tensor:
        logits = torch.cat([net(part) for part in inputs.split(256)])
        return logits > 0 if teacher.signature.task == "multilabel" else logits.argmax(1)

    wanted = decisions(teacher.logits)
    return lambda student: float((decisions(student) == wanted).double().mean())


def shortened(synthesis: Synthesis, steps: int) -> Synthesis:
    """Shorten a synthesis to at most so many steps on a batch, every loss term counting."""
    losses = tuple(replace(term, after=0.0) for term in synthesis.losses)
    return replace(synthesis, steps=min(steps, synthesis.steps), losses=losses)


def _classes(teacher: Teacher, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """Ask onnxruntime for the class of each input: all that a decision-based method is told."""
    session, kind = runtime.load(teacher.model, weights=teacher.weights), teacher.signature.output_kind

    def classify(inputs: Tensor) -> Tensor:
        answers = session.run_in_batches(inputs.cpu().numpy())
        return torch.from_numpy(np.asarray(top_classes(answers, kind))).long().to(inputs.device)

    return classify


def work(rounds: Rounds, spent: RunCost, show: ProgressMeter, progress: Progress) -> Student:
    """Make the samples and train the student, turn by turn, without what earlier starts have finished."""
    synthesis = None if rounds.synthesizer is None else rounds.synthesizer.synthesis
    if synthesis is not None and synthesis.rounds == 1:
        each = synthesis.steps * synthesis.batch if synthesis.teacher_passes else synthesis.batch
        unit = "teacher passes" if synthesis.teacher_passes else "samples"
        total = (synthesis.batches + synthesis.held_out) * each
        with (
            spent.stage("synthesis"),
            progress.stage("synthesis", total, rounds.store.finished * each, unit) as show.stage,
        ):
            rounds.make()
        show.stage = None
    offline = rounds.schedule.rounds == 1
    name, unit = ("training", "student steps") if offline else ("rounds", "rounds")
    total, done = (rounds.schedule.total, rounds.training.step) if offline else (rounds.schedule.rounds, rounds.round)
    with spent.stage(name), progress.stage(name, total, done, unit) as stage:

        def advance() -> None:
            spent.tick()
            loss = rounds.training.loss
            stage.advance(1, "" if math.isnan(loss) else f"loss {loss:.4f}")

        if offline:
            rounds.on_step = advance
        else:
            rounds.on_round = advance
        return cast(Student, rounds.run())


class ProgressMeter:
    """Counts what goes through the teacher, and shows it where a stage shows that."""

    def __init__(self, spent: RunCost) -> None:
        self.spent, self.stage = spent, cast("Stage | None", None)

    def __call__(self, passes: int, queries: int = 0) -> None:
        self.spent.tick(passes, queries)
        if self.stage is not None:
            self.stage.advance(passes if self.stage.unit == "teacher passes" else queries)


def rounds_of(
    student_spec: StudentSpec,
    training: Training,
    store: Store,
    out: Path,
    spent: RunCost,
    synthesizer: Synthesizer | None = None,
    watch: Callable[[nn.Module], float] | None = None,
    beside: int = 0,
) -> Rounds:
    """Restore the run in ``out`` from its last checkpoint; ``beside`` is as in its plan."""
    key = student_spec.key(store.layout)
    checkpoints = Checkpoints(out / runs.CHECKPOINTS / key[:16], key)
    order = Key(student_spec.seed).at("student", "order")
    return Rounds(
        synthesizer, training, store, student_spec.schedule, checkpoints, order, watch, spent.point, beside=beside
    )
