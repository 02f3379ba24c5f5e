"""The student takes what the teacher's file takes: what is before the chosen value stays in front of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcake.onnxfile.front import CannotJoin, joined
from onnxcake.onnxfile.input_choice import GraphChoice
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise
from onnxcake.teacher.teacher import Teacher

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
    if isinstance(session.get_inputs()[0].shape[0], int):  # a fixed batch
        rows = [session.run(None, {k: a[i : i + 1] for k, a in feeds.items()})[0] for i in range(40)]
        return np.concatenate(rows)
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


TEACHERS["a batch of one, fixed"] = (*TEACHERS["ids"][:2], [value("ids", 1, 12, kind=LONG)], [], TEACHERS["ids"][4])
TEACHERS["ids of a quantised table, turned before they are made floats"] = (
    [
        N("Gather", ["E", "ids"], ["e"]),
        N("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        N("DequantizeLinear", ["t", "scale", "point"], ["f"]),
        N("GRU", ["f", "W", "R"], ["", "g"], hidden_size=6),
        N("Squeeze", ["g", "first"], ["s"]),
        N("Gemm", ["s", "V"], ["y"]),
    ],
    {
        "E": RNG.integers(-100, 100, (50, 4)).astype(np.int8), "scale": np.array(0.02, "f"), "point": np.array(3, "b"),
        "W": normal(1, 18, 4), "R": normal(1, 18, 6), "V": normal(6, 3), "first": np.array([0]),
    },
    [value("ids", 1, 12, kind=LONG)],
    [],
    {"ids": RNG.integers(0, 50, (40, 12))},
)  # fmt: skip
TEACHERS["a hidden state"] = (
    [
        N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        N("GRU", ["t", "W", "R", "", "", "start"], ["", "g"], hidden_size=6),
        N("Squeeze", ["g", "first"], ["s"]),
        N("Gemm", ["s", "V"], ["y"]),
    ],
    {"W": normal(1, 18, 4), "R": normal(1, 18, 6), "V": normal(6, 3), "first": np.array([0])},
    [value("x", "batch", 5, 4), value("start", 1, "batch", 6)],
    ["--input", "x", "--hold", "start=0.5"],
    {"x": normal(40, 5, 4)},
)
HELD = {
    "flip": np.array(True),
    "side": np.tile(np.float32([[1, 2, 3]]), (40, 1)),
    "start": np.full((1, 40, 6), 0.5, "f"),
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
    more = {v.name: HELD[v.name] for v in wanted.input if v.name not in feeds}
    np.testing.assert_array_equal(got, answers(tmp_path / "run" / "student.onnx", {**feeds, **more}))
    assert got.shape == answers(teacher, {**feeds, **more}).shape


@pytest.mark.parametrize("name", TEACHERS)
def test_shrink_of_nothing_is_the_teacher(name: str, tmp_path: Path, handmade: Any) -> None:
    teacher, feeds = saved(name, tmp_path, handmade), TEACHERS[name][4]
    ended = in_process.command("shrink", teacher, "--keep", "1", *TEACHERS[name][3], "--out", "s.onnx", cwd=tmp_path)
    assert ended.code == 0, ended.err
    more = {v.name: HELD[v.name] for v in onnx.load(teacher).graph.input if v.name not in feeds}
    np.testing.assert_allclose(answers(tmp_path / "s.onnx", feeds), answers(teacher, {**feeds, **more}), atol=2e-4)


def front_of(name: str, folder: Path, handmade: Any, opset: int = 17) -> bytes:
    front = normalise(load(saved(name, folder, handmade, opset)), GraphChoice()).front
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


# --- two files, fed by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEACHERS)
def test_verify_and_extract_take_the_files_own_inputs(name: str, tmp_path: Path, handmade: Any) -> None:
    teacher, feeds = saved(name, tmp_path, handmade), TEACHERS[name][4]
    as_saved = {key: array.astype(str) if array.dtype == object else array for key, array in feeds.items()}
    np.savez(tmp_path / "real.npz", **as_saved, labels=RNG.integers(0, 3, 40))
    options = [*TEACHERS[name][3], "--probe", "real.npz"]
    asked = ["extract", teacher, "--passes", "1e3", "-o", "synthesis.pace=plain", *options, "--out", "run"]
    ended = in_process.command(*asked, cwd=tmp_path)
    assert ended.code == 0, ended.err
    told = json.loads((tmp_path / "run" / "report.json").read_text())["agreement"]["probe"]
    more = {v.name: HELD[v.name] for v in onnx.load(teacher).graph.input if v.name not in feeds}
    student = tmp_path / "run" / "student.onnx"
    wanted = (answers(teacher, {**feeds, **more}).argmax(1) == answers(student, feeds).argmax(1)).mean()
    assert told["samples"] == 40 and told["agreement"]["value"] == pytest.approx(wanted)
    ended = in_process.command("verify", teacher, student, *options, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.told["agreement"]["probe"]["agreement"] == told["agreement"]
    for others in (TEACHERS[name][3], [*TEACHERS[name][3], "--store", "run"]):
        ended = in_process.command("verify", teacher, student, *others, "--json", cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert sum(found["samples"] for found in ended.told["agreement"].values()) > 100
    same = in_process.command("verify", teacher, teacher, *options, "--json", cwd=tmp_path)
    assert same.told["agreement"]["probe"]["agreement"]["value"] == 1


MASKED = [
    N("Gather", ["E", "ids"], ["h"]),
    N("Cast", ["mask"], ["m"], to=F),
    N("Unsqueeze", ["m", "last"], ["u"]),
    N("MatMul", ["h", "W"], ["z"]),
    N("Relu", ["z"], ["r"]),
    N("Mul", ["r", "u"], ["k"]),
    N("ReduceMean", ["k"], ["y"], axes=[1], keepdims=0),
]


def masked(folder: Path, handmade: Any) -> Path:
    """A teacher of ids and a mask of free length."""
    inputs = [value(one, "batch", "length", kind=LONG) for one in ("ids", "mask")]
    weights = {"E": normal(50, 8), "W": normal(8, 3), "last": np.array([2])}
    onnx.save(handmade(MASKED, weights, inputs=inputs), folder / "t.onnx")
    return folder / "t.onnx"


def test_what_is_held_is_fed_where_the_probe_has_it(tmp_path: Path, handmade: Any) -> None:
    teacher = masked(tmp_path, handmade)
    flipped, turn = onnx.load(teacher), np.float32([1, -1, 2])
    flipped.graph.node.extend([N("Mul", ["y", "turn"], ["other"])])
    flipped.graph.initializer.append(numpy_helper.from_array(turn, "turn"))
    flipped.graph.output[0].name = "other"
    onnx.save(flipped, tmp_path / "s.onnx")
    ids, mask = RNG.integers(0, 50, (60, 9)), RNG.integers(0, 2, (60, 9))
    np.savez(tmp_path / "both.npz", ids=ids, mask=mask)
    np.savez(tmp_path / "ids.npz", ids=ids)
    options = ["--input", "h", "--hold", "mask=1", "--shape", "1,5,8", "--json"]
    for probe, real in (("both.npz", mask), ("ids.npz", np.ones_like(mask))):
        ended = in_process.command("verify", teacher, "s.onnx", *options, "--probe", probe, cwd=tmp_path)
        assert ended.code == 0, ended.err
        rows = answers(teacher, {"ids": ids, "mask": real})
        wanted = (rows.argmax(1) == (rows * turn).argmax(1)).mean()
        assert ended.told["agreement"]["probe"]["agreement"]["value"] == pytest.approx(wanted), probe


def test_files_of_other_inputs_are_no_pair(tmp_path: Path, handmade: Any) -> None:
    teacher = saved("ids", tmp_path, handmade)
    nodes, weights, _, _, _ = TEACHERS["ids"]
    other = [N(n.op_type, ["words" if i == "ids" else i for i in n.input], n.output) for n in nodes[:1]]
    model = handmade([*other, *nodes[1:]], weights, inputs=[value("words", "batch", 12, kind=LONG)])
    onnx.save(model, tmp_path / "other.onnx")
    ended = in_process.command("verify", teacher, "other.onnx", cwd=tmp_path)
    assert ended.code == 2 and "'words'" in ended.err


def test_ids_that_the_table_does_not_have_are_refused(tmp_path: Path, handmade: Any) -> None:
    teacher = saved("ids", tmp_path, handmade)
    np.savez(tmp_path / "real.npz", ids=np.full((5, 12), 50))
    ended = in_process.command("verify", teacher, teacher, "--probe", "real.npz", cwd=tmp_path)
    assert ended.code == 2 and "real.npz" in ended.err and "Traceback" not in ended.err


# --- what values the chosen value takes ---------------------------------------------------------------------


def test_values_are_those_of_the_table(tmp_path: Path, handmade: Any) -> None:
    nodes, _, inputs, _, _ = TEACHERS["ids"]
    table = (normal(50, 8) * np.float32([1, 2, 3, 4, 5, 6, 7, 8]) + 10).astype(np.float32)
    weights = {"E": table, "W": normal(16, 8, 3), "V": normal(16, 3)}
    onnx.save(handmade(nodes, weights, inputs=inputs), tmp_path / "t.onnx")
    signature = Teacher.load(tmp_path / "t.onnx").signature
    location, deviation = np.reshape(signature.location, (12, 8)), np.reshape(signature.deviation, (12, 8))
    np.testing.assert_allclose(location, np.tile(table.mean(0), (12, 1)), atol=4 * table.std(0).max() / 6000**0.5)
    np.testing.assert_allclose(deviation, np.tile(table.std(0), (12, 1)), rtol=0.1)
    assert signature.range is not None
    np.testing.assert_allclose(signature.range, (table.min(), table.max()), rtol=1e-5)
    said = Teacher.load(tmp_path / "t.onnx", range=(0, 20)).signature
    assert said.range == (0, 20), "what the user says goes before"


def test_features_of_floats_alone_are_not_measured(tmp_path: Path, handmade: Any) -> None:
    signature = Teacher.load(saved("a column of numbers and one of texts", tmp_path, handmade)).signature
    assert (signature.location[0], signature.deviation[0]) == (0, 1), "the column of numbers"
    np.testing.assert_allclose(signature.location[1:], 0.5, atol=0.1)
    np.testing.assert_allclose(signature.deviation[1:], 0.5, atol=0.05)
    assert signature.range is None


@pytest.mark.parametrize("asked", [None, "1,32,8"])
def test_sizes_that_the_part_before_does_not_take(asked: str | None, tmp_path: Path, handmade: Any) -> None:
    """Positions of at most 20 are added before the value that is chosen."""
    nodes = [
        N("Gather", ["E", "ids"], ["e"]),
        N("Shape", ["ids"], ["s"]),
        N("Gather", ["s", "last"], ["n"]),
        N("Slice", ["P", "first", "n"], ["p"]),
        N("Add", ["e", "p"], ["a"]),
        N("Gather", ["G", "kinds"], ["g"]),
        N("Add", ["a", "g"], ["h"]),
        N("MatMul", ["h", "W"], ["z"]),
        N("ReduceMean", ["z"], ["y"], axes=[1], keepdims=0),
    ]
    weights = {"E": normal(50, 8), "P": normal(20, 8), "G": normal(2, 8), "W": normal(8, 3)}
    numbers = {"last": np.array([1]), "first": np.array([0])}
    inputs = [value(one, "batch", "length", kind=LONG) for one in ("ids", "kinds")]
    onnx.save(handmade(nodes, {**weights, **numbers}, inputs=inputs), tmp_path / "t.onnx")
    ended = in_process.command("inspect", "t.onnx", *(["--shape", asked] if asked else []), cwd=tmp_path)
    assert ended.code == 4
    if asked:
        assert "the part of the file before 'h' does not run with these sizes" in ended.err
        return
    assert "--input h --shape 1,16,8." in ended.err
    assert in_process.command("inspect", "t.onnx", "--input", "h", "--shape", "1,16,8", cwd=tmp_path).code == 0
