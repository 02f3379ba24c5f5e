"""Train another student on a set that exists: `onnxcake train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import StoreError
from ..core.progress import Progress
from ..core.rng import Key
from ..recipe.recipe import Recipe
from ..report.report import Report
from ..run import finish, store_key
from ..run import folder as runs
from ..run import plan as plans
from ..run.build import ProgressMeter, rounds_of, training_of, work
from ..run.cost import RunCost
from ..run.folder import Run
from ..run.initial_model import initial_of
from ..run.plan import Plan
from ..run.student_spec import StudentSpec
from ..runtime.ort import Runtime
from ..store.store import Store
from ..teacher import autotune


def train(
    store: str | Path,
    *,
    recipe: str | Path | dict[str, Any] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    student: str | Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Train another student on a set that exists; the answers in the set stand for the teacher.

    Args:
        store: the folder of the run that made the set, or its ``store``.
        recipe: its student section is used; that of the run if None.
        out: the new student's folder; one in ``students`` of the run if None.
        overrides: ``key=value`` pairs that go before the recipe.
        student: the model that the student begins as, if the recipe asks for one; that of the run if None.
        device: "cpu" or "cuda".
        seed: all randomness depends on it.
        progress: told what goes on; silent if None.

    Raises:
        StoreError: if the folder is not a run that keeps samples to learn from.
        OnnxcakeError: as `onnxcake.extract`, of the recipe and the student.
    """
    store, progress = Path(store), progress or Progress(quiet=True)
    folder = store.parent if files.is_there(store / "store.json") and store.name == runs.STORE else store
    made = Run.read(folder)
    plan = Plan.read(folder / plans.FILE)
    if plan is None:
        raise StoreError("plan.json is missing", where=folder, remedy="Give the folder of a run.")
    chosen = Recipe.load(recipe if recipe is not None else made.recipe.as_dict(), overrides, kept=recipe is None)
    samples = Store.open(folder / runs.STORE, progress.say)
    if not samples.layout.batches:
        raise StoreError(
            "its method keeps no samples to learn from",
            where=folder,
            remedy="Give the run of a recipe whose student learns from what is kept, such as cake.",
        )
    if not store_key.made_for(samples.layout, made.teacher.signature):
        raise StoreError(
            "run.json tells of other inputs or classes than the set was made for",
            where=folder,
            remedy="Give the folder of a run as `onnxcake extract` left it.",
        )
    begins = initial_of(chosen, made.teacher, None if student is None else Path(student), folder, made.seed)
    size = samples.layout.batches * samples.layout.batch
    student_spec = StudentSpec.of(chosen, made.teacher, size, seed, begins.start, plans.weight_bits(chosen)).of_a_set()
    if student_spec.regime.query_teacher or student_spec.regime.match is not None:
        raise StoreError(
            "the recipe's student asks the teacher as it learns, and only a set is given",
            where=folder,
            remedy="Run `onnxcake extract` with the recipe, or set -o student.answers=stored.",
        )
    key = student_spec.key(samples.layout)
    out = Path(out) if out is not None else folder / "students" / f"{student_spec.architecture}-{key[:8]}"
    runs.guard(out)
    files.make_folder(out)
    with files.sole_writer(out), Runtime() as runtime:
        files.sweep(out)
        if (done := finish.finished(out, key)) is not None:
            progress.say(f"{out}: finished before, nothing to do")
            return done
        own = Run(made.teacher, chosen, seed)
        own.write(out)
        begins.keep(out)
        front = (folder / runs.FRONT).read_bytes() if (folder / runs.FRONT).exists() else None
        if front is not None:
            files.write_atomic(out / runs.FRONT, front)
        autotune.use_threads(plan.threads)
        spent = RunCost(out)
        show = ProgressMeter(spent)
        training = training_of(student_spec, Key(seed), replace(plan, device=device), None, show)
        rounds = rounds_of(student_spec, training, samples, out, spent)
        learnt = work(rounds, spent, show, progress)
        return finish.finish(
            out,
            own,
            plan,
            learnt,
            samples,
            student_spec=student_spec,
            key=key,
            teacher=None,
            probe=None,
            spent=spent,
            curve=[],
            rate=rounds.training.rate,
            substitutes=(),
            runtime=runtime,
            front=front,
        )
