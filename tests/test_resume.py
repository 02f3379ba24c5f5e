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
JOB = [
    "synthesis.batches=12",
    "synthesis.batch=100",
    "synthesis.steps=150",
    "student.epochs=200",
    "student.checkpoint_every=25",
]

LOST = 0.03  # of the work is done again after a kill: the shard in the making


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
    """Each start is killed a random while after it has begun to work, so that the kills fall all over the run."""
    begin = time.monotonic()
    process = _start(tmp_path / "unbroken")
    while not (tmp_path / "unbroken" / "store" / "store.json").exists():
        time.sleep(0.02)
    preparing = time.monotonic() - begin
    assert process.wait() == 0
    working = time.monotonic() - begin - preparing
    out, died_at = tmp_path / "killed", []
    shares = np.random.default_rng(kills).dirichlet(np.ones(kills + 1))[:-1] + LOST
    for share in shares:
        process = _start(out)
        time.sleep(preparing + share * working)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        steps = [path.name[:14] for path in sorted(out.glob("student/*/*.safetensors"))[-1:]]
        died_at.append((len(list(out.glob("store/*.safetensors"))), *steps))
    print("shards and the last checkpoint there at each kill:", died_at)
    assert len(set(died_at)) >= 3, "the kills hit the same moment"
    assert _start(out).wait() == 0
    unbroken, killed = _result(tmp_path / "unbroken"), _result(out)
    assert len(unbroken["shards"]) == 13
    assert killed["shards"] == unbroken["shards"]
    assert killed["student"] == unbroken["student"]
    assert killed["report"] == unbroken["report"]
