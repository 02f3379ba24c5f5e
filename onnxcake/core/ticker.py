"""Draw the line that says what is being done, in a process that nothing holds up.

While a command loads a library, or is inside native code that keeps the interpreter's lock, none of its own threads
can print. So the line is drawn by ``python -m onnxcake.core.ticker``, which imports next to nothing, is told through
its stdin what is being done, and ends with it. `onnxcake.core.waiting` starts it, and is the other end.

Where stderr is no descriptor, as in a notebook or a test, `draw` runs in a thread instead.

Each message is a line of JSON: ``{"stage": …, "since": …, "detail": …, "every_s": …}`` says what is being done since
which `time.monotonic`, and ``{"hide": number}`` takes the line away, which is answered with the number.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from .units import duration

LOOK_S = 0.25  # between two looks at whether the line reads otherwise now
AFTER_S = 0.5  # after something else was written to the terminal, until the line is drawn below it
CLEAR = "\r\x1b[K"
_STDERR = 2
_NARROW = 80  # columns of a terminal that does not say how many it has


def draw(source: int, answer: int, write: Callable[[str], object], columns: Callable[[], int] | None) -> None:
    """Draw the line until ``source`` ends, and take it away then.

    Args:
        source: the descriptor that messages are read from.
        answer: the descriptor that numbers of hidden lines are written to.
        write: writes to the user.
        columns: gives the terminal's width; None where there is no terminal: then a plain line is written now and then.
    """
    line, rest = _Line(write, columns), b""
    while True:
        if select.select([source], [], [], LOOK_S)[0]:
            if not (content := os.read(source, 1 << 16)):
                line.hide()
                return
            *messages, rest = (rest + content).split(b"\n")
            for message in map(json.loads, messages):
                if "hide" in message:
                    line.hide()
                    with suppress(OSError):  # nobody waits for it any more
                        os.write(answer, f"{message['hide']}\n".encode())
                else:
                    line.message = message
        line.look(time.monotonic())


class _Line:
    """Hold the line that the user sees now."""

    def __init__(self, write: Callable[[str], object], columns: Callable[[], int] | None) -> None:
        self.message: dict[str, Any] = {"stage": ""}
        self._write, self._columns = write, columns
        self._shown, self._told = "", time.monotonic()

    def look(self, now: float) -> None:
        """Draw the line if it reads otherwise than before, or a plain one if the last was long ago."""
        if not self.message["stage"]:
            return
        if self._columns is None:
            if self.message["every_s"] and now - self._told >= self.message["every_s"]:
                self._told = now
                self._write(self._text(now) + "\n")
        elif self._shown or now - self._told >= AFTER_S:
            text = self._text(now, max(self._columns() - 1, 1))
            if text != self._shown:
                self._write(CLEAR + text)
                self._shown = text

    def hide(self) -> None:
        """Take the line away: something else is written."""
        if self._shown:
            self._write(CLEAR)
        self._shown, self._told = "", time.monotonic()

    def _text(self, now: float, columns: int | None = None) -> str:
        """Write the line so that its seconds are seen, however narrow the terminal is."""
        stage, passed = self.message["stage"], f", {duration(now - self.message['since'])}"
        if columns is None:
            return f"{stage}{passed}{self.message['detail']}"
        stage = _cut(stage, columns - len(passed))
        return stage + _cut(passed + self.message["detail"], columns - _width(stage))


def _cut(text: str, columns: int) -> str:
    """Leave out the end of what is wider than so many columns."""
    while _width(text) > max(columns, 0):
        text = text[:-1]
    return text


def _width(text: str) -> int:
    """Count the columns that a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def writes_over(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal on which a line can be written over, which one called dumb can not."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def width_of(descriptor: int) -> int:
    """Return the columns of a terminal."""
    try:
        return os.get_terminal_size(descriptor).columns or _NARROW
    except OSError:
        return _NARROW


def main() -> None:
    """Draw on stderr what stdin tells."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # meant for the command, which may have something to say still
        signal.signal(signum, signal.SIG_IGN)

    def write(text: str) -> None:
        with suppress(OSError):  # a full disk, a terminal that is gone
            os.write(_STDERR, text.encode(sys.stderr.encoding, "backslashreplace"))

    draw(0, 1, write, (lambda: width_of(_STDERR)) if writes_over(sys.stderr) else None)


if __name__ == "__main__":
    main()
