"""Runs that were begun and stopped by an earlier version, 3cb62ac, go on: no store, checkpoint or key has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import onnxcake

KEPT = Path(__file__).parent / "kept_runs"
ASKED: dict[str, dict[str, Any]] = {
    "batches": {
        "recipe": "cake-vector",
        "overrides": ["synthesis.batches=16", "synthesis.steps=400", "synthesis.batch=60", "student.epochs=2"],
    },
    "rounds": {
        "overrides": [
            "synthesis.rounds=10",
            "synthesis.batch=64",
            "student.steps=200",
            "student.checkpoint_every=100",
        ],
    },
}


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


@pytest.mark.parametrize("name", ASKED)
def test_a_run_begun_by_an_earlier_version_goes_on(name: str, tmp_path: Path) -> None:
    kept, out = KEPT / name, tmp_path / name
    shutil.copytree(kept, out)
    report = onnxcake.extract(KEPT / "teacher.onnx", out=out, **ASKED[name])
    store = json.loads((kept / "store" / "store.json").read_text(encoding="utf-8"))
    assert report.as_dict()["set"]["store_key"] == store["key"]
    for state in ("plan.json", "store/store.json", "start.onnx", "start.json"):
        assert (out / state).read_bytes() == (kept / state).read_bytes()
    made = files(kept, "store/*.safetensors")
    assert {path: content for path, content in files(out, "store/*.safetensors").items() if path in made} == made
    passes = json.loads((kept / "spent.json").read_text(encoding="utf-8"))["teacher_passes"]
    assert report.as_dict()["spent"]["teacher_passes"] >= passes > 0


def unbroken(name: str, folder: Path) -> Path:
    """Make a run of the same plan that is never stopped."""
    folder.mkdir()
    shutil.copy(KEPT / name / "plan.json", folder)
    onnxcake.extract(KEPT / "teacher.onnx", out=folder, **ASKED[name])
    return folder


@pytest.fixture(scope="module")
def same_processor(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where this processor rounds otherwise than the one that began the runs."""
    made = files(unbroken("batches", tmp_path_factory.mktemp("kept") / "unbroken"), "store/*.safetensors")
    if not files(KEPT / "batches", "store/*.safetensors").items() <= made.items():
        pytest.skip("this processor rounds otherwise than the one that began the runs")


@pytest.mark.usefixtures("same_processor")
@pytest.mark.parametrize("name", ASKED)
def test_it_ends_as_a_run_that_was_never_stopped(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    shutil.copytree(KEPT / name, out)
    onnxcake.extract(KEPT / "teacher.onnx", out=out, **ASKED[name])
    expected = unbroken(name, tmp_path / "unbroken")
    for pattern in ("student.onnx", "store/*.safetensors"):
        assert files(out, pattern) == files(expected, pattern)
