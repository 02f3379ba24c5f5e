"""Define the sections of a recipe: their keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, StrictBool, create_model, model_validator

from ..core.quantities import Count, CountOrNone, NonNegative, Number, Part, Positive, Share
from ..pruning.goal import Goal
from ..student.architectures import ARCHITECTURES
from ..student.feature_match import MATCHES
from ..student.loss import Distillation
from ..student.optimisers import LEARNING_RATES, OPTIMISERS, Optimiser
from ..synthesis.augment import AUGMENTS
from ..synthesis.labels import LABELS
from ..synthesis.losses import LOSSES
from ..synthesis.replay import MEMORIES
from ..synthesis.schedules import SCHEDULES, Schedule
from ..synthesis.sources import SOURCES
from ..synthesis.step import Weighted
from ..synthesis.updates import UPDATES
from . import schema
from .architecture import NETWORKS, Architecture
from .schema import Choice, Section


class Losses(schema.Open):
    """Name loss terms: ``name: weight``, or ``name: {weight: …, keys}``."""

    @model_validator(mode="before")
    @classmethod
    def _weights_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v if isinstance(v, dict) else {"weight": v} for k, v in value.items()}

    def build(self) -> tuple[Weighted, ...]:
        """Build the terms that were named, sorted by name."""
        terms = []
        named = {type(self).model_fields[field].alias or field: field for field in self.model_fields_set}
        for name, field in sorted(named.items()):
            term = getattr(self, field)
            keys = {key: getattr(term, key) for key in type(term).model_fields if key not in ("weight", "after")}
            terms.append(Weighted(name, term.weight, LOSSES[name](**keys), term.after))
        return tuple(terms)


class Several(Section):
    """Name any number of parts: ``name: {keys}``, in the order of their registry."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value

    def named(self, registry: schema.Registry) -> dict[str, Any]:
        """Build the parts that were named, by their names."""
        chosen = [name for name in registry if name in self.model_fields_set]
        return {name: registry[name](**schema.values_of(getattr(self, name))) for name in chosen}

    def build(self, registry: schema.Registry) -> tuple[Any, ...]:
        """Build the parts that were named."""
        return tuple(self.named(registry).values())


class Stepped(Choice):
    """Choose an optimiser, and another that replaces it where a student starts with pre-trained weights."""

    besides = frozenset({"inherited"})
    inherited: Choice | None = None

    def stepping(self, inherits: bool) -> tuple[str, Optimiser]:
        """Return the optimiser and the end of its key in the recipe, for pre-trained weights or fresh ones."""
        if inherits and self.inherited is not None:
            return ".inherited", self.inherited.build(OPTIMISERS)
        return "", self.build(OPTIMISERS)


if TYPE_CHECKING:
    SourceChoice: TypeAlias = Choice
    LabelsChoice: TypeAlias = Choice
    UpdateChoice: TypeAlias = Choice
    StudentChoice: TypeAlias = Architecture
    OptimiserChoice: TypeAlias = Stepped
    RateChoice: TypeAlias = Choice
    LossTerms: TypeAlias = Losses
    DistillationKeys: TypeAlias = Any
    Augments: TypeAlias = Several
    Matches: TypeAlias = Several
    MemoryChoice: TypeAlias = Choice
else:
    SourceChoice, LabelsChoice = schema.choice(SOURCES), schema.choice(LABELS)
    UpdateChoice = schema.choice(UPDATES, inner={Schedule: schema.choice(SCHEDULES)})
    StudentChoice = create_model("Choice", __base__=Architecture, **schema.optional(NETWORKS))
    StudentChoice.registry = ARCHITECTURES
    _optimisers, RateChoice = schema.optional(schema.parts(OPTIMISERS)), schema.choice(LEARNING_RATES)
    _inherited = create_model("Choice", __base__=Choice, **_optimisers)
    OptimiserChoice = create_model("Optimiser", __base__=Stepped, **_optimisers, inherited=(_inherited | None, None))
    DistillationKeys = schema.part(Distillation)
    MemoryChoice = schema.choice(MEMORIES)
    Augments = create_model("Augments", __base__=Several, **schema.optional(schema.parts(AUGMENTS)))
    Matches = create_model("Matches", __base__=Several, **schema.optional(schema.parts(MATCHES)))
    _beside = {"weight": (NonNegative, ...), "after": (Part, 0.0)}
    _weighted = {key: schema.part(loss, **_beside) for key, loss in LOSSES.items()}
    LossTerms = create_model("Losses", __base__=Losses, **schema.optional(_weighted))
    LossTerms.registry, LossTerms.beside = LOSSES, _beside


class InputSection(Section):
    """Describe what the teacher's file does not say of itself; the command's --input, --range … go before it."""

    name: str | None = None
    output: str | None = None
    shape: tuple[Count, ...] | None = None
    shapes: dict[str, tuple[Count, ...]] | None = None
    constants: dict[str, StrictBool | Number | tuple[Number, ...]] = Field(default_factory=dict)
    task: Literal["multiclass", "binary", "multilabel"] | None = None
    range: tuple[Number, Number] | None = None
    mean: tuple[Number, ...] | None = None
    std: tuple[Positive, ...] | None = None


