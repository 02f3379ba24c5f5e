"""Killed at random moments, a run ends with the very files of an unbroken one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnxcake.report import MEASURED

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"
JOB = ["synthesis.batches=12", "synthesis.batch=100", "synthesis.steps=40", "student.epochs=40",
       "student.checkpoint_every=20"]  # fmt: skip


def _start(out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnxcake", "extract", str(DIGITS), "--range", "0,1", "--out", str(out)]
    command += [part for assignment in JOB for part in ("-o", assignment)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _result(out: Path) -> dict[str, object]:
    """Everything that a run promises to make alike."""
    report = json.loads((out / "report.json").read_text())
    shards = {path.name: path.read_bytes() for path in (out / "store").glob("*.safetensors")}
    kept = {key: value for key, value in report.items() if key not in MEASURED}
    return {"shards": shards, "student": (out / "student.onnx").read_bytes(), "report": kept}


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments(tmp_path: Path, kills: int) -> None:
    start = time.monotonic()
    assert _start(tmp_path / "unbroken").wait() == 0
    whole = time.monotonic() - start
    moments = np.random.default_rng(kills).uniform(0.15, 0.9, kills) * whole
    died_at = []
    for moment in moments:
        process = _start(tmp_path / "killed")
        time.sleep(moment)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        out = tmp_path / "killed"
        died_at.append((len(list(out.glob("store/*.safetensors"))), len(list(out.glob("student/*/*.safetensors")))))
    assert _start(tmp_path / "killed").wait() == 0
    unbroken, killed = _result(tmp_path / "unbroken"), _result(tmp_path / "killed")
    assert len(unbroken["shards"]) > 0
    assert killed["shards"] == unbroken["shards"]
    assert killed["student"] == unbroken["student"]
    assert killed["report"] == unbroken["report"]
    print("shards and checkpoints there at each kill:", died_at)
