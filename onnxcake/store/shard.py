"""Define the shard format: a safetensors file with a fixed number of batches, named by its digest.

``000123-<first 16 hex digits of sha256>.safetensors`` holds ``inputs``, ``logits`` and ``labels`` of shard
123's batches, one after the other, and facts: format, store key, first batch, and for each batch how many starts
were discarded before it (``attempts``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import tensorfile
from ..core.errors import StoreError
from ..core.files import write_with_digest
from ..core.tensorfile import SUFFIX, pack, unpack

FORMAT = "1"
_NAME = re.compile(r"^(\d{6,})-[0-9a-f]{16}\.safetensors$")


@dataclass(frozen=True)
class Batch:
    """Hold a finished batch.

    Attributes:
        index: its place in the set.
        inputs: samples in the file's own units [batch, …], float32.
        logits: the teacher's answers [batch, classes], float32.
        labels: the classes that were asked for [batch], int64.
        attempts: starts thrown away before it because a loss was not finite.
    """

    index: int
    inputs: Tensor
    logits: Tensor
    labels: Tensor
    attempts: int = 0

    def cpu(self) -> Batch:
        """Return the batch in main memory."""
        return Batch(self.index, self.inputs.cpu(), self.logits.cpu(), self.labels.cpu(), self.attempts)


@dataclass(frozen=True)
class Shard:
    """Hold a shard's tensors memory-mapped: parts are read when touched."""

    inputs: Tensor
    logits: Tensor
    labels: Tensor
    attempts: tuple[int, ...]


def write(folder: Path, number: int, batches: list[Batch], store_key: str) -> Path:
    """Write the batches of shard ``number`` to a file; return its path.

    Raises:
        OutputError: if it cannot be written.
    """
    tensors = {
        name: torch.cat([getattr(batch, name) for batch in batches]).contiguous()
        for name in ("inputs", "logits", "labels")
    }
    facts = {
        "format": FORMAT,
        "store_key": store_key,
        "first": batches[0].index,
        "attempts": [batch.attempts for batch in batches],
    }
    return write_with_digest(folder, f"{number:06d}", SUFFIX, pack(tensors, facts))


def number_of(path: Path) -> int | None:
    """Return the shard's number in a file's name, or None if it is no shard's name."""
    match = _NAME.match(path.name)
    return int(match[1]) if match else None


def held(path: Path) -> Shard:
    """Map the shard at ``path``, which `read` has checked, into memory anew.

    Raises:
        StoreError: if the file is not there any more, or is no shard.
    """
    try:
        tensors, facts = tensorfile.read(path)
        return _shard(tensors, facts)
    except tensorfile.UNREADABLE as error:
        raise StoreError(
            f"{path.name} was there and can no longer be read",
            where=path.parent,
            remedy="Run `onnxcake extract` again with the same options: what is missing is made again.",
        ) from error


def read(path: Path, store_key: str, batches: range, shape: tuple[int, ...], classes: int) -> Shard | None:
    """Read and check the shard at ``path``; return None if anything about it is wrong.

    Args:
        store_key: the key it must carry.
        batches: indices of the batches it must hold.
        shape: what its inputs must be, [samples, …].
        classes: numbers in each of its answers.
    """
    found = unpack(path)
    if found is None:
        return None
    tensors, facts = found
    try:
        shard = _shard(tensors, facts)
    except (KeyError, TypeError):
        return None
    same = {"format": FORMAT, "store_key": store_key, "first": batches.start}.items() <= facts.items()
    fits = (
        _has_type(shard.inputs, torch.float32, *shape)
        and _has_type(shard.logits, torch.float32, shape[0], classes)
        and _has_type(shard.labels, torch.int64, shape[0])
        and all(tensor.isfinite().all() for tensor in (shard.inputs, shard.logits))
        and [type(number) for number in shard.attempts] == [int] * len(batches)
    )
    return shard if same and fits else None


def _shard(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Shard:
    return Shard(tensors["inputs"], tensors["logits"], tensors["labels"], tuple(facts["attempts"]))


def _has_type(tensor: Tensor, dtype: torch.dtype, *shape: int) -> bool:
    return tensor.dtype == dtype and tuple(tensor.shape) == shape
