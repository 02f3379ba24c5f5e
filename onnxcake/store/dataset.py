"""Read a store as a map-style dataset over (shard, row)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..core.errors import StoreError
from ..core.rng import Key
from .shard import Shard
from .store import Store

RESIDENT_BYTES = 1 << 30  # a set up to this size is held as one tensor; larger ones are read where they lie

Rows = tuple[Tensor, Tensor, Tensor]


class Samples(Dataset[Rows]):
    """Samples that a student learns from: (input, the teacher's logits, asked-for label)."""

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, rows: Tensor | list[int]) -> Rows:
        """Return several samples, stacked: ([n, …], [n, classes], [n])."""
        raise NotImplementedError

    def epoch(self, batch: int, key: Key, number: int, first: int = 0) -> Iterator[Rows]:
        """Iterate over the batches of epoch ``number``, in an order that depends on the key and the number alone.

        Args:
            batch: samples in each; the last may have fewer, but not a lone one (batch statistics need two): it
                then takes one from the batch before.
            first: batches to leave out at the start, to go on within an epoch.
        """
        order = torch.randperm(len(self), generator=key.at("epoch", number).generator())
        parts = list(order.split(batch))
        if len(parts) > 1 and len(parts[-1]) == 1 and batch > 1:
            parts[-2:] = parts[-2][:-1], torch.cat([parts[-2][-1:], parts[-1]])
        for rows in parts[first:]:
            yield self.take(rows)

    def endless(self, batch: int, key: Key, first: int = 0) -> Iterator[Rows]:
        """Iterate over batches epoch after epoch, from batch ``first`` on."""
        number, done = divmod(first, math.ceil(len(self) / batch))
        while True:
            yield from self.epoch(batch, key, number, done)
            number, done = number + 1, 0


class StoreDataset(Samples):
    """Samples of a store: (input, the teacher's logits, asked-for label).

    Args:
        store: a complete store.
        held_out: the held-out batches instead of those to learn from.
        resident_bytes: up to this size the inputs are held in one tensor.

    Raises:
        StoreError: if batches are missing.
    """

    def __init__(self, store: Store, *, held_out: bool = False, resident_bytes: int = RESIDENT_BYTES) -> None:
        layout = store.layout
        if not store.complete:
            raise StoreError(
                f"{store.finished} of {layout.batches + layout.held_out} batches are there",
                where=store.folder,
                remedy="Run `onnxcake extract` again with the same options to finish the set.",
            )
        first = layout.batches if held_out else 0
        last = layout.batches + (layout.held_out if held_out else 0)
        self.samples = (last - first) * layout.batch
        shards = range(first // layout.batches_per_shard, math.ceil(last / layout.batches_per_shard))
        self._per_shard = layout.batches_per_shard * layout.batch
        self._first = first * layout.batch - shards.start * self._per_shard  # within the first of these shards
        sample_bytes = 4 * max(1, torch.Size(layout.shape).numel())
        resident = self.samples * sample_bytes <= resident_bytes
        self._inputs = torch.empty(self.samples, *layout.shape) if resident else None
        self._shards: list[Tensor] = []  # inputs, where they are not resident
        self.logits = torch.empty(self.samples, layout.classes)
        self.labels = torch.empty(self.samples, dtype=torch.long)
        for place, number in enumerate(shards):
            self._copy_shard(place * self._per_shard - self._first, store.shard(number))

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, row: int) -> Rows:
        inputs, logits, labels = self.take(torch.tensor([row]))
        return inputs[0], logits[0], labels[0]

    def take(self, rows: Tensor | list[int]) -> Rows:
        rows = torch.as_tensor(rows, dtype=torch.long)
        inputs = self._gather(rows) if self._inputs is None else self._inputs[rows]
        return inputs, self.logits[rows], self.labels[rows]

    def _copy_shard(self, start: int, shard: Shard) -> None:
        """Copy the part of a shard that is kept in memory.

        Args:
            start: number of the shard's first sample; negative where the shard begins before this set.
        """
        first = max(start, 0)
        last = max(min(start + len(shard.labels), self.samples), first)
        parts = [(self.logits, shard.logits), (self.labels, shard.labels)]
        if self._inputs is None:
            self._shards.append(shard.inputs)
        else:
            parts.append((self._inputs, shard.inputs))
        for whole, part in parts:
            whole[first:last] = part[first - start : last - start]

    def _gather(self, rows: Tensor) -> Tensor:
        """Gather the inputs of ``rows`` out of the mapped shards, shard by shard."""
        rows = rows + self._first
        number, row = rows // self._per_shard, rows % self._per_shard
        gathered = torch.empty(len(rows), *self._shards[0].shape[1:])
        for shard in number.unique().tolist():
            chosen = number == shard
            gathered[chosen] = self._shards[shard][row[chosen]]
        return gathered
