"""`--student FILE`: a run whose student is an ONNX model, from the command and from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import onnxcake
from onnxcake.cli import app
from onnxcake.commands.train import train as train_file
from onnxcake.core.errors import RecipeError, UsageError
from onnxcake.onnxfile.export import export as write
from onnxcake.run.rounds import Rounds

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"
PROBE = DIGITS.with_name("digits-test.npz")
SMALL = [
    "synthesis.batches=4",
    "synthesis.batch=60",
    "synthesis.steps=3",
    "student.batch=32",
    "student.epochs=6",
    "student.checkpoint_every=5",
]
ONNX = [*SMALL, "student.architecture=onnx"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    """A small network with other names than the teacher's, and probabilities where that has logits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.Softmax(1))
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    path.write_bytes(write(net, (1, 8, 8), input_name="pixels", output_name="chances", opset=17))
    return path


def extracted(out: Path, student: Path | None, overrides: list[str] = ONNX, **more: Any) -> onnxcake.Report:
    return onnxcake.extract(
        DIGITS, out=out, student=student, overrides=overrides, range=(0, 1), probe=PROBE,
        **{"recipe": "cake-image", **more},
    )  # fmt: skip


def result(out: Path) -> tuple[bytes, Any]:
    report = json.loads((out / "report.json").read_text())
    return (out / "student.onnx").read_bytes(), report["student"]["sha256"]


def test_a_run(small: Path, tmp_path: Path) -> None:
    report = extracted(tmp_path / "run", small)
    student = report.as_dict()["student"]
    assert student["parameters"] == 4 * 9 + 4 + 1440 + 10
    assert student["architecture"] == "onnx" and student["torch_vs_onnxruntime"] < 1e-5
    teacher, model = onnx.load(DIGITS), onnx.load(tmp_path / "run" / "student.onnx")
    assert model.graph.input[0].name == teacher.graph.input[0].name
    assert model.graph.output[0].name == teacher.graph.output[0].name
    assert [node.op_type for node in model.graph.node][:4] == ["Conv", "Relu", "Flatten", "Gemm"]
    assert "Softmax" not in {node.op_type for node in model.graph.node}  # the teacher gives logits
    assert (tmp_path / "run" / "start.onnx").exists()


def test_the_teacher_itself_as_student_begins_where_it_is(tmp_path: Path) -> None:
    rate = "student.optimiser.adamw.lr=1e-6"
    report = extracted(tmp_path / "run", DIGITS, [*ONNX, rate, "student.epochs=1"])
    assert report.comparison.agreement.value > 0.99


def test_fresh_weights_forget_it(tmp_path: Path) -> None:
    fresh = ["student.architecture={onnx: {init: fresh}}", "student.optimiser.adamw.lr=1e-6", "student.epochs=1"]
    report = extracted(tmp_path / "run", DIGITS, [*SMALL, *fresh])
    assert report.comparison.agreement.value < 0.5


def test_it_goes_on_to_the_bit_without_the_file(small: Path, tmp_path: Path, monkeypatch: Any) -> None:
    in_all = extracted(tmp_path / "unbroken", small).as_dict()["student"]["steps"]
    own = tmp_path / "own.onnx"
    shutil.copy(small, own)
    steps = 0
    tick = Rounds._look

    def stop(rounds: Rounds) -> None:
        nonlocal steps
        steps += 1
        tick(rounds)
        if steps == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(Rounds, "_look", stop)
    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path / "broken", own)
    own.unlink()
    extracted(tmp_path / "broken", None)
    assert steps < 12 + in_all, "it began anew"
    assert result(tmp_path / "broken") == result(tmp_path / "unbroken")


def test_another_file_is_another_student(small: Path, tmp_path: Path) -> None:
    first = extracted(tmp_path / "run", small).as_dict()
    second = extracted(tmp_path / "run", DIGITS).as_dict()
    assert first["student"]["start"] != second["student"]["start"]
    assert second["student"]["parameters"] == 38_282
    assert first["set"]["store_key"] == second["set"]["store_key"]  # which depends on the student in no way


def test_where_the_set_depends_on_the_student_it_depends_on_the_file(small: Path, tmp_path: Path) -> None:
    """The student is asked and differentiated while samples are made; the inner step of retaining goes through it."""
    rounds = [
        "synthesis.rounds=6", "synthesis.batch=16", "synthesis.source.generator.width=8",
        "synthesis.source.generator.latent=16", "student.memory.bank.every=2", "student.retain.lr=0.01",
        "student.architecture=onnx",
    ]  # fmt: skip
    keys = []
    for name, student in (("one", small), ("other", DIGITS)):
        report = extracted(tmp_path / name, student, rounds, recipe="retain-acquire")
        keys.append(report.as_dict()["set"]["store_key"])
        assert report.as_dict()["student"]["torch_vs_onnxruntime"] < 1e-4
    assert keys[0] != keys[1]


def test_train_takes_the_file_of_the_run_or_another(small: Path, tmp_path: Path) -> None:
    extracted(tmp_path / "run", small)

    def train(*overrides: str, student: Path | None = None) -> Any:
        done = train_file(tmp_path / "run", overrides=overrides, seed=1, student=student)
        return done.as_dict()["student"]

    assert train()["parameters"] == 1490
    assert train(student=DIGITS)["parameters"] == 38_282
    assert train("student.architecture.onnx=null", "student.architecture.mlp={}")["architecture"] == "mlp"


@pytest.mark.parametrize(
    "overrides, given, told",
    [
        (SMALL, True, "--student is for a recipe whose student is an ONNX model, and this one names auto"),
        (ONNX, False, "the recipe's student is an ONNX model, and none is given"),
    ],
)
def test_one_without_the_other(overrides: list[str], given: bool, told: str, small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        extracted(tmp_path / "run", small if given else None, overrides)
    assert not (tmp_path / "run").exists()


def test_int8_is_for_named_architectures(small: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be trained quantisation-aware"):
        extracted(tmp_path / "run", small, [*ONNX, "student.quantise=int8"])


def test_match_names_values_of_both_files(small: Path, tmp_path: Path) -> None:
    inner = onnx.load(small).graph.node[1].output[0]
    theirs = onnx.load(DIGITS).graph.node[1].output[0]
    pairs = json.dumps({theirs: inner})
    report = extracted(tmp_path / "run", small, [*ONNX, f"student.match.attention={{pairs: {pairs}, weight: 1.0}}"])
    assert report.as_dict()["student"]["torch_vs_onnxruntime"] < 1e-4
    with pytest.raises(UsageError, match="no value called 'nowhere'"):
        extracted(tmp_path / "other", small, [*ONNX, f"student.match.attention={{pairs: {{{theirs}: nowhere}}}}"])


def test_from_the_command(small: Path, tmp_path: Path) -> None:
    pairs = [part for assignment in ONNX for part in ("-o", assignment)]
    command = [
        "extract",
        str(DIGITS),
        "--recipe",
        "cake-image",
        "--range",
        "0,1",
        "--student",
        str(small),
        "--out",
        str(tmp_path / "run"),
    ]
    app([*command, *pairs], standalone_mode=False)
    assert np.isfinite(json.loads((tmp_path / "run" / "report.json").read_text())["latency_ms"]["student"])
    app(["train", "--store", str(tmp_path / "run"), "--student", str(DIGITS), "--seed", "2"], standalone_mode=False)
    (other,) = (tmp_path / "run" / "students").iterdir()
    assert (other / "start.onnx").exists()
