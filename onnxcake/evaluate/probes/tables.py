"""Read tables: ``.csv`` and ``.tsv`` files, for teachers of one row of features or of one input for each column.

A first line of names is found by itself. Columns are taken by name where the teacher has an input for each, else in
their order; labels are in the column that is called so, or in the last where there is one more than features.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.arrays import Array
from ...core.errors import ProbeError
from ...core.text import did_you_mean, shown
from .archives import check_memory
from .labels import LabelReader, is_label_name
from .matching import as_taken
from .parts import ProbePart, Takes, Wanted

SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",;\t"
_BYTES_FOR_BYTE = 12  # what a cell's text takes in memory beside the file's bytes
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}
_LARGEST = 2**63 - 1
_TRUTH = {"true": 1, "false": 0}
_CERTAIN = {"label", "labels", "target", "targets", "class", "classes"}
_INDEX = {"", "unnamed: 0"}


def read(files: Sequence[Path], wanted: Wanted) -> list[ProbePart]:
    """Read each file as rows of inputs.

    Raises:
        ProbeError: if one cannot be read or does not fit, with the line and the column.
    """
    tables = [_table(file, wanted) for file in files]
    for table in tables[1:]:
        if table.header != tables[0].header:
            raise ProbeError(
                f"its columns are not those of {files[0].name}",
                where=table.source,
                remedy="Give files with the same columns in the same order.",
            )
    return [_to_part(table, wanted) for table in tables]


@dataclass(frozen=True)
class _Table:
    """Hold cells by row, the file's line of each row, and the columns' names, if the file has them."""

    source: Path
    header: list[str] | None
    rows: list[list[str]]
    lines: list[int]
    notes: tuple[str, ...] = ()

    def name(self, column: int) -> str:
        """Return a column's name for messages."""
        return f"column {shown(self.header[column])}" if self.header else f"column {column + 1}"

    def cells(self, column: int) -> list[str]:
        """Return a column's texts.

        Raises:
            ProbeError: if one is missing.
        """
        cells = [row[column] for row in self.rows]
        for line, cell in zip(self.lines, cells, strict=True):
            if cell.casefold() in _MISSING:
                raise self.error(line, column, "has no value", "Fill it in as the application does, or leave it out.")
        return cells

    def numbers(self, column: int, whole: bool) -> Array:
        """Return a column's numbers, int64 where ``whole`` and none has a fraction, else float64.

        Raises:
            ProbeError: if one is no number.
        """
        cells = self.cells(column)
        found = [self._number(cell, line, column, whole) for cell, line in zip(cells, self.lines, strict=True)]
        return np.array(found, np.int64 if all(isinstance(n, int) for n in found) else np.float64)

    def _number(self, text: str, line: int, column: int, whole: bool) -> int | float:
        if text.casefold() in _TRUTH:
            return _TRUTH[text.casefold()]
        remedy = "Write numbers as 1.5 or 2e-3."
        if whole and re.fullmatch(r"[+-]?\d{1,30}", text):
            if abs(int(text)) > _LARGEST:
                raise self.error(line, column, f"is {text}, which is too large for int64", remedy)
            return int(text)
        try:
            number = float("no number" if "_" in text else text)
        except ValueError:
            raise self.error(line, column, f"is {shown(text)}, which is no number", remedy) from None
        if not math.isfinite(number):
            raise self.error(line, column, f"is {shown(text)}, which is not finite", remedy)
        return number

    def error(self, line: int, column: int, why: str, remedy: str) -> ProbeError:
        """Word the error for a cell."""
        return ProbeError(f"line {line}, {self.name(column)} {why}", where=self.source, remedy=remedy)


