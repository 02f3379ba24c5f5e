"""Tell the user what is being done: one line that is written over on a terminal, else a plain line now and then.

Stages lie on a stack, and the innermost is shown. The line itself is drawn by `onnxcake.core.ticker`, a process that
goes on drawing while this one can not.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import ticker
from .text import printable
from .units import fine_duration

LINE_S = 5.0  # between two plain lines, where there is no terminal
_DUMB_S = 2.0  # the same on a terminal where no line can be written over
_NAMED_S = 1.0  # a stage that took so long is named with its time at its end
_ANSWER_S = 1.0  # for the ticker to take its line away; it has died, or its terminal takes nothing
_FRESH_S = 0.3  # after the line was hidden it need not be again: the ticker waits for longer, see `ticker.AFTER_S`


class Stage:
    """Hold the name, the time and the detail of a stage that is under way.

    Attributes:
        name: says what is done.
        detail: stands behind its time in the line.
        every_s: seconds between two plain lines where no line is written over; 0 for none.
    """

    def __init__(self, name: str, every_s: float) -> None:
        self.name, self.detail, self.every_s = printable(name), "", every_s
        self.since = time.monotonic()

    def now(self, name: str) -> None:
        """Name what is done next: the stage so far has ended."""
        self.end()
        self.name, self.detail, self.since = printable(name), "", time.monotonic()
        _show()

    def tell(self, detail: str) -> None:
        """Say how far it is, behind its time."""
        self.detail = printable(detail)
        _show()

    def end(self) -> None:
        """Name the stage with its time if it took a while."""
        passed = time.monotonic() - self.since
        if passed >= _NAMED_S and self.every_s:
            say(f"{self.name} took {fine_duration(passed)}")


class _Display:
    """Send the stages to the ticker, a process that is started at the first stage.

    Args:
        quiet: no plain lines are written where there is no terminal.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.terminal = ticker.writes_over(sys.stderr)
        self.quiet = quiet and not _on_terminal()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._to = self._from = -1
        self._lock, self._number, self._hidden_at = threading.RLock(), 0, 0.0

    def show(self, stage: Stage | None) -> None:
        """Show a stage in place of the one before; None for none."""
        message: dict[str, object] = {"stage": "" if stage is None else stage.name}
        if stage is not None:
            message |= {"since": stage.since, "detail": stage.detail, "every_s": stage.every_s}
        with self._lock:
            self._send(message)

    def hide(self) -> None:
        """Take the line away, and wait until it is; to be called before anything else is written."""
        if threading.current_thread() is self._thread:  # it is the line itself that is written
            return
        with self._lock:
            now = time.monotonic()
            if self._to < 0 or now - self._hidden_at < _FRESH_S:
                return
            self._number, self._hidden_at = self._number + 1, now
            self._send({"hide": self._number})
            seen = b""
            while f"{self._number}\n".encode() not in seen and (left := now + _ANSWER_S - time.monotonic()) > 0:
                if select.select([self._from], [], [], left)[0]:
                    if not (content := os.read(self._from, 1 << 12)):
                        return
                    seen += content

    def close(self) -> None:
        """Take the line away, and end what draws it."""
        with self._lock:
            if self._to < 0:
                return
            os.close(self._to)
            if self._process is not None:
                try:
                    self._process.wait(_ANSWER_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            elif self._thread is not None:
                self._thread.join(_ANSWER_S)
            os.close(self._from)
            self._to = self._from = -1

    def _send(self, message: dict[str, object]) -> None:
        if self._to < 0:
            self._start()
        content = json.dumps(message).encode() + b"\n"
        try:
            with suppress(BlockingIOError):  # it is held up by its terminal: this message is lost, the next may not be
                os.write(self._to, content)
        except BrokenPipeError:  # somebody ended it
            self.close()
            if self.terminal:
                _write(ticker.CLEAR)
            self._start_thread()
            os.write(self._to, content)

    def _start(self) -> None:
        try:
            self._start_process(sys.stderr.fileno())
        except (OSError, ValueError, AttributeError):  # stderr is no descriptor, or there is room for no process
            self._start_thread()

    def _start_process(self, stderr: int) -> None:
        root = str(Path(__file__).resolve().parents[2])
        source, self._to = os.pipe()
        self._from, answer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", ticker.__name__],
                stdin=source,
                stdout=answer,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": root},
            )
        except OSError:
            os.close(self._to)
            os.close(self._from)
            raise
        finally:
            os.close(source)
            os.close(answer)
        os.set_blocking(self._to, False)

    def _start_thread(self) -> None:
        source, self._to = os.pipe()
        self._from, answer = os.pipe()
        self._process = None

        def run() -> None:
            columns = (lambda: ticker.width_of(2)) if self.terminal else None
            ticker.draw(source, answer, _write, columns)
            os.close(source)
            os.close(answer)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()


_displays: list[_Display] = []
_stages: list[Stage] = []


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[None]:
    """Show stages for as long as the block runs; elsewhere, as in a library call, they are silent.

    Args:
        quiet: where there is no terminal, only the progress of a run is told, not what is waited for.
    """
    if _displays:
        yield
        return
    _displays.append(_Display(quiet=quiet))
    try:
        yield
    finally:
        _stages.clear()
        _displays.pop().close()


def begin(task: str) -> None:
    """Write the first line of a command, and show its task wherever no stage of it is named."""
    if _displays:
        if not _displays[-1].quiet:
            say(printable(task))
        _stages.append(_stage(task))
        _show()


@contextmanager
def waited(name: str) -> Iterator[Stage]:
    """Say what is done for as long as the block, or the decorated function, runs, and at its end what time it took."""
    with stage(_stage(name)) as shown_stage:
        yield shown_stage
        shown_stage.end()


@contextmanager
def stage(under_way: Stage) -> Iterator[Stage]:
    """Show a stage for as long as the block runs, then the one around it again."""
    _stages.append(under_way)
    _show()
    try:
        yield under_way
    finally:
        with suppress(ValueError):  # all are gone where the display is
            _stages.remove(under_way)
        _show()


def say(text: str) -> None:
    """Write a line for the user to stderr; it is dropped if it cannot be shown."""
    hide()
    _write(text + "\n")


def hide() -> None:
    """Take the line away before something else is written."""
    for display in _displays[-1:]:
        display.hide()


def line_s() -> float:
    """Return the seconds between two plain lines."""
    return _DUMB_S if _on_terminal() else LINE_S


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _stage(name: str) -> Stage:
    return Stage(name, line_s() if _displays and not _displays[-1].quiet else 0.0)


def _show() -> None:
    for display in _displays[-1:]:
        display.show(_stages[-1] if _stages else None)


def _write(text: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a full disk, a reader that left, a stream that was closed
            sys.stderr.write(text)
            sys.stderr.flush()
