"""Read external data: weights kept in files beside the model.

A location is a relative path under the teacher's folder. It is opened once, part by part, without following any
link, and judged by its descriptor; neither onnx nor onnxruntime ever sees it. (CVE-2022-25882, -2024-27318,
-2024-5187, -2025-51480 and their successors were all joins of two strings.)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import onnx
from onnx import TensorProto

from ..core.errors import BadTeacherFile, UnsupportedTeacher
from ..core.text import shown

_KEYS = {"location", "offset", "length", "checksum", "basepath"}
_BITS = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4), 4),
    TensorProto.COMPLEX128: 128,
}
_WHOLE = re.compile(r"[0-9]{1,18}")
MOST_DIMENSIONS = 64  # numpy's and torch's own limit


@dataclass(frozen=True)
class ExternalFile:
    """Describe an external file: its size in bytes and its sha256."""

    bytes: int
    digest: str


def read_external(tensors: Iterable[onnx.TensorProto], model: Path, limit_bytes: int) -> dict[str, ExternalFile]:
    """Fill in all tensors whose data lie in external files; return those files by location.

    Raises:
        BadTeacherFile: for a location outside the folder, through a link, missing, too short, or badly described.
        UnsupportedTeacher: for more bytes than ``limit_bytes``.
    """
    opened: dict[str, _Opened] = {}
    total = 0
    try:
        for tensor in tensors:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            entry = _entry(tensor, model.name)
            location = entry["location"]
            if location not in opened:
                opened[location] = _open(location, model, tensor.name)
            file = opened[location]
            offset, length = _span(tensor, entry, file.size, model.name)
            total += length
            if total > limit_bytes or file.size > limit_bytes:
                raise UnsupportedTeacher(
                    f"its external data take more than {limit_bytes >> 30} GiB",
                    where=model.name,
                    remedy="Give a smaller teacher.",
                )
            tensor.raw_data = file.read(offset, length)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
        return {location: ExternalFile(file.size, file.digest()) for location, file in opened.items()}
    finally:
        for file in opened.values():
            file.handle.close()


def size_outside(tensors: Iterable[onnx.TensorProto], model: Path) -> int:
    """Sum the bytes of the external files that these tensors name, as far as the files can be opened."""
    outside = (tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL)
    total = 0
    for location in {item.value for tensor in outside for item in tensor.external_data if item.key == "location"}:
        with contextlib.suppress(BadTeacherFile):
            file = _open(location, model, "")
            file.handle.close()
            total += file.size
    return total


@dataclass(frozen=True)
class _Opened:
    handle: BinaryIO
    size: int

    def read(self, offset: int, length: int) -> bytes:
        self.handle.seek(offset)
        return self.handle.read(length)

    def digest(self) -> str:
        self.handle.seek(0)
        return hashlib.file_digest(self.handle, "sha256").hexdigest()  # type: ignore[arg-type] # has readinto


def _refusal(name: str, tensor: str, what: str) -> BadTeacherFile:
    return BadTeacherFile(
        f"the external data of {shown(tensor)} {what}",
        where=name,
        remedy="Keep the weights' file beside the model, or save it as one file: "
        "onnx.save(onnx.load('teacher.onnx'), 'one-file.onnx').",
    )


def _entry(tensor: onnx.TensorProto, name: str) -> dict[str, str]:
    entry: dict[str, str] = {}
    for item in tensor.external_data:
        if item.key not in _KEYS or item.key in entry:
            raise _refusal(name, tensor.name, f"has the key {shown(item.key)} twice or one that is not known")
        entry[item.key] = item.value
    if not entry.get("location"):
        raise _refusal(name, tensor.name, "name no location")
    return entry


def _span(tensor: onnx.TensorProto, entry: dict[str, str], size: int, name: str) -> tuple[int, int]:
    """Return a tensor's offset and length in bytes, checked against the file's size and the tensor's shape."""
    numbers = entry.get("offset", "0"), entry.get("length", "0")
    if not all(_WHOLE.fullmatch(number) for number in numbers):
        raise _refusal(name, tensor.name, "have an offset or length that is no number")
    offset, length = int(numbers[0]), int(numbers[1]) if "length" in entry else None
    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > MOST_DIMENSIONS:
        raise _refusal(name, tensor.name, f"have a negative size or more than {MOST_DIMENSIONS} dimensions")
    needed = (math.prod(tensor.dims) * _BITS.get(tensor.data_type, 8) + 7) // 8
    length = needed if length is None else length
    if offset + length > size:
        raise _refusal(name, tensor.name, f"lie outside their file ({length:,} bytes from {offset:,} of {size:,})")
    if length != needed:
        raise _refusal(name, tensor.name, f"are {length:,} bytes where its shape needs {needed:,}")
    return offset, length


def _open(location: str, model: Path, tensor: str) -> _Opened:
    parts = PurePosixPath(location).parts
    plain = parts and not location.startswith("/") and ".." not in parts and not set("\\:\0") & set(location)
    if not plain:
        raise _refusal(model.name, tensor, f"lie outside the model's folder: {shown(location)}")
    try:
        handle = _open_beneath(model.parent, parts)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = shown(location)
        raise _refusal(model.name, tensor, f"cannot be read: {where} is missing or a link ({reason})") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise _refusal(model.name, tensor, f"are not in a regular file of one name: {shown(location)}")
    return _Opened(os.fdopen(handle, "rb"), status.st_size)


def _open_beneath(folder: Path, parts: tuple[str, ...]) -> int:
    """Open a file part by part from its folder's descriptor, without following links; return its descriptor."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    no_link = getattr(os, "O_NOFOLLOW", 0)
    if os.open not in os.supports_dir_fd:  # Windows: no descriptors of folders
        path = folder.joinpath(*parts)
        if path.resolve() != folder.resolve().joinpath(*parts):
            raise OSError(0, "a link")
        return os.open(path, flags)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | no_link, dir_fd=handle)
            os.close(handle)
            handle = inner
        return os.open(parts[-1], flags | no_link, dir_fd=handle)
    finally:
        os.close(handle)


def mark_external(tensor: onnx.TensorProto) -> None:
    """Mark a tensor as kept in a file of its own name, for a model whose weights are handed over beside it."""
    tensor.data_location = TensorProto.EXTERNAL
    entry: Any = tensor.external_data.add()
    entry.key, entry.value = "location", tensor.name
