"""Create every random generator of the program; no other module does.

Each random draw has a key: the run's seed and a path of names and numbers that says what the draw is for.
No draw comes from a running stream, so any part of a run can be made again, alone and in any order.
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
    """Name a stream of random numbers by a seed and a path: ``Key(0).at("batch", 17)``."""

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Key:
        """Return the key of a part of what this key is for."""
        return Key(self.seed, self.path + path)

    def number(self) -> int:
        """Return 63 bits that depend on the seed and the whole path."""
        text = json.dumps([self.seed, *self.path]).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh generator seeded by this key; a key gives the same numbers on each device of a kind."""
        import torch

        return torch.Generator(device=device).manual_seed(self.number())

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Seed torch's global generators by this key inside the block and restore them after it.

        For code that takes no generator: parameter initialisation and dropout.
        """
        import torch

        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.number())
            yield
