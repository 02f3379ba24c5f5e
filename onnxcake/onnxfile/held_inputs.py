"""Hold the inputs that are not optimised at values that the user gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto

from ..core.errors import UnsupportedTeacher, UsageError
from ..core.text import shown
from .tensors import DTYPES, type_name

Held: TypeAlias = "float | tuple[Held, ...]"  # a number, or nested tuples of numbers
BATCH = None  # the size of an axis that follows the batch
LIMIT_VALUES = 1 << 26  # numbers in one input


def plain_held(value: Any, name: str = "") -> Held:
    """Convert a number, nested sequences or an array to plain numbers in nested tuples, which JSON can carry.

    Raises:
        UsageError: if it holds anything else than numbers and truth values, or its rows have unlike lengths.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub" or not array.size:
        raise UsageError(
            f"{shown(name)} cannot be held at {shown(str(value)[:40])}",
            remedy="Hold it at a number, true or false, a list of numbers, or an array of its shape.",
        )
    return _tuples(array.tolist())


def _tuples(value: Any) -> Held:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def sizes_of(
    value: onnx.ValueInfoProto,
    said: Sequence[int] | None,
    axes: Sequence[str | None],
    shape: Sequence[int],
    held: Held,
    file: str,
) -> list[int | None]:
    """Determine the sizes of a held input, `BATCH` where an axis follows the batch.

    An open size is that of the chosen input's axis of the same name; else the first open axis is the batch (or, of a
    hidden state [layers, batch, features], the second one), and what else is open has the size that the user says,
    that the held array has, or that the chosen input has at the same place.

    Args:
        said: the sizes that the user says, batch included, or None.
        axes: what the file calls the chosen input's open axes, batch included: "" where it does not name one, None
            where it fixes the size.
        shape: the chosen input's sizes, without the batch.

    Raises:
        UnsupportedTeacher: if a size stays open.
        UsageError: if ``said`` does not fit.
    """
    tensor = value.type.tensor_type.shape.dim
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor]
    own = [d.dim_param for d in tensor]
    if min((d.dim_value for d in tensor), default=0) < -1:
        raise UnsupportedTeacher(
            f"input {shown(value.name)} has a size of {min(d.dim_value for d in tensor)}",
            where=file,
            remedy="The file is damaged: ask its vendor for a sound one.",
        )
    known = {name: size for name, size in zip(axes, (BATCH, *shape), strict=False) if name}
    _check_said(value.name, dims, own, said, file)
    sizes: list[int | str | None] = [dim if dim is not None else "open" for dim in dims]
    for axis, name in enumerate(own):
        if dims[axis] is None and name in known:
            sizes[axis] = known[name]
    if BATCH not in sizes:
        axis = 0 if sizes[:1] == ["open"] else 1 if len(dims) == 3 else len(dims)
        if sizes[axis : axis + 1] == ["open"] and not (axis == 1 and said is not None and said[1] != 1):
            sizes[axis] = BATCH
    array = np.shape(np.asarray(held))
    placed = zip(axes, (1, *shape), strict=False)
    same = [size if len(axes) == len(dims) or name is not None else None for name, size in placed]
    for offer in (said or (), _with_batch(array, sizes), [*same, *[None] * len(dims)][: len(dims)]):
        if len(offer) == len(sizes):
            sizes = [offer[i] or "open" if size == "open" else size for i, size in enumerate(sizes)]
    if "open" in sizes:
        raise UnsupportedTeacher(
            f"input {shown(value.name)} is to be held, and its shape {_format_sizes(dims, own)} is not known whole",
            where=file,
            remedy=f"Say its sizes, batch included: --shape {value.name}={','.join(_example_sizes(dims, said))}.",
        )
    result = [size for size in sizes if not isinstance(size, str)]
    count = math.prod(size or 1 for size in result)
    if count > LIMIT_VALUES:
        raise UnsupportedTeacher(
            f"input {shown(value.name)} holds {count:,} numbers (allowed: {LIMIT_VALUES:,})",
            where=file,
            remedy="Give a smaller teacher, or check the shapes in the file.",
        )
    return result


def _check_said(name: str, dims: list[int | None], own: list[str], said: Sequence[int] | None, file: str) -> None:
    if said is None or (
        len(said) == len(dims)
        and min(said, default=1) > 0
        and all(d in (None, s) for s, d in zip(said, dims, strict=True))
    ):
        return
    raise UsageError(
        f"--shape {name}={','.join(map(str, said))} does not fit input {shown(name)} ({_format_sizes(dims, own)})",
        where=file,
        remedy=f"Write --shape {name}={','.join(_example_sizes(dims, None))}, "
        "with your own numbers where sizes are open."
        if dims
        else "Leave it out: the input is a single number.",
    )


def _with_batch(array: tuple[int, ...], sizes: Sequence[int | str | None]) -> tuple[int, ...]:
    """Insert a batch of 1 into the shape of a held array that was given without the batch."""
    if BATCH in sizes and len(array) == len(sizes) - 1:
        place = list(sizes).index(BATCH)
        return (*array[:place], 1, *array[place:])
    return array


