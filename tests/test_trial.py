"""What is only meant to be faster never ends a run, and what fails before the work leaves no begun run behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from in_process import command
from onnx import helper

from onnxcake.commands import extract
from onnxcake.student import training
from onnxcake.synthesis import synthesizer
from onnxcake.teacher import autotune
from onnxcake.teacher.autotune import ExecutionMode

N = helper.make_node
ERRORS = [RuntimeError("no such kernel"), NotImplementedError(), KeyError("x"), MemoryError(), TypeError()]


@pytest.fixture
def teachers(handmade: Any, tmp_path: Path) -> dict[str, Path]:
    """Two of the same inputs and classes."""
    draw, made = np.random.default_rng(0), {}
    for name in ("first", "corrected"):
        weights = {"W": draw.normal(size=(4, 16)), "V": draw.normal(size=(16, 3))}
        nodes = [N("MatMul", ["x", "W"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "V"], ["y"])]
        made[name] = tmp_path / f"{name}.onnx"
        onnx.save(handmade(nodes, {key: array.astype(np.float32) for key, array in weights.items()}), made[name])
    return made


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has the timing find that all there is pays off."""
    monkeypatch.setattr(autotune, "_WORTH_S", 0.0)
    monkeypatch.setattr(autotune, "_fastest", lambda *_: ExecutionMode(True, "bfloat16", 1, 1))
    yield


def extracted(teacher: Path, out: Path, *more: object) -> Any:
    return command("extract", teacher, "--passes", 2e3, "--out", out, "--range", "-2,2", *more)


@pytest.mark.parametrize("where", [training, synthesizer], ids=["the student", "the samples"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_way_that_fails_at_the_work_is_left_out(
    error: Exception,
    where: Any,
    teachers: dict[str, Path],
    hurry: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real, asked = where.autocast, []

    def autocast(device: Any, dtype: str) -> Any:
        asked.append(dtype)
        if dtype == "bfloat16":
            raise error
        return real(device, dtype)

    monkeypatch.setattr(where, "autocast", autocast)
    ended = extracted(teachers["first"], tmp_path / "run", *(["--dry-run"] if error is not ERRORS[0] else []))
    assert ended.code == 0, ended.err
    assert "bfloat16" in asked and asked[-1] == "float32"
    assert "bfloat16" not in ended.err + ended.out
    if error is ERRORS[0]:
        plan = json.loads((tmp_path / "run" / "plan.json").read_text())
        assert (plan["dtype"], plan["channels_last"], plan["workers"]) == ("float32", False, 1)


def test_a_way_that_works_is_kept(teachers: dict[str, Path], hurry: None, tmp_path: Path) -> None:
    assert extracted(teachers["first"], tmp_path / "run").code == 0
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["dtype"], plan["channels_last"]) == ("bfloat16", True)


def crash(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("part", ["prepare", "times"])
def test_a_crash_in_preparation_begins_no_run(
    part: str, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(extract, part, crash)
        assert extracted(teachers["first"], out).code == 1
    assert not out.exists()
    ended = extracted(teachers["corrected"], out)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("part", ["describe", "training_of", "work"])
def test_a_folder_that_holds_nothing_finished_takes_a_corrected_file(
    part: str, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(extract, part, crash)
        assert extracted(teachers["first"], out, "--budget", "1h").code == 1
    assert (out / "run.json").exists() and not list((out / "store").glob("*.safetensors"))
    ended = extracted(teachers["corrected"], out)  # under another budget too: nothing of the first one was kept
    assert ended.code == 0, ended.err
    report = json.loads((out / "report.json").read_text())
    assert report["teacher"]["file"] == "corrected.onnx" and not ended.err.count("damaged")


def test_other_options_are_taken_where_nothing_is_finished(
    teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(extract, "work", crash)
        assert extracted(teachers["first"], out).code == 1
    assert extracted(teachers["first"], out, "--range", "-1,1").code == 0


def test_what_is_finished_is_not_written_over(teachers: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert extracted(teachers["first"], out).code == 0
    kept = (out / "student.onnx").read_bytes()
    ended = extracted(teachers["corrected"], out)
    assert ended.code == 6 and "teacher was" in ended.err
    assert (out / "student.onnx").read_bytes() == kept
