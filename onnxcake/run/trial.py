"""Prepare a run: open its teacher once, resolve the request, decide the mode of computing, and try it on the work."""

from __future__ import annotations

from dataclasses import replace

from ..runtime.ort import Runtime
from ..teacher import autotune
from ..teacher.teacher import Teacher
from .budget import begun, fit, limit
from .estimate import times
from .prepare import Job, Request, build, open_teacher, resolve


def prepare(request: Request, teacher: Teacher | None = None) -> Job:
    """Resolve what the user asked for, scaled to the budget; nothing is written.

    Args:
        teacher: the request's, if it was opened before.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    whole = resolve(request, open_teacher(request) if teacher is None else teacher)
    same = begun(whole)
    return fit(tried(build(limit(whole))), whole) if same is None else tried(build(same))


def tried(job: Job) -> Job:
    """Try a job's mode in a few steps of a batch and one of the student; build the job in the plain mode if that fails.

    A mode that is only meant to be faster (bfloat16, channels last, threads side by side) was timed on the teacher's
    gradient alone. The losses, values inside the teacher and the student meet it here.
    """
    if replace(job.plan.pace, threads=None) == autotune.PLAIN:
        return job
    try:
        with Runtime() as runtime:
            times(job, runtime, 0.0)
    except Exception:  # noqa: BLE001 - whatever it is, the plain mode may do; if that fails too, the run says so
        return build(job.resolved, job.begins, replace(autotune.PLAIN, threads=job.plan.threads))
    return job
