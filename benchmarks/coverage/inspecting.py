"""`onnxcake inspect` on a file of ResNet-50's size: seconds, and memory beyond the libraries.

    python -m benchmarks.coverage.inspecting

Memory is what all its processes have resident at once, less the same for a file of a few kilobytes: the rest is
what the file costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import psutil
import torch
from torch import nn

from .common import keep, kept, table
from .timm_models import export, make, quiet

RUNS = 3
SECONDS, TIMES_THE_FILE = 10.0, 4.0
_LOOK_S = 0.01


def measure(path: Path) -> tuple[float, int]:
    """Seconds of the whole command, and the most bytes that its processes had resident together."""
    command = [sys.executable, "-m", "onnxcake", "inspect", str(path), "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    start, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        family = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, _resident(family))
            time.sleep(_LOOK_S)
    if process.returncode:
        raise RuntimeError(f"inspect ended with {process.returncode}")
    return time.perf_counter() - start, most


def _resident(process: psutil.Process) -> int:
    """Bytes of all processes together; what they share, as one that was just forked does, is counted once (PSS)."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.Error:
        return 0  # one came or went while it was looked at
    return total


def run() -> None:
    """Makes the two files, looks at each a few times, keeps the middle figures."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.onnx", Path(folder) / "resnet50.onnx"
        with quiet():
            onnx.save(
                export(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval(), torch.zeros(2, 3, 2, 2), "legacy17"),
                small,
            )
            onnx.save(export(make("resnet50", 224, False), torch.zeros(2, 3, 224, 224), "legacy17"), large)
        size = large.stat().st_size
        base, seen = ([measure(path) for _ in range(RUNS)] for path in (small, large))
    seconds = sorted(s for s, _ in seen)[RUNS // 2]
    extra = sorted(m for _, m in seen)[RUNS // 2] - sorted(m for _, m in base)[RUNS // 2]
    found = {"bytes": size, "seconds": seconds, "extra": extra, "small": sorted(s for s, _ in base)[RUNS // 2]}
    print(found, flush=True)
    keep("inspecting", found)


def summary() -> list[list[Any]]:
    """The row of the summary."""
    found: Any = kept("inspecting")
    if not found:
        return []
    measured = f"{found['seconds']:.1f} s, {found['extra'] / found['bytes']:.1f} times the file"
    return [["`inspect` on a file of ResNet-50's size", "under 10 s, memory under 4 times the file", measured]]


def section() -> str:
    """The part of the document."""
    found: Any = kept("inspecting")
    if not found:
        return ""
    row = [
        f"{found['bytes'] / 1e6:.0f} MB",
        f"{found['seconds']:.1f} s",
        f"{found['small']:.1f} s",
        f"{found['extra'] / 1e6:.0f} MB",
        f"{found['extra'] / found['bytes']:.2f}",
    ]
    headings = ["file", "whole command", "the same for 1 kB", "memory beyond that of 1 kB", "times the file"]
    return "\n\n".join(
        ["## `onnxcake inspect`", f"ResNet-50 at 224×224, two threads, middle of {RUNS} runs.", table(headings, [row])]
    )


if __name__ == "__main__":
    run()
    print(section())
