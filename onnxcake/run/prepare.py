"""Resolve a run: find everything that can be wrong before any work; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import RecipeError, UsageError
from ..core.rng import Key
from ..core.text import printable
from ..core.waiting import waited
from ..evaluate import probes
from ..evaluate.probes.parts import Probe
from ..recipe import method_table
from ..recipe.limits import NO_LIMIT, Budget, Scaling
from ..recipe.recipe import Recipe
from ..store.store import Layout
from ..synthesis.spec import Synthesis
from ..teacher import recorded_statistics
from ..teacher.autotune import ExecutionMode
from ..teacher.capabilities import MethodInputs
from ..teacher.options import TeacherOptions
from ..teacher.teacher import Teacher, load_teacher
from . import joining, method, requirements, store_key
from .folder import Run
from .initial_model import Initial, initial_of
from .plan import Plan
from .student_spec import StudentSpec

DEFAULT = "layercake"  # the recipe of whoever names none: it needs nothing but logits and their gradient


@dataclass(frozen=True)
class Request:
    """Hold what the user asked for; the fields are explained at `onnxcake.extract`, but for this one.

    Attributes:
        siblings: folders of runs of the same recipe, with other seeds: the scaling of the first that was begun is
            followed.
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
    budget: Budget = NO_LIMIT
    siblings: Sequence[Path] = ()

    def load_recipe(self, more: Sequence[str] = ()) -> Recipe:
        """Load the recipe with its overrides, and ``more`` of them.

        Raises:
            RecipeError: if there is none, or it is wrong.
        """
        return Recipe.load(DEFAULT if self.recipe is None else self.recipe, [*self.overrides, *more])

    @property
    def folder(self) -> Path:
        """Return the folder that the run is kept in."""
        return self.out if self.out is not None else Path(self.teacher.stem)


@dataclass(frozen=True)
class Resolved:
    """Hold a request that fits its teacher: all that is going to be done, nothing of it timed, cut or written.

    Attributes:
        scaling: how a budget has scaled the recipe.
    """

    request: Request
    recipe: Recipe
    teacher: Teacher
    synthesis: Synthesis
    view: MethodInputs
    probe: Probe | None
    data: Probe | None
    scaling: Scaling | None = None

    def fit(self, numbers: Mapping[str, int]) -> tuple[Recipe, Synthesis]:
        """Fit the recipe with other ``numbers``, by their keys, to the teacher.

        Raises:
            RecipeError: if it does not fit.
        """
        recipe = self.request.load_recipe([f"{key}={number}" for key, number in numbers.items()])
        kept = {term.name for term in self.synthesis.losses}
        left_out = [term.name for term in recipe.synthesis.losses.build() if term.name not in kept]
        return recipe, method.fit(recipe, self.teacher, None if self.data is None else len(self.data.inputs), left_out)

    def scaled(self, scaling: Scaling, numbers: Mapping[str, int] | None = None) -> Resolved:
        """Rescale the recipe; what the method may look at stays.

        Args:
            numbers: those of the scaling that are set; all if None.

        Raises:
            RecipeError: if it does not fit.
        """
        recipe, synthesis = self.fit(scaling.scaled if numbers is None else numbers)
        return replace(self, recipe=recipe, synthesis=synthesis, scaling=scaling)


@dataclass(frozen=True)
class Job:
    """Hold a run that can begin: every part that the recipe names is there and fits."""

    resolved: Resolved
    teacher: Teacher
    run: Run
    synthesis: Synthesis
    plan: Plan
    layout: Layout
    student_spec: StudentSpec
    probe: Probe | None
    view: MethodInputs
    begins: Initial

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was taken for what in --probe and --data."""
        return probes.told(self.resolved.probe, self.resolved.data)

    @property
    def report_key(self) -> str:
        """Digest all that the report depends on."""
        probe = None if self.probe is None else self.probe.digest
        return files.sha256(files.canonical([self.student_spec.key(self.layout), probe, self.run.recipe.digest]))


def open_teacher(request: Request) -> Teacher:
    """Open the teacher, with the user's options or else the recipe's.

    Raises:
        RecipeError: if the recipe is wrong.
        TeacherError, UsageError: if the teacher cannot be used.
    """
    return load_teacher(request.teacher, teacher_options(request), request.device)


def teacher_options(request: Request) -> TeacherOptions:
    """Merge the user's options of opening the teacher with the recipe's."""
    return request.options.before(request.load_recipe().teacher_options)


@waited("fitting the recipe to the teacher")
def resolve(request: Request, teacher: Teacher) -> Resolved:
    """Resolve what the user asked for; nothing is timed, cut or written.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    recipe = request.load_recipe()
    probe, data = (_given(path, teacher) for path in (request.probe, request.data))
    synthesis, view = _method(request, recipe, teacher, data)
    return Resolved(request, recipe, teacher, synthesis, view, probe, data)


def build(resolved: Resolved, begins: Initial | None = None, found: ExecutionMode | None = None) -> Job:
    """Decide how a resolved request is computed, and put its parts together.

    Args:
        begins: what the student begins as, where it was cut before.
        found: the mode that was found fastest before.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    request, recipe, teacher = resolved.request, resolved.recipe, resolved.teacher
    with waited("timing the teacher's gradients"):
        plan = Plan.read_or_decide(request.folder, recipe, teacher, resolved.synthesis, found)
    synthesis = replace(resolved.synthesis, chunk=plan.chunk, dtype=plan.dtype, workers=plan.workers)
    if begins is None:
        with waited("making the student"):
            begins = initial_of(recipe, teacher.facts, request.student, request.folder, request.seed, teacher)
    notes = (*resolved.view.notes, *filter(None, [printable(begins.note)]))
    student_spec = StudentSpec.of(
        recipe, teacher.facts, synthesis.total * synthesis.batch, request.seed, begins.start, plan.weight_bits
    )
    besides = _besides(resolved, notes, student_spec, plan)
    return Job(
        resolved=resolved,
        teacher=teacher,
        run=Run(teacher.facts, recipe, request.seed, resolved.scaling),
        synthesis=synthesis,
        plan=plan,
        layout=store_key.layout(recipe, teacher, synthesis, plan, request.seed, besides),
        student_spec=student_spec,
        probe=resolved.probe,
        view=replace(resolved.view, notes=notes),
        begins=begins,
    )


def _besides(resolved: Resolved, notes: Sequence[str], student_spec: StudentSpec, plan: Plan) -> dict[str, Any]:
    """Collect for the store's key what the samples depend on besides teacher, recipe, seed and plan."""
    request = resolved.request
    besides: dict[str, Any] = {"substitutes": list(notes)} if notes else {}
    besides |= _held(request.options.before(resolved.recipe.teacher_options))
    if resolved.data is not None:
        besides["data"] = resolved.data.digest
    if request.stats is not None:
        besides["stats"] = files.sha256_file(request.stats)
    if "student" in resolved.synthesis.needs:
        student = {
            **student_spec.section,
            "architecture": {student_spec.architecture: student_spec.hyper},
            **student_spec.begins_as,
            **student_spec.narrow,
        }
        besides["student"] = {**student, "beside": plan.beside}
    return besides


def _given(path: Path | None, teacher: Teacher) -> Probe | None:
    return None if path is None else joining.given(path, teacher.signature, teacher.facts.class_names, teacher.front)


def _method(request: Request, recipe: Recipe, teacher: Teacher, data: Probe | None) -> tuple[Synthesis, MethodInputs]:
    """Fit the recipe's synthesis to the teacher, and find what it may look at inside.

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
