"""Read probes: real inputs of the user, on which teacher and student are compared, or a student learns.

Arrays and tables hold exactly what the teacher's file takes, already normalised if it wants that; nothing in them is
scaled or transposed. Pictures are brought to what the teacher takes. Each way of keeping them has a file of its own
here: `archives`, `tables` and `images` read, `matching` finds the file's inputs among arrays, `labels` turns labels of
any form into classes, `sources` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.files import sha256
from ...core.text import printable
from ...teacher.signature import Signature
from .parts import Probe, ProbePart, Takes, Wanted
from .sources import parts_of

_LARGEST = 1 << 24  # whole numbers up to here have a float32 of their own


def load(
    path: Path,
    signature: Signature,
    takes: Sequence[Takes] = (),
    *,
    class_names: Sequence[str] = (),
    inner: Callable[[Mapping[str, Array]], Array] | None = None,
) -> Probe:
    """Read a probe file, or all probe files of a folder.

    For a teacher of one input, the one array of shape [n, *shape] is taken for it, under any name; several inputs are
    found by their names. One other array of n whole numbers or classes' names holds the labels.

    Args:
        path: a file, or a folder of files of one kind: arrays (``.npz``, ``.npy``, ``.zip``, ``.safetensors``), tables
            (``.csv``, ``.tsv``) or pictures (``.png``, ``.jpg``, ``.bmp``, ``.webp``), these in class folders too.
            ``.npy`` files of a folder belong together (inputs in one, labels in another).
        signature: of the teacher; no label is checked where its classes are not known (0).
        takes: the inputs that the file is fed, if not the signature's alone.
        class_names: the file's names of its classes, in their order; not used unless there is one for each.
        inner: computes the signature's input [n, …] out of the feeds, where it is a value inside the graph or text.

    Raises:
        ProbeError: if it cannot be read or does not fit.
    """
    own = Takes(signature.input_name, signature.input_shape, signature.input_dtype)
    names = tuple(class_names) if len(class_names) == signature.classes else ()
    wanted = Wanted(tuple(takes) or (own,), signature, names)
    parts = parts_of(path, wanted)
    feeds = {
        value.name: _concatenate([(part.source, part.feeds[value.name]) for part in parts]) for value in wanted.takes
    }
    labels = _labels_of(parts, path)
    inputs = (feeds[signature.input_name] if inner is None else inner(feeds)).astype(np.float32, copy=False)
    rounded = () if inner is not None else _note_rounding(feeds[signature.input_name])
    notes = tuple(dict.fromkeys((*(note for part in parts for note in part.notes), *rounded)))
    return Probe(inputs, labels, path.name, _digest(feeds, inputs, labels), feeds, notes)


def told(*given: Probe | None) -> tuple[str, ...]:
    """List how arrays, columns and pictures of probes were interpreted, with each source's name, for the user."""
    notes = (printable(f"{probe.name}: {note}") for probe in given if probe is not None for note in probe.notes)
    return tuple(dict.fromkeys(notes))


def _concatenate(arrays: list[tuple[Path, Array]]) -> Array:
    (first, like), *others = arrays
    for source, array in others:
        if array.shape[1:] != like.shape[1:]:
            raise ProbeError(
                f"its inputs have shape {list(array.shape[1:])}, those of {first.name} {list(like.shape[1:])}",
                where=source,
                remedy="Give files whose inputs have one shape.",
            )
    return np.ascontiguousarray(np.concatenate([array for _, array in arrays]) if others else like)


def _note_rounding(fed: Array) -> tuple[str, ...]:
    """Note whole numbers that are too large for float32 to tell apart."""
    if fed.dtype.kind not in "iu" or max(int(fed.max()), -int(fed.min())) <= _LARGEST:
        return ()
    return (f"whole numbers above {_LARGEST:,} are rounded to single precision",)


def _labels_of(parts: list[ProbePart], path: Path) -> Array | None:
    """Join the labels of all parts; None if there are none.

    Raises:
        ProbeError: if some have none.
    """
    labels = [part.labels for part in parts if part.labels is not None]
    if labels and len(labels) < len(parts):
        without = next(part.source.name for part in parts if part.labels is None)
        raise ProbeError(
            f"some of the files have labels and some have not, such as {without}",
            where=path,
            remedy="Give all of them labels, or none.",
        )
    return np.concatenate(labels) if labels else None


def _digest(feeds: Mapping[str, Array], inputs: Array, labels: Array | None) -> str:
    """Compute a digest of the numbers in any format; of one input its float32 alone, as earlier runs have it."""
    end = b"" if labels is None else labels.tobytes()
    if len(feeds) == 1:
        return sha256(inputs.tobytes() + end)
    each = (f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes() for name, array in feeds.items())
    return sha256(b"".join(each) + end)
