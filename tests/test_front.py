"""The student takes what the teacher's file takes: what is before the chosen value stays in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import in_process
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcake.graph.front import CannotJoin, joined
from onnxcake.graph.load import load
from onnxcake.graph.normalise import Choice, normalise

N = helper.make_node
F, LONG, B, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
RNG = np.random.default_rng(0)


def value(name: str, *shape: str | int | None, kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


def answers(model: str | Path | bytes, feeds: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The first output of a model in a plain session."""
    content = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, feeds)[0]
    return found


DENSE = [N("Gemm", ["h", "W"], ["z"]), N("Relu", ["z"], ["r"]), N("Gemm", ["r", "V"], ["y"])]
TEXT = [
    N("Gather", ["E", "ids"], ["h"]),
    N("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
    N("Conv", ["t", "W"], ["c"], kernel_shape=[3]),
    N("Relu", ["c"], ["r"]),
    N("GlobalAveragePool", ["r"], ["g"]),
    N("Flatten", ["g"], ["m"]),
    N("Gemm", ["m", "V"], ["y"]),
]
COLUMNS = [value(name, None, 1) for name in ("age", "income")]

# nodes, weights, inputs, the command's options, and rows of the file's own inputs
TEACHERS: dict[str, tuple[list[Any], dict[str, Any], list[Any], list[str], dict[str, Any]]] = {
    "ids": (
        TEXT,
        {"E": normal(50, 8), "W": normal(16, 8, 3), "V": normal(16, 3)},
        [value("ids", "batch", 12, kind=LONG)],
        [],
        {"ids": RNG.integers(0, 50, (40, 12))},
    ),
    "a column of numbers and one of texts": (
        [
            N("LabelEncoder", ["city"], ["k"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_int64s=[0, 1]),
            N("OneHotEncoder", ["k"], ["o"], domain="ai.onnx.ml", cats_int64s=[0, 1]),
            N("Flatten", ["o"], ["f"]),
            N("Concat", ["age", "f"], ["h"], axis=1),
            *DENSE,
        ],
        {"W": normal(3, 16), "V": normal(16, 3)},
        [value("age", None, 1), value("city", None, 1, kind=S)],
        [],
        {"age": normal(40, 1), "city": RNG.choice(["a", "b"], (40, 1)).astype(object)},
    ),
    "columns, and a switch that is held": (
        [
            N("Concat", ["age", "income"], ["c"], axis=1),
            N("Where", ["flip", "c", "zero"], ["h"]),
            *DENSE,
        ],
        {"W": normal(2, 16), "V": normal(16, 3), "zero": np.float32(0)},
        [*COLUMNS, value("flip", kind=B)],
        ["--hold", "flip=true"],
        {"age": normal(40, 1), "income": normal(40, 1)},
    ),
    "a vector that is held": (
        [N("Concat", ["x", "side"], ["h"], axis=1), *DENSE],
        {"W": normal(7, 16), "V": normal(16, 3)},
        [value("side", "batch", 3), value("x", "batch", 4)],
        ["--input", "x", "--hold", "side=1,2,3"],
        {"x": normal(40, 4)},
    ),
}


def saved(name: str, folder: Path, handmade: Any, opset: int = 17) -> Path:
    nodes, weights, inputs, _, _ = TEACHERS[name]
    model = handmade(nodes, weights, inputs=inputs, domains={"ai.onnx.ml": 3}, opset=opset)
    onnx.save(model, folder / "t.onnx")
    return folder / "t.onnx"


@pytest.mark.parametrize("name", TEACHERS)
def test_extract_keeps_the_front(name: str, tmp_path: Path, handmade: Any) -> None:
    teacher, feeds = saved(name, tmp_path, handmade), TEACHERS[name][4]
    options = ["--passes", "1e3", "-o", "synthesis.pace=plain", *TEACHERS[name][3]]
    ended = in_process.command("extract", teacher, *options, "--out", "run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    student = onnx.load(tmp_path / "run" / "student.onnx")
    wanted = onnx.load(teacher).graph
    assert [(v.name, v.type) for v in student.graph.input] == [(v.name, v.type) for v in wanted.input]
    assert [v.name for v in student.graph.output] == ["y"]
    onnx.checker.check_model(student, full_check=True)
    got = answers(tmp_path / "run" / "student.onnx", feeds)
    held = {"flip": np.array(True), "side": np.tile(np.float32([[1, 2, 3]]), (40, 1))}
    more = {v.name: held[v.name] for v in wanted.input if v.name not in feeds}
    np.testing.assert_array_equal(got, answers(tmp_path / "run" / "student.onnx", {**feeds, **more}))
    assert got.shape == answers(teacher, {**feeds, **more}).shape


@pytest.mark.parametrize("name", TEACHERS)
def test_shrink_of_nothing_is_the_teacher(name: str, tmp_path: Path, handmade: Any) -> None:
    teacher, feeds = saved(name, tmp_path, handmade), TEACHERS[name][4]
    ended = in_process.command("shrink", teacher, "--keep", "1", *TEACHERS[name][3], "--out", "s.onnx", cwd=tmp_path)
    assert ended.code == 0, ended.err
    held = {"flip": np.array(True), "side": np.tile(np.float32([[1, 2, 3]]), (40, 1))}
    more = {v.name: held[v.name] for v in onnx.load(teacher).graph.input if v.name not in feeds}
    np.testing.assert_allclose(answers(tmp_path / "s.onnx", feeds), answers(teacher, {**feeds, **more}), atol=2e-4)


def front_of(name: str, folder: Path, handmade: Any, opset: int = 17) -> bytes:
    front = normalise(load(saved(name, folder, handmade, opset)), Choice()).front
    assert front is not None
    return front.content()


def student_of(opset: int, nodes: list[Any], *shape: str | int, **weights: Any) -> bytes:
    """A student that takes ``h``, whose other names are some of the teacher's."""
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "s", [value("h", *shape)], [value("y", "batch", 3)], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("opsets", [(17, 17), (13, 17), (17, 13), (20, 17), (11, 13), (11, 17), (22, 17)])
def test_names_and_opsets_are_brought_together(opsets: tuple[int, int], tmp_path: Path, handmade: Any) -> None:
    front = front_of("ids", tmp_path, handmade, opsets[0])
    weights = {"E": normal(96, 3), "ids": normal(3)}
    nodes = [N("Reshape", ["h", "size"], ["t"]), N("Gemm", ["t", "E", "ids"], ["y"])]
    student = student_of(opsets[1], nodes, "batch", 12, 8, **weights, size=np.array([-1, 96]))
    whole = joined(front, student)
    onnx.checker.check_model(onnx.ModelProto.FromString(whole), full_check=True)
    feeds = TEACHERS["ids"][4]
    inner = answers(front, feeds)
    np.testing.assert_allclose(answers(whole, feeds), answers(student, {"h": inner}), atol=1e-5)


def test_parts_that_cannot_be_joined_are_refused(tmp_path: Path, handmade: Any) -> None:
    front = front_of("a column of numbers and one of texts", tmp_path, handmade)
    student = onnx.ModelProto.FromString(student_of(17, [N("Identity", ["h"], ["y"])], "batch", 3))
    student.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    student.graph.node[0].CopyFrom(N("LabelEncoder", ["h"], ["y"], domain="ai.onnx.ml"))
    with pytest.raises(CannotJoin):
        joined(front, student.SerializeToString())
