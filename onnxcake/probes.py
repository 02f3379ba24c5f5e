"""Probe files: real inputs, given by the user, on which teacher and student are compared.

They hold exactly what the teacher's file takes, already normalised if it wants that; nothing is guessed.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from .child import Array
from .errors import ProbeError, shown
from .files import sha256

_SUFFIXES = (".npz", ".npy", ".safetensors")
_REMEDY = "Give inputs saved by numpy.savez or safetensors."


@dataclass(frozen=True)
class Probe:
    """Inputs [n, …] float32 and, if the file has them, labels [n] int64; the source's name and digest."""

    inputs: Array
    labels: Array | None
    name: str
    digest: str


def load(path: Path, shape: tuple[int, ...], classes: int | None = None) -> Probe:
    """Reads a probe file, or all probe files of a folder.

    In each, the one floating-point (or uint8) array of shape [n, *shape] is taken for the inputs, and the one
    other integer array of shape [n], or [n, labels] for a multi-label teacher, for the labels, whatever their names.

    Args:
        path: a ``.npz``, ``.npy`` or ``.safetensors`` file, or a folder of such; ``.npy`` files of a folder
            belong together (inputs in one, labels in another).
        shape: of one input.
        classes: labels must be below it.

    Raises:
        ProbeError: if it cannot be read or does not fit.
    """
    parts = [_take(arrays, source, shape) for source, arrays in _read(path)]
    inputs = np.concatenate([part[0] for part in parts])
    labels = [part[1] for part in parts if part[1] is not None]
    if labels and len(labels) < len(parts):
        raise ProbeError(
            "some of the files have labels and some have not", where=path, remedy="Give all of them labels, or none."
        )
    merged = np.concatenate(labels) if labels else None
    if (
        merged is not None
        and merged.ndim == 1
        and classes is not None
        and (merged.min() < 0 or merged.max() >= classes)
    ):
        raise ProbeError(
            f"its labels go from {merged.min()} to {merged.max()}, but the teacher has {classes} classes",
            where=path,
            remedy=f"Give labels from 0 to {classes - 1}.",
        )
    if not np.isfinite(inputs).all():
        raise ProbeError(
            "its inputs hold values that are not finite in float32",
            where=path,
            remedy="Leave out the samples with NaN or infinite values.",
        )
    digest = sha256(inputs.tobytes() + (b"" if merged is None else merged.tobytes()))
    return Probe(inputs, merged, path.name, digest)


def _read(path: Path) -> list[tuple[Path, dict[str, Array]]]:
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if folder else [path]
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        raise ProbeError(f"no {', '.join(_SUFFIXES)} file in this folder", where=path, remedy=_REMEDY)
    loose = [file for file in files if folder and file.suffix == ".npy"]
    together = [(path, {file.stem: _arrays(file)["array"] for file in loose})] if loose else []
    return together + [(file, _arrays(file)) for file in files if file not in loose]


def _arrays(file: Path) -> dict[str, Array]:
    if not file.is_file():
        raise ProbeError("not a regular file", where=file, remedy=_REMEDY)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        loaded: Any = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            return dict(loaded)
    except Exception as error:  # damage makes zipfile, zlib, numpy and its tokenizer raise errors of their own
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: Exception) -> ProbeError:
    reason = getattr(error, "strerror", None) or "not a well-formed .npz, .npy or .safetensors file"
    return ProbeError(f"cannot be read ({reason})", where=path, remedy=_REMEDY)


def _is_input(array: Array) -> bool:
    """Floats, or bytes as pictures are: for a file that takes those."""
    return array.ndim > 1 and (array.dtype.kind == "f" or array.dtype == np.uint8)


def _take(arrays: dict[str, Array], source: Path, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    inputs = [a for a in arrays.values() if _is_input(a) and a.shape[1:] == shape]
    if len(inputs) != 1 or not len(inputs[0]):
        found = ", ".join(f"{shown(name)} {a.dtype}{list(a.shape)}" for name, a in arrays.items()) or "nothing"
        raise ProbeError(
            f"no single floating-point array of shape [n, {', '.join(map(str, shape))}] in it; it has {found}",
            where=source,
            remedy="Save the inputs as the teacher's file takes them: float32, normalised if it wants that.",
        )
    rest = [a for a in arrays.values() if a is not inputs[0] and a.dtype.kind in "iu"]
    labels = [a for a in rest if a.shape[:1] == inputs[0].shape[:1] and a.ndim <= 2]
    if len(labels) > 1:
        raise ProbeError("several arrays could be the labels", where=source, remedy="Keep only one.")
    with np.errstate(over="ignore"):
        single = inputs[0].astype(np.float32)
    return single, labels[0].astype(np.int64) if labels else None
