"""Everything about a run that is decided once, by looking at teacher, recipe and machine.

The plan is written to ``plan.json``, read again when a run goes on, and part of the store's key: threads and
chunk change the last bits of a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ..core import json_files
from ..core.errors import RecipeError
from ..core.files import canonical, sha256
from ..core.quantities import Count
from ..recipe.recipe import Recipe
from ..runtime import processor
from ..store.store import Layout
from ..synthesis.augment import AUGMENTS
from ..synthesis.labels import LABELS
from ..synthesis.labels.hard import Labels
from ..synthesis.schedules import SCHEDULES, Constant
from ..synthesis.source import Source
from ..synthesis.sources import SOURCES
from ..synthesis.spec import Synthesis
from ..synthesis.step import Weighted
from ..synthesis.updates import UPDATES, Sgd
from ..teacher.autotune import Dtype, Pace, threads_given
from ..teacher.signature import Signature
from ..teacher.teacher import Teacher

FILE = "plan.json"
GROUPS = 10  # CAKE's rows, where the teacher has as many classes
HELD_OUT = 20  # one batch held out for so many to learn from,
HELD_OUT_SAMPLES = 1000  # but where rounds are many, only enough to compare on
SHARD_BYTES = 1 << 20  # small batches share a file up to this size,
SHARDS = 20  # but a set has so many files at least, if it has the batches
_NOT_OF_SAMPLES = ("beside", "weight_bits")  # what the store does not depend on
_THREADS = 4096  # of which no machine has more
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 8 << 30}  # activations of one chunk: a core's cache, a card's memory


@dataclass(frozen=True)
class Plan:
    """What was decided.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch, on the CPU; beside a card it only draws.
        chunk: samples that go through the teacher at once.
        batches_per_shard: batches in one file of the store.
        torch: its version.
        channels_last: whether convolutions' weights have the channels last in memory.
        dtype: what gradients at the samples, student steps and their live answers are computed in.
        workers: batches of a set made side by side, by threads of one core each; 1 is one after the other on all cores.
        beside: threads of torch that prepare a student's next lesson while it takes one, where that is the teacher's
            work, and as many for the student; 0 is one after the other on all cores.
        weight_bits: of an int8 student's weights; None for a float student.
    """

    __pydantic_config__ = json_files.EXACT
    device: str
    threads: Annotated[int, Ge(1), Le(_THREADS)]
    chunk: Count
    batches_per_shard: Count
    torch: str
    channels_last: bool = False
    dtype: Dtype = "float32"
    workers: Annotated[int, Ge(1), Le(_THREADS)] = 1
    beside: Annotated[int, Ge(0), Le(_THREADS)] = 0
    weight_bits: Annotated[int, Ge(7), Le(8)] | None = None

    @property
    def pace(self) -> Pace:
        """How the teacher is computed."""
        return Pace(self.channels_last, self.dtype, self.workers, self.threads)

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """The plan of an earlier start, or None.

        Raises:
            StoreError: if there is a file that cannot be read.
        """
        return json_files.read(path, cls, "Choose another --out.") if path.exists() else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `read`."""
        return asdict(self)