class SynthesisSection(Section):
    """Describe how the set is made; `onnxcake.synthesis.spec.Synthesis` explains the numbers.

    ``groups: auto`` is 10 or, if there are fewer, the number of classes, and fits batch and chunk to whole rows;
    ``held_out: auto`` is a twentieth of the batches, or, where rounds are many, a thousand samples.
    ``batches: auto`` is as many as hold the data that was given, held-out ones included.
    ``pace: auto`` computes a long run's teacher in the way that a timing finds fastest, which may differ between two
    runs by a last digit's worth or by bfloat16; ``plain`` is float32, and the same run every time.
    """

    source: SourceChoice
    labels: LabelsChoice = Field(default_factory=lambda: LabelsChoice.model_validate("independent"))
    losses: LossTerms = Field(default_factory=lambda: LossTerms())
    update: UpdateChoice | None = None
    augment: Augments = Field(default_factory=lambda: Augments())
    groups: Count | Literal["auto"] = 1
    batch: Count
    rounds: Count = 1
    batches: Count | Literal["auto"] = 1
    held_out: CountOrNone | Literal["auto"] = "auto"
    steps: CountOrNone = 0
    reference_batch: Count | None = None
    chunk: Count | None = None
    pace: Literal["auto", "plain"] = "auto"

    @model_validator(mode="after")
    def _whole_rows(self) -> SynthesisSection:
        if isinstance(self.groups, int):
            if self.batch % self.groups:
                raise ValueError(f"batch {self.batch} is no multiple of groups {self.groups}")
            if self.chunk is not None and self.chunk % self.groups:
                raise ValueError(f"chunk {self.chunk} is no multiple of groups {self.groups}")
        if not self.steps and (self.losses.model_fields_set or self.update is not None):
            raise ValueError("steps is missing: how often each batch is stepped")
        if self.steps and self.update is None:
            raise ValueError("update is missing: it says how samples are stepped")
        if self.steps and self.source.name in ("noise", "data"):
            raise ValueError(f"there is nothing to step in source {self.source.name}; set steps to 0")
        if self.steps and self.source.name != "boundary" and not self.losses.model_fields_set:
            raise ValueError("losses names no loss term")
        return self


class RetainSection(Section):
    """Set the acquire/retain meta step: ``lr`` is the step size of its inner step."""

    lr: Positive = 0.9


class StudentSection(Section):
    """Describe what learns, and how; `onnxcake.student.training.Regime` explains the numbers.

    ``steps`` and ``epochs`` are those of each round. The batch is the synthesis's where nothing is kept.
    """

    architecture: StudentChoice
    learn_from: Literal["kept", "same", "fresh"] = "kept"
    epochs: Count | None = None
    steps: Count | None = None
    after: Part = 0.0
    batch: Count = 256
    memory: MemoryChoice | None = None
    retain: RetainSection | None = None
    answers: Literal["stored", "live"] = "stored"
    augment: Augments = Field(default_factory=lambda: Augments())
    loss: DistillationKeys = Field(default_factory=lambda: DistillationKeys())
    match: Matches = Field(default_factory=lambda: Matches())
    quantise: Literal["int8", "int8-7bit", "int8-8bit"] | None = None
    optimiser: OptimiserChoice
    learning_rate: RateChoice
    rates: tuple[Positive, ...] = (1.0,)
    checkpoint_every: Count = 500

    @model_validator(mode="after")
    def _can_learn(self) -> StudentSection:
        goals = [*Goal.__dataclass_fields__, "like"]
        auto = self.architecture.keys() if self.architecture.name == "auto" else {}
        if sum(auto.get(goal) is not None for goal in goals) > 1:
            raise ValueError(f"architecture: give one of {', '.join(goals)}")
        if auto.get("like") and auto["drop_blocks"]:
            raise ValueError("architecture: like says how many blocks are left; leave drop_blocks out")
        if not self.rates:
            raise ValueError("rates: give at least one factor, such as [1]")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if not (self.loss.hard or self.loss.soft or self.loss.l1):
            raise ValueError("loss weighs neither hard nor soft labels, nor l1")
        if self.learn_from == "kept" and (self.memory is not None or self.retain is not None):
            raise ValueError("memory and retain are for learn_from: same or fresh, where nothing is kept otherwise")
        if self.augment.model_fields_set and self.answers == "stored":
            raise ValueError("with augment the answers must be live: the stored ones are to the samples as they were")
        return self


class RequireSection(Section):
    """Set the floor that a pipeline needs; a student below it ends with exit code 5.

    Agreement is that on the probe if there is one, else on the held-out batches.
    """

    agreement: Share | None = None
    max_bytes: Count | None = None
    max_latency_ms: Positive | None = None
