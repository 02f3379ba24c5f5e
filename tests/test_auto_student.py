"""`student: auto`: the teacher's own graph, smaller, in a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from onnxcake import extract, shrink
from onnxcake.commands import extract as extraction
from onnxcake.commands.train import train
from onnxcake.core.errors import RecipeError, UsageError
from onnxcake.core.progress import Progress
from onnxcake.pruning.cut_student import cut_of
from onnxcake.recipe.limits import Budget
from onnxcake.recipe.recipe import Recipe
from onnxcake.run import initial_model
from onnxcake.run.prepare import Request
from onnxcake.run.trial import prepare
from onnxcake.student.optimisers import AdamOptimiser
from onnxcake.teacher.options import TeacherOptions

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits.onnx"
SMALL = ["synthesis.batch=50", "synthesis.batches=2", "synthesis.steps=3", "student.epochs=2", "student.batch=25"]


def run(out: Path, *overrides: str, teacher: Path = DIGITS, **more: Any) -> Any:
    return extract(teacher, out=out, overrides=[*SMALL, *overrides], **{"recipe": "cake-image", **more})


def weights(path: Path) -> dict[str, np.ndarray]:
    return {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}


def test_the_student_begins_as_what_shrink_cuts_and_ends_as_the_same_graph(tmp_path: Path) -> None:
    report = run(tmp_path / "run")
    shrink(DIGITS, keep=0.5, out=tmp_path / "small.onnx")
    start, student = tmp_path / "run" / "start.onnx", tmp_path / "run" / "student.onnx"
    assert start.read_bytes() == (tmp_path / "small.onnx").read_bytes()
    teacher, before, after = (onnx.load(path) for path in (DIGITS, start, student))
    kinds = [[node.op_type for node in model.graph.node] for model in (teacher, before, after)]
    assert kinds[1] == kinds[2] and set(kinds[1]) == set(kinds[0])
    assert [o.version for o in after.opset_import] == [o.version for o in teacher.opset_import]
    for end in ("input", "output"):
        assert [v.name for v in getattr(after.graph, end)] == [v.name for v in getattr(teacher.graph, end)]
    old, new = weights(start), weights(student)
    assert old.keys() == new.keys() and any(not np.array_equal(old[name], new[name]) for name in old)
    facts = report.as_dict()["student"]
    assert facts["architecture"] == "auto"
    assert (
        0.45 * report.as_dict()["teacher"]["parameters"]
        < facts["parameters"]
        <= 0.5 * report.as_dict()["teacher"]["parameters"]
    )


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ("{max_params: 9000}", lambda path: sum(w.size for w in weights(path).values()) <= 9000),
        ("{max_bytes: 50000}", lambda path: path.stat().st_size <= 50000),
        ("{keep: 0.3, score: weights}", lambda path: sum(w.size for w in weights(path).values()) <= 0.3 * 38282),
    ],
)
def test_a_goal_may_be_said_in_other_ways(tmp_path: Path, said: str, reached: Any) -> None:
    run(tmp_path, f"student.architecture={{auto: {said}}}")
    assert reached(tmp_path / "student.onnx")


def test_a_run_is_not_cut_anew(tmp_path: Path) -> None:
    """A latency that is measured twice may come out twice."""
    latency = "student.architecture={auto: {max_latency_ms: 5.0}}"
    run(tmp_path / "whole", latency)
    run(tmp_path / "broken", latency)
    for name in ("report.json", "student.onnx"):
        (tmp_path / "broken" / name).unlink()
    kept = json.loads((tmp_path / "broken" / "start.json").read_text())
    run(tmp_path / "broken", latency)
    assert json.loads((tmp_path / "broken" / "start.json").read_text()) == kept
    assert (tmp_path / "broken" / "student.onnx").read_bytes() == (tmp_path / "whole" / "student.onnx").read_bytes()


def test_a_run_that_is_sized_first_is_cut_once(tmp_path: Path, monkeypatch: Any) -> None:
    cuts = []
    monkeypatch.setattr(initial_model, "cut_of", lambda *args: cuts.append(args) or cut_of(*args))
    overrides = [*SMALL, "student.architecture={auto: {keep: 0.31}}"]
    request = Request(DIGITS, "cake-image", tmp_path, overrides, budget=Budget(passes=1000))
    extraction.run(request, Progress(quiet=True))
    assert len(cuts) == 1
    prepare(replace(request, out=tmp_path / "other", options=TeacherOptions(range=(0.0, 1.0))))
    assert len(cuts) == 2  # of another reading of the same file


def test_a_start_that_was_changed_is_cut_anew(tmp_path: Path) -> None:
    run(tmp_path)
    start = tmp_path / "start.onnx"
    whole = start.read_bytes()
    start.write_bytes(whole[:-1])
    (tmp_path / "report.json").unlink()
    run(tmp_path)
    assert start.read_bytes() == whole


def test_a_set_trains_the_student_that_its_run_has_cut(tmp_path: Path) -> None:
    run(tmp_path / "run")

    def trained(name: str, *overrides: str, seed: int = 0) -> None:
        train(tmp_path / "run", out=tmp_path / name, overrides=overrides, seed=seed)

    trained("again", seed=1)
    assert (tmp_path / "again" / "start.onnx").read_bytes() == (tmp_path / "run" / "start.onnx").read_bytes()
    with pytest.raises(UsageError, match="cut out of the teacher, and only a set is given"):
        trained("other", "student.architecture={auto: {keep: 0.25}}")


class Scaled(nn.Module):
    """Nothing in it can be left out: input and output are all there is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("overrides", "optimiser"),
    [
        ([], "student.optimiser.inherited"),
        (["student.architecture=cnn-small"], "student.optimiser"),
        (["student.architecture={onnx: {init: keep}}"], "student.optimiser.inherited"),
        (["student.architecture={onnx: {init: fresh}}"], "student.optimiser"),
        (["student.optimiser={sgd: {lr: 1e-3}}"], "student.optimiser"),  # whoever says it means it
    ],
)
def test_trained_weights_are_stepped_as_the_recipe_says_for_them(
    tmp_path: Path, overrides: list[str], optimiser: str
) -> None:
    student = DIGITS if "onnx" in "".join(overrides) else None
    request = Request(DIGITS, "deepinversion", tmp_path, overrides, student=student)
    student_spec = prepare(request).student_spec
    assert student_spec.regime.optimiser_key == optimiser
    assert isinstance(student_spec.regime.optimiser, AdamOptimiser) == optimiser.endswith("inherited")


def test_what_cannot_be_cut_gets_a_student_of_its_family(tmp_path: Path, export: Any) -> None:
    teacher = export(Scaled(), (5,), tmp_path / "scaled.onnx")
    report = run(tmp_path / "run", teacher=teacher, recipe="cake-vector")
    assert report.as_dict()["student"]["architecture"] == "mlp"
    assert any("nothing in its graph can be left out" in note for note in report.as_dict()["substitutes"])


def test_an_int8_student_is_of_the_family(tmp_path: Path) -> None:
    assert run(tmp_path, "student.quantise=int8").as_dict()["student"]["architecture"] == "cnn-small"


def test_two_goals_are_one_too_many() -> None:
    with pytest.raises(RecipeError, match="give one of keep, max_params"):
        Recipe.load("cake-image", ["student.architecture={auto: {keep: 0.5, max_params: 10}}"])