def fit(recipe: Recipe, teacher: Teacher, data: int | None = None, left_out: Collection[str] = ()) -> Synthesis:
    """The recipe's synthesis, fitted to a teacher; the chunk is the whole batch until `decide` says otherwise.

    Args:
        data: how many real inputs there are, if some were given.
        left_out: the names of loss terms that the teacher has nothing for.

    Raises:
        RecipeError: with everything that does not fit.
    """
    section, signature = recipe.synthesis, teacher.signature
    groups = min(GROUPS, signature.classes) if section.groups == "auto" else section.groups
    batch = section.batch - section.batch % groups if section.groups == "auto" else section.batch
    if section.batches == "auto":
        batch, batches = _holding(data or 0, groups, batch, section.held_out)
    else:
        batches = section.batches
    total = section.rounds * batches
    source, labels = section.source.build(SOURCES), section.labels.build(LABELS)
    losses = tuple(term for term in section.losses.build() if term.name not in left_out)
    augment = section.augment.build(AUGMENTS)
    mistakes = _misfits(recipe, teacher, groups, source, labels, losses)
    if batch < groups:
        mistakes.append(f"a batch of {section.batch} holds no row of {groups} samples")
    if mistakes:
        raise RecipeError("\n  ".join(mistakes), where=recipe.title, remedy="Mend the recipe, or choose another.")
    chunk = batch if any(term.loss.scope == "batch" for term in losses) else section.chunk or batch
    synthesis = Synthesis(
        source=source,
        labels=labels,
        losses=losses,
        update=Sgd(Constant(1.0)) if section.update is None else section.update.build(UPDATES, step_size=SCHEDULES),
        groups=groups,
        batch=batch,
        batches=batches,
        held_out=_held_out(recipe, total, batch),
        steps=section.steps,
        reference_batch=section.reference_batch or batch,
        chunk=max(groups, min(chunk, batch) // groups * groups),
        rounds=section.rounds,
        augment=augment,
    )
    if synthesis.rounds == 1 and synthesis.lasting:
        raise RecipeError(
            f"synthesis.rounds is 1, but {' and '.join(synthesis.lasting)} goes on from batch to batch or looks at the "
            "student, and neither is kept within a round",
            where=recipe.title,
            remedy="Make one batch in each of many rounds: synthesis.rounds=N, synthesis.batches=1.",
        )
    return synthesis


def _holding(data: int, groups: int, batch: int, held_out: int | Literal["auto"]) -> tuple[int, int]:
    """A batch and how many of them hold the data; none of it is both learnt from and held out.

    Little data go into so many smaller batches that few of them are held out.
    """
    batch = max(groups, min(batch, data // (HELD_OUT + 1)) // groups * groups)
    whole = data // batch
    return batch, max(1, whole * HELD_OUT // (HELD_OUT + 1) if held_out == "auto" else whole - held_out)


def _held_out(recipe: Recipe, total: int, batch: int) -> int:
    section = recipe.synthesis
    if section.held_out != "auto":
        return section.held_out
    part = -(-total // HELD_OUT)
    return part if section.rounds == 1 else max(1, min(part, -(-HELD_OUT_SAMPLES // batch)))


def _misfits(
    recipe: Recipe,
    teacher: Teacher,
    groups: int,
    source: Source,
    labels: Labels,
    losses: tuple[Weighted, ...],
) -> list[str]:
    """Everything in a recipe that this teacher's inputs and classes forbid."""
    section, signature, name = recipe.synthesis, teacher.signature, teacher.name
    unfit = source.unfit(signature)
    mistakes = [f"source {section.source.name} does not fit {name}: {unfit}"] if unfit else []
    mistakes += [
        f"{term.name} does not fit {name}: {why}; leave it out with -o synthesis.losses.{term.name}=null"
        for term in losses
        if (why := term.loss.unfit(signature))
    ]
    for place, part in (("synthesis", section), ("student", recipe.student)):
        for key, augment in part.augment.named(AUGMENTS).items():
            if (why := augment.unfit(signature)) is not None:
                leave = f"leave it out with -o {place}.augment.{key}=null"
                mistakes.append(f"{place}.augment.{key} does not fit {name}: {why}; {leave}")
    if (why := labels.unfit(signature.classes, groups)) is not None:
        mistakes.append(f"{why} ({name})")
    return mistakes


def decide(recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """A plan for this machine, without what only a timing tells (`onnxcake.teacher.autotune`)."""
    chunk = synthesis.chunk
    whole = any(term.loss.scope == "batch" for term in synthesis.losses)
    if recipe.synthesis.chunk is None and not whole and synthesis.steps:
        fitting = CHUNK_BYTES[teacher.device.type] // max(1, _activation_bytes(teacher, synthesis.groups))
        chunk = max(synthesis.groups, min(synthesis.batch, fitting - fitting % synthesis.groups))
        parts = -(-synthesis.batch // chunk)  # equal parts: no small remainder
        chunk = -(-synthesis.batch // (parts * synthesis.groups)) * synthesis.groups
    batch_bytes = synthesis.batch * teacher.signature.size * 4
    kept = _kept(recipe, synthesis) + synthesis.held_out
    most = kept // SHARDS  # a kill loses the shard in the making
    # Beside a card the processor draws small tensors, over which threads only wait for one another.
    threads = threads_given() if teacher.device.type == "cpu" else 1
    student = recipe.student
    asks = student.answers == "live" or student.learn_from == "fresh"
    return Plan(
        device=teacher.device.type,
        threads=threads,
        beside=threads // 2 if asks else 0,
        chunk=chunk,
        batches_per_shard=max(1, min(SHARD_BYTES // batch_bytes, most)),
        torch=torch.__version__,
        weight_bits=weight_bits(recipe),
    )


def weight_bits(recipe: Recipe) -> int | None:
    """Choose the bits of an int8 student's weights: those that the recipe names, else seven where eight may saturate.

    255·64·2 < 2¹⁵: products of bytes with weights of seven bits do not saturate on any processor.
    """
    asked = recipe.student.quantise
    if asked == "int8":
        return 7 if processor.saturates() else 8
    return {None: None, "int8-7bit": 7, "int8-8bit": 8}[asked]


def layout(
    recipe: Recipe,
    teacher: Teacher,
    synthesis: Synthesis,
    plan: Plan,
    seed: int,
    besides: Mapping[str, Any] | None = None,
) -> Layout:
    """What the store will hold, and the key that says what it was made from.

    Args:
        besides: what the samples depend on besides: given files, and the student and how it is computed where a loss
            looks at it.
    """
    signature = teacher.signature
    made_from = {
        "teacher": f"{teacher.facts.digest[:16]} ({teacher.name})",
        "seed": str(seed),
        "kept": str(_kept(recipe, synthesis)),
        **_flat("input", asdict(signature)),
        **_flat("synthesis", recipe.as_dict()["synthesis"]),
        **_flat("plan", {name: value for name, value in plan.as_dict().items() if name not in _NOT_OF_SAMPLES}),
        **{key: text for name, value in (besides or {}).items() for key, text in _flat(name, value).items()},
    }
    digested = {**made_from, "teacher": teacher.facts.digest}
    return Layout(
        key=sha256(canonical(digested)),
        made_from=made_from,
        batches=_kept(recipe, synthesis),
        held_out=synthesis.held_out,
        batches_per_shard=plan.batches_per_shard,
        batch=synthesis.batch,
        shape=signature.input_shape,
        classes=signature.classes,
    )


def made_for(layout: Layout, signature: Signature) -> bool:
    """Tell whether a set was made for such inputs and outputs."""
    made = {key: text for key, text in layout.made_from.items() if key.startswith("input.")}
    own = _flat("input", asdict(signature))
    try:  # as values: what was 1 then may be 1.0 now
        return made.keys() == own.keys() and all(json.loads(made[key]) == json.loads(own[key]) for key in own)
    except ValueError:
        return False


def _kept(recipe: Recipe, synthesis: Synthesis) -> int:
    """Batches that the store keeps to learn from."""
    return synthesis.total if recipe.student.learn_from == "kept" else 0


def _activation_bytes(teacher: Teacher, samples: int) -> int:
    """Bytes that autograd keeps for each sample between forward and backward; a count, not a measurement."""
    kept: dict[int, int] = {}
    weights = {tensor.data_ptr() for tensor in (*teacher.graph.parameters(), *teacher.graph.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == (samples,) and tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    x = torch.zeros(samples, *teacher.signature.input_shape, device=teacher.device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        teacher.logits(x)
    return sum(kept.values()) // samples


def _flat(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:  # a part without keys counts by its name
        return {name: json.dumps(value)}
    return {key: text for k, v in value.items() for key, text in _flat(f"{name}.{k}", v).items()}