def _table(file: Path, wanted: Wanted) -> _Table:
    if not file.is_file():
        raise ProbeError("not a regular file", where=file, remedy="Give a .csv or .tsv file.")
    try:
        check_memory(file.stat().st_size * _BYTES_FOR_BYTE, file)
        with file.open(encoding="utf-8-sig", newline="") as source:
            first = next((line for line in source if line.strip() and not line.startswith("#")), "")
            source.seek(0)
            reader = csv.reader(source, delimiter=_delimiter(file, first), skipinitialspace=True)
            read = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "not a table in UTF-8"
        raise ProbeError(f"cannot be read ({reason})", where=file, remedy="Give a .csv file in UTF-8.") from error
    read = [(line, row) for line, row in read if any(row)]
    while len(read) > 1 and read[0][1][0].startswith("#") and len(read[0][1]) not in _widths(read[1][1]):
        read.pop(0)  # a remark above the table
    if read and read[0][1][0] == "#":  # as numpy.savetxt writes a header
        read[0] = (read[0][0], read[0][1][1:])
    if not read:
        raise ProbeError("is empty", where=file, remedy="Give a table with one input in each line.")
    for line, row in read:
        if len(row) != len(read[0][1]):
            raise ProbeError(
                f"line {line} has {len(row)} cells, and line {read[0][0]} has {len(read[0][1])}",
                where=file,
                remedy="Give every line the same columns; put texts with commas into quotes, write 1.5 and not 1,5.",
            )
    lines, rows = [line for line, _ in read], [row for _, row in read]
    header = _header(rows, file, lines[0], wanted)
    table = _Table(file, header, rows[1:], lines[1:]) if header else _Table(file, None, rows, lines)
    if not table.rows:
        raise ProbeError("holds names of columns alone", where=file, remedy="Give one input in each line below them.")
    return _drop_index(table, wanted)


def _widths(row: list[str]) -> tuple[int, int]:
    """Return the possible numbers of cells in a first line that names the columns of ``row``: its # may stand apart."""
    return len(row), len(row) + 1


def _delimiter(file: Path, first: str) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    most = max(_DELIMITERS, key=first.count)
    return most if most in first or " " not in first.strip() else " "


def _header(rows: list[list[str]], source: Path, line: int, wanted: Wanted) -> list[str] | None:
    """Return the names of the columns, if the first line holds them: it has no number, and the next has one.

    A first line of 0, 1, 2 … is what pandas calls columns without names.

    Raises:
        ProbeError: if the first line has numbers, and text where the next has a number.
    """
    first = [rows[0][0].lstrip("# "), *rows[0][1:]]
    counted = first[1:] if first[0] == "" else first
    if min(len(counted), len(rows)) > 1 and counted == [str(place) for place in range(len(counted))]:
        return first
    second = rows[1] if len(rows) > 1 else [""] * len(first)
    named = [name for name in first if name.casefold() not in _MISSING and not _is_number(name)]
    if not any(map(_is_number, first)):
        own = {value.name.casefold() for value in wanted.takes} | {"text"}
        told = any(is_label_name(name) or name.casefold() in own for name in named)
        return first if told or any(map(_is_number, second)) or len(rows) == 1 else None
    for name, cell in zip(first, second, strict=True):
        if name in named and _is_number(cell):
            raise ProbeError(
                f"line {line} holds numbers, and {shown(name)}, which is none",
                where=source,
                remedy="Give a first line of names alone or of numbers alone.",
            )
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _drop_index(table: _Table, wanted: Wanted) -> _Table:
    """Drop the column of row numbers that pandas writes."""
    if not table.header or len(table.header) < 2:
        return table
    name, takes = table.header[0].casefold(), wanted.takes
    more = len(takes) == 1 and len(table.header) != math.prod(size or 1 for size in takes[0].shape)
    if name not in _INDEX and not (name == "index" and more):
        return table
    counted = [row[0] for row in table.rows]
    if not all(re.fullmatch(r"\d{1,18}", cell) for cell in counted) or len(set(counted)) < len(counted):
        return table
    told = f"the first column {shown(table.header[0])} numbers the rows, and is left out"
    return _Table(table.source, table.header[1:], [row[1:] for row in table.rows], table.lines, (told,))


def _to_part(table: _Table, wanted: Wanted) -> ProbePart:
    if len(wanted.takes) == 1:
        columns, label, notes = _in_order(table, wanted)
        feeds = {wanted.takes[0].name: _features(table, columns, wanted.takes[0])}
    else:
        by_name, label, notes = _by_name(table, wanted.takes)
        feeds = {takes.name: _features(table, [column], takes) for takes, column in by_name}
    if label is None:
        return ProbePart(table.source, feeds, None, (*table.notes, *notes))
    labels, told = _labels(table, label, wanted)
    return ProbePart(table.source, feeds, labels, (*table.notes, *notes, *told))


