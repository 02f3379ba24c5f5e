"""Keep a command going whose standard streams fail: a full disk, a reader or a terminal that is gone, a closed stream.

No write to one of them raises an error, wherever in the program or its libraries it is made. What cannot be shown on
stderr is dropped, and the work goes on. So is the rest of stdout once its reader has left, as ``| head`` does. Any
other failure of stdout is noted, and is the command's `OutputError` at its end.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..core import waiting
from ..core.errors import OutputError

_DESCRIPTORS = 3
_REMEDY = "Send it to a file or a reader that takes it, and run the same command again; finished files are complete."


class _Guard(io.RawIOBase):
    """Pass bytes on to a raw stream, and keep the first error instead of raising it.

    Args:
        raw: the stream below; None for one that was closed before the start.
        waits: whether to wait for a slow reader of a stream that does not block; else what it does not take is dropped.
        before: is called before each write to a terminal.
    """

    def __init__(self, raw: Any, *, waits: bool, before: Callable[[], None] = lambda: None) -> None:
        self._raw, self._waits, self._before = raw, waits, before
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of ``content``, or drop it."""
        size, done = len(content), 0
        try:
            if self.isatty():
                self._before()
            while done < size:
                if self._raw is None:
                    raise OSError(errno.EBADF, "the stream is closed")
                written = self._raw.write(content[done:])
                if written is None:  # it would block
                    if not self._waits:
                        break
                    select.select([], [self._raw], [])
                done += written or 0
        except OSError as error:
            self.failure = self.failure or error
        return size

    def writable(self) -> bool:
        """Say that bytes may be written."""
        return True

    def isatty(self) -> bool:
        """Tell whether a terminal is below."""
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        """Return the descriptor of the stream below.

        Raises:
            OSError: if there is none.
        """
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._raw.fileno())


@contextmanager
def guarded() -> Iterator[None]:
    """Guard both streams for the block.

    Raises:
        OutputError: at the end, if stdout failed otherwise than by its reader leaving.
    """
    _occupy_descriptors()
    streams = sys.stdout, sys.stderr
    out, err = (_guard_of(stream, waits=waits) for stream, waits in zip(streams, (True, False), strict=True))
    if out is not None:
        sys.stdout = _text(out, streams[0])
    if err is not None:
        sys.stderr = _text(err, streams[1])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
    failure = None if out is None else out.failure
    if failure is not None and not isinstance(failure, BrokenPipeError):
        what = f"cannot be written ({failure.strerror or failure})"
        raise OutputError(what, where="standard output", remedy=_REMEDY)


def _guard_of(stream: TextIO | None, *, waits: bool) -> _Guard | None:
    """Put a guard over a standard stream; None for one that a caller has put in its place, such as a test's buffer."""
    if stream is None:
        return _Guard(None, waits=waits)
    if stream not in (sys.__stdout__, sys.__stderr__):
        return None
    buffer = getattr(stream, "buffer", None)
    return None if buffer is None else _Guard(getattr(buffer, "raw", buffer), waits=waits, before=waiting.hide)


def _text(guard: _Guard, before: TextIO | None) -> TextIO:
    """Make a text stream over a guard, set as the one before; escape each character that its encoding lacks."""
    return io.TextIOWrapper(
        io.BufferedWriter(guard),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=bool(getattr(before, "line_buffering", True)),
        write_through=bool(getattr(before, "write_through", False)),
    )


def _occupy_descriptors() -> None:
    """Open the null device under the standard descriptors that were closed.

    Otherwise the next file that is opened has such a number, and what a library prints to it goes into that file.
    """
    for number in range(_DESCRIPTORS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
