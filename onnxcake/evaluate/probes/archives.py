"""Read arrays: ``.npz``, ``.npy``, ``.zip`` and ``.safetensors`` files, and folders of them, without unpickling.

Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.lib import format as npy
from safetensors.numpy import load_file

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.files import is_there
from ...core.text import shown

SUFFIXES = (".npz", ".npy", ".zip", ".safetensors")
REMEDY = "Give inputs saved by numpy.savez or safetensors."
_SHARE = 0.5  # of the free memory, for what one file unpacks to
_NO_OBJECTS = 'Save it as plain numbers: numpy.asarray(x, "float32"), or "int64" for labels.'


def read(files: Sequence[Path], folder: Path | None = None) -> list[tuple[Path, dict[str, Array]]]:
    """Read the arrays of each file, by their names; ``.npy`` files of a folder are the arrays of one probe.

    Raises:
        ProbeError: if one cannot be read.
    """
    loose = [file for file in files if folder and file.suffix.lower() == ".npy"]
    together = [(folder, {file.stem: _arrays(file)["array"] for file in loose})] if folder and loose else []
    return together + [(file, _arrays(file)) for file in files if file not in loose]


def unreadable(path: Path, error: Exception, kinds: str = ".npz, .npy or .safetensors") -> ProbeError:
    """Word the error for a file that the system or a parser refuses."""
    reason = getattr(error, "strerror", None) or f"not a well-formed {kinds} file"
    return ProbeError(f"cannot be read ({reason})", where=path, remedy=REMEDY)


def check_memory(size: int, path: Path) -> None:
    """Check that so many bytes fit into free memory.

    Raises:
        ProbeError: if not.
    """
    free = psutil.virtual_memory().available
    if size > free * _SHARE:
        raise ProbeError(
            f"it unpacks to {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free",
            where=path,
            remedy="Give fewer inputs: a few thousand say enough.",
        )


def _arrays(file: Path) -> dict[str, Array]:
    if not (is_there(file) and file.is_file()):
        raise ProbeError("not a regular file", where=file, remedy=REMEDY)
    try:
        if file.suffix.lower() == ".safetensors":
            return {name: _without_bfloat16(array) for name, array in load_file(file).items()}
        with file.open("rb") as source:
            if source.read(4).startswith(b"PK"):
                return _members(file)
            source.seek(0)
            return {"array": _array(source, file, "array", file.stat().st_size)}
    except ProbeError:
        raise
    except Exception as error:  # damage makes zipfile, zlib, numpy and its tokenizer raise errors of their own
        raise unreadable(file, error) from error


def _without_bfloat16(array: Array) -> Array:
    """Convert bfloat16 to float32, as numpy does not know it."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _members(file: Path) -> dict[str, Array]:
    """Read the arrays of an archive; ignore its other members, such as a README."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(file) as archive:
        found = [member for member in archive.infolist() if _is_array(member.filename)]
        if not found and (other := next((name for name in archive.namelist() if _is_other(name)), None)):
            raise ProbeError(f"holds {shown(other)}", where=file, remedy="Unpack it, and give the folder.")
        check_memory(sum(member.file_size for member in found), file)
        for member in found:
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as source:
                arrays[name] = _array(source, file, name, member.file_size)
    return arrays


def _is_array(member: str) -> bool:
    """Tell whether a member's name is that of an array; macOS adds hidden twins of each."""
    return member.endswith(".npy") and not any(part.startswith((".", "__MACOSX")) for part in member.split("/"))


def _is_other(member: str) -> bool:
    """Tell whether a member's name is that of a picture or a table, which are read out of folders alone."""
    return member.lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".csv", ".tsv", ".npz", ".safetensors"))


def _array(source: Any, file: Path, name: str, size: int) -> Array:
    version = npy.read_magic(source)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(source)
    if dtype.hasobject:
        raise ProbeError(
            f"{shown(name)} holds Python objects, which are a pickle: no pickle is opened",
            where=file,
            remedy=_NO_OBJECTS,
        )
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise ValueError("the file is shorter than its header says")
    source.seek(0)
    return npy.read_array(source, allow_pickle=False)
