"""Specify the student to be: which network, and how it learns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..core import files
from ..core.errors import RecipeError
from ..core.rng import Key
from ..graph.parameters import count_in
from ..recipe.architecture import Auto
from ..recipe.recipe import Recipe
from ..store.store import Layout
from ..student.architectures import ARCHITECTURES
from ..student.choose_architecture import choose
from ..student.feature_match import MATCHES, Match
from ..student.loss import Distillation
from ..student.onnx_model import InitialModel
from ..student.onnx_student import OnnxStudent
from ..student.optimisers import LEARNING_RATES
from ..student.student import Student, make, parameters
from ..student.training import OPTIMISER, Regime
from ..synthesis.augment import AUGMENTS, Augment
from ..synthesis.replay import MEMORIES
from ..teacher.facts import Facts
from ..teacher.signature import Signature
from .schedule import TrainingSchedule, steps_per_round


@dataclass(frozen=True)
class StudentSpec:
    """Specify a student to be: which network, of how many parameters, and how it learns.

    Attributes:
        start: the model that it begins as; None for a named architecture.
        weight_bits: of its weights, if it learns with the rounding of an int8 file; else None.
    """

    signature: Signature
    architecture: str
    hyper: dict[str, Any]
    regime: Regime
    schedule: TrainingSchedule
    weight_bits: int | None
    seed: int
    section: dict[str, Any]
    parameters: int
    start: InitialModel | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        teacher: Facts,
        samples: int,
        seed: int,
        start: InitialModel | None = None,
        weight_bits: int | None = None,
    ) -> StudentSpec:
        """Specify what a recipe asks for, given the teacher and the samples to learn from.

        Args:
            start: the model that the student begins as, for a recipe that asks for one.
            weight_bits: of an int8 student's weights, as planned; None is 8.

        Raises:
            RecipeError: if the architecture does not fit the teacher's inputs.
            UsageError: if ``start`` has no value that the recipe's ``match`` names.
        """
        section, signature = recipe.student, teacher.signature
        name, hyper = section.architecture.name, section.architecture.keys()
        if start is not None and section.quantise is not None:
            raise RecipeError(
                "a student that is an ONNX model cannot be trained quantisation-aware",
                remedy="Leave student.quantise out, or name an architecture: -o student.architecture=cnn-small.",
            )
        if name == "auto" and start is None:
            asked: Auto = section.architecture.build({"auto": Auto})
            name, hyper = asked.named or choose(teacher, asked.most_of(teacher.parameters))
        rounds = recipe.synthesis.rounds
        schedule = TrainingSchedule(
            rounds=rounds,
            steps=steps_per_round(section.epochs, section.steps, samples, section.batch),
            first=min(math.ceil(section.after * rounds), rounds - 1),
            learn_from=section.learn_from,
            memory=None if section.memory is None else section.memory.build(MEMORIES),
        )
        key, optimiser = section.optimiser.stepping(start is not None and hyper.get("init") != "fresh")
        regime = Regime(
            steps=schedule.total,
            batch=section.batch,
            loss=_loss(section.loss.model_dump(), signature),
            optimiser=optimiser,
            optimiser_key=OPTIMISER + key,
            learning_rate=section.learning_rate.build(LEARNING_RATES),
            lr_factors=section.rates,
            checkpoint_every=section.checkpoint_every,
            multilabel=signature.task == "multilabel",
            query_teacher=section.answers == "live",
            augment=tuple(_in_input_units(part, signature) for part in section.augment.build(AUGMENTS)),
            match=Match(section.match.build(MATCHES)) if section.match.model_fields_set else None,
            retain=None if section.retain is None else section.retain.lr,
        )
        if start is None:
            size = parameters(lambda: ARCHITECTURES[name](signature, **hyper))
        else:
            start.learn(() if regime.match is None else regime.match.student_modules)  # it may have no such value
            size = count_in(start.content)
        bits = None if section.quantise is None else weight_bits or 8
        return cls(signature, name, hyper, regime, schedule, bits, seed, recipe.as_dict()["student"], size, start)

    def student(self, key: Key) -> Student:
        """Make the student, its weights those it begins with or drawn from ``key``."""
        if self.start is None:
            return make(self.architecture, self.hyper, self.signature, key, weight_bits=self.weight_bits)
        fresh = key if self.hyper.get("init") == "fresh" else None
        taps = () if self.regime.match is None else self.regime.match.student_modules
        return OnnxStudent(self.start, self.signature, fresh=fresh, taps=taps)

    def of_a_set(self) -> StudentSpec:
        """Return the same that learns from a finished set: in one round, of all the steps."""
        if self.schedule.learn_from != "kept":
            raise RecipeError(
                f"the recipe's student learns from what is made on the way (learn_from: {self.schedule.learn_from})",
                remedy="Give a recipe whose student learns from what is kept, such as --recipe cake.",
            )
        return replace(self, schedule=TrainingSchedule(rounds=1, steps=self.schedule.total))

    def key(self, layout: Layout) -> str:
        """Digest all that the trained student depends on."""
        parts = [layout.key, self.seed, self.architecture, self.hyper, self.regime.steps, self.section]
        return files.sha256(files.canonical([*parts, *self.begins_as.values(), *self.narrow.values()]))

    @property
    def quantised(self) -> bool:
        """Tell whether it learns with the rounding of an int8 file."""
        return self.weight_bits is not None

    @property
    def narrow(self) -> dict[str, int]:
        """Give the bits of its weights where they are fewer than an int8 file could hold."""
        return {"weight_bits": self.weight_bits} if self.weight_bits is not None and self.weight_bits < 8 else {}

    @property
    def begins_as(self) -> dict[str, str]:
        """Return the digest of the model that it begins as, where there is one."""
        return {} if self.start is None else {"start": self.start.digest}


def _loss(keys: dict[str, Any], signature: Signature) -> Distillation:
    """Make the student's loss; logits that are known up to a constant in each row are compared without it."""
    loss = Distillation(**keys)
    kind = signature.output_kind
    return replace(loss, centred=loss.centred or kind.endswith("probabilities") or kind.startswith("binary"))


def _in_input_units(part: Augment, signature: Signature) -> Any:
    """Wrap an augmentation, which works in standard units, for what the teacher's file takes."""
    return lambda inputs, draw: signature.to_input(part(signature.to_standard(inputs), draw))
