"""Prepare a run whose way of computing has been tried on the run's own work."""

from __future__ import annotations

from dataclasses import replace

from ..runtime.ort import Runtime
from ..teacher import autotune
from . import prepare as jobs
from .estimate import times
from .prepare import Job, Request

_TRIED: set[tuple[object, ...]] = set()  # what has worked in this process: runs are prepared several times


def prepare(request: Request) -> Job:
    """Resolve what the user asked for; see `onnxcake.run.prepare.prepare`.

    A way of computing that is only meant to be faster (bfloat16, channels last, threads side by side) was timed on the
    teacher's gradient alone. The losses, values inside the teacher and the student meet it here, in a few steps of a
    batch and one of the student. Where they fail, in whatever way, the run is prepared anew without it.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    job = jobs.prepare(request)
    losses = tuple(term.name for term in job.synthesis.losses)
    case = (
        job.teacher.facts.digest,
        job.plan.pace,
        losses,
        job.student_spec.architecture,
        str(job.student_spec.section),
    )
    if case in _TRIED or replace(job.plan.pace, threads=None) == autotune.PLAIN:
        return job
    try:
        with Runtime() as runtime:
            times(job, runtime, 0.0)
    except Exception:  # noqa: BLE001 - whatever it is, the plain way may do; if that fails too, the run says so
        autotune.fall_back_to_plain(job.teacher)
        return jobs.prepare(request)
    _TRIED.add(case)
    return job
