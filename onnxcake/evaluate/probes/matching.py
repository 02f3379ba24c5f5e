"""Match a file's inputs and the labels to named arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.text import did_you_mean, shown
from .labels import LabelReader, is_label_name, texts_of
from .parts import ProbePart, Takes, Wanted

_NUMBERS, _TEXT = "fiub", "US"
_AS_THE_FILE = "Save the inputs as the teacher's file takes them: {dtype}, normalised if it wants that."


def match(arrays: Mapping[str, Array], source: Path, wanted: Wanted) -> ProbePart:
    """Select the inputs and the labels from one source.

    Raises:
        ProbeError: if they are not there, or the choice would be a guess.
    """
    if len(wanted.takes) == 1:
        names = {_single_candidate(arrays, source, wanted.takes[0]): wanted.takes[0]}
    else:
        names = {_array_named(arrays, source, value): value for value in wanted.takes}
    counts = {len(arrays[name]) for name in names}
    if len(counts) > 1:
        told = ", ".join(f"{shown(name)} {len(arrays[name])}" for name in names)
        raise ProbeError(
            f"its inputs are not equally many: {told}", where=source, remedy="Give one row for each input."
        )
    count = counts.pop()
    feeds = {value.name: as_taken(arrays[name], value, source, name) for name, value in names.items()}
    labels, notes = _labels(arrays, names.keys(), count, source, wanted)
    more = [_note(arrays[name], name, value, wanted, source) for name, value in names.items()]
    return ProbePart(source, feeds, labels, (*filter(None, more), *notes))


def as_taken(array: Array, takes: Takes, source: Path, name: str) -> Array:
    """Convert an array to the type that the file takes without changing any number.

    Raises:
        ProbeError: if that type does not hold them.
    """
    if takes.dtype == "string":
        return texts_of(array)
    target = np.dtype("float32" if takes.dtype == "bfloat16" else takes.dtype)
    array = (
        array.reshape(len(array), *[1 if size is None else size for size in takes.shape]) if array.ndim == 1 else array
    )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _not_finite(array, array.dtype, source, name)
    if target.kind == "f":
        with np.errstate(over="ignore"):
            made = array.astype(target, copy=False)
        if not np.isfinite(made).all():
            raise _not_finite(made, target, source, name)
        return made
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise ProbeError(
            f"{shown(name)} holds fractions, but the teacher takes {takes.dtype}",
            where=source,
            remedy=f"Give the whole numbers that the file takes, as {takes.dtype}.",
        )
    low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise ProbeError(
            f"{shown(name)} goes from {least} to {most}, but the teacher takes {takes.dtype}, {low} to {high}",
            where=source,
            remedy="Give the numbers that the file takes.",
        )
    return array.astype(target, copy=False)


def _not_finite(array: Array, dtype: np.dtype[np.generic], source: Path, name: str) -> ProbeError:
    row = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(1)))
    return ProbeError(
        f"its inputs hold values that are not finite in {dtype.name} ({shown(name)}, first in sample {row})",
        where=source,
        remedy="Leave out the samples with NaN or infinite values.",
    )


def _single_candidate(arrays: Mapping[str, Array], source: Path, takes: Takes) -> str:
    """Return the name of the one array that can be the one input."""
    kinds = _TEXT if takes.dtype == "string" else _NUMBERS
    able = [name for name, array in arrays.items() if array.dtype.kind in kinds and takes.fits(array)]
    if takes.name in arrays:
        able = [takes.name] if takes.name in able else []
    if len(able) > 1:
        able = [name for name in able if not is_label_name(name)]
    if len(able) > 1 and "float" in takes.dtype:
        floats = [name for name in able if arrays[name].dtype.kind == "f"]
        able = floats or able
    if len(able) == 1 and len(arrays[able[0]]):
        return able[0]
    what = f"no single array of {'text' if kinds == _TEXT else 'numbers'} of shape {takes} in it; it has"
    raise ProbeError(f"{what} {_list_arrays(arrays)}", where=source, remedy=_remedy(arrays, able, takes))


def _array_named(arrays: Mapping[str, Array], source: Path, takes: Takes) -> str:
    """Return the name of the array for one of several inputs, which is the input's own."""
    if takes.name not in arrays:
        close = did_you_mean(takes.name, arrays)
        raise ProbeError(
            f"no array {shown(takes.name)}, which the teacher takes, in it{close}; it has {_list_arrays(arrays)}",
            where=source,
            remedy="Save one array for each of the file's inputs, under the input's name.",
        )
    array = arrays[takes.name]
    column = array.ndim == 1 and math.prod(1 if size is None else size for size in takes.shape) == 1
    kinds = _TEXT if takes.dtype == "string" else _NUMBERS
    if not array.size or array.dtype.kind not in kinds or not (column or takes.fits(array)):
        raise ProbeError(
            f"{shown(takes.name)} is {array.dtype}{list(array.shape)}, but the teacher takes {takes.dtype} {takes}",
            where=source,
            remedy=_remedy({takes.name: array}, [], takes),
        )
    return takes.name


