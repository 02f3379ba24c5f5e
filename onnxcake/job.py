"""A run, resolved: everything that can be wrong is found here, before any work; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import files, probes
from . import plan as plans
from .ort import Runtime
from .plan import Plan
from .probes import Probe
from .progress import duration, size
from .recipe import Recipe
from .rng import Key
from .run import Run
from .store import Layout
from .student import (
    ARCHITECTURES,
    LEARNING_RATES,
    OPTIMISERS,
    Distillation,
    Regime,
    choose,
    make,
    parameters,
)
from .synthesis import Synthesis, make_batch
from .teacher import Facts, Signature, Teacher

Values = Sequence[float]


@dataclass(frozen=True)
class Request:
    """What the user asked for; the fields are explained at `onnxcake.extract`."""

    teacher: Path
    recipe: str | Path | dict[str, Any] | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    range: tuple[float, float] | None = None
    mean: Values | None = None
    std: Values | None = None
    probe: Path | None = None
    device: str = "cpu"
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.out if self.out is not None else Path(self.teacher.stem)


@dataclass(frozen=True)
class Pupil:
    """A student to be: which network, of how many parameters, and how it learns."""

    signature: Signature
    architecture: str
    hyper: dict[str, Any]
    regime: Regime
    seed: int
    section: dict[str, Any]
    parameters: int

    @classmethod
    def of(cls, recipe: Recipe, teacher: Facts, samples: int, seed: int) -> Pupil:
        """What a recipe asks for, given the teacher and the samples to learn from.

        Raises:
            RecipeError: if the architecture does not fit the teacher's inputs.
        """
        section = recipe.student
        name, hyper = section.architecture.name, section.architecture.keys()
        if name == "auto":
            name, hyper = choose(teacher, hyper["keep"])
        steps = section.steps or (section.epochs or 1) * math.ceil(samples / section.batch)
        regime = Regime(
            steps=steps,
            batch=section.batch,
            loss=Distillation(**section.loss.model_dump()),
            optimiser=section.optimiser.build(OPTIMISERS),
            learning_rate=section.learning_rate.build(LEARNING_RATES),
            checkpoint_every=section.checkpoint_every,
        )
        size = parameters(lambda: ARCHITECTURES[name](teacher.signature, **hyper))
        return cls(teacher.signature, name, hyper, regime, seed, recipe.as_dict()["student"], size)

    def key(self, layout: Layout) -> str:
        """A digest over all that the trained student depends on."""
        return files.sha256(
            files.canonical([layout.key, self.seed, self.architecture, self.hyper, self.regime.steps, self.section])
        )


@dataclass(frozen=True)
class Job:
    """A run, resolved: every part that the recipe names is there and fits."""

    teacher: Teacher
    run: Run
    synthesis: Synthesis
    plan: Plan
    layout: Layout
    pupil: Pupil
    probe: Probe | None

    @property
    def report_key(self) -> str:
        """A digest over all that the report depends on."""
        probe = None if self.probe is None else self.probe.digest
        return files.sha256(files.canonical([self.pupil.key(self.layout), probe, self.run.recipe.digest]))

    def describe(self, ahead: Forecast) -> str:
        """What is going to be done, in a few lines."""
        facts, signature, synthesis = self.teacher.facts, self.teacher.signature, self.synthesis
        shape = "×".join(map(str, signature.input_shape))
        held_out = f" and {synthesis.held_out} held out" if synthesis.held_out else ""
        hyper = ", ".join(f"{key}={value}" for key, value in self.pupil.hyper.items())
        pupil, sizes = self.pupil, f"{self.pupil.parameters:,} parameters"
        return "\n".join(
            [
                f"teacher    {facts.name}: {shape} {signature.input_dtype} → {signature.classes} classes "
                f"({signature.output_kind.replace('_', '-')}), {facts.parameters:,} parameters",
                *(f"assumed    {assumption}" for assumption in signature.assumptions),
                f"recipe     {self.run.recipe.title}",
                f"student    {pupil.architecture}{f' ({hyper})' if hyper else ''}, {sizes}, "
                f"{pupil.parameters / facts.parameters:.0%} of the teacher's",
                f"set        {synthesis.batches} batches of {synthesis.batch} samples{held_out}, "
                f"{size(ahead.store_bytes)}",
                f"work       {ahead.batches} batches to make, {ahead.teacher_passes:,} teacher passes with "
                f"gradient, about {duration(ahead.synthesis_s)}; {ahead.student_steps:,} student steps, about "
                f"{duration(ahead.training_s)} ({self.plan.device}, {self.plan.threads} threads)",
            ]
        )


def prepare(request: Request, runtime: Runtime) -> Job:
    """Resolves what the user asked for.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    if request.recipe is None:
        teacher = _teacher(request, None, runtime)
        recipe = Recipe.load(default_recipe(teacher.signature), request.overrides)
        teacher = _teacher(request, recipe, runtime) if recipe.input.model_fields_set else teacher
    else:
        recipe = Recipe.load(request.recipe, request.overrides)
        teacher = _teacher(request, recipe, runtime)
    signature = teacher.signature
    asked = None if request.probe is None else probes.load(request.probe, signature.input_shape, signature.classes)
    synthesis = plans.fit(recipe, teacher)
    plan = _plan(request.folder, recipe, teacher, synthesis)
    synthesis = replace(synthesis, chunk=plan.chunk)
    return Job(
        teacher=teacher,
        run=Run(teacher.facts, recipe, request.seed),
        synthesis=synthesis,
        plan=plan,
        layout=plans.layout(recipe, teacher, synthesis, plan, request.seed),
        pupil=Pupil.of(recipe, teacher.facts, synthesis.batches * synthesis.batch, request.seed),
        probe=asked,
    )


def default_recipe(signature: Signature) -> str:
    """The recipe for a teacher of which nothing else is known."""
    return "cake-image" if signature.is_image else "cake-vector"


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
        loss(student(rows), answers, answers.argmax(1)).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return min(times)


def _teacher(request: Request, recipe: Recipe | None, runtime: Runtime) -> Teacher:
    """The teacher, its values as the user says or else the recipe."""
    said = recipe.input if recipe else None
    return Teacher.load(
        request.teacher,
        range=request.range or (said.range if said else None),
        mean=request.mean or (said.mean if said else None),
        std=request.std or (said.std if said else None),
        device=request.device,
        runtime=runtime,
    )


def _plan(out: Path, recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """The plan of the run's first start, on this device and this torch; else a new one."""
    new = plans.decide(recipe, teacher, synthesis)
    old = Plan.read(out / plans.FILE)
    plan = new if old is None else replace(old, device=new.device, torch=new.torch)
    torch.set_num_threads(plan.threads)
    return plan
