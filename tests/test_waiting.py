"""What is being done is told on stderr while it is done, whatever the process is held up by, and nothing is left."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from onnxcake.core import ticker, waiting
from onnxcake.core.progress import Progress

BLOCKED = "ctypes.PyDLL(None).usleep(5_000_000)"  # PyDLL keeps the interpreter's lock: no thread can print
SCRIPT = f"""
import ctypes, os, sys, time
from onnxcake.cli import streams
from onnxcake.core import interrupt, waiting
waiting.LINE_S = 1.0
with streams.guarded(), interrupt.handled(), waiting.shown(quiet="--json" in sys.argv):
    waiting.begin("working on a.onnx")
    with waiting.waited("timing it"):
        {BLOCKED}
    print("done")
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines can be written over, whatever terminal the tests run in."""
    monkeypatch.setenv("TERM", "xterm")


def start(stream: int, script: str = SCRIPT, *arguments: str) -> subprocess.Popen[bytes]:
    def heed() -> None:  # under nohup it is ignored, which what is started inherits
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=stream, stderr=stream, preexec_fn=heed)


def written(descriptor: int, process: subprocess.Popen[bytes], until: bytes = b"\0") -> list[tuple[float, str]]:
    """All writes with their times until the text is there, or the other end is closed."""
    seen: list[tuple[float, str]] = []
    late = time.monotonic() + 60
    while until not in "".join(text for _, text in seen).encode() and time.monotonic() < late:
        if not select.select([descriptor], [], [], 0.1)[0]:
            continue
        try:
            content = os.read(descriptor, 1 << 16)
        except OSError:  # how a terminal says that nobody has its other end
            break
        if not content:
            break
        seen.append((time.monotonic(), content.decode()))
    return seen


def longest(seen: list[tuple[float, str]]) -> float:
    times = [when for when, _ in seen]
    return max(after - before for before, after in pairwise(times))


def on_screen(text: str) -> list[str]:
    """The lines that stand on a terminal at the end."""
    return [line.split("\r\x1b[K")[-1] for line in text.replace("\r\n", "\n").split("\n")]


def test_a_terminal_does_not_stand_still_while_the_interpreter_is_held_up() -> None:
    ours, theirs = pty.openpty()
    process = start(theirs)
    os.close(theirs)
    seen = written(ours, process)
    assert process.wait() == 0 and longest(seen) < 3.0
    text = "".join(part for _, part in seen)
    assert "timing it, 2 s" in text and "timing it, 4 s" in text
    assert on_screen(text) == ["working on a.onnx", "timing it took 5.0 s", "done", ""]


def test_a_terminal_where_no_line_can_be_written_over_is_told_by_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = pty.openpty()
    process = start(theirs)
    os.close(theirs)
    seen = written(ours, process)
    lines = "".join(part for _, part in seen).split("\r\n")
    assert process.wait() == 0 and longest(seen) < 3.0
    assert lines[0] == "working on a.onnx" and lines[-3:] == ["timing it took 5.0 s", "done", ""]
    assert all(line.startswith("timing it, ") and line.isprintable() for line in lines[1:-3]) and len(lines) >= 5


def test_a_pipe_is_told_by_plain_lines_and_with_json_not_at_all() -> None:
    ours, theirs = os.pipe()
    process = start(theirs)
    os.close(theirs)
    seen = written(ours, process)
    lines = "".join(part for _, part in seen).splitlines()
    assert process.wait() == 0 and longest(seen) < 3.0
    assert lines[0] == "working on a.onnx" and lines[-2:] == ["timing it took 5.0 s", "done"]
    assert all(line.startswith("timing it, ") for line in lines[1:-2]) and len(lines) >= 5
    assert subprocess.check_output([sys.executable, "-c", SCRIPT, "--json"], stderr=subprocess.STDOUT) == b"done\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_after_a_signal(signum: signal.Signals) -> None:
    """The line is taken away, by the ticker itself if need be, and the ticker has ended."""
    ours, theirs = pty.openpty()
    process = start(theirs, SCRIPT.replace(BLOCKED, "time.sleep(60)"))
    os.close(theirs)
    seen = written(ours, process, b"timing it, 1 s")
    (drawing,) = psutil.Process(process.pid).children()
    process.send_signal(signum)
    process.wait(10)
    drawing.wait(5)
    text = "".join(part for _, part in [*seen, *written(ours, process)])
    assert on_screen(text.split("Traceback")[0])[:2] == ["working on a.onnx", ""]


def test_a_line_is_drawn_on_where_the_process_that_drew_it_was_ended() -> None:
    ours, theirs = pty.openpty()
    stages = "time.sleep(2)\n    with waiting.waited('reading it'):\n        time.sleep(3)"
    process = start(theirs, SCRIPT.replace(BLOCKED, stages))
    os.close(theirs)
    seen = written(ours, process, b"timing it, 1 s")
    psutil.Process(process.pid).children()[0].kill()
    text = "".join(part for _, part in [*seen, *written(ours, process)])
    assert process.wait() == 0 and "reading it, 2 s" in text
    assert on_screen(text) == ["working on a.onnx", "timing it took 2.0 s", "reading it took 3.0 s", "done", ""]


def test_the_first_line_is_written_before_torch_is_loaded(tmp_path: Path) -> None:
    script = (
        "import io, sys\n"
        "class Watched(io.StringIO):\n"
        "    def write(self, text):\n"
        "        print('torch' in sys.modules, repr(text))\n"
        "        return len(text)\n"
        "sys.stderr, sys.argv = Watched(), ['onnxcake', 'extract', 'gone.onnx']\n"
        "from onnxcake.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stdout.splitlines()[0] == "False 'extracting a student from gone.onnx\\n'"
    assert "gone.onnx: cannot be read" in done.stdout


def told(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, after_s: float = 0.0, line_s: float = 30.0) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(ticker, "LOOK_S", 0.01)
    monkeypatch.setattr(ticker, "AFTER_S", after_s)
    monkeypatch.setattr(waiting, "LINE_S", line_s)
    with waiting.shown():
        with waiting.waited("reading the file") as stage:
            time.sleep(0.1)
            stage.now("building the graph")
            time.sleep(0.1)
        time.sleep(0.05)
        end = len(stream.getvalue())
        time.sleep(0.05)
        assert len(stream.getvalue()) == end, "nothing is said once the wait is over"
    return stream.getvalue()


def test_a_terminal_is_told_the_stages_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(Terminal(), monkeypatch)
    assert text.index("reading the file, 0 s") < text.index("building the graph, 0 s")
    assert "\n" not in text and text.endswith("\r\x1b[K"), "the line is taken away at the end"


def test_a_short_wait_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(Terminal(), monkeypatch, after_s=5.0) == ""
    assert told(io.StringIO(), monkeypatch) == ""


def test_a_long_wait_is_told_in_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(io.StringIO(), monkeypatch, line_s=0.03).splitlines()
    assert lines[0] == "reading the file, 0 s" and lines[-1] == "building the graph, 0 s"
    assert all(line.isprintable() for line in lines)


def test_a_function_is_told_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(ticker, "LOOK_S", 0.01)
    monkeypatch.setattr(ticker, "AFTER_S", 0.0)
    monkeypatch.setattr(waiting, "_FRESH_S", 0.0)

    @waiting.waited("timing")
    def failing() -> None:
        time.sleep(0.1)
        raise ValueError

    with waiting.shown():
        for _ in range(2):
            with pytest.raises(ValueError):
                failing()
            waiting.say("it failed")
            assert stream.getvalue().endswith("\r\x1b[Kit failed\n"), "an error is not written behind the line"
    assert "timing, 0 s" in stream.getvalue()


@pytest.mark.parametrize("columns", [1, 10, 30, 200])
def test_a_line_is_no_wider_than_its_terminal_and_its_seconds_are_seen(columns: int) -> None:
    line = ticker._Line(lambda text: None, lambda: columns)
    line.message = {
        "stage": "テスト reading a long name.onnx",
        "since": 0.0,
        "detail": ": 3 of 18 rounds",
        "every_s": 1,
    }
    text = line._text(75.0, columns - 1)
    assert ticker._width(text) < columns
    assert columns < 20 or ", 1 min 15 s" in text


def test_a_stage_ends_where_the_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that was done since the line was last drawn is told at its end."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Progress().stage("rounds", 18, 0, "rounds") as stage:
        for _ in range(18):
            stage.advance(1)
    assert stream.getvalue().endswith("rounds: 18 rounds done in 0 s\n")


def test_a_library_call_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "_NAMED_S", 0.0)
    with waiting.waited("reading the file"):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")
