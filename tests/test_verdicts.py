"""What a verdict notices beside its figures: answers that never change, a student that costs more than its teacher."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import command
from onnx import helper
from reports import figure, report
from rich.console import Console

import onnxcake
from onnxcake.core.arrays import Array
from onnxcake.evaluate.agreement import one_sided
from onnxcake.report.report import Latency, ModelFile, costlier
from onnxcake.teacher.signature import OutputKind

N = helper.make_node
RANDOM = np.random.default_rng(0)
EVEN = RANDOM.normal(size=(200, 4)).astype(np.float32)
ALWAYS = np.tile(np.float32([0, 9, 0, 0]), (200, 1))
MOSTLY = np.where(np.arange(200)[:, None] < 8, np.float32([9, 0, 0, 0]), ALWAYS)  # 4 %: another class
YES = np.full((200, 1), 3, np.float32)
SIDES: dict[str, tuple[Array, Array, OutputKind, list[str]]] = {
    "both tell classes apart": (EVEN, EVEN, "logits", []),
    "a student of one class": (EVEN, ALWAYS, "logits", ["student names one class for every one of the x inputs, the"]),
    "a student of nearly one class": (EVEN, MOSTLY, "logits", ["student names one class for 96% of the x inputs"]),
    "a teacher of nearly one class, as its student": (MOSTLY, MOSTLY, "logits", ["teacher names class 1 for 96% of"]),
    "both of one class": (ALWAYS, ALWAYS, "logits", ["teacher names class 1 for 100% of", "student names one class"]),
    "one class where the teacher has nearly one": (MOSTLY, ALWAYS, "logits", ["teacher names class 1", "every one"]),
    "a binary student": (EVEN[:, :1], YES, "binary_logit", ["student names one class for every one"]),
    "a multi-label student": (EVEN, ALWAYS - 1, "multilabel_logits", ["student names one class for every one"]),
    "a multi-label teacher": (ALWAYS - 1, EVEN, "multilabel_logits", ["teacher names the labels [1] for 100% of"]),
    "a teacher that sets no label": (ALWAYS - 10, EVEN, "multilabel_logits", ["teacher names no label for 100% of"]),
    "one input": (ALWAYS[:1], ALWAYS[:1], "logits", []),
}


@pytest.mark.parametrize("name", SIDES)
def test_answers_of_one_class(name: str) -> None:
    teacher, student, kind, wanted = SIDES[name]
    told = one_sided(teacher, student, (kind, kind), "the x inputs")
    assert len(told) == len(wanted)
    assert all(part in alarm for part, alarm in zip(wanted, told, strict=True))


# Bytes, parameters and milliseconds of teacher and student; what is said of them.
COSTS: dict[str, tuple[tuple[int, int, float | None], tuple[int, int, float], list[str]]] = {
    "less of all": ((9, 9, 2), (8, 8, 1), []),
    "as much of all": ((9, 9, 1), (9, 9, 1), []),
    "more bytes": ((9000, 9, 1), (10000, 9, 1), ["larger than its teacher: 10,000 bytes, the teacher 9,000"]),
    "more parameters": ((9, 1, 1), (9, 2, 1), ["2 parameters"]),
    "slower": ((9, 9, 1.0), (9, 9, 1.2), ["slower than its teacher: 1.200 ms for one input"]),
    "slower by less than is measured": ((9, 9, 1.0), (9, 9, 1.05), []),
    "slower by a call's jitter": ((9, 9, 0.004), (9, 9, 0.006), []),
    "no teacher to time": ((9, 9, None), (9, 9, 1.0), []),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_student_that_costs_more(name: str) -> None:
    (*teacher, before), (*student, after), wanted = COSTS[name]
    sides = (ModelFile(file="", sha256="", bytes=size, parameters=count) for size, count in (teacher, student))
    told = costlier(*sides, Latency(1, after, before))
    assert len(told) == len(wanted) and all(part in alarm for part, alarm in zip(wanted, told, strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, handmade: Any) -> Path:
    """A linear classifier; one that ignores its input and has a hidden layer, so that it is larger."""
    folder: Path = tmp_path_factory.mktemp("verdicts")
    gemm = N("Gemm", ["x", "W", "b"], ["y"])
    tells = handmade([gemm], {"W": RANDOM.normal(size=(4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)})
    hidden = [N("MatMul", ["x", "V"], ["h"]), N("Gemm", ["h", "W", "b"], ["y"])]
    zero = {"V": np.zeros((4, 64), np.float32), "W": np.ones((64, 3), np.float32), "b": np.float32([0, 0, 2])}
    (folder / "tells.onnx").write_bytes(tells.SerializeToString())
    (folder / "constant.onnx").write_bytes(handmade(hidden, zero).SerializeToString())
    np.save(folder / "probe.npy", RANDOM.normal(size=(300, 4)).astype(np.float32))
    return folder


def test_verify_notices_a_constant_and_larger_student(files: Path) -> None:
    data = onnxcake.verify(files / "tells.onnx", files / "constant.onnx", probe=files / "probe.npy").as_dict()
    words = ("student names one class for every one of the probe inputs", "bytes, the teacher", "parameters, the")
    for part in words:
        assert any(part in alarm for alarm in data["alarms"]), part
    swapped = onnxcake.verify(files / "constant.onnx", files / "tells.onnx", probe=files / "probe.npy").as_dict()
    assert any("teacher names class 2 for 100% of the probe inputs" in alarm for alarm in swapped["alarms"])
    assert not any("larger" in alarm or "student names" in alarm for alarm in swapped["alarms"])


def test_alarms_come_first_in_the_report(files: Path) -> None:
    ended = command("verify", "tells.onnx", "constant.onnx", "--probe", "probe.npy", cwd=files)
    lines = " ".join(ended.out.split())
    assert ended.code == 0 and 0 < lines.index("student names one class for every one") < lines.index("file size")


def test_a_long_alarm_leaves_the_figures_their_room() -> None:
    """A narrow terminal, and alarms of the families of inputs, which are sentences."""
    told = "the student names one class for 95% of the family held_out, the teacher for 30%: it may have collapsed"
    made = report(
        teacher={"file": "net[/b][v2].onnx"},
        agreement={"held_out": {"samples": 128, "agreement": figure(0.5), "kl": {**figure(0.0), "low": -1e-9}}},
        without_data={"expected": 0.93, "agreement": {"fields": 0.9}, "alarms": [told]},
    )
    text = io.StringIO()
    made.show(Console(file=text, width=80))
    shown = text.getvalue()
    assert all(part in shown for part in ("5,733", "2,732", "0.013 ms", "93.00%", "net[/b][v2].onnx"))
    assert told in " ".join(shown.split()) and "-0.0000" not in shown


def test_extract_notices_what_its_probe_shows(files: Path) -> None:
    """A teacher that names one class on these inputs, as far from its decision as they are."""
    far = np.float32([50, 0, 0, 0]) + RANDOM.normal(size=(100, 4)).astype(np.float32)
    np.save(files / "far.npy", far)
    made = onnxcake.extract(files / "tells.onnx", probe=files / "far.npy", out=files / "run", passes=3e3)
    assert any("the teacher names class" in alarm and "100% of the probe" in alarm for alarm in made.alarms)
