"""What the user sees while work goes on: bars on a terminal, else one plain line every few seconds.

Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_REFRESH_S = 0.2  # a bar, at most so often
_LINE_S = 5.0  # a plain line, at most so often


class Progress:
    """Says things and shows how far the work is."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """A line for the user; dropped if it cannot be shown."""
        if not self._quiet and sys.stderr is not None:
            with suppress(OSError, ValueError):  # a full disk, a reader that left, a stream that was closed
                print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, total: int, done: int, unit: str) -> Iterator[Stage]:
        """Shows a stage of the work for as long as the block runs.

        Args:
            total: units in the whole stage.
            done: of which an earlier start has finished.
        """
        if self._quiet:
            yield Stage(name, total, done, unit, _REFRESH_S, lambda stage, note: None)
        elif sys.stderr is not None and sys.stderr.isatty():
            with _bars() as bars:
                task = bars.add_task(name, total=total, completed=done, note="")
                stage = Stage(
                    name, total, done, unit, _REFRESH_S, lambda s, note: bars.update(task, completed=s.done, note=note)
                )
                try:
                    yield stage
                finally:
                    bars.update(task, completed=stage.done)  # what was done since it was last shown
        else:
            stage = Stage(name, total, done, unit, _LINE_S, lambda stage, note: self.say(stage.line(note)))
            yield stage
            if stage.done > done:
                self.say(f"{name}: {stage.done:,} {unit} done in {duration(stage.passed_s)}")


class Stage:
    """How far a stage of the work is.

    Args:
        every_s: seconds between two calls of ``show``, at least.
        show: told the stage and a note.
    """

    def __init__(
        self, name: str, total: int, done: int, unit: str, every_s: float, show: Callable[[Stage, str], None]
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._first, self._every_s, self._tell = done, every_s, show
        self._start = self._shown = time.monotonic()

    @property
    def passed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._start

    def advance(self, units: int, note: str = "") -> None:
        """Work that was done; cheap enough for an inner loop."""
        self.done += units
        now = time.monotonic()
        if now - self._shown >= self._every_s:
            self._shown = now
            self._tell(self, note)

    def line(self, note: str = "") -> str:
        """How far it is, as a plain line."""
        rate = (self.done - self._first) / max(self.passed_s, 1e-9)
        left = duration((self.total - self.done) / rate) if rate else "?"
        text = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}, {left} left"
        return f"{text}, {note}" if note else text


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


def duration(seconds: float) -> str:
    """Seconds in words: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def size(count: float) -> str:
    """Bytes in words: ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
