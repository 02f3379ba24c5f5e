"""Streams that fail: the command says so with its exit code, never with a traceback, and the work goes on."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from in_process import command
from onnx import helper, numpy_helper

from onnxcake.cli import streams
from onnxcake.core.errors import OutputError
from onnxcake.core.progress import Progress

COMMAND = f"{sys.executable} -m onnxcake"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, normal: object) -> Path:
    """A classifier of two layers, in a folder of its own."""
    weights = {"w": normal(6, 32, seed=1), "v": normal(32, 4, seed=2)}  # type: ignore[operator]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 6), ("y", 4))]
    inits = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], inits)
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which a pipe fails with the first of its commands that does."""
    script = ["bash", "-c", f"set -o pipefail; {line}"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=cwd, timeout=300)
    for word in ("Traceback", "a bug", "Exception ignored"):
        assert word not in done.stdout + done.stderr
    return done


FULL = "standard output: cannot be written (No space left on device)\n  "
LINES = {
    "a list, full": ("recipes list >/dev/full", 7, "", FULL),
    "a list, closed": ("recipes list >&-", 7, "", "standard output: cannot be written (the stream is closed)\n  "),
    "a list, its reader leaves": ("recipes list | head -1", 0, "adi", ""),
    "help, full": ("--help >/dev/full", 7, "", FULL),
    "usage that cannot be told": ("nonsense 2>/dev/full", 2, "", ""),
    "an error that cannot be told": ("inspect gone.onnx --json >/dev/full 2>&1", 4, "", ""),
    "an object, its reader leaves": ("inspect tiny.onnx --json | head -1", 0, "{", ""),
    "a file, closed": ("shrink tiny.onnx -o closed.onnx >&- 2>&-", 7, "", ""),
}


@pytest.mark.parametrize("line, code, out, err", LINES.values(), ids=LINES.keys())
def test_a_stream_that_fails(line: str, code: int, out: str, err: str, tiny: Path) -> None:
    done = shell(f"{COMMAND} {line}", tiny.parent)
    assert done.returncode == code, done.stderr
    assert out in done.stdout and err in done.stderr
    if "closed.onnx" in line:
        onnx.checker.check_model(tiny.parent / "closed.onnx", full_check=True)  # nothing was printed into it


def test_a_run_whose_log_disk_is_full_goes_on_and_its_files_are_complete(tiny: Path) -> None:
    out = tiny.parent / "run"
    done = shell(f"{COMMAND} extract tiny.onnx --passes 2e3 --out run >/dev/full 2>/dev/full", tiny.parent)
    assert done.returncode == 7
    report = json.loads((out / "report.json").read_text())
    assert f"{report['student']['parameters']:,}" in (out / "report.txt").read_text()
    onnx.checker.check_model(out / "student.onnx", full_check=True)


class Raw(io.RawIOBase):
    """A raw stream that takes three bytes at a time, and fails at the given calls."""

    def __init__(self, failing: dict[int, int]) -> None:
        self.failing, self.calls, self.taken = failing, 0, b""

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int | None:  # type: ignore[override]
        self.calls += 1
        if (code := self.failing.get(self.calls)) is not None:
            raise OSError(code, os.strerror(code))
        self.taken += bytes(content[:3])
        return len(content[:3])


def test_after_a_failure_later_text_is_shown_again() -> None:
    """A log disk that is full for a while costs the lines of that while, no more."""
    raw = Raw({2: errno.ENOSPC})
    guard = streams._Guard(raw, waits=False)
    assert guard.write(b"abcdef") == 6 and guard.write(b"ghi") == 3
    assert raw.taken == b"abcghi" and guard.failure is not None


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EIO, errno.EBADF, errno.EPIPE, errno.EFBIG], ids=errno.errorcode.get
)
def test_a_failed_stdout_is_one_error_at_the_end(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BufferedWriter(Raw({1: code})))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "__stdout__", stream)
    said = ""
    try:
        with streams.guarded():
            print("one", flush=True)
            print("\udcff ✓")  # no text of any encoding: escaped
    except OutputError as error:
        said = str(error)
    assert sys.stdout is stream
    assert said.startswith(f"standard output: cannot be written ({os.strerror(code)})") == (code != errno.EPIPE)


class Deaf(io.StringIO):
    """A stream that refuses every write."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "gone")


@pytest.mark.parametrize("stream", [None, Deaf()], ids=["closed", "failing"])
def test_progress_that_cannot_be_shown_is_dropped(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress()
    with progress.stage("work", 2, 0, "steps") as stage:
        stage.advance(2)
    progress.say("done")
    assert stage.done == 2 and capsys.readouterr().out == ""


LONG = "n" * 5000


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["extract", "tiny.onnx", "--recipe", LONG], 3),
        (["extract", LONG], 4),
        (["extract", "tiny.onnx", "--probe", LONG], 2),
        (["extract", "tiny.onnx", "--out", LONG], 7),
        (["extract", "tiny.onnx", "--recipe", "metadata", "--stats", LONG], 2),
        (["extract", "tiny.onnx", "-o", "student.architecture=onnx", "--student", LONG], 2),
        (["inspect", "tiny.onnx", "--hold", f"side={'0,' * 5000}0"], 2),
        (["inspect", "tiny.onnx", "--hold", f"side={LONG}"], 2),
        (["shrink", "tiny.onnx", "--out", LONG], 7),
        (["train", "--store", LONG], 6),
        (["record", "tiny.onnx", "--data", LONG, "--out", "s.safetensors"], 2),
        (["verify", "tiny.onnx", LONG], 4),
        (["bench", "tiny.onnx", "--methods", LONG], 3),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_name_that_is_too_long_is_one_error(arguments: list[str], code: int, tiny: Path) -> None:
    ended = command(*arguments, cwd=tiny.parent)
    assert ended.code == code, ended.err[-500:]
    assert ended.err.count("onnxcake: ") == 1 and "a bug" not in ended.err
