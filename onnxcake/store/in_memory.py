"""Hold a set in memory that grows while a student learns from it."""

from __future__ import annotations

import torch

from .dataset import Rows, Samples
from .shard import Batch


class InMemorySet(Samples):
    """Samples made so far, in memory.

    Args:
        batches: most batches that it will hold; memory is taken as it fills.
        batch: samples in a batch.
        shape: of one sample.
        classes: numbers in one answer.
    """

    def __init__(self, batches: int, batch: int, shape: tuple[int, ...], classes: int) -> None:
        self._batch, self.samples = batch, 0
        self._inputs = torch.empty(batches * batch, *shape)
        self.logits = torch.empty(batches * batch, classes)
        self.labels = torch.empty(batches * batch, dtype=torch.int64)

    def extend(self, batch: Batch) -> None:
        """Append the next batch."""
        rows = slice(batch.index * self._batch, (batch.index + 1) * self._batch)
        self._inputs[rows], self.logits[rows], self.labels[rows] = batch.inputs, batch.logits, batch.labels
        self.samples = rows.stop

    def __len__(self) -> int:
        return self.samples

    def take(self, rows: torch.Tensor | list[int]) -> Rows:
        rows = torch.as_tensor(rows, dtype=torch.long)
        return self._inputs[rows], self.logits[rows], self.labels[rows]
