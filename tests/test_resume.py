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
A_SET = [
    "synthesis.batches=12",
    "synthesis.batch=100",
    "synthesis.steps=50",
    "synthesis.pace=plain",
    "student.epochs=60",
    "student.checkpoint_every=10",
]
# A generator, a memory and the meta step, all of which last from round to round.
ROUNDS = [
    "synthesis.rounds=120",
    "synthesis.batch=32",
    "synthesis.source.generator.width=8",
    "synthesis.source.generator.latent=32",
    "student.memory.bank.every=5",
    "student.checkpoint_every=25",
]
JOBS = {"cake-image": (A_SET, 13), "retain-acquire": (ROUNDS, 6)}  # with the number of shards

LOST = 0.03  # of the work is done again after a kill: the shard in the making


def _start(out: Path, recipe: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnxcake", "extract", str(DIGITS), "--range", "0,1", "--out", str(out)]
    command += ["--recipe", recipe]
    command += [part for assignment in JOBS[recipe][0] for part in ("-o", assignment)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _result(out: Path) -> dict[str, object]:
    """Everything that a run promises to make alike."""
    report = json.loads((out / "report.json").read_text())
    shards = {path.name: path.read_bytes() for path in (out / "store").glob("*.safetensors")}
    kept = {key: value for key, value in report.items() if key not in MEASURED}
    return {"shards": shards, "student": (out / "student.onnx").read_bytes(), "report": kept}


slow = pytest.mark.slow
CASES = [("cake-image", 3), pytest.param("cake-image", 10, marks=slow), pytest.param("retain-acquire", 6, marks=slow)]


@pytest.mark.parametrize(("recipe", "kills"), CASES)
def test_sigkill_at_random_moments(tmp_path: Path, recipe: str, kills: int) -> None:
    """Each start is killed a random while after it has begun to work, so that the kills fall all over the run."""
    begin = time.monotonic()
    process = _start(tmp_path / "unbroken", recipe)
    while not (tmp_path / "unbroken" / "store" / "store.json").exists():
        time.sleep(0.02)
    preparing = time.monotonic() - begin
    assert process.wait() == 0
    working = time.monotonic() - begin - preparing
    out, died_at = tmp_path / "killed", []
    shares = np.random.default_rng(kills).dirichlet(np.ones(kills + 1))[:-1] + LOST
    for share in shares:
        process = _start(out, recipe)
        time.sleep(preparing + share * working)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        steps = [path.name[:14] for path in sorted(out.glob("student/*/*.safetensors"))[-1:]]
        died_at.append((len(list(out.glob("store/*.safetensors"))), *steps))
    print("shards and the last checkpoint there at each kill:", died_at)
    assert len(set(died_at)) >= 3, "the kills hit the same moment"
    assert _start(out, recipe).wait() == 0
    unbroken, killed = _result(tmp_path / "unbroken"), _result(out)
    assert len(unbroken["shards"]) == JOBS[recipe][1]
    assert killed["shards"] == unbroken["shards"]
    assert killed["student"] == unbroken["student"]
    assert killed["report"] == unbroken["report"]