def _example_sizes(dims: Sequence[int | None], said: Sequence[int] | None) -> list[str]:
    filled = [1 if axis == 0 else 128 for axis in range(len(dims))] if said is None else list(said)
    return [str(size if dim is None else dim) for dim, size in zip(dims, filled, strict=True)]


def _format_sizes(dims: Sequence[int | None], names: Sequence[str]) -> str:
    parts = (
        shown(n)[1:-1] if n and d is None else "?" if d is None else str(d) for d, n in zip(dims, names, strict=True)
    )
    return "×".join(parts)[:200] or "a single number"


def held_array(value: onnx.ValueInfoProto, sizes: Sequence[int | None], held: Held, file: str) -> np.ndarray[Any, Any]:
    """Build the array that an input is held at: of its own type and shape, 1 where an axis follows the batch.

    Raises:
        UnsupportedTeacher: if no number can be held for an input of this kind.
        UsageError: if the value does not fit the input's shape or type.
    """
    tensor = value.type.tensor_type
    kind = tensor.elem_type or TensorProto.FLOAT
    if not value.type.HasField("tensor_type") or kind not in DTYPES:
        what = type_name(kind) if value.type.HasField("tensor_type") else f"a {value.type.WhichOneof('value')}"
        raise UnsupportedTeacher(
            f"input {shown(value.name)} is {what}, which no number can be held for",
            where=file,
            remedy="Choose a value behind it with --input NAME; `onnxcake inspect --json` lists what the file has.",
        )
    given, dtype = np.asarray(held), onnx.helper.tensor_dtype_to_np_dtype(kind)
    whole = [size or 1 for size in sizes]
    rest = [size for size in sizes if size is not BATCH] if BATCH in sizes else whole[1:]
    if given.size == 1:
        given = np.broadcast_to(given.reshape(()), whole)
    elif given.shape == tuple(rest) or (given.ndim == 1 and given.size == math.prod(rest)):
        one = whole if BATCH in sizes or not whole else [1, *rest]
        given = np.broadcast_to(given.reshape(one), whole)
    elif given.ndim == 1 and given.size == math.prod(whole):
        given = given.reshape(whole)
    if given.shape != tuple(whole):
        wanted = "×".join("batch" if size is BATCH else str(size) for size in sizes) or "a single number"
        raise UsageError(
            f"input {shown(value.name)} is {wanted} and cannot be held at values of shape "
            f"{'×'.join(map(str, given.shape))}",
            where=file,
            remedy=_remedy_for_count(value.name, math.prod(rest)),
        )
    with np.errstate(all="ignore"):
        array = given.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(array, given):
        bad = given.reshape(-1)[np.flatnonzero(array.reshape(-1) != given.reshape(-1))[0]]
        raise UsageError(
            f"input {shown(value.name)} is {type_name(kind)} and cannot be held at {bad:g}",
            where=file,
            remedy="Hold it at true or false." if dtype.kind == "b" else "Hold it at a whole number in its range.",
        )
    return array


def _remedy_for_count(name: str, count: int) -> str:
    if count == 1:
        return f"Give --hold {name}= one number."
    return f"Give --hold {name}= one number for all of it, {count:,} numbers, or a .npy file of its shape."


def held_nodes(
    value: onnx.ValueInfoProto, array: np.ndarray[Any, Any], sizes: Sequence[int | None], source: str, prefix: str
) -> list[onnx.NodeProto]:
    """Build the nodes that replace a held input: a constant, repeated along the batch axis.

    Args:
        source: the value whose first size is the batch.
        prefix: a prefix that no name of the file has.
    """
    make = onnx.helper.make_node
    full = make("Constant", [], [value.name], value=onnx.numpy_helper.from_array(array))
    if BATCH not in sizes:
        return [full]
    one, whole, axis = f"{prefix}/one", f"{prefix}/sizes", list(sizes).index(BATCH)
    full.output[0] = one
    parts, nodes = [], [full, make("Shape", [source], [f"{whole}/shape"])]
    for part, number in (("first", [0]), ("before", [1] * axis), ("after", [1] * (len(sizes) - axis - 1))):
        if number:
            constant = onnx.numpy_helper.from_array(np.array(number, np.int64))
            nodes.append(make("Constant", [], [f"{whole}/{part}"], value=constant))
    nodes.append(make("Gather", [f"{whole}/shape", f"{whole}/first"], [f"{whole}/batch"]))
    parts = [f"{whole}/before"] * (axis > 0) + [f"{whole}/batch"] + [f"{whole}/after"] * (axis < len(sizes) - 1)
    nodes += [make("Concat", parts, [whole], axis=0), make("Expand", [one, whole], [value.name])]
    return nodes


def free_prefix(name: str, taken: Mapping[str, Any] | set[str]) -> str:
    """Find a prefix that no name of the file has, for the names of nodes that make ``name``."""
    prefix = name
    while any(one.startswith(prefix + "/held") for one in taken):
        prefix += "/"
    return prefix + "/held"
