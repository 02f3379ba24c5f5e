"""int8 files of each of onnxruntime's ways as teachers: usable on every processor, with what this one makes of them.

On x86 without VNNI onnxruntime's kernels saturate at some of these; the reference is the exact arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from in_process import command
from onnx import numpy_helper
from plain_session import plain_session
from quantised_models import WAYS, inputs, quantised

from onnxcake import Teacher, inspect
from onnxcake.evaluate.integer_kernels import HostArithmetic, saturated
from onnxcake.graph.dequantise import holds_rounding
from onnxcake.run import export_student
from onnxcake.runtime.ort import Runtime


@pytest.mark.parametrize("way", WAYS)
def test_it_can_be_used_and_its_answers_are_the_exact_ones(way: str, tmp_path: Path) -> None:
    proto, x = quantised("swish", way), inputs("swish", 64)
    onnx.save(proto, tmp_path / "t.onnx")
    found = inspect(tmp_path / "t.onnx")
    found.check()
    want = plain_session(proto.SerializeToString()).run(None, {"x": x})[0]
    host = plain_session(proto.SerializeToString(), "host").run(None, {"x": x})[0]
    assert found.data["host"]["processor"] and 0 <= found.data["host"]["difference"] < 1
    if np.array_equal(want, host):
        assert found.data["host"]["difference"] == 0
    teacher = Teacher.load(tmp_path / "t.onnx")
    away = np.abs(teacher.logits(torch.from_numpy(x)).numpy() - want).max(1) / np.abs(want).max()
    assert np.quantile(away, 0.9) < 0.02  # a tie that the last bit decides is one step of the grid


def test_a_kernel_that_saturates_is_reported_and_does_not_condemn(tmp_path: Path, runtime: Runtime) -> None:
    """Weights at both ends of int8 and inputs at the end of uint8: a kernel that saturates is far off."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,64] x) => (float[N,3] y) {
        q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) d = DequantizeLinear(w, t, n) m = MatMul(a, d)
        r = QuantizeLinear(m, u, z) y = DequantizeLinear(r, u, z) }"""
    model = onnx.parser.parse_model(text)
    w = np.full((64, 3), 127, np.int8)
    w[:, 1], w[::2, 2] = -128, 0
    weights = {"w": w, "s": np.float32(0.02), "t": np.float32(0.01), "u": np.float32(2.0)}
    zeros: dict[str, Any] = {"z": np.uint8(128), "n": np.int8(0)}
    for key, value in {**weights, **zeros}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
    onnx.save(model, tmp_path / "t.onnx")
    x = np.full((2, 64), 2.5, np.float32)
    found = inspect(tmp_path / "t.onnx", None)
    found.check()
    teacher = Teacher.load(tmp_path / "t.onnx")
    real = x.astype(np.float64).clip(-2.56, 2.54) @ (w.astype(np.float64) * 0.01)
    exact = runtime.load(teacher.model, weights=teacher.weights).run(x)
    np.testing.assert_allclose(exact, real, atol=1.01)
    host = runtime.load(teacher.model, weights=teacher.weights, arithmetic="host").run(x)
    saturating = abs(host - real).max() > 2
    assert saturating == (found.data["host"]["difference"] > 0.1)


@pytest.mark.parametrize(("agreement", "alarms"), [(None, 0), (0.995, 0), (0.76, 1)])
def test_answers_that_differ_here_are_an_alarm(agreement: float | None, alarms: int) -> None:
    said = saturated("student", None if agreement is None else HostArithmetic(agreement, 0.4, "EPYC (avx2)"))
    assert len(said) == alarms and all("24.0%" in alarm and "EPYC (avx2)" in alarm for alarm in said)


def test_a_student_of_an_int8_teacher_is_checked_by_what_its_file_holds(tmp_path: Path) -> None:
    onnx.save(quantised("swish", "qdq per channel"), tmp_path / "t.onnx")
    ended = command("extract", tmp_path / "t.onnx", "--passes", "3e3", "--out", tmp_path / "run", "--json")
    assert ended.code == 0, ended.err
    student = (tmp_path / "run" / "student.onnx").read_bytes()
    allowed = export_student.PARITY_INT8 if holds_rounding(student) else export_student.PARITY
    assert ended.told["student"]["torch_vs_onnxruntime"] <= allowed == export_student._allowed(student)
    assert set(ended.told["teacher"]["host"]) == {"agreement", "difference", "processor"}
    assert ("host" in ended.told["student"]) == holds_rounding(student)
    if len(student) > (tmp_path / "t.onnx").stat().st_size:
        assert any("larger than its teacher" in alarm for alarm in ended.told["alarms"])
    for side in ("teacher", "student"):
        doubted = any(f"give the {side} another class" in alarm for alarm in ended.told["alarms"])
        assert doubted == (ended.told[side].get("host", {"agreement": 1})["agreement"] < 0.99)
    assert "int8 on this processor" in (tmp_path / "run" / "report.txt").read_text()
    checked = command("verify", tmp_path / "t.onnx", tmp_path / "run" / "student.onnx", "--json")
    assert checked.code == 0 and set(checked.told["teacher"]["host"]) == {"agreement", "difference", "processor"}
