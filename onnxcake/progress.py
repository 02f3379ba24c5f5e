"""What the user sees while work goes on: bars on a terminal, else one plain line every few seconds.

Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_REFRESH_S = 0.2  # a bar, at most so often
_LINE_S = 5.0  # a plain line, at most so often


class Progress:
    """Says things and shows how far the work is."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """A line for the user."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, total: int, done: int, unit: str) -> Iterator[Stage]:
        """Shows a stage of the work for as long as the block runs.

        Args:
            total: units in the whole stage.
            done: of which an earlier start has finished.
        """
        if self._quiet or not sys.stderr.isatty():
            stage = Stage(name, total, done, unit, None if self._quiet else self.say)
            yield stage
            stage.end()
            return
        with _bars() as bars:
            yield _Bar(name, total, done, unit, bars, bars.add_task(name, total=total, completed=done, note=""))


class Stage:
    """A stage shown as plain lines."""

    def __init__(self, name: str, total: int, done: int, unit: str, say: object) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._say, self._first = say, done
        self._start = self._shown = time.monotonic()

    def advance(self, units: int, note: str = "") -> None:
        """Work that was done; cheap enough for an inner loop."""
        self.done += units
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(note)

    _every = _LINE_S

    def _show(self, note: str) -> None:
        if callable(self._say):
            passed = time.monotonic() - self._start
            rate = (self.done - self._first) / max(passed, 1e-9)
            left = (self.total - self.done) / rate if rate else 0.0
            text = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}, {duration(left)} left"
            self._say(f"{text}, {note}" if note else text)

    def end(self) -> None:
        """The last line of a stage that was finished."""
        if callable(self._say) and self.done > self._first:
            passed = time.monotonic() - self._start
            self._say(f"{self.name}: {self.done:,} {self.unit} done in {duration(passed)}")


class _Bar(Stage):
    """A stage shown as a bar."""

    _every = _REFRESH_S

    def __init__(self, name: str, total: int, done: int, unit: str, bars: Bars, task: TaskID) -> None:
        super().__init__(name, total, done, unit, None)
        self._bars, self._task = bars, task

    def _show(self, note: str) -> None:
        self._bars.update(self._task, completed=self.done, note=note)


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
