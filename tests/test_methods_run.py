"""Every recipe from a teacher to student.onnx, for an image classifier, a transformer and a tabular one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onnxcake.commands.extract import run
from onnxcake.commands.record import record
from onnxcake.core.errors import RecipeError
from onnxcake.core.progress import Progress
from onnxcake.recipe.recipe import Recipe, names
from onnxcake.report.report import Report
from onnxcake.run.prepare import Request
from onnxcake.runtime.ort import Runtime
from onnxcake.store.store import Store
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.signature import Signature

EXAMPLES = Path(__file__).parents[1] / "examples"
BATCH = 20
STUDENTS = {"digits": "{cnn-small: {width: 4, depth: 1}}", "tabular": "{mlp: {hidden: [8]}}"}
STUDENTS["transformer"] = STUDENTS["digits"]
_VECTORS = "inputs of shape [5] are no images"
_STATISTICS = "has no BatchNormalization and no convolution"
REFUSED: dict[str, dict[str, str]] = {
    "digits": {},
    "transformer": dict.fromkeys(("deepinversion", "adi", "dfq", "cmi", "fast-dfkd", "nayer"), _STATISTICS),
    "tabular": {
        **dict.fromkeys(("cake", "cake-mnist", "cake-image", "lake", "deepdream", "deepinversion"), _VECTORS),
        **dict.fromkeys(("dfq",), _STATISTICS),
        **dict.fromkeys(("adi", "cmi", "fast-dfkd", "nayer", "zskd", "soft-target"), "inputs of shape [5] have none"),
    },
}
CASES = [(teacher, name) for teacher in REFUSED for name in names()]


def miniature(name: str, teacher: str) -> list[str]:
    """Overrides that leave every part of a recipe in its place, and next to nothing of its work."""
    recipe = Recipe.load(name)
    synthesis, student = recipe.synthesis, recipe.student
    numbers = {
        "synthesis.batch": BATCH,
        "synthesis.held_out": 1,
        "synthesis.rounds": min(synthesis.rounds, 4),
        "synthesis.steps": min(synthesis.steps, 3),
        "student.batch": BATCH,
        "student.architecture": STUDENTS[teacher],
    }
    if synthesis.batches != "auto":
        numbers["synthesis.batches"] = min(synthesis.batches, 2)
    if synthesis.reference_batch is not None:
        numbers["synthesis.reference_batch"] = BATCH
    if (source := synthesis.source.name) in ("generator", "latent", "meta_latent", "noisy_layer"):
        numbers |= {f"synthesis.source.{source}.width": 8, f"synthesis.source.{source}.latent": 8}
    if source == "boundary":
        small = {"directions": 3, "probes": 5, "queries": 60, "bisections": 8, "tries": 20, "label_queries": 0}
        numbers |= {f"synthesis.source.boundary.{key}": value for key, value in small.items()}
    if student.memory is not None and student.memory.name == "replay":
        numbers |= {"student.memory.replay.width": 8, "student.memory.replay.latent": 8}
    if student.epochs is not None:
        numbers["student.epochs"] = min(student.epochs, 2)
    elif student.steps is not None:
        numbers["student.steps"] = min(student.steps, 3)
    return [f"{key}={value}" for key, value in numbers.items()]


@pytest.fixture(scope="module")
def teachers(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("methods")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = Signature("x", (1, 8, 8), "y", "logits", 10)
        transformer = ARCHITECTURES["vit-small"](seen, dim=16, mlp=32, depth=2, heads=2)
        tabular = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    return {
        "digits": EXAMPLES / "digits.onnx",
        "transformer": export(transformer, (1, 8, 8), folder / "transformer.onnx"),
        "tabular": export(tabular, (5,), folder / "tabular.onnx"),
    }


@pytest.fixture(scope="module")
def given(teachers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """For each teacher real inputs, and what it says of them recorded by their owner."""
    folder, files = tmp_path_factory.mktemp("given"), {}
    for name, path in teachers.items():
        shape, classes = ((5,), 3) if name == "tabular" else ((1, 8, 8), 10)
        draw = np.random.default_rng(0)
        data = folder / f"{name}.npz"
        np.savez(data, x=draw.random((100, *shape), np.float32), y=draw.integers(0, classes, 100))
        record(path, data, folder / f"{name}.safetensors")
        files[name] = {"data": data, "stats": folder / f"{name}.safetensors"}
    return files


def extracted(name: str, teacher: str, path: Path, given: dict[str, Path], out: Path, *more: str) -> Report:
    request = Request(
        teacher=path,
        recipe=name,
        out=out,
        overrides=[*miniature(name, teacher), *more],
        options=TeacherOptions.of(range=(0, 1)),
        data=given["data"] if name == "kd" else None,
        stats=given["stats"] if name == "metadata" else None,
    )
    return run(request, Progress(quiet=True))


@pytest.mark.parametrize(("teacher", "name"), CASES, ids=[f"{teacher}-{name}" for teacher, name in CASES])
def test_every_recipe_runs_or_says_why_not(
    teacher: str, name: str, teachers: dict[str, Path], given: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    if (reason := REFUSED[teacher].get(name)) is not None:
        with pytest.raises(RecipeError) as caught:
            extracted(name, teacher, teachers[teacher], given[teacher], tmp_path / "out")
        assert reason in caught.value.what and not (tmp_path / "out").exists()
        assert "The nearest that runs on" in caught.value.remedy
        return
    report = extracted(name, teacher, teachers[teacher], given[teacher], tmp_path / "out")
    assert (tmp_path / "out" / "student.onnx").stat().st_size == report.as_dict()["student"]["bytes"]
    assert report.as_dict()["student"]["torch_vs_onnxruntime"] <= 1e-3
    recipe = report.as_dict()["recipe"]["synthesis"]
    spent, steps = report.as_dict()["spent"], recipe.get("steps", 0)
    batches = recipe["rounds"] * (recipe["batches"] if recipe["batches"] != "auto" else 4) + 1
    if name == "zsdb3kd":
        assert spent["teacher_passes"] == 0 < spent["teacher_queries"]
    elif name not in ("cmi", "pre-dfkd", "retain-acquire-replay"):  # second views and the memory's own
        assert spent["teacher_passes"] == batches * report.as_dict()["set"]["held_out_samples"] * steps


@pytest.mark.parametrize("name", ["deepinversion", "cmi", "fast-dfkd", "dfq"])
def test_a_refusal_names_the_nearest_that_runs(
    name: str, teachers: dict[str, Path], given: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        extracted(name, "transformer", teachers["transformer"], given["transformer"], tmp_path / "out")
    nearest = next(word for word in caught.value.remedy.replace(". ", " ").split() if word in names())
    report = extracted(nearest, "transformer", teachers["transformer"], given["transformer"], tmp_path / "out")
    assert report.as_dict()["student"]["torch_vs_onnxruntime"] <= 1e-3


def test_a_substitute_is_told_and_kept(
    teachers: dict[str, Path], given: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    report = extracted("deepinversion", "digits", teachers["digits"], given["digits"], tmp_path / "whitened")
    assert "pulled to mean 0 and deviation 1" in report.as_dict()["substitutes"][0]
    again = extracted("deepdream", "digits", teachers["digits"], given["digits"], tmp_path / "none")
    assert again.as_dict()["substitutes"] == []


def test_optional_statistics_are_matched_where_there_are_any(
    teachers: dict[str, Path], given: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    path, options = teachers["digits"], TeacherOptions.of(range=(0, 1))
    request = Request(path, "layercake", tmp_path / "none", miniature("layercake", "digits"), options)
    without = run(request, Progress(quiet=True))
    assert without.as_dict()["substitutes"][0].startswith(f"statistics: left out, as {path.name} has none")
    recorded = replace(request, out=tmp_path / "given", stats=given["digits"]["stats"])
    assert run(recorded, Progress(quiet=True)).as_dict()["substitutes"] == []
    held = [Store.open(folder / "store").batch(0) for folder in (tmp_path / "none", tmp_path / "given")]
    assert held[0] is not None and held[1] is not None and not torch.equal(held[0].inputs, held[1].inputs)


def test_metadata_needs_recorded_statistics(teachers: dict[str, Path], tmp_path: Path) -> None:
    overrides = miniature("metadata", "digits")
    request = Request(teachers["digits"], "metadata", tmp_path, overrides, TeacherOptions.of(range=(0, 1)))
    with pytest.raises(RecipeError, match="recorded statistics: give them with --stats PATH"):
        run(request, Progress(quiet=True))


def test_an_int8_student(teachers: dict[str, Path], given: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    wide = "student.architecture={mlp: {hidden: [64]}}"
    reports = {
        kind: extracted("dfq", "digits", teachers["digits"], given["digits"], tmp_path / kind, wide, *more)
        for kind, more in {"float": (), "int8": ("student.quantise=int8",)}.items()
    }
    sizes = {kind: report.as_dict()["student"]["bytes"] for kind, report in reports.items()}
    assert sizes["int8"] < 0.5 * sizes["float"]
