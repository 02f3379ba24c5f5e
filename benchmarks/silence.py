"""Measure how long a command leaves its terminal standing still: seconds to the first line, and the longest silence.

    benchmarks/silence.py FOLDER [case …] [--load 2] [--limit 300] [--quiet-s 3]
    benchmarks/silence.py FOLDER --run extract model.onnx --passes 1e4

Each command runs in a pseudo-terminal, beside busy loops that take the cores from it. Every write to the terminal is
timed; it counts if it changes what can be read there, so that a bar which is drawn again as it was is a silence. Of
each command a row goes to RESULTS.md; all silences over ``--quiet-s`` are listed with what was on the terminal. A
command that runs for longer than ``--limit`` seconds is interrupted, as Ctrl-C does, and judged by what it has shown.

FOLDER holds what the commands read and write; a ResNet-50 of 25 million parameters is made there, with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import results

from onnxcake.runtime.processor import describe

TITLE = "Silence of commands in a terminal, beside busy loops"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DIGITS, REAL = str(EXAMPLES / "digits.onnx"), str(EXAMPLES / "digits-test.npz")
SMALL = ("--passes", "2e4")
CASES: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "inspect": ("inspect", DIGITS),
    "dry-run": ("extract", DIGITS, "--dry-run", "--out", "dry"),
    "budget": ("extract", DIGITS, "--budget", "30s", "--out", "budget"),
    "extract": ("extract", DIGITS, "--probe", REAL, "--out", "run"),
    "extract again": ("extract", DIGITS, "--probe", REAL, "--out", "run"),
    "shrink": ("shrink", DIGITS, "--out", "small.onnx"),
    "verify": ("verify", DIGITS, "small.onnx", "--probe", REAL),
    "cake": ("extract", DIGITS, "--recipe", "cake-image", *SMALL, "--out", "cake"),
    "train": ("train", "--store", "cake", "-o", "student.epochs=5"),
    "bench": ("bench", DIGITS, "--methods", "cake-image,dafl", *SMALL, "--out", "bench"),
    "record": ("record", DIGITS, "--data", REAL, "--out", "stats.safetensors"),
    "inspect ResNet-50": ("inspect", "resnet50.onnx"),
    "dry-run ResNet-50": ("extract", "resnet50.onnx", "--dry-run", "--out", "dry50"),
    "shrink ResNet-50": ("shrink", "resnet50.onnx", "--out", "small50.onnx"),
    "verify ResNet-50": ("verify", "resnet50.onnx", "small50.onnx"),
    "extract ResNet-50": ("extract", "resnet50.onnx", "--out", "run50"),
    "extract ResNet-50 again": ("extract", "resnet50.onnx", "--out", "run50"),
}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b.")
_GRACE_S = 60.0  # after an interrupt, to end


@dataclass
class Watched:
    """What a terminal showed: the time of each change, and the text that it left to be read until the next."""

    begun: float
    changes: list[tuple[float, str]] = field(default_factory=list)
    ended: float = 0.0
    code: int = 0
    cut_off: bool = False

    def see(self, content: bytes) -> None:
        """Take note of a write, if it changes what can be read."""
        text = _ESCAPES.sub("", content.decode(errors="replace"))
        shown = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
        for line in shown:
            if not self.changes or line != self.changes[-1][1]:
                self.changes.append((time.monotonic() - self.begun, line))

    @property
    def first_s(self) -> float:
        """Seconds to the first text."""
        return self.changes[0][0] if self.changes else self.ended

    def silences(self) -> list[tuple[float, float, str]]:
        """All waits between two changes, the longest first: seconds, when it began, what stood there."""
        times = [(0.0, "(nothing yet)"), *self.changes]
        ends = [when for when, _ in self.changes] + [self.ended]
        return sorted(((end - when, when, text) for (when, text), end in zip(times, ends, strict=True)), reverse=True)


def watch(command: Sequence[str], folder: Path, limit_s: float) -> Watched:
    """Run a command in a pseudo-terminal of 110 columns and time what it writes there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "110", "LINES": "40", "TERM": "xterm-256color"}
    seen = Watched(time.monotonic())
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    while (content := _read(ours, 0.1)) != b"":
        seen.see(content or b"")
        late = time.monotonic() - seen.begun - limit_s
        if late > 0 and not seen.cut_off:
            seen.cut_off, seen.ended = True, time.monotonic() - seen.begun
            os.killpg(process.pid, signal.SIGINT)
        if late > _GRACE_S:
            os.killpg(process.pid, signal.SIGKILL)
    seen.code = process.wait()
    os.close(ours)
    if not seen.cut_off:
        seen.ended = time.monotonic() - seen.begun
    seen.changes = [(when, text) for when, text in seen.changes if when <= seen.ended]
    return seen


