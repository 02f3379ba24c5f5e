"""Decide once how a run is computed, by looking at teacher, recipe and machine.

The plan is written to ``plan.json``, read again when a run goes on, and part of the store's key: threads and
chunk change the last bits of a gradient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ..core import json_files
from ..core.errors import StoreError
from ..core.quantities import Count
from ..recipe.recipe import Recipe
from ..runtime import processor
from ..synthesis.spec import Synthesis
from ..teacher import autotune
from ..teacher.autotune import Dtype, ExecutionMode, threads_given
from ..teacher.teacher import Teacher
from .folder import holds_nothing, is_abandoned

FILE = "plan.json"
SHARD_BYTES = 1 << 20  # small batches share a file up to this size,
SHARDS = 20  # but a set has so many files at least, if it has the batches
_BATCHES = 4  # for each worker at least: the last ones are not waited for in vain
_THREADS = 4096  # of which no machine has more
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 8 << 30}  # activations of one chunk: a core's cache, a card's memory


@dataclass(frozen=True)
class Plan:
    """Hold what was decided.

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
    def pace(self) -> ExecutionMode:
        """Return how the teacher is computed."""
        return ExecutionMode(self.channels_last, self.dtype, self.workers, self.threads)

    @classmethod
    def read(cls, path: Path) -> Plan | None:
        """Read the plan of an earlier start; None if there is none.

        Raises:
            StoreError: if there is a file that cannot be read.
        """
        return json_files.read(path, cls, "Choose another --out.") if path.exists() else None

    @classmethod
    def read_or_decide(
        cls, out: Path, recipe: Recipe, teacher: Teacher, synthesis: Synthesis, found: ExecutionMode | None = None
    ) -> Plan:
        """Read the plan of a run's first start, on this device and this torch; else decide a new one.

        Sets torch's threads, and arranges the teacher's weights in memory; the only place where gradients are timed.

        Args:
            out: the run's folder.
            found: the mode that was found fastest before, for another size of the same run.

        Raises:
            StoreError: if the plan in the folder cannot be read, or is of batches of another size.
        """
        new = decide(recipe, teacher, synthesis)
        old = None if is_abandoned(out, teacher.facts) else cls.read(out / FILE)
        if old is not None and (old.chunk > synthesis.batch or old.chunk % synthesis.groups):
            if not holds_nothing(out):
                raise StoreError(
                    f"its chunk of {old.chunk} samples does not fit batches of {synthesis.batch}",
                    where=out / FILE,
                    remedy="Choose another --out, or repeat the first run's options to go on with it.",
                )
            old = None
        plan = new if old is None else replace(old, device=new.device, torch=new.torch)
        autotune.use_threads(plan.threads)
        if old is None and synthesis.has_gradient and recipe.synthesis.pace == "auto":
            plan = plan._with_fastest_mode(teacher, synthesis, found)
            autotune.use_threads(plan.threads)
        teacher.lay_out(plan.channels_last)
        return plan

    def _with_fastest_mode(self, teacher: Teacher, synthesis: Synthesis, found: ExecutionMode | None) -> Plan:
        most = max(min(self.threads, synthesis.batches // _BATCHES), 1) if synthesis.rounds == 1 else 1
        if found is None or found.threads is None:
            found = autotune.fastest_mode(teacher, self.chunk, synthesis.teacher_passes, most)
        # Where rounds are too short for a timing, networks are small, and several threads would wait for each other.
        threads = found.threads or (1 if self.beside and synthesis.rounds > 1 else self.threads)
        return replace(
            self,
            channels_last=found.channels_last,
            dtype=found.dtype,
            workers=min(found.workers, most),
            threads=threads,
            beside=min(self.beside, threads),
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, for `read`."""
        return asdict(self)


def decide(recipe: Recipe, teacher: Teacher, synthesis: Synthesis) -> Plan:
    """Decide a plan for this machine, without what only a timing tells (`onnxcake.teacher.autotune`)."""
    chunk = synthesis.chunk
    whole = any(term.loss.scope == "batch" for term in synthesis.losses)
    if recipe.synthesis.chunk is None and not whole and synthesis.steps:
        fitting = CHUNK_BYTES[teacher.device.type] // max(1, _activation_bytes(teacher, synthesis.groups))
        chunk = max(synthesis.groups, min(synthesis.batch, fitting - fitting % synthesis.groups))
        parts = -(-synthesis.batch // chunk)  # equal parts: no small remainder
        chunk = -(-synthesis.batch // (parts * synthesis.groups)) * synthesis.groups
    batch_bytes = synthesis.batch * teacher.signature.size * 4
    kept = kept_batches(recipe, synthesis) + synthesis.held_out
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


def kept_batches(recipe: Recipe, synthesis: Synthesis) -> int:
    """Count the batches that the store keeps to learn from."""
    return synthesis.total if recipe.student.learn_from == "kept" else 0


def _activation_bytes(teacher: Teacher, samples: int) -> int:
    """Count the bytes that autograd keeps for each sample between forward and backward, without measuring them."""
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
