"""Read back the JSON files of a run, each validated against the types of a dataclass.

Users may edit the files. Whatever does not fit is one kind of error: a value of another type or out of range, a key too
many or too few, a number that is not finite, or too deep a nesting.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import StoreError
from .text import first_line, shown

# For a dataclass, as its ``__pydantic_config__``: no other keys, no value bent into another type.
EXACT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
LIMIT_BYTES = 1 << 28  # 256 MiB, far above what a run writes
AGAIN = "Choose another --out, or remove the file: what it holds is made again."

OPTIONAL = {"left out": "while None"}  # metadata of a dataclass's field that `plain` leaves out while it is None

Kind = TypeVar("Kind")


def plain(value: Any) -> Any:
    """Convert dataclasses, and what holds them, to dicts and lists, without the `OPTIONAL` fields that are None.

    A field whose metadata have a "key" goes by that.
    """
    if dataclasses.is_dataclass(value):
        named = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        kept = {field: one for field, one in named.items() if one is not None or field.metadata != OPTIONAL}
        return {field.metadata.get("key", field.name): plain(one) for field, one in kept.items()}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def read(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """Read a JSON file as a value of ``kind``, a type that pydantic knows.

    Args:
        remedy: what the user can do about a file that holds something else.

    Raises:
        StoreError: if the file cannot be read, or does not hold such a value.
    """
    try:
        if not path.is_file():
            raise ValueError("it is missing, or no file")
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise ValueError(f"it is larger than {LIMIT_BYTES >> 20} MiB")
        value = json.loads(content, parse_constant=_refuse_non_finite, parse_float=_parse_finite)
        return of(value, kind)
    except RecursionError as error:
        raise StoreError("cannot be read back: it is nested too deeply", where=path, remedy=remedy) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise StoreError(f"cannot be read back: {reason}", where=path, remedy=remedy) from error


def of(value: Any, kind: type[Kind]) -> Kind:
    """Validate a plain value as one of ``kind``, lists for tuples allowed.

    Raises:
        ValueError: naming the place that does not fit.
    """
    try:
        # Through JSON: only there are lists what tuples are written as.
        return TypeAdapter(kind).validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        text = wrong["msg"][:1].lower() + wrong["msg"][1:]
        raise ValueError(f"{shown(place)}: {text}" if place else text) from error


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is not a finite number")
    return number


def _refuse_non_finite(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")
