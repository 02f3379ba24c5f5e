"""Show how far the work is: one line that is written over on a terminal, else one plain line every few seconds.

Everything goes to stderr; stdout is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import ticker, waiting
from .units import duration

_REFRESH_S = 0.2  # between two changes of the line, at least
_BAR = 20  # characters


class Progress:
    """Print lines and show the progress of stages on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Write a line for the user; it is dropped if it cannot be shown."""
        if not self._quiet:
            waiting.say(text)

    @contextmanager
    def stage(self, name: str, total: int, done: int, unit: str) -> Iterator[Stage]:
        """Show a stage of the work for as long as the block runs.

        Args:
            total: units in the whole stage.
            done: of which an earlier start has finished.
        """
        if self._quiet:
            yield Stage(name, total, done, unit, lambda detail: None)
            return
        with waiting.shown(), waiting.stage(waiting.Stage(name, waiting.line_s())) as line:
            stage = Stage(name, total, done, unit, line.tell, bar=ticker.writes_over(sys.stderr))
            yield stage
        if stage.done > done:
            self.say(f"{name}: {stage.done:,} {unit} done in {duration(stage.passed_s)}")


class Stage:
    """Count the finished units of a stage and show them at intervals.

    Args:
        tell: is told how far it is, at most a few times in a second.
        bar: draw a bar too.
    """

    def __init__(
        self, name: str, total: int, done: int, unit: str, tell: Callable[[str], None], *, bar: bool = False
    ) -> None:
        self.name, self.total, self.done, self.unit = name, total, done, unit
        self._first, self._tell, self._bar = done, tell, bar
        self._start = self._told = time.monotonic()
        tell(self.detail())

    @property
    def passed_s(self) -> float:
        """Return the seconds since the stage began."""
        return time.monotonic() - self._start

    def advance(self, units: int, note: str = "") -> None:
        """Count work that was done; cheap enough for an inner loop."""
        self.done += units
        now = time.monotonic()
        if now - self._told >= _REFRESH_S:
            self._told = now
            self._tell(self.detail(note))

    def detail(self, note: str = "") -> str:
        """Say how far it is, to stand behind the name and the time."""
        text = f": {self.done:,} of {self.total:,} {self.unit}"
        if self._bar:
            text = f" [{'=' * (_BAR * min(self.done, self.total) // max(self.total, 1)):{_BAR}}]{text[1:]}"
        if rate := (self.done - self._first) / max(self.passed_s, 1e-9):
            text += f", {duration((self.total - self.done) / rate)} left"
        return f"{text}, {note}" if note else text
