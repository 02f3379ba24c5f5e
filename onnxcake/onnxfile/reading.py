"""Read a file's bytes, and guess its format if it is no model."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..core.errors import BadTeacherFile
from ..core.remedies import SOUND

LIMIT_BYTES = 2**31 - 1  # protobuf's own; larger models keep their weights in external files

_GUESSED_FROM = 1 << 16  # bytes
_FOREIGN = (  # how other files begin, for a message that helps: what, from which byte, and what it is
    (b"version https://git-lfs", 0, "a git-LFS pointer, not the model itself; fetch it with `git lfs pull`"),
    (b"PK\x03\x04", 0, "a zip archive (a torch checkpoint or a packed folder?)"),
    (b"\x1f\x8b", 0, "a gzip archive"),
    (b"ustar", 257, "a tar archive"),
    (b"\x89PNG", 0, "a PNG picture"),
    (b"\xff\xd8\xff", 0, "a JPEG picture"),
    (b"%PDF", 0, "a PDF document"),
    (b"\x7fELF", 0, "a program"),
    (b"\x89HDF", 0, "an HDF5 file (a Keras model?)"),
    (b"\x93NUMPY", 0, "a numpy array"),
    (b"GGUF", 0, "a GGUF file"),
    (b"TFL3", 4, "a TensorFlow Lite model"),
    (b"ORTM", 4, "a model in onnxruntime's own format"),
    *((b"\x80" + bytes([version]), 0, "a pickle") for version in (2, 3, 4, 5)),
    (b'{"', 8, "a safetensors file"),
    (b"{", 0, "a JSON text"),
)


def read_regular(path: Path) -> bytes:
    """Read a regular file's bytes, opening it once.

    Raises:
        BadTeacherFile: if it is missing, unreadable, something else than a file, or too large.
    """
    try:
        # OpenGraph once, without waiting on a FIFO, and judged by its descriptor.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadTeacherFile("not a regular file", where=path, remedy="Give the path of a .onnx file.")
            if status.st_size > LIMIT_BYTES:
                what = f"{status.st_size:,} bytes is more than one ONNX file can hold (2 GiB)"
                raise BadTeacherFile(what, where=path, remedy="Keep its weights in an external file.")
            return file.read()
    except IsADirectoryError as error:
        raise BadTeacherFile("a folder, not a file", where=path, remedy="Give the path of a .onnx file.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "Give the path of a .onnx file that this user may read."
        raise BadTeacherFile(f"cannot be read ({reason})", where=path, remedy=remedy) from error


def not_onnx(name: str, content: bytes) -> BadTeacherFile:
    guess = _guess_format(content[:_GUESSED_FROM])
    if not content:
        what = "the file is empty"
    elif guess:
        what = f"not an ONNX model; it looks like {guess} ({len(content):,} bytes)"
    else:
        what = f"not an ONNX model, or a truncated one ({len(content):,} bytes)"
    return BadTeacherFile(what, where=name, remedy=SOUND)


def _guess_format(start: bytes) -> str:
    """Guess a file's format by its first bytes; return "" if it is not known."""
    if start.lstrip().startswith(b"<"):
        return "an HTML or XML page (a download that failed?)"
    for magic, place, what in _FOREIGN:
        if start.startswith(magic, place):
            return what
    # Protobuf has no magic bytes; these are the names that TensorFlow's files can hardly do without.
    if start.startswith(b"\x08\x01\x12") and (b"\x05serve" in start or b"\x05Const" in start):
        return "a TensorFlow SavedModel; convert it with tf2onnx"
    if start.startswith(b"\n") and (b"\x12\x0bPlaceholder" in start or b"\x12\x05Const" in start):
        return "a TensorFlow graph; convert it with tf2onnx"
    text = start.decode("utf-8", "ignore")  # the last character may be cut
    if len(text.encode()) > len(start) - 4 and all(c.isprintable() or c.isspace() for c in text):
        return "a text"
    return ""
