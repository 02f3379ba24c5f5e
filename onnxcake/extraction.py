"""The straight line: teacher.onnx → samples → student → student.onnx → report. Read it top to bottom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import files, result
from . import plan as plans
from . import run as runs
from .errors import StoreError
from .forecast import Forecast, describe, forecast
from .job import Job, Pupil, Request, prepare
from .ort import Runtime
from .plan import Plan
from .progress import Progress
from .recipe import Recipe
from .report import Report
from .rng import Key
from .run import Run
from .spent import Spent
from .store import Store, StoreDataset
from .student import Student, Training, make
from .synthesis import synthesize
from .teacher import Options, Task


def extract(
    teacher: str | Path,
    *,
    recipe: str | Path | dict[str, Any] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    input: str | None = None,
    output: str | None = None,
    shape: Sequence[int] | None = None,
    constants: Mapping[str, float] | None = None,
    task: Task | None = None,
    range: tuple[float, float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    probe: str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Makes a smaller student of an ONNX classifier, without data. Run again, it goes on where it stopped.

    Args:
        teacher: the ``.onnx`` file.
        recipe: a recipe's name, file or data; chosen by the teacher's input if None.
        out: the run's folder; named after the teacher if None.
        overrides: ``key=value`` pairs that go before the recipe.
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name.
        task: what the scores decide: "multiclass", "binary" or "multilabel".
        range: lowest and highest raw value of an input.
        mean, std: the normalisation done outside the file, one value or one for each channel.
        probe: a file or folder of real inputs to compare on, with labels or without.
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
        options=Options.of(
            input=input,
            output=output,
            shape=shape,
            constants=constants or {},
            task=task,
            range=range,
            mean=mean,
            std=std,
        ),
        probe=None if probe is None else Path(probe),
        device=device,
        seed=seed,
    )
    return run(request, progress or Progress(quiet=True))


def run(request: Request, progress: Progress) -> Report:
    """`extract`, as the command asks for it."""
    out = request.folder
    job = prepare(request)
    runs.guard(out)
    with Runtime() as runtime:
        files.make_folder(out)
        with files.sole_writer(out):
            files.sweep(out)
            if (done := result.finished(out, job.report_key)) is not None:
                progress.say(f"{out}: finished before, nothing to do")
                return done
            store = Store.create(out / runs.STORE, job.layout, progress.say)
            job.run.write(out)
            files.write_json(out / plans.FILE, job.plan.as_dict())
            progress.say(describe(job, forecast(job, store.finished)))
            spent = Spent(out)
            make_set(job, store, spent, progress)
            student = teach(job.pupil, store, out, job.teacher.device, spent, progress)
            return result.finish(
                out,
                job.run,
                job.plan,
                student,
                store,
                architecture=job.pupil.architecture,
                key=job.report_key,
                teacher=job.teacher,
                probe=job.probe,
                spent=spent,
                runtime=runtime,
            )


def look_ahead(request: Request, progress: Progress) -> Forecast:
    """What `run` would do; nothing is written."""
    job = prepare(request)
    ahead = forecast(job)
    progress.say(describe(job, ahead))
    return ahead


def train(
    store: Path,
    recipe: str | Path | dict[str, Any] | None,
    out: Path | None,
    overrides: Sequence[str],
    seed: int,
    device: str,
    progress: Progress,
) -> Report:
    """Trains another student on a set that exists; the answers in the set stand for the teacher.

    Args:
        store: the folder of the run that made the set, or its ``store``.
        recipe: its student section is used; that of the run if None.
        out: the new student's folder; one in ``students`` of the run if None.
    """
    folder = store.parent if (store / "store.json").exists() and store.name == runs.STORE else store
    made = Run.read(folder)
    plan = Plan.read(folder / plans.FILE)
    if plan is None:
        raise StoreError("plan.json is missing", where=folder, remedy="Give the folder of a run.")
    chosen = Recipe.load(recipe if recipe is not None else made.recipe.as_dict(), overrides)
    samples = Store.open(folder / runs.STORE, progress.say)
    pupil = Pupil.of(chosen, made.teacher, samples.layout.batches * samples.layout.batch, seed)
    key = pupil.key(samples.layout)
    out = out or folder / "students" / f"{pupil.architecture}-{key[:8]}"
    runs.guard(out)
    files.make_folder(out)
    with files.sole_writer(out), Runtime() as runtime:
        files.sweep(out)
        if (done := result.finished(out, key)) is not None:
            progress.say(f"{out}: finished before, nothing to do")
            return done
        own = Run(made.teacher, chosen, seed)
        own.write(out)
        torch.set_num_threads(plan.threads)
        spent = Spent(out)
        student = teach(pupil, samples, out, torch.device(device), spent, progress)
        return result.finish(
            out,
            own,
            plan,
            student,
            samples,
            architecture=pupil.architecture,
            key=key,
            teacher=None,
            probe=None,
            spent=spent,
            runtime=runtime,
        )


def make_set(job: Job, store: Store, spent: Spent, progress: Progress) -> None:
    """Makes the batches that the store misses."""
    samples = job.synthesis.steps * job.synthesis.batch
    total = store.layout.batches + store.layout.held_out
    with (
        spent.stage("synthesis"),
        progress.stage("synthesis", total * samples, store.finished * samples, "teacher passes") as stage,
    ):

        def tick(passes: int) -> None:
            spent.tick(passes)
            stage.advance(passes)

        synthesize(job.teacher, job.synthesis, store, Key(job.run.seed), tick)


def teach(pupil: Pupil, store: Store, out: Path, device: torch.device, spent: Spent, progress: Progress) -> Student:
    """Trains the student on the set, from its last checkpoint on."""
    key = Key(pupil.seed)
    student = make(pupil.architecture, pupil.hyper, pupil.signature, key)
    training = Training(
        student,
        StoreDataset(store),
        pupil.regime,
        key=key.at("student", "order"),
        folder=out / runs.CHECKPOINTS / pupil.key(store.layout)[:16],
        run_key=pupil.key(store.layout),
        device=device,
    )
    with (
        spent.stage("training"),
        progress.stage("training", pupil.regime.steps, training.step, "steps") as stage,
    ):

        def tick(loss: float) -> None:
            spent.tick()
            stage.advance(1, "" if math.isnan(loss) else f"loss {loss:.4f}")

        training.learn(tick)
    return student
