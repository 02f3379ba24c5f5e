"""The straight line from Python, on teachers of other kinds than the demo's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import onnxcake
from onnxcake.core.errors import RecipeError
from onnxcake.onnxfile.export import export
from onnxcake.run.prepare import Request
from onnxcake.runtime.ort import Runtime

CUT = "student.architecture={auto: {keep: 0.45}}"  # else a small teacher of a table may stay whole
SMALL = ["synthesis.rounds=4", "synthesis.batch=60", "synthesis.held_out=1", "student.steps=3"]


def _teacher(folder: Path, net: nn.Module, shape: tuple[int, ...], dtype: str = "float32") -> Path:
    path = folder / "teacher.onnx"
    path.write_bytes(export(net, shape, input_name="values", output_name="scores", opset=13, dtype=dtype))
    return path


class ChannelsFirst(nn.Module):
    """Pictures as bytes, [height, width, channels] in 0…255 → normalised, channels first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 3, 1, 2) / 255 - 0.4) / 0.25


def _net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


TEACHERS = {
    "2-D points": (lambda: _net(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2)), (2,), []),
    "tabular, probabilities": (
        lambda: _net(nn.Linear(9, 32), nn.Tanh(), nn.Linear(32, 3), nn.Softmax(1)), (9,), [],
    ),
    "signal, log-probabilities": (
        lambda: _net(nn.Conv1d(2, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(448, 4), nn.LogSoftmax(1)), (2, 32), [],
    ),
    "colour image, LAKE": (
        lambda: _net(nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10)), (3, 16, 16),
        ["synthesis.update.sign=null", "synthesis.update.langevin.step_size.constant.value=1e-3"],
    ),
    "binary, one logit": (
        lambda: _net(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 1)), (9,), ["input.task=binary"],
    ),
    "binary, one probability": (
        lambda: _net(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten(0), nn.Sigmoid()), (9,), [],
    ),
    "multi-label": (
        lambda: _net(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 4), nn.Sigmoid()), (9,), [],
    ),
    "scores as a map": (
        lambda: _net(nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 10, 7)), (3, 16, 16), [],
    ),
    "bytes, channels last": (
        lambda: _net(ChannelsFirst(), nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)),
        (16, 16, 3), [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("make, shape, overrides", TEACHERS.values(), ids=TEACHERS.keys())
def test_teachers_of_other_kinds(make: object, shape: tuple[int, ...], overrides: list[str], tmp_path: Path) -> None:
    file = _teacher(tmp_path, make(), shape, "uint8" if shape == (16, 16, 3) else "float32")
    report = onnxcake.extract(file, out=tmp_path / "run", overrides=[*SMALL, CUT, *overrides], seed=3)
    assert report.as_dict() == json.loads((tmp_path / "run" / "report.json").read_text())
    assert report.as_dict()["student"]["parameters"] <= report.as_dict()["teacher"]["parameters"] / 2
    assert report.as_dict()["seed"] == 3
    image = Image.open(tmp_path / "run" / "samples.png")
    assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is drawn
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    with Runtime() as runtime:
        teacher, student = (runtime.load(path.read_bytes()) for path in (file, tmp_path / "run" / "student.onnx"))
        assert student.inputs[0][0] == teacher.inputs[0][0]
        assert student.outputs[0][0] == teacher.outputs[0][0]
        theirs, ours = teacher.run(x), student.run(x)
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
    assert student.inputs[0][2] == teacher.inputs[0][2]
    if report.as_dict()["teacher"]["output_kind"] in ("binary_probability", "multilabel_probabilities"):
        assert (ours > 0).all() and (ours < 1).all()
    if report.as_dict()["teacher"]["output_kind"] == "probabilities":
        assert np.allclose(ours.sum(1), 1, atol=1e-5)
    if report.as_dict()["teacher"]["output_kind"] == "log_probabilities":
        assert np.allclose(np.exp(ours).sum(1), 1, atol=1e-5)
    store = onnxcake.StoreDataset(onnxcake.Store.open(tmp_path / "run" / "store"), held_out=True)
    inputs, logits, labels = store[0]
    assert inputs.shape == shape
    assert logits.shape == (report.as_dict()["teacher"]["classes"],)
    assert 0 <= labels < report.as_dict()["teacher"]["classes"]


def test_two_moons_a_student_learns_the_boundary(tmp_path: Path) -> None:
    from sklearn.datasets import make_moons

    x, y = (torch.from_numpy(a) for a in make_moons(1000, noise=0.1, random_state=0))
    x = (x.float() - x.float().mean(0)) / x.float().std(0)
    net = _net(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    np.savez(tmp_path / "moons.npz", x=x.numpy(), y=y.numpy())
    report = onnxcake.extract(
        _teacher(tmp_path, net, (2,)),
        out=tmp_path / "run",
        probe=tmp_path / "moons.npz",
        overrides=["synthesis.rounds=150"],
    )
    assert report.comparison.agreement.value > 0.97


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    file = _teacher(tmp_path, _net(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 4)), (5,))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        onnxcake.extract(file, out=tmp_path / name, overrides=[*SMALL, CUT], seed=seed)
    files = {name: (tmp_path / name / "student.onnx").read_bytes() for name in "abc"}
    shards = {name: {p.name for p in (tmp_path / name / "store").glob("*.safetensors")} for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert shards["a"] == shards["b"]
    assert not shards["a"] & shards["c"]


@pytest.mark.parametrize(("rows", "batch"), [(450, 256), (100, 20), (60, 30), (21, 1), (2, 256)])
def test_what_is_held_out_of_real_inputs_is_not_learnt_from(rows: int, batch: int, tmp_path: Path) -> None:
    file = _teacher(tmp_path, _net(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 4)), (5,))
    given = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    np.save(tmp_path / "given.npy", given)
    report = onnxcake.extract(
        file,
        out=tmp_path / "run",
        recipe="kd",
        data=tmp_path / "given.npy",
        overrides=[f"synthesis.batch={batch}", "student.epochs=1"],
    )
    store = onnxcake.Store.open(tmp_path / "run" / "store")
    sets = (onnxcake.StoreDataset(store, held_out=held_out) for held_out in (False, True))
    learnt, held_out = ({sample[0].numpy().tobytes() for sample in samples} for samples in sets)
    assert learnt.isdisjoint(held_out) and learnt | held_out <= {row.tobytes() for row in given}
    assert (len(learnt), len(held_out)) == (
        report.as_dict()["set"]["samples"],
        report.as_dict()["set"]["held_out_samples"],
    )
    assert len(learnt) > 0.85 * rows or rows == 2


def test_an_architecture_that_does_not_fit_is_refused_before_any_work(tmp_path: Path) -> None:
    file = _teacher(tmp_path, _net(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 4)), (5,))
    with pytest.raises(RecipeError, match="mlp"):
        onnxcake.extract(file, out=tmp_path / "run", overrides=[*SMALL, "student.architecture=resnet18"])
    assert not (tmp_path / "run").exists()


def test_the_default_folder_is_the_teachers_name() -> None:
    assert Request(teacher=Path("models/vendor-v2.onnx")).folder == Path("vendor-v2")
