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

from onnxcake.report.report import MEASURED

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"
A_SET = [
    "synthesis.batches=12",
    "synthesis.batch=100",
    "synthesis.steps=30",
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

_PATIENCE = 600  # seconds for a run: what hangs is a failure and not a wait


def _start(out: Path, recipe: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnxcake", "extract", str(DIGITS), "--range", "0,1", "--out", str(out)]
    command += ["--recipe", recipe]
    command += [part for assignment in JOBS[recipe][0] for part in ("-o", assignment)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _at(out: Path) -> tuple[int, int]:
    """How many shards there are, and the number of the last checkpoint."""
    numbers = [int(path.stem.split("-")[1]) for path in out.glob("student/*/step-*.safetensors")]
    return len(list(out.glob("store/*.safetensors"))), max(numbers, default=0)


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
    """Each start is killed when it has come to a place of its own, and a random moment after that."""
    shards, last = JOBS[recipe][1], 0
    with _start(tmp_path / "unbroken", recipe) as process:
        begin = time.monotonic()
        while process.poll() is None:
            last = max(last, _at(tmp_path / "unbroken")[1])
            assert time.monotonic() - begin < _PATIENCE
            time.sleep(0.02)
    assert process.returncode == 0 and last
    out, random = tmp_path / "killed", np.random.default_rng(kills)
    died_at = []
    for share in np.sort(random.uniform(0.02, 1.9, kills)):  # to 1 the samples are made, to 2 the student learns
        with _start(out, recipe) as process:
            begin = time.monotonic()
            while process.poll() is None and _at(out)[0] / shards + _at(out)[1] / last < share:
                assert time.monotonic() - begin < _PATIENCE
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        died_at.append(_at(out))
    print("shards and the last checkpoint there at each kill:", died_at)
    assert len(set(died_at)) >= 3, "the kills hit the same moment"
    assert _start(out, recipe).wait(_PATIENCE) == 0
    unbroken, killed = _result(tmp_path / "unbroken"), _result(out)
    assert len(unbroken["shards"]) == JOBS[recipe][1]
    assert killed["shards"] == unbroken["shards"]
    assert killed["student"] == unbroken["student"]
    assert killed["report"] == unbroken["report"]
