"""Read an array of numbers out of a file that a user names in an option."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .text import first_line, shown

SUFFIXES = (".npy", ".npz", ".json", ".csv", ".txt")


def read_numbers(path: Path) -> npt.NDArray[Any]:
    """Read the numbers (or truth values) of a ``.npy``, ``.npz`` (of one array), ``.json``, ``.csv`` or ``.txt`` file.

    A text file may begin with a row or a column of names, or both; one row, or one column, is a row of numbers. In a
    ``.txt`` file blanks, tabs, commas or semicolons stand between numbers.

    Raises:
        UsageError: if it cannot be read, or holds anything else.
    """
    try:
        array = np.asarray(_READERS.get(path.suffix.lower(), _read_numpy)(path))
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damage makes zipfile, json and numpy raise errors of their own
        raise _refusal(path, f"cannot be read ({first_line(error)})") from error
    if array.dtype.kind not in "fiub" or not array.size:
        raise _refusal(path, "does not hold numbers alone")
    return array


def _read_numpy(path: Path) -> Any:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"it holds {len(loaded.files)} arrays where one is expected")
        return loaded[loaded.files[0]]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_csv(path: Path) -> Any:
    return _parse_rows(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))


def _read_txt(path: Path) -> Any:
    return _parse_rows(re.split(r"[\s,;]+", line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines())


def _parse_rows(lines: Iterable[list[str]]) -> Any:
    rows = [row for row in lines if any(cell.strip() for cell in row)]
    if rows and not all(map(_is_number, rows[0][1:] or rows[0])):
        rows = rows[1:]
    if rows and len(rows[0]) > 1 and not any(_is_number(row[0]) for row in rows):
        rows = [row[1:] for row in rows]
    array = np.array([[float(cell) for cell in row] for row in rows])
    return array.reshape(-1) if 1 in array.shape else array


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS = {".json": _read_json, ".csv": _read_csv, ".txt": _read_txt}


def _refusal(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{shown(str(path))} {why}", remedy=f"Give a file of numbers: {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
    )
