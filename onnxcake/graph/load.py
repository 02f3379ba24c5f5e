"""A teacher's file → a checked ModelProto and its digest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..errors import BadTeacherFile, UnsupportedTeacher, first_line, shown
from ..files import sha256

LIMIT_BYTES = 2**31 - 1  # protobuf's own; larger models keep their weights in external files

_FOREIGN = (  # how other files begin, for a message that helps
    (b"version https://git-lfs", "a git-LFS pointer, not the model itself; fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive (a torch checkpoint or a packed folder?)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x89HDF", "an HDF5 file (a Keras model?)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<", "an HTML or XML page (a download that failed?)"),
    (b"{", "a JSON text"),
)


@dataclass(frozen=True)
class TeacherFile:
    """What was read: the model, the sha256 of its bytes, its size in bytes, and its name for messages."""

    proto: onnx.ModelProto
    digest: str
    size_bytes: int
    name: str


def load(path: Path) -> TeacherFile:
    """Reads and checks a ``.onnx`` file.

    Raises:
        BadTeacherFile: missing, unreadable, not a regular file, not ONNX, truncated, or not well-formed.
        UnsupportedTeacher: weights in external files.
    """
    content = _read(path)
    name = path.name
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise _not_onnx(name, content) from error
    if not proto.graph.node or not proto.ir_version:
        raise _not_onnx(name, content)
    outside = next((t.name for t in tensors(proto.graph) if t.data_location == onnx.TensorProto.EXTERNAL), None)
    if outside is not None:
        raise UnsupportedTeacher(
            f"the weights of {shown(outside)} are kept in an external file, which is not read yet",
            where=name,
            remedy="Save the model as one file: onnx.save(onnx.load('teacher.onnx'), 'one-file.onnx').",
        )
    for item in (*proto.opset_import, *proto.graph.node):
        if item.domain == "ai.onnx":  # the default domain spelled out, which the checker does not know
            item.domain = ""
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise BadTeacherFile(
            f"ONNX's checker refuses it: {first_line(error)}",
            where=name,
            remedy="Export the model again, or ask its vendor for a valid file.",
        ) from error
    newest = onnx.defs.onnx_opset_version()
    opset = max((o.version for o in proto.opset_import if not o.domain), default=0)
    if opset > newest:
        raise UnsupportedTeacher(
            f"its opset {opset} is newer than the newest that is known here, {newest}",
            where=name,
            remedy="Export it with torch.onnx.export(..., dynamo=False, opset_version=17), or upgrade onnx.",
        )
    return TeacherFile(proto, sha256(content), len(content), name)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initialisers, node attributes, and the same in all sub-graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors(attribute.g)
            for inner in attribute.graphs:
                yield from tensors(inner)


def _read(path: Path) -> bytes:
    try:
        # Opened once, without waiting on a FIFO, and judged by its descriptor.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadTeacherFile("not a regular file", where=path, remedy="Give the path of a .onnx file.")
            if status.st_size > LIMIT_BYTES:
                what = f"{status.st_size:,} bytes is more than one ONNX file can hold (2 GiB)"
                raise BadTeacherFile(what, where=path, remedy="Give a smaller teacher.")
            return file.read()
    except IsADirectoryError as error:
        raise BadTeacherFile("a folder, not a file", where=path, remedy="Give the path of a .onnx file.") from error
    except OSError as error:
        remedy = "Give the path of a .onnx file that this user may read."
        raise BadTeacherFile(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error


def _not_onnx(name: str, content: bytes) -> BadTeacherFile:
    guess = next((what for magic, what in _FOREIGN if content.startswith(magic)), None)
    if not content:
        what = "the file is empty"
    elif guess:
        what = f"not an ONNX model; it looks like {guess}"
    else:
        what = f"not an ONNX model, or a truncated one ({len(content):,} bytes)"
    return BadTeacherFile(what, where=name, remedy="Export the model again, or copy the file again.")
