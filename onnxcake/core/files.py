"""Write files; no other module opens one for writing.

A file is either complete under its final name or not there at all: write a temporary in the same folder,
flush, fsync, rename, fsync the folder. A name may carry the digest of its content, so that a flipped bit or
a cut file is always found and no index can go stale.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import OutputError, TryAgain

TEMPORARY = ".tmp"
DIGEST_CHARACTERS = 16  # hex digits, 64 bits
_BLOCK = 1 << 20  # bytes read at once

_REMEDY = {
    errno.ENOSPC: "The disk is full. Free some space and run the same command again; finished work is kept.",
    errno.EDQUOT: "The disk quota is used up. Free some space and run the same command again; finished work is kept.",
    errno.EACCES: "No permission to write there. Choose another folder with --out.",
    errno.EPERM: "No permission to write there. Choose another folder with --out.",
    errno.EROFS: "The file system is read-only. Choose another folder with --out.",
    errno.ENOTDIR: "A part of that path is a file, not a folder. Choose another folder with --out.",
    errno.EEXIST: "A file of that name is in the way. Choose another folder with --out.",
    errno.EFBIG: "The file would pass the size limit. Raise the limit and run the same command again.",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into an `OutputError` that names ``path``."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        remedy = _REMEDY.get(error.errno or 0, "Mend the cause and run the same command again; finished work is kept.")
        raise OutputError(what, where=path, remedy=remedy) from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, and write a trial file to prove that the folder can be written to.

    Raises:
        OutputError: if it cannot be made or written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial-{os.getpid()}{TEMPORARY}"
        try:
            trial.write_bytes(b"onnxcake")
        finally:
            trial.unlink(missing_ok=True)


def check_target(path: Path, *, stream: bool = True) -> None:
    """Check, before any work, that nothing but a regular file would be replaced under ``path``.

    Args:
        stream: whether it may be a character device or a pipe, which is written into.

    Raises:
        OutputError: otherwise.
    """
    if _is_stream(path) and not stream:
        raise _not_replaceable(path, "a device or a pipe")


def make_parent(path: Path) -> None:
    """Make the folder that ``path`` is to lie in, unless ``path`` is a device or a pipe.

    Raises:
        OutputError: as `make_folder` and `check_target`.
    """
    if not _is_stream(path):
        make_folder(path.absolute().parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write ``content`` under ``path``, whole or not at all, safe against a kill and against power loss.

    What is no regular file is never replaced: a character device or a pipe gets the content written into it.

    Raises:
        OutputError: if it cannot be written, or is a link, a folder, a socket or a disk; under ``path`` is what was
            there before, or all of ``content``.
    """
    if _is_stream(path):
        with writing(path), path.open("wb", buffering=0) as stream:
            view = memoryview(content)
            while view:
                view = view[stream.write(view) :]
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with writing(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # no link that somebody has put there is followed
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_there(path: Path) -> bool:
    """Tell whether ``path`` leads to something; a path that the system cannot even look up does not."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, a loop of links, a folder that nobody may read
        return False


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with `write_atomic`, keys in the order given."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode(errors="backslashreplace"))  # a file's name may hold lone surrogates


def write_with_digest(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write ``content`` with `write_atomic` as ``stem-<first 16 hex digits of sha256>suffix``; return that path."""
    path = folder / f"{stem}-{sha256(content)[:DIGEST_CHARACTERS]}{suffix}"
    write_atomic(path, content)
    return path


def digest_holds(path: Path) -> bool:
    """Tell whether ``path`` is a regular file (no link) whose name carries the digest of its content."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        return path.stem.rpartition("-")[2] == sha256_file(path)[:DIGEST_CHARACTERS]
    except OSError:
        return False


def move(path: Path, folder: Path) -> Path:
    """Move a file into ``folder`` (made if need be) under its name, numbered if that name is taken; return the path."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target, number = folder / path.name, 0
        while target.exists() or target.is_symlink():
            number += 1
            target = folder / f"{path.name}.{number}"
        path.rename(target)
    return target


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with writing(path):
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporaries that a killed run left in ``folder``; the caller holds the folder's lock."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        remove(leftover)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against a second onnxcake run; the system frees the lock however this process ends.

    Raises:
        TryAgain: if another run holds it.
    """
    lock = FileLock(folder / ".lock")
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            remedy = "Wait for it to end, or choose another folder with --out."
            raise TryAgain("another onnxcake run is writing here", where=folder, remedy=remedy) from error
    try:
        yield
    finally:
        lock.release()


def sha256(content: bytes) -> str:
    """Return the SHA-256 digest of ``content``, in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 digest of a file's content, in hex, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def canonical(value: Any) -> bytes:
    """Serialise a JSON value to bytes that do not depend on the order of its keys; store keys are digests of them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _is_stream(path: Path) -> bool:
    """Tell whether ``path`` is a character device or a pipe, to be written into, and no file to be replaced.

    Raises:
        OutputError: if it is neither, nor a regular file.
    """
    with writing(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISSOCK: "a socket", stat.S_ISBLK: "a disk"}
    name = next((name for is_kind, name in kinds.items() if is_kind(mode)), "no regular file")
    raise _not_replaceable(path, f"{name} to {path.readlink()}" if stat.S_ISLNK(mode) else name)


def _not_replaceable(path: Path, name: str) -> OutputError:
    remedy = "Move it away, or choose another name with --out."
    return OutputError(f"is {name}, which is not replaced by a file", where=path, remedy=remedy)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is durable enough
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
