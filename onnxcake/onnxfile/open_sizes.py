"""Suggest sizes for an input whose file leaves them open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import UnsupportedTeacher
from ..core.text import shown
from .held_inputs import LIMIT_VALUES

# Sizes that models are made for, the commonest first.
_SIDES = (224, 32, 28, 64, 96, 128, 112, 160, 192, 256, 299, 384, 48, 512)
_LENGTHS = (128, 64, 16, 32, 256, 512, 100, 1000, 16000, 8)
_CHANNELS = (3, 1)

Dims = Sequence[int | None]


class OpenSizes(UnsupportedTeacher):
    """Value whose sizes the file leaves open.

    Attributes:
        examples: shapes, batch included, that may fit it.
        value: its name, if it is not the one that the user has chosen; "" if it is.
        hold: what other inputs would have to be held at, then.
        options: the command's options that say so.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str,
        examples: list[tuple[int, ...]],
        value: str = "",
        hold: Mapping[str, Any] | None = None,
        options: str = "",
    ) -> None:
        self.examples, self.value, self.hold, self.options = examples, value, hold or {}, options
        super().__init__(what, where=where, remedy=self.say(examples[0]))

    def say(self, example: Sequence[int]) -> str:
        """Word the remedy with an example."""
        if not self.options:
            return say_shape(example)
        return f"{self.options} --shape {','.join(map(str, example))}."


def say_shape(example: Sequence[int]) -> str:
    """Word the remedy for open sizes, with an example."""
    return f"Say the sizes, batch included, with --shape, for example --shape {','.join(map(str, example))}."


def examples(dims: Dims) -> list[tuple[int, ...]]:
    """Suggest shapes, batch included, that fit the known sizes of an input; the likeliest first."""
    open_at = [axis for axis, size in enumerate(dims) if axis and size is None]
    channel = _channel(dims)
    places = [axis for axis in open_at if axis != channel]
    sizes = _SIDES if len(dims) == 4 else _LENGTHS
    made: list[tuple[int, ...]] = []
    for channels in _CHANNELS if channel in open_at else (0,):
        for size in sizes if places else (0,):
            shape = [1, *(size or 0 for size in dims[1:])]
            for axis in open_at:
                shape[axis] = channels if axis == channel else size
            made.append(tuple(shape))
    return [shape for shape in made if math.prod(shape) <= LIMIT_VALUES] or made[:1]


def _channel(dims: Dims) -> int | None:
    """Find the channel axis of an image: the last where its size says so, else the second."""
    if len(dims) != 4:
        return None
    return 3 if dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4) else 1


def described(dims: Dims, names: Sequence[str]) -> str:
    """Format a shape, open sizes by their names."""
    return "×".join(
        str(size) if size is not None else shown(name)[1:-1] if name else "?"
        for size, name in zip(dims, names, strict=True)
    )[:200]


def open_ones(dims: Dims, names: Sequence[str]) -> str:
    """List the open sizes but the batch, by name or by axis."""
    said = [
        shown(name) if name else f"number {axis + 1}"
        for axis, (size, name) in enumerate(zip(dims, names, strict=True))
        if axis and size is None
    ]
    return ", ".join(dict.fromkeys(said[:10]))
