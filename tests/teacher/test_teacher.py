"""A loaded teacher answers as its file does, and its gradient is the file's gradient."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.errors import UsageError
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.facts import Facts
from onnxcake.teacher.scores import logits_to_output
from onnxcake.teacher.teacher import Teacher

CLASSES = 5


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


class Normalised(nn.Module):
    """Probabilities that no Softmax makes."""

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.sigmoid(x)
        return positive / positive.sum(1, keepdim=True)


class LogOfSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.softmax(x, 1))


class Shaped(nn.Module):
    """Flatten with the batch size that it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, CLASSES))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        norm,
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(4),
        nn.AvgPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


BODIES: dict[str, tuple[Any, tuple[int, ...]]] = {"mlp": (mlp, (6,)), "cnn": (cnn, (2, 8, 8))}
TAILS: dict[str, tuple[nn.Module, str]] = {
    "logits": (nn.Identity(), "logits"),
    "softmax": (nn.Softmax(1), "probabilities"),
    "softmax, last axis": (nn.Softmax(-1), "probabilities"),
    "log_softmax": (nn.LogSoftmax(1), "log_probabilities"),
    "log of softmax": (LogOfSoftmax(), "log_probabilities"),
    "normalised otherwise": (Normalised(), "probabilities"),
}


def inputs_of(shape: tuple[int, ...], count: int = 9, seed: int = 7) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("opset", range(13, 18))
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("body", BODIES)
def test_answers_are_the_files(body: str, tail: str, opset: int, tmp_path: Path, export: Any, runtime: Runtime) -> None:
    make, shape = BODIES[body]
    module, kind = TAILS[tail]
    path = export(nn.Sequential(make(), module), shape, tmp_path / "t.onnx", opset=opset)
    teacher = Teacher.load(path)
    x = inputs_of(shape)
    file = torch.from_numpy(runtime.load(path.read_bytes()).run(x.numpy()))
    logits = teacher.logits(x)

    assert teacher.signature.output_kind == kind
    assert (teacher.signature.classes, teacher.signature.input_shape) == (CLASSES, shape)
    assert (teacher.signature.input_name, teacher.signature.output_name) == ("x", "y")
    assert teacher.facts.opset == opset
    probabilities = {"logits": file.softmax(1), "log_probabilities": file.exp()}.get(kind, file)
    torch.testing.assert_close(logits.softmax(1), probabilities, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits_to_output(teacher.signature)(logits), file, atol=1e-4, rtol=1e-4)
    if tail != "normalised otherwise":  # the very tensor before the tail, not just equal up to a shift
        torch.testing.assert_close(logits, make().eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("body", BODIES)
def test_gradient_equals_central_differences(body: str, tail: str, tmp_path: Path, export: Any) -> None:
    make, shape = BODIES[body]
    path = export(nn.Sequential(make(), TAILS[tail][0]), shape, tmp_path / "t.onnx")
    graph = copy.deepcopy(Teacher.load(path).graph).double()
    x = inputs_of(shape, 2).double().requires_grad_(True)
    weight = inputs_of((CLASSES,), 2, seed=8).double()

    def value(at: Tensor) -> Tensor:
        return (graph(at) * weight).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    differences = torch.empty_like(gradient)
    step = 1e-6
    with torch.no_grad():
        for i in range(x.numel()):
            offset = torch.zeros(x.numel(), dtype=torch.float64)
            offset[i] = step
            offset = offset.reshape(x.shape)
            differences.view(-1)[i] = (value(x + offset) - value(x - offset)) / (2 * step)
    torch.testing.assert_close(gradient, differences, atol=1e-6, rtol=1e-5)
    assert gradient.abs().max() > 1e-3


def test_weights_are_frozen_and_nothing_is_learnt(tmp_path: Path, export: Any) -> None:
    teacher = Teacher.load(export(cnn(), (2, 8, 8), tmp_path / "t.onnx"))
    before = copy.deepcopy(teacher.graph.state_dict())
    x = inputs_of((2, 8, 8)).requires_grad_(True)
    first = teacher.logits(x)
    first.square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0
    assert not teacher.graph.training
    weights = list(teacher.graph.buffers())
    assert weights and not list(teacher.graph.parameters())
    assert all(not w.requires_grad and w.grad is None for w in weights)
    assert all(torch.equal(before[name], value) for name, value in teacher.graph.state_dict().items())
    assert torch.equal(first, teacher.logits(x)), "dropout is off"


def test_facts_are_of_the_file(tmp_path: Path, export: Any) -> None:
    path = export(nn.Sequential(cnn(), nn.Softmax(1)), (2, 8, 8), tmp_path / "my teacher.onnx", opset=15)
    facts = Teacher.load(path, range=(0, 255), mean=[1, 2], std=[3, 4]).facts
    content = path.read_bytes()
    assert (facts.name, facts.size_bytes, facts.opset) == ("my teacher.onnx", len(content), 15)
    assert facts.digest == hashlib.sha256(content).hexdigest()
    folded = sum(int(np.prod(w.dims)) for w in onnx.load_model_from_string(content).graph.initializer)
    assert facts.parameters == folded
    assert facts.operators["Conv"] == 2 and "Softmax" not in facts.operators
    assert 0 <= facts.parity < 1e-5
    assert facts.signature.mean == (1.0, 2.0) and facts.signature.range == (0.0, 255.0)
    assert Facts.from_dict(json.loads(json.dumps(facts.as_dict()))) == facts


def test_facts_that_are_not_complete_are_not_taken(tmp_path: Path, export: Any) -> None:
    told = Teacher.load(export(mlp(), (6,), tmp_path / "t.onnx")).facts.as_dict()
    younger = {"baked_batch", "class_names"}  # which folders of older runs do not have
    for key in told.keys() - younger:
        with pytest.raises((TypeError, KeyError)):
            Facts.from_dict({k: v for k, v in told.items() if k != key})


def test_loading_leaves_nothing_behind(tmp_path: Path, export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(mlp(), (6,), tmp_path / "t.onnx")
    content = path.read_bytes()
    path.chmod(0o400)
    monkeypatch.chdir(tmp_path)
    teacher = Teacher.load("t.onnx")  # a relative path; an onnxruntime of its own
    assert [p.name for p in tmp_path.iterdir()] == ["t.onnx"] and path.read_bytes() == content
    assert teacher.logits(inputs_of((6,))).shape == (9, CLASSES)


def test_a_link_to_a_file_is_a_file(tmp_path: Path, export: Any) -> None:
    export(mlp(), (6,), tmp_path / "blob")
    (tmp_path / "t.onnx").symlink_to("blob")
    assert Teacher.load(tmp_path / "t.onnx").name == "t.onnx"


def test_loading_twice_gives_the_same_teacher(tmp_path: Path, export: Any) -> None:
    path = export(cnn(), (2, 8, 8), tmp_path / "t.onnx")
    first, second = (Teacher.load(path) for _ in range(2))
    x = inputs_of((2, 8, 8))
    assert first.facts == second.facts and first.model == second.model
    assert torch.equal(first.logits(x), second.logits(x))


def test_standard_units_go_through_the_range(tmp_path: Path, export: Any) -> None:
    path = export(mlp(), (6,), tmp_path / "t.onnx")
    x = inputs_of((6,))
    plain = Teacher.load(path)
    scaled = Teacher.load(path, range=(-1, 7))
    assert torch.equal(plain.logits_of_standard(x), plain.logits(x))
    assert torch.equal(scaled.logits_of_standard(x), plain.logits(x * 2 + 3))


@pytest.mark.parametrize("traced_batch", [1])
@pytest.mark.parametrize("body", BODIES)
def test_a_fixed_batch_that_nothing_depends_on_is_freed(
    body: str, traced_batch: int, tmp_path: Path, export: Any
) -> None:
    make, shape = BODIES[body]
    path = export(make(), shape, tmp_path / "t.onnx", dynamic=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == traced_batch
    teacher = Teacher.load(path)
    x = inputs_of(shape)
    torch.testing.assert_close(teacher.logits(x), make().eval()(x), atol=1e-4, rtol=1e-4)


def test_a_baked_in_batch_is_set_free(tmp_path: Path, export: Any) -> None:
    baked = nn.Sequential(Shaped(), nn.Linear(6, CLASSES))
    path = export(baked, (2, 3), tmp_path / "t.onnx", dynamic=False)
    teacher = Teacher.load(path)
    x = inputs_of((2, 3))
    assert teacher.facts.fixed_batch is None, "set free"
    torch.testing.assert_close(teacher.logits(x), baked.eval()(x), atol=1e-4, rtol=1e-4)


class Wandering(nn.Module):
    """Mix its inputs with those of the batch that it was traced with, where no rewriting can follow."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(int(x.shape[0] * x.shape[1]), int(x.shape[2]))
        return rows.t().reshape(int(x.shape[2]), int(x.shape[0]), -1).permute(1, 0, 2).reshape(int(x.shape[0]), -1)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_batch_that_cannot_be_set_free_is_run_in_pieces(count: int, tmp_path: Path, export: Any) -> None:
    module = nn.Sequential(Wandering(), nn.Linear(6, CLASSES)).eval()
    teacher = Teacher.load(export(module, (2, 3), tmp_path / "t.onnx", dynamic=False))
    x = inputs_of((2, 3), count).requires_grad_(True)
    wanted = torch.cat([module(one[None]) for one in x])
    torch.testing.assert_close(teacher.logits(x), wanted, atol=1e-4, rtol=1e-4)
    got, right = (torch.autograd.grad(y.square().sum(), x)[0] for y in (teacher.logits(x), wanted))
    torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)


def test_one_score_matrix_among_several_outputs_is_taken(tmp_path: Path, handmade: Any, normal: Any) -> None:
    nodes = [
        "h = Relu(x) scores = MatMul(h, W) features = MatMul(h, unused) deep = Unsqueeze(features, axes)",
        "label = ArgMax<axis=1, keepdims=0>(scores)",
    ]
    outputs = "int64[batch] label, float[batch,3] scores, float[batch,1,70] deep"
    weights = {"W": normal(4, 3), "unused": normal(4, 70), "axes": np.array([1])}
    path = tmp_path / "t.onnx"
    onnx.save(handmade(nodes, weights, outputs=outputs), path)
    teacher = Teacher.load(path)
    assert teacher.signature.output_name == "scores"
    assert teacher.facts.parameters == 12 and teacher.facts.operators == {"Relu": 1, "MatMul": 1}


@pytest.mark.parametrize("device", ["gpu", "cuda:7", ""])
def test_an_unknown_device_is_refused(device: str, tmp_path: Path, export: Any) -> None:
    with pytest.raises(UsageError, match="device"):
        Teacher.load(export(mlp(), (6,), tmp_path / "t.onnx"), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_where_there_is_none_is_refused(tmp_path: Path, export: Any) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        Teacher.load(export(mlp(), (6,), tmp_path / "t.onnx"), device="cuda")
