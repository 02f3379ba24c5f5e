"""What values a teacher takes: said by the user, else read from the graph, else assumed; always stated."""

from __future__ import annotations

import math

from ..errors import UsageError
from ..graph.ends import Head
from ..graph.normalise import SafeGraph
from ..graph.tensors import type_name
from .options import Options
from .signature import Signature, limits_of

# Values spread over a range have, as a rule, about a quarter of its width as deviation (natural images: 0.23).
DEVIATION_OF_RANGE = 0.25
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def values_of(safe: SafeGraph, output: str, head: Head, options: Options) -> Signature:
    """The signature's input side; the output's kind is still to be found.

    Args:
        output: the output's name in the file.
        head: what the graph shows.

    Raises:
        UsageError: if what the user says does not fit the input's shape.
    """
    channels = safe.input_shape[-1] if head.channels_last else safe.input_shape[0]
    options.check_channels(channels, safe.input_shape)
    dtype = _NUMPY_NAMES.get(type_name(safe.input_type), type_name(safe.input_type))
    bounds = options.range or head.range
    limits = limits_of(dtype)
    if (
        options.range is not None
        and options.mean is None
        and not (limits[0] <= options.range[0] and options.range[1] <= limits[1])
    ):
        raise UsageError(
            f"range {options.range[0]:g},{options.range[1]:g} does not fit an input of type {dtype}",
            remedy=f"Give a range within {limits[0]:g},{limits[1]:g}.",
        )
    location, deviation, assumptions = _spread(bounds, head, options)
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
        range=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        mean=None if options.mean is None else tuple(float(v) for v in options.mean),
        std=None if options.std is None else tuple(float(v) for v in options.std),
        location=location,
        deviation=deviation,
        assumptions=(*assumptions, *safe.notes),
    )


Numbers = tuple[float, ...]


def _spread(
    bounds: tuple[float, float] | None, head: Head, options: Options
) -> tuple[Numbers, Numbers, tuple[str, ...]]:
    """Mean and deviation of what the file takes, and what to tell the user about them."""
    if options.mean is not None:  # normalised outside the file: standard units are what it takes
        return (0.0,), (1.0,), ()
    told = ""
    if options.range is None and bounds is not None:
        told = f"inputs are taken to lie in {bounds[0]:g}…{bounds[1]:g}, as the file shows ({head.seen})"
    if head.mean is not None and head.deviation is not None:
        mean, deviation = _shown(head.mean), _shown(head.deviation)
        inside = f"the file normalises its inputs itself ({head.seen}): mean {mean}, deviation {deviation}"
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
    centre, width = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) * DEVIATION_OF_RANGE
    told = told or f"inputs lie in {bounds[0]:g}…{bounds[1]:g}"
    more = (
        f"{told}; they are assumed to have mean {centre:g} and deviation {width:g}; "
        "if they are normalised outside the file, say so with --mean and --std"
    )
    return (centre,), (width,), (more,)


def _shown(values: Numbers) -> str:
    if len(values) <= 4 or max(values) - min(values) < 1e-6 * max(1.0, math.fabs(values[0])):
        return ", ".join(f"{v:.4g}" for v in values[:4])
    return f"{min(values):.4g} to {max(values):.4g} over {len(values)} channels"
