"""The parts of a run, put together: the student with its training, and what makes the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .agreement import top_classes
from .job import Job, Pupil
from .ort import Runtime
from .probes import Probe
from .rng import Key
from .student import Training, make
from .student.training import Ask
from .synthesis import Maker, Synthesis, Tick
from .teacher import Teacher

_WATCHED = 2000  # of the probe's samples, for the curve


def training_of(pupil: Pupil, key: Key, device: torch.device, teacher: Teacher | None, tick: Tick) -> Training:
    """A fresh student, ready to learn.

    Args:
        teacher: for a regime that asks it; None where a finished set stands for it.
        tick: told how much it is asked.
    """
    student = make(pupil.architecture, pupil.hyper, pupil.signature, key, quantised=pupil.quantised)
    return Training(student, pupil.regime, device, None if teacher is None else _asked_of(teacher, tick))


def _asked_of(teacher: Teacher, tick: Tick) -> Ask:
    """The teacher, values inside it asked for by the file's own names."""

    def ask(inputs: Tensor, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        taps = tuple(map(teacher.tap, names))
        logits, values = teacher.answer(inputs, taps)
        tick(0, len(inputs))
        return logits, {name: values[tap] for name, tap in zip(names, taps, strict=True)}

    return ask


def maker_of(
    job: Job, key: Key, training: Training, runtime: Runtime, tick: Tick, synthesis: Synthesis | None = None
) -> Maker:
    """What makes a job's samples; ``synthesis`` in place of the job's, to try a little of it."""
    synthesis = synthesis or job.synthesis
    classify = None if synthesis.has_gradient else _classes(job.teacher, runtime)
    return Maker(
        job.teacher,
        synthesis,
        key,
        view=job.view,
        student=training.student if "student" in synthesis.needs else None,
        classify=classify,
        tick=tick,
    )


def watcher(teacher: Teacher, probe: Probe) -> Callable[[nn.Module], float]:
    """A student's agreement with the teacher on some of the probe's inputs, both in torch."""
    rows = np.unique(np.linspace(0, len(probe.inputs) - 1, _WATCHED).astype(np.int64))  # probes may be sorted by class
    inputs = torch.from_numpy(probe.inputs[rows]).to(teacher.device)

    @torch.no_grad()
    def decisions(net: Callable[[Tensor], Tensor]) -> Tensor:
        logits = torch.cat([net(part) for part in inputs.split(256)])
        return logits > 0 if teacher.signature.task == "multilabel" else logits.argmax(1)

    wanted = decisions(teacher.logits)
    return lambda student: float((decisions(student) == wanted).double().mean())


def shortened(synthesis: Synthesis, steps: int) -> Synthesis:
    """The same with at most so many steps on a batch, every loss term counting."""
    losses = tuple(replace(term, after=0.0) for term in synthesis.losses)
    return replace(synthesis, steps=min(steps, synthesis.steps), losses=losses)


def _classes(teacher: Teacher, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """The class that onnxruntime names for each input: all that a decision-based method is told."""
    session, kind = runtime.load(teacher.model, weights=teacher.weights), teacher.signature.output_kind

    def classify(inputs: Tensor) -> Tensor:
        answers = session.run_in_batches(inputs.cpu().numpy())
        return torch.from_numpy(np.asarray(top_classes(answers, kind))).long().to(inputs.device)

    return classify
