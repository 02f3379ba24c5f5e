"""What a wait is for is told on a terminal alone while it is short, and never on stdout."""

from __future__ import annotations

import io
import time

import pytest

from onnxcake.core import waiting
from onnxcake.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, after_s: float = 0.0, line_s: float = 30.0) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01)
    monkeypatch.setattr(waiting, "_SHOWN_AFTER_S", after_s)
    monkeypatch.setattr(waiting, "_LINE_S", line_s)
    with waiting.shown():
        waiting.wait_for("reading the file")
        time.sleep(0.1)
        waiting.wait_for("building the graph")
        time.sleep(0.1)
        waiting.wait_for("")
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
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01)
    monkeypatch.setattr(waiting, "_SHOWN_AFTER_S", 0.0)

    @waiting.waited("timing")
    def failing() -> None:
        time.sleep(0.1)
        raise ValueError

    with waiting.shown():
        for _ in range(2):
            with pytest.raises(ValueError):
                failing()
            assert stream.getvalue().endswith("\r\x1b[K"), "an error is not written behind the line"
    assert "timing, 0 s" in stream.getvalue()


def test_a_bar_ends_where_the_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that was done since the bar was last shown is shown at its end."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Progress().stage("rounds", 18, 0, "rounds") as stage:
        for _ in range(18):
            stage.advance(1)
    assert "18/18" in stream.getvalue()


def test_a_library_call_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01)
    waiting.wait_for("reading the file")
    time.sleep(0.05)
    waiting.wait_for("")
    assert capsys.readouterr() == ("", "")
