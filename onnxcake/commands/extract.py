"""Go the straight line: teacher.onnx → samples → student → student.onnx → report. Read it top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import files
from ..core.arrays import Array
from ..core.progress import Progress
from ..core.rng import Key
from ..recipe.limits import Budget
from ..report.report import Report
from ..run import finish
from ..run import folder as runs
from ..run import plan as plans
from ..run.build import ProgressMeter, rounds_of, synthesizer_of, training_of, watcher, work
from ..run.cost import RunCost
from ..run.estimate import Forecast, describe, forecast, times
from ..run.keep_whole import kept_whole
from ..run.prepare import Request
from ..run.trial import prepare
from ..runtime.ort import Runtime
from ..store.store import Store
from ..teacher.options import TeacherOptions
from ..teacher.signature import Task
from ..teacher.teacher import Teacher


def extract(
    teacher: str | Path,
    *,
    recipe: str | Path | dict[str, Any] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    input: str | None = None,
    output: str | None = None,
    shape: Sequence[int] | None = None,
    constants: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    task: Task | None = None,
    range: Sequence[Any] | Array | None = None,
    mean: Sequence[float] | Array | None = None,
    std: Sequence[float] | Array | None = None,
    probe: str | Path | None = None,
    data: str | Path | None = None,
    stats: str | Path | None = None,
    student: str | Path | None = None,
    budget: str | None = None,
    passes: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Make a smaller student of an ONNX classifier, without data. Run again, it goes on where it stopped.

    Args:
        teacher: the ``.onnx`` file.
        recipe: a recipe's name, file or data; ``layercake`` if None.
        out: the run's folder; named after the teacher if None.
        overrides: ``key=value`` pairs that go before the recipe.
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name: a number, a list of numbers, or an array of the input's
            shape, with the batch or without.
        shapes: the sizes of other inputs by name, batch included, where the file leaves sizes open.
        task: what the scores decide: "multiclass", "binary" or "multilabel".
        range: lowest and highest raw value of an input: two numbers, or two arrays of one for each channel or feature.
        mean, std: the normalisation done outside the file: one value, one for each channel or feature, or one for each
            number of an input in the file's layout.
        probe: a file or folder of real inputs to compare on, with labels or without.
        data: real inputs to learn from, for a recipe that asks for them (``kd``); read like a probe.
        stats: statistics that the owner of the data has recorded (``onnxcake record``).
        student: the ``.onnx`` file that the student begins as, for a recipe of ``student.architecture: onnx``.
        budget: time on this machine that the recipe is scaled to, such as "5m"; ``passes``: teacher passes likewise.
        device: "cpu" or "cuda".
        seed: all randomness depends on it.
        progress: told what goes on; silent if None.

    Returns:
        The report, which is in ``out`` too, beside ``student.onnx``.

    Raises:
        OnnxcakeError: of a kind that says what is wrong; what was finished is kept.
    """
    request = Request(
        teacher=Path(teacher),
        recipe=recipe,
        out=None if out is None else Path(out),
        overrides=overrides,
        options=TeacherOptions.of(
            input=input,
            output=output,
            shape=shape,
            constants=constants or {},
            shapes=shapes or {},
            task=task,
            range=range,
            mean=mean,
            std=std,
        ),
        probe=None if probe is None else Path(probe),
        data=None if data is None else Path(data),
        stats=None if stats is None else Path(stats),
        student=None if student is None else Path(student),
        device=device,
        seed=seed,
        budget=Budget.of(budget, None if passes is None else str(passes)),
    )
    return run(request, progress or Progress(quiet=True))


def run(request: Request, progress: Progress, teacher: Teacher | None = None) -> Report:
    """Extract a student as the command asks for it.

    Args:
        teacher: the request's, if it was opened before.

    Raises:
        OnnxcakeError: as `extract`.
    """
    out = request.folder
    job = prepare(request, teacher)
    runs.guard(out)
    with Runtime() as runtime:
        # All that is going to be done is tried before anything is written: what fails there leaves no begun run.
        timed = None if finish.finished(out, job.report_key) else times(job, runtime)
        files.make_folder(out)
        with files.sole_writer(out):
            files.sweep(out)
            if (done := finish.finished(out, job.report_key)) is not None:
                progress.say(f"{out}: finished before, nothing to do")
                return done
            store = Store.create(out / runs.STORE, job.layout, progress.say, anew=runs.holds_nothing(out))
            job.run.write(out)
            job.begins.keep(out)
            front = None if job.teacher.front is None else job.teacher.front.content()
            if front is not None:
                files.write_atomic(out / runs.FRONT, front)
            files.write_json(out / plans.FILE, job.plan.as_dict())
            progress.say(describe(job, forecast(job, runtime, store.finished, timed)))
            spent, key = RunCost(out), Key(job.run.seed)
            show = ProgressMeter(spent)
            training = training_of(job.student_spec, key, job.plan, job.teacher, show)
            synthesizer = synthesizer_of(job, key, training, runtime, show)
            watch = None if job.probe is None else watcher(job.teacher, job.probe)
            rounds = rounds_of(job.student_spec, training, store, out, spent, synthesizer, watch, job.plan.beside)
            job, student = kept_whole(job, work(rounds, spent, show, progress), runtime, progress.say)
            return finish.finish(
                out,
                job.run,
                job.plan,
                student,
                store,
                student_spec=job.student_spec,
                key=job.report_key,
                teacher=job.teacher,
                probe=job.probe,
                spent=spent,
                curve=rounds.curve,
                rate=rounds.training.rate,
                substitutes=job.view.notes,
                runtime=runtime,
                front=front,
            )


def look_ahead(request: Request, progress: Progress) -> Forecast:
    """Forecast what `run` would do; write nothing."""
    job = prepare(request)
    with Runtime() as runtime:
        ahead = forecast(job, runtime)
    progress.say(describe(job, ahead))
    return ahead
