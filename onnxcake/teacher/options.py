"""Hold the user's options about a teacher's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..core.arrays import Array
from ..core.errors import UsageError
from ..onnxfile.held_inputs import Held, plain_held
from ..onnxfile.input_choice import GraphChoice
from .signature import Bound, Task

TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")


@dataclass(frozen=True)
class TeacherOptions:
    """Hold the user's options about a teacher's file; what is left out is inferred from the file where possible.

    Attributes:
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name: a number, a list of numbers or an array of the input's shape,
            with or without the batch. Kept as plain numbers in nested tuples.
        task: what the scores decide: one of several classes, one yes or no, or several.
        range: lowest and highest raw value of an input, each one number or a tuple as `mean` may be.
        mean, std: the normalisation done outside the file: one value, one for each channel or feature, or one for
            each number of an input in the file's layout.
        shapes: the sizes of inputs by name, batch included, where the file leaves sizes open.
    """

    input: str | None = None
    output: str | None = None
    shape: tuple[int, ...] | None = None
    constants: Mapping[str, Held] = field(default_factory=dict)
    task: Task | None = None
    range: tuple[Bound, Bound] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = {name: plain_held(value, name) for name, value in self.constants.items()}
        object.__setattr__(self, "constants", held)
        object.__setattr__(self, "shapes", {name: tuple(sizes) for name, sizes in self.shapes.items()})

    @property
    def choice(self) -> GraphChoice:
        """Return the options that concern the graph."""
        return GraphChoice(self.input, self.output, self.shape, self.constants, self.shapes)

    @property
    def sized(self) -> str:
        """Return the options that give sizes, as they are written; "" if there are none."""
        shapes = [f"--shape {name}=" for name in self.shapes] + ["--shape"] * (self.shape is not None)
        held = [f"--hold {name}" for name, value in self.constants.items() if isinstance(value, tuple)]
        return " and ".join(shapes + held)

    def before(self, other: TeacherOptions) -> TeacherOptions:
        """Merge with ``other``, whose values apply where these are not given."""
        mine, theirs = vars(self), vars(other)
        merged: dict[str, Any] = {key: theirs[key] if mine[key] is None else mine[key] for key in mine}
        named = {key: {**theirs[key], **mine[key]} for key in ("constants", "shapes")}
        return TeacherOptions(**{**merged, **named})

    def check(self) -> None:
        """Check that the numbers make sense by themselves.

        Raises:
            UsageError: if not.
        """
        if self.task is not None and self.task not in TASKS:
            raise UsageError(f"task {self.task!r} is not known", remedy=f"Choose one of {', '.join(TASKS)}.")
        if self.range is not None:
            self._check_range(*(np.atleast_1d(np.asarray(end, np.float64)) for end in self.range))
        if (self.mean is None) != (self.std is None):
            raise UsageError("mean and std belong together", remedy="Give both --mean and --std, or neither.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (values and all(map(math.isfinite, values))):
                raise UsageError(f"{name} must be finite", remedy=f"Give the {name} of the raw values with --{name}.")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError("std must be above zero", remedy="Give the deviation of the raw values with --std.")

    def _check_range(self, low: Array, high: Array) -> None:
        remedy = "Give --range LO,HI with LO below HI, or --range FILE with the lowest and highest of each feature."
        if len(low) != len(high) and min(len(low), len(high)) > 1:
            raise UsageError(f"range has {len(low)} lowest and {len(high)} highest values", remedy=remedy)
        one = len(low) == len(high) == 1
        # A feature that never changes may have the same value for both.
        wrong = ~(np.isfinite(low) & np.isfinite(high) & ((low < high) if one else (low <= high)))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            ends = f"{low[min(at, len(low) - 1)]:g},{high[min(at, len(high) - 1)]:g}"
            raise UsageError(f"range {ends} is empty or has no end{'' if one else f' (number {at})'}", remedy=remedy)

    def fitted(self, channels: int, shape: tuple[int, ...]) -> TeacherOptions:
        """Repeat values that are given for each feature of a sequence [steps, features], for each step.

        Raises:
            UsageError: if the number of values given does not fit the input's shape.
        """
        size = math.prod(shape)

        def fit(name: str, values: Any) -> Any:
            if not isinstance(values, tuple) or len(values) in (1, channels, size):
                return values
            if len(shape) == 2 and len(values) == shape[-1]:
                return values * (size // shape[-1])
            counts = f"{channels} {'features' if len(shape) == 1 else 'channels'}"
            more = "" if len(shape) == 1 else f", or for each of an input's {size} numbers"
            raise UsageError(
                f"{len(values)} values of {name} for an input of shape {list(shape)}",
                remedy=f"Give one value, or one for each of the {counts}{more}.",
            )

        bounds = None if self.range is None else (fit("range", self.range[0]), fit("range", self.range[1]))
        return replace(self, range=bounds, mean=fit("mean", self.mean), std=fit("std", self.std))

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, for `of`."""
        return asdict(self)

    @classmethod
    def of(cls, **said: Any) -> TeacherOptions:
        """Build options from a caller's arguments or `as_dict`'s plain data: any sequence serves for a tuple."""
        plain: dict[str, Any] = {}
        for key, value in said.items():
            if value is None or isinstance(value, (str, Mapping)):
                plain[key] = value
            elif key == "range":
                plain[key] = _range_ends(value)
            elif key in ("mean", "std"):
                plain[key] = tuple(np.asarray(value, np.float64).reshape(-1).tolist())
            else:
                plain[key] = tuple(value)
        return cls(**plain)


def _range_ends(value: Any) -> Any:
    """Return lowest and highest values, given as two numbers, two rows or two columns."""
    parts = [np.asarray(part, np.float64) for part in value]
    if len(parts) != 2 and all(part.shape == (2,) for part in parts):
        parts = list(np.stack(parts).T)
    return tuple(float(part) if part.ndim == 0 else tuple(part.reshape(-1).tolist()) for part in parts)
