"""Determine the values that a teacher takes: given by the user, else read from the graph, else assumed and stated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.errors import UsageError
from ..graph.head_and_tail import Head
from ..onnxfile.rename import SafeGraph
from ..onnxfile.tensors import type_name
from .options import TeacherOptions
from .signature import Bound, Signature, limits_of

# Values spread over a range have, as a rule, about a quarter of its width as deviation (natural images: 0.23).
DEVIATION_OF_RANGE = 0.25
_UNUSUAL = 3.0  # times a deviation of 1, or its part: no normalisation to mean 0 and deviation 1 leaves that
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def values_of(safe: SafeGraph, output: str, head: Head, options: TeacherOptions) -> Signature:
    """Build the signature's input side; the output's kind is set later.

    Args:
        output: the output's name in the file.
        head: what the graph shows.
        options: what the user gave.

    Raises:
        UsageError: if the user's options do not fit the input's shape.
    """
    channels = safe.input_shape[-1] if head.channels_last else safe.input_shape[0]
    options = options.fitted(channels, safe.input_shape)
    dtype = _NUMPY_NAMES.get(type_name(safe.input_type), type_name(safe.input_type))
    bounds = options.range or head.range
    limits = limits_of(dtype)
    if options.range is not None and options.mean is None:
        low, high = np.min(options.range[0]), np.max(options.range[1])
        if not limits[0] <= low <= high <= limits[1]:
            raise UsageError(
                f"range {low:g},{high:g} does not fit an input of type {dtype}",
                remedy=f"Give a range within {limits[0]:g},{limits[1]:g}.",
            )
    location, deviation, assumptions = _spread(bounds, head, options, safe.input_shape)
    if head.channels_last:
        assumptions = (*assumptions, f"inputs are images with their {channels} channels last")
    return Signature(
        input_name=safe.input_name,
        input_shape=safe.input_shape,
        output_name=output,
        output_kind="logits",
        classes=0,
        input_dtype=dtype,
        channels_last=head.channels_last,
        range=None if bounds is None else (_floats(bounds[0]), _floats(bounds[1])),
        mean=None if options.mean is None else tuple(float(v) for v in options.mean),
        std=None if options.std is None else tuple(float(v) for v in options.std),
        location=location,
        deviation=deviation,
        assumptions=(*assumptions, *safe.notes),
    )


Numbers = tuple[float, ...]


def advice(signature: Signature) -> str:
    """Word which values were assumed, and which options give others, for this input."""
    shape = signature.input_shape
    location, deviation = _numbers_in_words(signature.location, shape), _numbers_in_words(signature.deviation, shape)
    assumed = "values as --mean and --std say" if signature.mean else f"mean {location}, deviation {deviation}"
    if len(shape) == 1:
        how = (
            f"Say what the {shape[0]} features are with --range FILE, a CSV of {shape[0]} rows lowest,highest, "
            "or with --range LO,HI if all are alike"
        )
    else:
        how = "Say the lowest and highest value with --range LO,HI, such as --range 0,255 for bytes"
    return f"The values assumed ({assumed}) may not be what the file takes. {how}; --mean and --std if they are " + (
        "normalised before the file."
    )


def _spread(
    bounds: tuple[Bound, Bound] | None, head: Head, options: TeacherOptions, shape: tuple[int, ...]
) -> tuple[Numbers, Numbers, tuple[str, ...]]:
    """Determine mean and deviation of the values that the file takes, and what to tell the user about them."""
    if options.mean is not None:
        return _normalised_outside(options, shape)
    told = ""
    lies = "" if bounds is None else "…".join(_numbers_in_words(_tuple(end), shape) for end in bounds)
    if options.range is None and bounds is not None:
        told = f"inputs are taken to lie in {lies}, as the file shows ({head.seen})"
    if head.mean is not None and head.deviation is not None and (options.range is None or not head.guessed):
        mean, deviation = _numbers_in_words(head.mean, shape), _numbers_in_words(head.deviation, shape)
        inside = f"the file normalises its inputs itself ({head.seen}): mean {mean}, deviation {deviation}"
        if head.measured:
            inside = f"values have mean {mean} and deviation {deviation}, as {head.seen}"
        guess = " (a guess: the file shows the mean alone; say --range LO,HI if you know better)"
        inside += guess if head.guessed else ""
        return head.mean, head.deviation, tuple(filter(None, (told, inside)))
    if bounds is None:
        return (
            (0.0,),
            (1.0,),
            (
                "inputs are assumed to be normalised (mean 0, deviation 1) and unbounded; "
                "if the file takes values such as 0…1 or 0…255, say so with --range LO,HI",
            ),
        )
    location, deviation_ = _spread_over_range(*(np.asarray(end, np.float64) for end in bounds))
    told = told or f"inputs lie in {lies}"
    mean, deviation = _numbers_in_words(location, shape), _numbers_in_words(deviation_, shape)
    more = (
        f"{told}; they are assumed to have mean {mean} and deviation {deviation}; "
        "if they are normalised outside the file, say so with --mean and --std"
    )
    return location, deviation_, (more,)


def _normalised_outside(options: TeacherOptions, shape: tuple[int, ...]) -> tuple[Numbers, Numbers, tuple[str, ...]]:
    """Determine mean and deviation after a normalisation before the file: 0 and 1, unless the range differs.

    Some normalisations subtract a mean and leave the scale of bytes, or scale by a number of their own.
    """
    if options.range is None:
        return (0.0,), (1.0,), ()
    mean, std = (np.asarray(values, np.float64) for values in (options.mean, options.std))
    ends = [np.atleast_1d(np.asarray(end, np.float64)) for end in options.range]
    if len({len(values) for values in (mean, std, *ends)} - {1}) > 1:  # some by channel and some by pixel
        return (0.0,), (1.0,), ()
    location, deviation = _spread_over_range(*((end - mean) / std for end in ends))
    if 1 / _UNUSUAL < np.median(deviation) < _UNUSUAL:
        return (0.0,), (1.0,), ()
    told = (
        f"normalised outside the file, inputs have another scale than usual: they are assumed to have mean "
        f"{_numbers_in_words(location, shape)} and deviation {_numbers_in_words(deviation, shape)}"
    )
    return location, deviation, (told,)


def _spread_over_range(low: Any, high: Any) -> tuple[Numbers, Numbers]:
    """Return mean and deviation of values that are spread over a range, one or one for each channel or feature."""
    low, high = np.broadcast_arrays(low, high)
    width = np.where(high > low, (high - low) * DEVIATION_OF_RANGE, 1.0)  # 1: a feature that never changes
    return _tuple(_floats((low + high) / 2)), _tuple(_floats(width))


def _floats(value: Any) -> Bound:
    numbers = np.asarray(value, np.float64)
    return float(numbers) if numbers.ndim == 0 else tuple(numbers.tolist())


def _tuple(value: Bound) -> Numbers:
    return value if isinstance(value, tuple) else (value,)


def _numbers_in_words(values: Numbers, shape: tuple[int, ...]) -> str:
    if len(values) <= 4 or max(values) - min(values) < 1e-6 * max(1.0, math.fabs(values[0])):
        return ", ".join(f"{v:.4g}" for v in values[: 1 if len(values) > 4 else 4])
    what = "features" if len(shape) == 1 else "numbers" if len(values) == math.prod(shape) else "channels"
    return f"{min(values):.4g} to {max(values):.4g} over {len(values)} {what}"
