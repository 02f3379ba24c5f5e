"""A run, resolved: everything that can be wrong is found here, before any work; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import RecipeError, StoreError, UsageError
from ..core.rng import Key
from ..core.text import printable
from ..core.waiting import waited
from ..evaluate import probes
from ..evaluate.probes.parts import Probe
from ..recipe import method_table
from ..recipe.limits import Scaling
from ..recipe.recipe import Recipe
from ..store.store import Layout
from ..synthesis.spec import Synthesis
from ..teacher import autotune, recorded_statistics
from ..teacher.capabilities import MethodInputs
from ..teacher.options import TeacherOptions
from ..teacher.teacher import Teacher
from . import joining, method, requirements, store_key
from . import plan as plans
from .folder import Run, holds_nothing, is_abandoned
from .initial_model import Initial, beginning
from .plan import Plan
from .student_spec import StudentSpec

_BATCHES = 4  # for each worker at least: the last ones are not waited for in vain
DEFAULT = "layercake"  # the recipe of whoever names none: it needs nothing but logits and their gradient


@dataclass(frozen=True)
class Request:
    """Holds what the user asked for; the fields are explained at `onnxcake.extract`, but for this one.

    Attributes:
        scaling: what a budget has made of the recipe; its numbers are among the overrides.
    """

    teacher: Path
    recipe: str | Path | dict[str, Any] | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    options: TeacherOptions = field(default_factory=TeacherOptions)
    probe: Path | None = None
    data: Path | None = None
    stats: Path | None = None
    student: Path | None = None
    device: str = "cpu"
    seed: int = 0
    scaling: Scaling | None = None

    @property
    def recipe_and_overrides(self) -> tuple[str | Path | dict[str, Any], Sequence[str]]:
        """Give the arguments of `Recipe.load`."""
        return DEFAULT if self.recipe is None else self.recipe, self.overrides

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.out if self.out is not None else Path(self.teacher.stem)


@dataclass(frozen=True)
class Job:
    """A run, resolved: every part that the recipe names is there and fits."""

    teacher: Teacher
    run: Run
    synthesis: Synthesis
    plan: Plan
    layout: Layout
    student_spec: StudentSpec
    probe: Probe | None
    view: MethodInputs
    begins: Initial
    notes: tuple[str, ...] = ()  # what was taken for what in --probe and --data

    @property
    def report_key(self) -> str:
        """A digest over all that the report depends on."""
        probe = None if self.probe is None else self.probe.digest
        return files.sha256(files.canonical([self.student_spec.key(self.layout), probe, self.run.recipe.digest]))


def prepare(request: Request) -> Job:
    """Resolves what the user asked for.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    recipe = Recipe.load(*request.recipe_and_overrides)
    teacher = open_teacher(request)
    asked, data = (_given(path, teacher) for path in (request.probe, request.data))
    synthesis, view = _method(request, recipe, teacher, data)
    with waited("timing the teacher's gradients"):
        plan = _plan(request.folder, recipe, teacher, synthesis)
    synthesis = replace(synthesis, chunk=plan.chunk, dtype=plan.dtype, workers=plan.workers)
    with waited("making the student"):
        begins = beginning(recipe, teacher.facts, request.student, request.folder, request.seed, teacher)
        if begins.note:
            view = replace(view, notes=(*view.notes, printable(begins.note)))
        student_spec = StudentSpec.of(
            recipe, teacher.facts, synthesis.total * synthesis.batch, request.seed, begins.start, plan.weight_bits
        )
    besides: dict[str, Any] = {"substitutes": list(view.notes)} if view.notes else {}
    besides |= _held(request.options.before(recipe.teacher_options))
    if data is not None:
        besides["data"] = data.digest
    if request.stats is not None:
        besides["stats"] = files.sha256_file(request.stats)
    if "student" in synthesis.needs:
        student = {
            **student_spec.section,
            "architecture": {student_spec.architecture: student_spec.hyper},
            **student_spec.begins_as,
            **student_spec.narrow,
        }
        besides["student"] = {**student, "beside": plan.beside}
    return Job(
        teacher=teacher,
        run=Run(teacher.facts, recipe, request.seed, request.scaling),
        synthesis=synthesis,
        plan=plan,
        layout=store_key.layout(recipe, teacher, synthesis, plan, request.seed, besides),
        student_spec=student_spec,
        probe=asked,
        view=view,
        begins=begins,
        notes=probes.told(asked, data),
    )


