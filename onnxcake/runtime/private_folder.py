"""Make folders for files that native code can only be given by path, removed however the process ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_PREFIX = "onnxcake-"
_LOCK = ".lock"
_HAS_LOCKS = find_spec("fcntl") is not None  # not on Windows, where a killed process's folder stays


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that only this user may read; remove it at the end of the block.

    A process that is killed cannot remove its own. So each holds a lock in its folder, which the system releases when
    the process ends, and whoever comes next removes the folders whose locks are free.

    Raises:
        OSError: if no folder can be made.
    """
    if _HAS_LOCKS:
        _sweep()
    lock = None
    while lock is None:  # swept between its making and its locking, else
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _locked(folder)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int | None:
    """Lock a folder of this process's own; None if somebody else was faster."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    if _lock(handle) and (folder / _LOCK).exists():
        return handle
    os.close(handle)
    return None


def _sweep() -> None:
    """Remove the folders of this user's processes that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            handle = os.open(folder / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(handle):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Take a file's lock if it is free, or if the system has no such locks."""
    if not _HAS_LOCKS:
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
