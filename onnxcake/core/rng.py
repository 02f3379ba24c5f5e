"""The only place where randomness is born.

Every random draw has a key: the run's seed and a path of names and numbers that says what the draw is for.
Nothing draws from a running stream, so any part of a run can be made again, alone and in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Key:
    """A name for a stream of random numbers: ``Key(0).at("batch", 17)``."""

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Key:
        """The key of a part of what this key is for."""
        return Key(self.seed, self.path + path)

    def number(self) -> int:
        """63 bits that depend on the seed and the whole path."""
        text = json.dumps([self.seed, *self.path]).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for this key; the same key always gives the same numbers on a device kind."""
        import torch

        return torch.Generator(device=device).manual_seed(self.number())

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Torch's global generators seeded by this key inside the block and restored after it.

        For code that takes no generator: parameter initialisation and dropout.
        """
        import torch

        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.number())
            yield