def _features(table: _Table, columns: Sequence[int], takes: Takes) -> Array:
    """Convert columns to [n, *shape] in the type that the file takes."""
    shape = [1 if size is None else size for size in takes.shape]
    found: Array
    if takes.dtype == "string":
        found = np.array([table.cells(column) for column in columns]).T
    else:
        whole = "float" not in takes.dtype
        found = np.stack([table.numbers(column, whole) for column in columns], axis=1)
    return as_taken(found.reshape(len(table.rows), *shape), takes, table.source, takes.name)


def _in_order(table: _Table, wanted: Wanted) -> tuple[list[int], int | None, tuple[str, ...]]:
    """Find the columns of the features, by their order, and that of the labels; return them with notes for the user."""
    takes, width = wanted.takes[0], len(table.rows[0])
    sizes = [size or 1 for size in takes.shape]
    features = math.prod(sizes)
    many = [size for size in sizes if size > 1]
    if len(many) > 1 and not (len(sizes) == 3 and (sizes[0] == 1 or sizes[-1] == 1)):
        raise ProbeError(
            f"a table, but the teacher takes inputs of shape {takes}",
            where=table.source,
            remedy="Save the inputs by numpy.savez.",
        )
    names = table.header or []
    certain = [column for column, name in enumerate(names) if name.casefold() in _CERTAIN]
    likely = certain or [column for column, name in enumerate(names) if is_label_name(name)]
    if width == features and not certain:
        return list(range(width)), None, ()
    if width != features + 1 or len(certain) > 1:
        held = f"{width} columns" + (f", of which {table.name(certain[0])} names labels" if certain else "")
        raise ProbeError(
            f"it has {held}, but the teacher takes {features} features, and a column of labels may follow",
            where=table.source,
            remedy=f"Give {features} columns in the teacher's order, and one of labels or none.",
        )
    label = likely[-1] if likely else width - 1
    told = () if likely else (f"the last column of {width} is taken for the labels",)
    return [column for column in range(width) if column != label], label, told


def _by_name(table: _Table, takes: Sequence[Takes]) -> tuple[list[tuple[Takes, int]], int | None, tuple[str, ...]]:
    """Find the column of each input by its name, and that of the labels; return them with notes for the user."""
    if table.header is None:
        raise ProbeError(
            "its first line does not name the columns, and the teacher has an input for each",
            where=table.source,
            remedy=f"Write the inputs' {len(takes)} names into it: {', '.join(value.name for value in takes[:8])}.",
        )
    found = []
    for value in takes:
        same = [n for n, name in enumerate(table.header) if name == value.name] or [
            n for n, name in enumerate(table.header) if name.casefold() == value.name.strip().casefold()
        ]
        if len(same) != 1:
            close = did_you_mean(value.name, table.header)
            raise ProbeError(
                f"{'no column' if not same else 'several columns'} {shown(value.name)}, which the teacher takes{close}",
                where=table.source,
                remedy="Give one column for each of the teacher's inputs, under the input's name.",
            )
        if math.prod(size or 1 for size in value.shape) != 1:
            raise ProbeError(
                f"a table, but {shown(value.name)} takes {value}",
                where=table.source,
                remedy="Save the inputs by numpy.savez, one array for each, under the input's name.",
            )
        found.append((value, same[0]))
    rest = [n for n in range(len(table.header)) if n not in {column for _, column in found}]
    named = [n for n in rest if is_label_name(table.header[n])]
    label = named[-1] if named else rest[0] if len(rest) == 1 and rest[0] == len(table.header) - 1 else None
    told = [f"{table.name(n)} is not used" for n in rest if n != label][:8]
    if label is not None and not named:
        told.append(f"{table.name(label)} is taken for the labels")
    return found, label, tuple(told)


def _labels(table: _Table, column: int, wanted: Wanted) -> tuple[Array, tuple[str, ...]]:
    cells: list[Any] = table.cells(column)
    labels = LabelReader(wanted, table.source, table.name(column))
    if all(_is_number(cell) or cell.casefold() in _TRUTH for cell in cells):
        return labels.of(table.numbers(column, whole=True), len(cells))
    return labels.by_name(cells, len(cells))