def _given(path: Path | None, teacher: Teacher) -> Probe | None:
    return None if path is None else joining.given(path, teacher.signature, teacher.facts.class_names, teacher.front)


def _method(request: Request, recipe: Recipe, teacher: Teacher, data: Probe | None) -> tuple[Synthesis, MethodInputs]:
    """The recipe's synthesis, fitted to the teacher, and what it may look at inside.

    Raises:
        RecipeError: if it does not fit, or the teacher or the user does not give what the method needs; with the
            nearest recipe that would run.
    """
    stats = None if request.stats is None else recorded_statistics.load(request.stats, teacher)
    key, samples = Key(request.seed), None if data is None else len(data.inputs)

    def resolved(some: Recipe) -> tuple[Synthesis, MethodInputs]:
        left_out, why = requirements.left_out(some.synthesis.losses.build(), teacher, key, stats)
        fitted = method.fit(some, teacher, samples, left_out)
        only = any(getattr(term.loss, "recorded", False) for term in fitted.losses)
        view, refusals = requirements.resolve(
            fitted.needs, teacher, key=key, recorded=stats, only_recorded=only, data=data
        )
        if refusals:
            raise RecipeError("; ".join(refusals), where=some.title)
        return fitted, replace(view, notes=(*view.notes, *why))

    def runs(other: Recipe) -> bool:
        try:
            resolved(other)
        except RecipeError:
            return False
        return True

    try:
        synthesis, view = resolved(recipe)
    except RecipeError as error:
        nearest = method_table.nearest(recipe, runs)
        would = f"The nearest that runs on {teacher.name} is --recipe {nearest}. " if nearest else ""
        remedy = would + (error.remedy or "`onnxcake recipes list` says what each needs.")
        raise RecipeError(error.what, where=error.where, remedy=remedy) from None
    if data is not None and "data" not in synthesis.needs:
        remedy = "Add --recipe kd, or leave it out."
        raise UsageError("--data is for a recipe that learns from real data", remedy=remedy)
    if stats is not None and "statistics" not in synthesis.needs:
        remedy = "Add --recipe metadata, or leave it out."
        raise UsageError("--stats is for a recipe that matches statistics", remedy=remedy)
    return synthesis, view


def _held(options: TeacherOptions) -> dict[str, Any]:
    """Say what inputs are held at, for the store's key: numbers as they are, arrays by their digest."""
    held = {
        name: files.sha256(files.canonical(value))[:16] if isinstance(value, tuple) else value
        for name, value in options.constants.items()
    }
    sizes = {name: ",".join(map(str, shape)) for name, shape in options.shapes.items()}
    return {key: value for key, value in (("held", held), ("shapes", sizes)) if value}


def open_teacher(request: Request) -> Teacher:
    """Open the teacher, as the user says or else the recipe.

    Raises:
        TeacherError, UsageError: if it cannot be used.
    """
    recipe = Recipe.load(*request.recipe_and_overrides)
    return Teacher.open(request.teacher, request.options.before(recipe.teacher_options), request.device)


def _plan(out: Path, recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """The plan of the run's first start, on this device and this torch; else a new one."""
    new = plans.decide(recipe, teacher, synthesis)
    old = None if is_abandoned(out, lambda: teacher.facts) else Plan.read(out / plans.FILE)
    if old is not None and (old.chunk > synthesis.batch or old.chunk % synthesis.groups):
        if not holds_nothing(out):
            raise StoreError(
                f"its chunk of {old.chunk} samples does not fit batches of {synthesis.batch}",
                where=out / plans.FILE,
                remedy="Choose another --out, or repeat the first run's options to go on with it.",
            )
        old = None
    plan = new if old is None else replace(old, device=new.device, torch=new.torch)
    autotune.use_threads(plan.threads)
    if old is None and synthesis.has_gradient and recipe.synthesis.pace == "auto":
        side_by_side = min(plan.threads, synthesis.batches // _BATCHES) if synthesis.rounds == 1 else 1
        found = autotune.fastest_mode(teacher, plan.chunk, synthesis.teacher_passes, max(side_by_side, 1))
        # Where rounds are too short for a timing, networks are small, and several threads would wait for each other.
        threads = found.threads or (1 if plan.beside and synthesis.rounds > 1 else plan.threads)
        plan = replace(plan, **{**asdict(found), "threads": threads, "beside": min(plan.beside, threads)})
        autotune.use_threads(plan.threads)
    autotune.apply(plan.pace, teacher.graph)
    return plan