def _read(terminal: int, wait_s: float) -> bytes | None:
    """Return what was written, None after the wait, and nothing once the other end is closed."""
    if not select.select([terminal], [], [], wait_s)[0]:
        return None
    try:
        return os.read(terminal, 1 << 16)
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep so many processes spinning beside the block."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def make_resnet50(path: Path) -> None:
    """Write a ResNet-50 for 224×224 images and 1,000 classes, with random weights."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            wide = 4 * width
            sizes = ((before, width, 1, 1), (width, width, 3, stride), (width, wide, 1, 1))
            parts: list[nn.Module] = []
            for inner, outer, kernel, step in sizes:
                convolution = nn.Conv2d(inner, outer, kernel, step, kernel // 2, bias=False)
                parts += [convolution, nn.BatchNorm2d(outer), nn.ReLU()]
            self.body = nn.Sequential(*parts[:-1])
            shortcut = nn.Sequential(nn.Conv2d(before, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            self.shortcut = shortcut if stride > 1 or before != wide else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.body(x) + self.shortcut(x))

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for number in range(blocks):
            layers.append(Bottleneck(before, width, 2 if number == 0 and width > 64 else 1))
            before = 4 * width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)).eval()
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": {0: "n"}}}
    torch.onnx.export(net, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False, **names)


def measure(name: str, command: Sequence[str], folder: Path, options: argparse.Namespace) -> None:
    """Watch one command, list its long silences and keep its row."""
    program = [sys.executable, "-m", "onnxcake"]
    with busy(options.load):
        seen = watch([*program, *command], folder, options.limit)
    silences = seen.silences()
    for seconds, when, text in silences:
        if seconds > options.quiet_s:
            print(f"    {seconds:5.1f} s of silence from {when:.1f} s on: {text}", flush=True)
    if options.show:
        for when, text in seen.changes:
            print(f"    {when:7.2f}  {text}", flush=True)
    row = {
        "command": name,
        "first line, s": f"{seen.first_s:.2f}",
        "longest silence, s": f"{silences[0][0]:.2f}",
        "after": silences[0][2],
        "whole, s": f"{seen.ended:.0f}" + (" (interrupted)" if seen.cut_off else ""),
        "exit": seen.code,
        "busy loops": options.load,
        "processor": f"{os.cpu_count()} × {describe()}",
    }
    if options.no_row:
        print(row, flush=True)
    else:
        results.append(TITLE, row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--load", type=int, default=2, help="busy loops beside")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a command is interrupted")
    parser.add_argument("--quiet-s", type=float, default=3.0, help="silences that are longer are listed")
    parser.add_argument("--show", action="store_true", help="list all that the terminal showed, with its time")
    parser.add_argument("--no-row", action="store_true", help="print the row, and keep none")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="a command of your own in place of the cases")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.run:
        measure(" ".join(options.run), options.run, options.folder, options)
        return 0
    for name in options.cases or CASES:
        command = CASES[name]
        if "resnet50.onnx" in command and not (options.folder / "resnet50.onnx").exists():
            make_resnet50(options.folder / "resnet50.onnx")
        if "--out" in command and not name.endswith("again"):
            shutil.rmtree(options.folder / command[command.index("--out") + 1], ignore_errors=True)
        measure(name, command, options.folder, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
