"""Remember samples for a student that are not kept otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.quantities import Count, Share
from ..core.rng import Key
from ..store.shard import Batch
from .step import Context, Leaves
from .synthesizer import Synthesizer

Rows = tuple[Tensor, Tensor, Tensor]  # inputs, the teacher's logits, labels


class Memory:
    """Base of memories: frozen dataclasses whose fields are their recipe keys.

    `init_state` returns the memory's content, a module whose buffers and parameters go into checkpoints; its attribute
    ``leaves`` may name `Leaves` whose optimiser state goes along.
    """

    def init_state(self, context: Context) -> nn.Module:
        """Make an empty memory."""
        raise NotImplementedError

    def remember(self, state: Any, batch: Batch, number: int, synthesizer: Synthesizer, key: Key) -> None:
        """Remember the last batch of round ``number``."""
        raise NotImplementedError

    def recall(self, state: Any, synthesizer: Synthesizer, key: Key) -> Rows | None:
        """Return samples for one student step; None while there are none."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bank(Memory):
    """Keep the last few batches, or a share of each, as they were (MB-DFKD: Binici et al., WACV 2022).

    Attributes:
        entries: number of entries that are kept; the oldest makes room.
        every: rounds between two entries.
        share: of a batch that makes an entry.
    """

    entries: Count = 10
    every: Count = 1
    share: Share = 1.0

    def init_state(self, context: Context) -> BankState:
        samples = max(1, round(self.share * context.batch))
        return BankState(self.entries, samples, context.signature.input_shape, context.signature.classes)

    def remember(self, state: BankState, batch: Batch, number: int, synthesizer: Synthesizer, key: Key) -> None:
        if number % self.every == 0:
            state.push(batch)

    def recall(self, state: BankState, synthesizer: Synthesizer, key: Key) -> Rows | None:
        filled = min(int(state.pushed), self.entries)
        if not filled:
            return None
        chosen = int(torch.randint(filled, (), generator=key.generator()))
        return state.inputs[chosen], state.logits[chosen], state.labels[chosen]


class BankState(nn.Module):
    """Hold the entries in a ring."""

    inputs: Tensor
    logits: Tensor
    labels: Tensor
    pushed: Tensor
    leaves: Leaves | None = None

    def __init__(self, entries: int, samples: int, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.register_buffer("inputs", torch.zeros(entries, samples, *shape))
        self.register_buffer("logits", torch.zeros(entries, samples, classes))
        self.register_buffer("labels", torch.zeros(entries, samples, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def push(self, batch: Batch) -> None:
        """Put the first samples of a batch in the place of the oldest entry."""
        place, samples = int(self.pushed) % len(self.inputs), self.inputs.shape[1]
        self.inputs[place] = batch.inputs[:samples]
        self.logits[place] = batch.logits[:samples]
        self.labels[place] = batch.labels[:samples]
        self.pushed += 1
