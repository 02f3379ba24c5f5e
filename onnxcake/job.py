"""A run, resolved: everything that can be wrong is found here, before any work; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from . import files, probes
from . import plan as plans
from .plan import Plan
from .probes import Probe
from .recipe import Recipe
from .run import Run
from .store import Layout
from .student import (
    ARCHITECTURES,
    LEARNING_RATES,
    OPTIMISERS,
    Distillation,
    Regime,
    choose,
    parameters,
)
from .synthesis import Synthesis
from .teacher import Facts, Options, Signature, Teacher


@dataclass(frozen=True)
class Request:
    """What the user asked for; the fields are explained at `onnxcake.extract`."""

    teacher: Path
    recipe: str | Path | dict[str, Any] | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    options: Options = field(default_factory=Options)
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
            multilabel=teacher.signature.task == "multilabel",
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


def prepare(request: Request) -> Job:
    """Resolves what the user asked for.

    Raises:
        OnnxcakeError: as `onnxcake.extract`.
    """
    if request.recipe is None:
        # What the overrides say of the input counts for the first look too; no recipe that comes along says any.
        teacher = _teacher(request, Recipe.load("cake-vector", request.overrides))
        recipe = Recipe.load(default_recipe(teacher.signature), request.overrides)
    else:
        recipe = Recipe.load(request.recipe, request.overrides)
        teacher = _teacher(request, recipe)
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


def _teacher(request: Request, recipe: Recipe | None) -> Teacher:
    """The teacher, as the user says or else the recipe."""
    options = request.options if recipe is None else request.options.before(recipe.teacher_options)
    return Teacher.open(request.teacher, options, request.device)


def _plan(out: Path, recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """The plan of the run's first start, on this device and this torch; else a new one."""
    new = plans.decide(recipe, teacher, synthesis)
    old = Plan.read(out / plans.FILE)
    plan = new if old is None else replace(old, device=new.device, torch=new.torch)
    torch.set_num_threads(plan.threads)
    return plan
