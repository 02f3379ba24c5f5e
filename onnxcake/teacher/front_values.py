"""Measure the values that a file's part before the chosen value computes from random ids, texts and truth values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..core.arrays import Array
from ..core.errors import UnsupportedTeacher
from ..core.rng import Key
from ..core.text import first_line, shown
from ..graph.head_and_tail import Head
from ..onnxfile.front import Front
from ..onnxfile.rename import SafeGraph
from ..runtime.ort import Runtime, RuntimeRefused

_ROWS, _FEW = 500, 8
_EACH = 64  # numbers of a value of which each is measured by itself
_MOST = 8192  # numbers of which each is told; of larger values one mean and deviation is
_LEAST = 1e-6  # of a deviation: below, a number does not depend on the inputs that were varied


def runs(safe: SafeGraph, runtime: Runtime) -> bool:
    """Tell whether the part before the chosen value runs with the sizes that were chosen."""
    if safe.front is None or not safe.front.is_part:
        return True
    try:
        rows = _values(safe.front, runtime, _FEW)
    except RuntimeRefused:
        return False
    return rows is None or rows.shape[1:] == safe.input_shape


def measured(safe: SafeGraph, head: Head, runtime: Runtime, name: str) -> Head:
    """Set a head's mean, deviation and range to those of the chosen value's numbers, where they can be measured.

    Numbers that come from inputs of floats alone are left as they are assumed without: whatever was made of those is
    taken to have mean 0 and deviation 1.

    Raises:
        UnsupportedTeacher: if that part does not run with the sizes that were chosen.
    """
    front = safe.front
    if front is None or not front.is_part:
        return head
    try:
        values = _values(front, runtime, _ROWS)
    except RuntimeRefused as error:
        raise _other_sizes(safe, f"does not run with these sizes: {first_line(error)}", name) from error
    if values is None:
        return head
    if values.shape[1:] != safe.input_shape:
        raise _other_sizes(safe, f"makes {list(values.shape[1:])} of inputs of these sizes", name)
    each = math.prod(safe.input_shape) <= _EACH
    over = 0 if each else tuple(range(values.ndim - 1))
    mean, deviation = (np.broadcast_to(part, safe.input_shape) for part in (values.mean(over), values.std(over)))
    varies = values.std(0) > _LEAST
    if not varies.any():
        return head
    if math.prod(safe.input_shape) > _MOST:
        mean, deviation = np.full(1, values.mean()), np.full(1, values.std())
        varies = varies.any(keepdims=True).reshape(1)
    whole = bool(varies.all()) and head.range is None
    low, high = float(values.min()), float(values.max())
    return replace(
        head,
        range=(low, high) if whole and low < high else head.range,
        mean=tuple(np.where(varies, mean, 0.0).reshape(-1).tolist()),
        deviation=tuple(np.where(varies, np.maximum(deviation, _LEAST), 1.0).reshape(-1).tolist()),
        seen=f"what is before {shown(front.value)} makes of random inputs",
        guessed=False,
        measured=True,
    )


def _values(front: Front, runtime: Runtime, count: int) -> Array | None:
    """Compute the chosen value for random inputs, floats held at zero; None where their sizes are not known."""
    rows = front.rows(count, Key(0).at("before"), still=True)
    if rows is None:
        return None
    session = runtime.load(front.content(), lean=True)
    values = session.run_named(rows).astype(np.float64)
    session.close()
    return values


def _other_sizes(safe: SafeGraph, why: str, name: str) -> UnsupportedTeacher:
    return UnsupportedTeacher(
        f"the part of the file before {shown(safe.input_name)} {why}",
        where=name,
        remedy="Say other sizes with --shape: `onnxcake inspect` without it names some that fit.",
    )
