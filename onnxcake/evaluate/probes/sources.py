"""Find how a probe is stored: as arrays, pictures or tables, in a file or a folder."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...core.errors import ProbeError
from ...core.text import shown
from . import archives, images, tables
from .matching import match
from .parts import ProbePart, Wanted

_KINDS = {"arrays": archives.SUFFIXES, "pictures": images.SUFFIXES + images.UNREAD, "tables": tables.SUFFIXES}
_REMEDY = (
    "Give a file or a folder of arrays (.npz, .npy, .safetensors), tables (.csv) or pictures (.png, .jpg, .bmp, "
    ".webp), or a folder of pictures for each class."
)


def parts_of(path: Path, wanted: Wanted) -> list[ProbePart]:
    """Read a file, or all files of a folder; ignore files of other kinds, such as a README.

    Raises:
        ProbeError: if there is nothing, or several kinds of it, or one file cannot be read or does not fit.
    """
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
        found = _files_by_kind(path) if folder else {_kind(path) or "arrays": [path]}
        groups = _class_folders(path, found) if folder and "arrays" not in found else []
    except OSError as error:
        raise archives.unreadable(path, error) from error
    if groups:
        return [images.read(path, groups, wanted)]
    if len(found) > 1:
        told = " and ".join(f"{kind} ({files[0].name})" for kind, files in found.items())
        raise ProbeError(f"holds {told}", where=path, remedy="Give a folder of one kind, or one of its files.")
    if "pictures" in found:
        return [images.read(path, [(path, found["pictures"])], wanted)]
    if "tables" in found:
        return tables.read(found["tables"], wanted)
    if "arrays" in found:
        sources = archives.read(found["arrays"], path if folder else None)
        return [match(arrays, source, wanted) for source, arrays in sources]
    suffixes = ", ".join((*archives.SUFFIXES, *images.SUFFIXES, *tables.SUFFIXES))
    raise ProbeError(f"no {suffixes} file in this folder", where=path, remedy=_REMEDY)


def _kind(file: Path) -> str | None:
    return next((kind for kind, suffixes in _KINDS.items() if file.suffix.lower() in suffixes), None)


def _files_by_kind(folder: Path) -> dict[str, list[Path]]:
    """List the files of a folder by kind, in the order of their names, without hidden ones such as macOS adds."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        kind = None if file.name.startswith(".") else _kind(file)
        if kind is not None:
            found.setdefault(kind, []).append(file)
    return found


def _class_folders(path: Path, beside: Mapping[str, Sequence[Path]]) -> list[tuple[Path, list[Path]]]:
    """List the folders in a folder, each with its pictures; none if they hold no pictures.

    Args:
        beside: files that lie beside them.

    Raises:
        ProbeError: if some hold pictures and some do not, or files lie beside them, or in folders deeper down.
    """
    folders = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith((".", "__MACOSX")))
    groups = [(folder, _files_by_kind(folder).get("pictures", [])) for folder in folders]
    if not any(pictures for _, pictures in groups):
        deep = [one for one in folders if not beside and _holds_class_folders(one)]
        if deep:
            raise ProbeError("holds no pictures, but folders of folders", where=path, remedy=f"Give {deep[0]} alone.")
        return []
    if beside:
        file = next(iter(beside.values()))[0].name
        raise ProbeError(
            f"holds class folders, and {shown(file)} beside them",
            where=path,
            remedy="Move it, or give one class folder.",
        )
    for folder, pictures in groups:
        if not pictures:
            raise ProbeError("a class folder without pictures", where=folder, remedy="Fill it, or take it away.")
    return groups


def _holds_class_folders(path: Path) -> bool:
    return any(inner.is_dir() and "pictures" in _files_by_kind(inner) for inner in path.iterdir())
