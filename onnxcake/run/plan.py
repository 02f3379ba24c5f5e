"""Everything about a run that is decided once, by looking at teacher, recipe and machine.

The plan is written to ``plan.json``, read again when a run goes on, and part of the store's key: threads and
chunk change the last bits of a gradient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ..core import json_files
from ..core.quantities import Count
from ..recipe.recipe import Recipe
from ..runtime import processor
from ..synthesis.spec import Synthesis
from ..teacher.autotune import Dtype, ExecutionMode, threads_given
from ..teacher.teacher import Teacher

FILE = "plan.json"
SHARD_BYTES = 1 << 20  # small batches share a file up to this size,
SHARDS = 20  # but a set has so many files at least, if it has the batches
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
    def pace(self) -> ExecutionMode:
        """How the teacher is computed."""
        return ExecutionMode(self.channels_last, self.dtype, self.workers, self.threads)

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