def _labels(
    arrays: Mapping[str, Array], used: object, count: int, source: Path, wanted: Wanted
) -> tuple[Array | None, tuple[str, ...]]:
    rest = {name: array for name, array in arrays.items() if name not in used}  # type: ignore[operator]
    named = [name for name in rest if is_label_name(name)]
    if len(named) > 1:
        named = [name for name in named if rest[name].shape[:1] == (count,) and rest[name].dtype.kind != "f"] or named
    able = named or [
        name for name, a in rest.items() if a.dtype.kind in "iub" and a.shape[:1] == (count,) and a.ndim <= 2 and a.size
    ]
    if len(able) > 1:
        raise ProbeError(
            f"several arrays could be the labels: {', '.join(map(shown, able))}",
            where=source,
            remedy="Keep only one, or call it 'labels'.",
        )
    if able:
        return LabelReader(wanted, source, shown(able[0])).of(rest[able[0]], count)
    texts = [name for name, a in rest.items() if a.dtype.kind in "US" and a.shape == (count,)]
    return None, tuple(f"{shown(name)} holds text, and is not taken for labels" for name in texts)


def _note(array: Array, name: str, takes: Takes, wanted: Wanted, source: Path) -> str:
    """Note numbers that lie far from the values that the teacher is said to take.

    Raises:
        ProbeError: if they are whole numbers far outside: raw bytes, where the file takes normalised values.
    """
    signature = wanted.signature
    if "float" not in takes.dtype:
        return ""
    whole = array.dtype.kind in "iub"
    bounds = signature.bounds() if takes.name == signature.input_name else None
    if bounds is not None:
        low, high = (signature.to_input(bound.expand(signature.shape)[None]) for bound in bounds)
        least, most, first, last = float(array.min()), float(array.max()), float(low.min()), float(high.max())
        if least < first - (last - first) or most > last + (last - first):
            told = f"{shown(name)} goes from {least:g} to {most:g}, but the teacher takes {first:.4g} to {last:.4g}"
            if whole:
                remedy = _AS_THE_FILE.format(dtype=takes.dtype)
                raise ProbeError(told, where=source, remedy=f"{remedy} Or say another --range.")
            return told
    return f"{shown(name)} holds whole numbers ({array.dtype}): they are used as they are" if whole else ""


def _list_arrays(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{shown(name)} {a.dtype}{list(a.shape)}" for name, a in list(arrays.items())[:20]) or "nothing"


def _remedy(arrays: Mapping[str, Array], able: list[str], takes: Takes) -> str:
    """Word a remedy for the array that comes nearest."""
    if len(able) > 1:
        return f"Keep one of {', '.join(map(shown, able[:4]))}, or name it {shown(takes.name)}."
    wanted = takes.shape
    for name, array in arrays.items():
        sizes = array.shape[1:]
        if array.dtype.kind not in _NUMBERS or array.ndim == 0 or None in wanted:
            continue
        if array.dtype.kind == "f" and array.ndim == 1 and math.prod(size or 0 for size in wanted) == 1:
            return f"{shown(name)} is one number for each input: .reshape{(-1, *wanted)}."
        if array.shape == wanted:
            return f"{shown(name)} is one input without a batch: save array[None]."
        if array.ndim > 2 and sorted(sizes) == sorted(wanted, key=lambda size: size or 0):  # in another order
            order = _order(sizes, wanted)
            return (
                f"{shown(name)} has its axes in another order: transpose it, .transpose({', '.join(map(str, order))})."
            )
        if math.prod(sizes) == math.prod(size or 0 for size in wanted) and array.ndim > 1:
            return f"If {shown(name)} holds each input's numbers in the file's order: .reshape{(-1, *wanted)}."
    return _AS_THE_FILE.format(dtype=takes.dtype)


def _order(sizes: tuple[int, ...], wanted: tuple[int | None, ...]) -> list[int]:
    """Return the axes of [n, *sizes] in the order that makes [n, *wanted]."""
    left = dict(enumerate(sizes, 1))
    order = [0]
    for size in wanted:
        axis = next(axis for axis, there in left.items() if there == size)
        order.append(axis)
        del left[axis]
    return order
