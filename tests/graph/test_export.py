"""A student's file: the module's own answers under the teacher's names, and nothing of this host in it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxcake.onnxfile import export as exporting
from onnxcake.onnxfile.export import ExportFailed, export
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.teacher import Teacher


def network() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norm, nn.SiLU(), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


SHAPE = (2, 6, 6)


def exported(module: nn.Module | None = None, **asked: Any) -> bytes:
    names = {"input_name": "image", "output_name": "scores", "opset": 17}
    return export(module or network(), SHAPE, **{**names, **asked})


def inputs(count: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("opset", [9, 13, 14, 15, 16, 17, 18, 21])
def test_answers_are_the_modules(opset: int, runtime: Runtime) -> None:
    module = network().train()
    content = exported(module, opset=opset)
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == min(max(opset, 13), 17)
    session = runtime.load(content)
    assert session.inputs == [["image", ["batch", *SHAPE], "tensor(float)"]]
    assert session.outputs == [["scores", ["batch", 3], "tensor(float)"]]
    for batch in (1, 2, 7):
        x = inputs(batch)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(x.numpy()), module.eval()(x).numpy(), atol=1e-5)


def test_the_same_module_gives_the_same_bytes() -> None:
    assert exported() == exported()


def test_nothing_of_this_host_is_in_it() -> None:
    content = exported()
    for word in (str(Path.cwd()), str(Path.home()), socket.gethostname(), "site-packages", ".py", "torch", "pytorch"):
        assert word.encode() not in content
    model = onnx.load_model_from_string(content)
    assert (model.producer_name, model.producer_version, model.doc_string) == ("onnxcake", "", "")
    assert not model.metadata_props
    assert not any(item.doc_string for item in (*model.graph.node, *model.graph.input, *model.graph.initializer))


def test_a_student_is_a_teacher(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "student.onnx").write_bytes(exported(nn.Sequential(network(), nn.Softmax(1))))
    teacher = Teacher.load(tmp_path / "student.onnx")
    assert (teacher.signature.input_name, teacher.signature.output_name) == ("image", "scores")
    assert teacher.signature.output_kind == "probabilities"
    x = inputs(5)
    torch.testing.assert_close(teacher.logits(x), network().eval()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        '"; import os',
        "'+__import__('os').system('touch CANARY')+'",
        "back\\slash",
        "new\nline",
        "__class__",
        "\x1b[31m",
        "0.weight",
        "5.bias",
        "/0/Conv_output_0",
        "onnx::Gemm_12",
        "input.1",
        "batch",
        "é層",
        "x" * 10_000,
        "7",
        "a b",
    ],
)
def test_any_name_of_a_teacher_is_kept(
    name: str, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = inputs(3)
    wanted = network().eval()(x).detach().numpy()
    for asked in ({"input_name": name}, {"output_name": name}, {"input_name": name, "output_name": name + "!"}):
        session = runtime.load(exported(**asked))
        told = {"input_name": session.inputs[0][0], "output_name": session.outputs[0][0]}
        assert asked.items() <= told.items()
        np.testing.assert_allclose(session.run(x.numpy()), wanted, atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_the_current_exporter_takes_over_where_the_old_one_fails(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> onnx.ModelProto:
        raise RuntimeError("no")

    monkeypatch.setattr(exporting, "_export_traced", fails)
    module = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    content = exported(module)
    session = runtime.load(content)
    assert (session.inputs[0][0], session.outputs[0][0]) == ("image", "scores")
    for batch in (1, 5):
        x = inputs(batch)
        np.testing.assert_allclose(session.run(x.numpy()), module(x).detach().numpy(), atol=1e-5)
    assert b"site-packages" not in content and b"torch" not in content
    assert exported(module) == content


def test_a_module_that_cannot_be_exported_is_a_bug_that_tells_all_reasons() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("out of order")

    with pytest.raises(ExportFailed, match=r"traced: out of order.*captured: ") as caught:
        exported(Broken())
    assert caught.value.exit_code == 1


def test_a_file_that_does_not_pass_the_check_is_exported_the_other_way() -> None:
    seen: list[bytes] = []

    def second_only(content: bytes) -> None:
        seen.append(content)
        if len(seen) == 1:
            raise ValueError("onnxruntime disagrees")

    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    content = export(net, (3,), input_name="x", output_name="y", opset=17, check=second_only)
    assert len(seen) == 2 and content == seen[1] != seen[0]
