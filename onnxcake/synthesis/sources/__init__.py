"""Where samples come from: what is optimised, and how it becomes samples. Named by the keys of `SOURCES`."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...rng import Key
from ...teacher import Signature
from ..step import Parts
from .pixels import Pixels


class Draft(Protocol):
    """Samples in the making: the tensors that are stepped, and what they look like."""

    leaves: list[Tensor]

    def render(self) -> Tensor:
        """The samples in standard units [samples, …], differentiable in the leaves."""

    def project(self) -> None:
        """Brings the leaves back into what is allowed, after a step."""


class Source(Protocol):
    """A frozen dataclass whose fields are its recipe keys.

    ``independent`` says that a batch depends on its key alone, so that batches can be made in any order.
    """

    independent: ClassVar[bool]

    def draft(self, samples: int, signature: Signature, key: Key, device: torch.device) -> Draft:
        """A start for ``samples`` samples."""

    def unfit(self, signature: Signature) -> str | None:
        """Why this source cannot be used for such inputs, or None."""


SOURCES: Parts = {"pixels": Pixels}

__all__ = ["SOURCES", "Draft", "Pixels", "Source"]
