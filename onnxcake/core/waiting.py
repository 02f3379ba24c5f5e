"""Tell the user what a wait is for: one line that is written over on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .progress import duration

_LOOK_S = 0.25
_SHOWN_AFTER_S = 1.0  # on a terminal
_LINE_S = 30.0  # a plain line, at most so often


class _Wait:
    """The stage of the wait, and a thread that shows it."""

    def __init__(self) -> None:
        self.lock, self.done = threading.Lock(), threading.Event()
        self.stage, self.since, self.told, self.shown = "", 0.0, 0.0, False

    def set(self, stage: str) -> None:
        """Name the stage; an empty one ends the wait."""
        with self.lock:
            now = time.monotonic()
            if not self.stage or not stage:
                self.told = now
            self.stage, self.since = stage, now
            if not stage:
                self._clear()

    def run(self) -> None:
        while not self.done.wait(_LOOK_S):
            with self.lock:
                if self.stage:
                    self._show(time.monotonic())

    def _show(self, now: float) -> None:
        line = f"{self.stage}, {duration(now - self.since)}"
        if sys.stderr.isatty():
            if self.shown or now - self.told > _SHOWN_AFTER_S:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
                self.shown = True
        elif now - self.told > _LINE_S:
            self.told = now
            print(line, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self.shown = False


_waits: list[_Wait] = []


@contextmanager
def shown() -> Iterator[None]:
    """Show waits for as long as the block runs; elsewhere, as in a library call, `wait_for` is silent."""
    wait = _Wait()
    thread = threading.Thread(target=wait.run, daemon=True)
    _waits.append(wait)
    thread.start()
    try:
        yield
    finally:
        _waits.remove(wait)
        wait.done.set()
        thread.join()
        wait.set("")


@contextmanager
def waited(stage: str) -> Iterator[None]:
    """Say what is done for as long as the block, or the decorated function, runs."""
    wait_for(stage)
    try:
        yield
    finally:
        wait_for("")


def wait_for(stage: str) -> None:
    """Say what is done now, which may take a while; "" says that the wait is over."""
    for wait in _waits[-1:]:
        wait.set(stage)
