"""Everything about a run that is decided once, by looking at teacher, recipe and machine.

The plan is written to ``plan.json``, read again when a run goes on, and part of the store's key: threads and
chunk change the last bits of a gradient.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import RecipeError, StoreError
from .files import canonical, sha256
from .recipe import Recipe
from .store import Layout
from .synthesis import LABELS, SCHEDULES, SOURCES, UPDATES, Synthesis
from .teacher import Teacher

FILE = "plan.json"
GROUPS = 10  # CAKE's rows, where the teacher has as many classes
HELD_OUT = 20  # one batch held out for so many to learn from
SHARD_BYTES = 1 << 20  # small batches share a file up to this size,
SHARDS = 20  # but a set has so many files at least, if it has the batches
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 8 << 30}  # activations of one chunk: a core's cache, a card's memory


@dataclass(frozen=True)
class Plan:
    """What was decided.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch, on the CPU.
        chunk: samples that go through the teacher at once.
        batches_per_shard: batches in one file of the store.
        torch: its version.
    """

    device: str
    threads: int
    chunk: int
    batches_per_shard: int
    torch: str

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """The plan of an earlier start, or None.

        Raises:
            StoreError: if there is a file that cannot be read.
        """
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                "the plan of the earlier run cannot be read", where=path, remedy="Choose another --out."
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `read`."""
        return asdict(self)


def fit(recipe: Recipe, teacher: Teacher) -> Synthesis:
    """The recipe's synthesis, fitted to a teacher; the chunk is the whole batch until `decide` says otherwise.

    Raises:
        RecipeError: with everything that does not fit.
    """
    section, signature = recipe.synthesis, teacher.signature
    groups = min(GROUPS, signature.classes) if section.groups == "auto" else section.groups
    batch = section.batch - section.batch % groups if section.groups == "auto" else section.batch
    held_out = -(-section.batches // HELD_OUT) if section.held_out == "auto" else section.held_out
    source, labels, losses = section.source.build(SOURCES), section.labels.build(LABELS), section.losses.build()
    unfit = source.unfit(signature)
    mistakes = [f"source {section.source.name} does not fit {teacher.name}: {unfit}"] if unfit else []
    mistakes += [
        f"{term.name} does not fit {teacher.name}: {why}; leave it out with -o synthesis.losses.{term.name}=null"
        for term in losses
        if (why := term.loss.unfit(signature))
    ]
    if groups > signature.classes and section.labels.name == "row_permutation":
        mistakes.append(f"groups is {groups}, but {teacher.name} has only {signature.classes} classes")
    if batch < groups:
        mistakes.append(f"a batch of {section.batch} holds no row of {groups} samples")
    if labels.prior is not None and not _prior_fits(labels.prior, signature.classes, groups):
        mistakes.append(f"labels.prior needs {signature.classes} weights, at least {groups} of them above zero")
    if mistakes:
        raise RecipeError("\n  ".join(mistakes), where=recipe.title, remedy="Mend the recipe, or choose another.")
    return Synthesis(
        source=source,
        labels=labels,
        losses=losses,
        update=section.update.build(UPDATES, step_size=SCHEDULES),
        groups=groups,
        batch=batch,
        batches=section.batches,
        held_out=held_out,
        steps=section.steps,
        reference_batch=section.reference_batch or batch,
        chunk=max(groups, min(section.chunk or batch, batch) // groups * groups),
    )


def decide(recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """A plan for this machine; nothing in it depends on timing, so that it comes out the same again."""
    chunk = synthesis.chunk
    if recipe.synthesis.chunk is None:
        fitting = CHUNK_BYTES[teacher.device.type] // max(1, _activation_bytes(teacher, synthesis.groups))
        chunk = max(synthesis.groups, min(synthesis.batch, fitting - fitting % synthesis.groups))
        parts = -(-synthesis.batch // chunk)  # equal parts: no small remainder
        chunk = -(-synthesis.batch // (parts * synthesis.groups)) * synthesis.groups
    batch_bytes = synthesis.batch * teacher.signature.size * 4
    most = (synthesis.batches + synthesis.held_out) // SHARDS  # a kill loses the shard in the making
    return Plan(
        device=teacher.device.type,
        threads=torch.get_num_threads(),
        chunk=chunk,
        batches_per_shard=max(1, min(SHARD_BYTES // batch_bytes, most)),
        torch=torch.__version__,
    )


def layout(recipe: Recipe, teacher: Teacher, synthesis: Synthesis, plan: Plan, seed: int) -> Layout:
    """What the store will hold, and the key that says what it was made from."""
    signature = teacher.signature
    made_from = {
        "teacher": f"{teacher.facts.digest[:16]} ({teacher.name})",
        "seed": str(seed),
        **_flat("input", asdict(signature)),
        **_flat("synthesis", recipe.as_dict()["synthesis"]),
        **_flat("plan", plan.as_dict()),
    }
    digested = {**made_from, "teacher": teacher.facts.digest}
    return Layout(
        key=sha256(canonical(digested)),
        made_from=made_from,
        batches=synthesis.batches,
        held_out=synthesis.held_out,
        batches_per_shard=plan.batches_per_shard,
        batch=synthesis.batch,
        shape=signature.input_shape,
        classes=signature.classes,
    )


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


def _prior_fits(prior: tuple[float, ...], classes: int, groups: int) -> bool:
    return len(prior) == classes and sum(weight > 0 for weight in prior) >= groups


def _flat(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:  # a part without keys counts by its name
        return {name: json.dumps(value)}
    return {key: text for k, v in value.items() for key, text in _flat(f"{name}.{k}", v).items()}
