"""What the user says about a teacher's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UsageError
from ..graph.held import Held, plain_held
from ..graph.normalise import Choice
from .signature import Task

TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")


@dataclass(frozen=True)
class Options:
    """What the file does not say, or says otherwise; everything is inferred where it can be.

    Attributes:
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name: a number, a list of numbers or an array of the input's shape,
            with or without the batch. Kept as plain numbers in nested tuples.
        task: what the scores decide: one of several classes, one yes or no, or several.
        range: lowest and highest raw value of an input.
        mean, std: the normalisation done outside the file, one value or one for each channel.
        shapes: the sizes of inputs by name, batch included, where the file leaves sizes open.
    """

    input: str | None = None
    output: str | None = None
    shape: tuple[int, ...] | None = None
    constants: Mapping[str, Held] = field(default_factory=dict)
    task: Task | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = {name: plain_held(value, name) for name, value in self.constants.items()}
        object.__setattr__(self, "constants", held)
        object.__setattr__(self, "shapes", {name: tuple(sizes) for name, sizes in self.shapes.items()})

    @property
    def choice(self) -> Choice:
        """The part that concerns the graph."""
        return Choice(self.input, self.output, self.shape, self.constants, self.shapes)

    def before(self, other: Options) -> Options:
        """These, and ``other`` where these say nothing."""
        mine, theirs = vars(self), vars(other)
        merged: dict[str, Any] = {key: theirs[key] if mine[key] is None else mine[key] for key in mine}
        named = {key: {**theirs[key], **mine[key]} for key in ("constants", "shapes")}
        return Options(**{**merged, **named})

    def check(self) -> None:
        """Makes sure that the numbers make sense by themselves.

        Raises:
            UsageError: if not.
        """
        if self.task is not None and self.task not in TASKS:
            raise UsageError(f"task {self.task!r} is not known", remedy=f"Choose one of {', '.join(TASKS)}.")
        if self.range is not None and not (self.range[0] < self.range[1] and all(map(math.isfinite, self.range))):
            raise UsageError(
                f"range {self.range[0]:g},{self.range[1]:g} is empty or has no end",
                remedy="Give --range LO,HI with LO below HI.",
            )
        if (self.mean is None) != (self.std is None):
            raise UsageError("mean and std belong together", remedy="Give both --mean and --std, or neither.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (values and all(map(math.isfinite, values))):
                raise UsageError(f"{name} must be finite", remedy=f"Give the {name} of the raw values with --{name}.")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError("std must be above zero", remedy="Give the deviation of the raw values with --std.")

    def check_channels(self, channels: int, shape: tuple[int, ...]) -> None:
        """Makes sure that values given by channel fit.

        Raises:
            UsageError: if not.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, channels):
                raise UsageError(
                    f"{len(values)} values of {name} for an input of shape {list(shape)}",
                    remedy=f"Give one value, or one for each of the {channels} channels.",
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `of`."""
        return asdict(self)

    @classmethod
    def of(cls, **said: Any) -> Options:
        """Options from what a caller, or `as_dict`, says: any sequence serves for a tuple."""
        plain: dict[str, Any] = {
            key: value if value is None or isinstance(value, (str, Mapping)) else tuple(value)
            for key, value in said.items()
        }
        return cls(**plain)
