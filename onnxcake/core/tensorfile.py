"""Read and write tensors with facts about them as one safetensors file whose bytes depend on nothing else.

safetensors writes string metadata in no fixed order, so all facts go into one entry, as canonical JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files import canonical, digest_holds

SUFFIX = ".safetensors"
UNREADABLE = (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError)  # what `read` raises
_ENTRY = "onnxcake"


def pack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> bytes:
    """Serialise ``tensors`` and ``facts`` (JSON values) to the bytes of a file."""
    content: bytes = save(tensors, {_ENTRY: canonical(facts).decode()})
    return content


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors (memory-mapped, read when touched) and facts of a file that `pack` made.

    Raises:
        SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError: (`UNREADABLE`) if it is no such file.
    """
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {})[_ENTRY])
        return {name: file.get_tensor(name) for name in file.keys()}, dict(facts)  # noqa: SIM118


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a file with `read` if its name carries its digest.

    Returns:
        None if the file is damaged, is no such file, or holds something else than its name says.

    None if the file is damaged, is no such file, or holds something else than its name says.
    """
    if not digest_holds(path):
        return None
    try:
        return read(path)
    except UNREADABLE:
        return None
