"""The shard format: a safetensors file with a fixed number of batches, named by its digest.

``000123-<first 16 hex digits of sha256>.safetensors`` holds ``inputs``, ``logits`` and ``labels`` of shard
123's batches, one after the other, and string metadata: format, store key, first batch, and for each batch
how many starts were thrown away before it (``attempts``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import digest_holds, write_with_digest

FORMAT = "1"
SUFFIX = ".safetensors"
_NAME = re.compile(r"^(\d{6,})-[0-9a-f]{16}\.safetensors$")


@dataclass(frozen=True)
class Batch:
    """A finished batch.

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


@dataclass(frozen=True)
class Shard:
    """A shard's tensors, mapped into memory: read when touched."""

    inputs: Tensor
    logits: Tensor
    labels: Tensor
    attempts: tuple[int, ...]


def write(folder: Path, number: int, batches: list[Batch], store_key: str) -> Path:
    """Commits shard ``number``; returns its path.

    Raises:
        OutputError: if it cannot be written.
    """
    tensors = {
        name: torch.cat([getattr(batch, name) for batch in batches]).contiguous()
        for name in ("inputs", "logits", "labels")
    }
    metadata = {
        "format": FORMAT,
        "store_key": store_key,
        "first": str(batches[0].index),
        "attempts": ",".join(str(batch.attempts) for batch in batches),
    }
    return write_with_digest(folder, f"{number:06d}", SUFFIX, save(tensors, metadata))


def number_of(path: Path) -> int | None:
    """The shard's number by its name, or None if it is no shard's name."""
    match = _NAME.match(path.name)
    return int(match[1]) if match else None


def read(path: Path, store_key: str, shape: tuple[int, ...]) -> Shard | None:
    """The shard at ``path``, checked; None if anything about it is wrong.

    Args:
        store_key: the key it must carry.
        shape: what its inputs must be, [samples, …].
    """
    if not digest_holds(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shard = Shard(
                file.get_tensor("inputs"),
                file.get_tensor("logits"),
                file.get_tensor("labels"),
                tuple(int(number) for number in metadata["attempts"].split(",")),
            )
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    fits = metadata.get("store_key") == store_key and tuple(shard.inputs.shape) == shape
    return shard if fits and len(shard.logits) == len(shard.labels) == shape[0] else None
