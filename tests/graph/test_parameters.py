"""Weights are found, counted once, taught and cut wherever a file keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from in_process import command
from onnx import TensorProto, helper, numpy_helper
from onnx_text import N, Values, model_of, parsed, value

from onnxcake.graph.parameters import parameters_of
from onnxcake.onnxfile.load import load_bytes
from onnxcake.onnxfile.normalise import normalise

DRAW = np.random.default_rng(0)
W, B, V = (DRAW.normal(size=size).astype(np.float32) * 0.4 for size in ((4, 16), (16,), (16, 3)))
ALL = W.size + B.size + V.size
LAYERS = parsed("h = Gemm(x, W, b) r = Relu(h) y = MatMul(r, V)")


def model(
    *body: str | onnx.NodeProto, features: int = 4, outputs: Values = "float[N,3] y", sparse: Any = (), **rest: Any
) -> onnx.ModelProto:
    made = model_of(*body, inputs=f"float[N,{features}] x", outputs=outputs, ir_version=8, **rest)
    made.graph.sparse_initializer.extend(sparse)
    return made


def constant(name: str, array: Any) -> onnx.NodeProto:
    return N("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array)))


def sparse(array: Any, name: str, pairs: bool = False) -> onnx.SparseTensorProto:
    places = np.argwhere(array) if pairs else np.flatnonzero(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array[array != 0], name),
        numpy_helper.from_array(places.astype(np.int64), f"{name}/at"),
        array.shape,
    )


def thinned(array: Any) -> Any:
    return np.where(np.random.default_rng(1).random(array.shape) < 0.6, 0, array).astype(np.float32)


def in_initialisers() -> onnx.ModelProto:
    return model(*LAYERS, weights={"W": W, "b": B, "V": V})


def in_constants() -> onnx.ModelProto:
    return model(constant("W", W), constant("b", B), constant("V", V), *LAYERS)


def in_lists_of_floats() -> onnx.ModelProto:
    flat = [N("Constant", [], [f"{name}/flat"], value_floats=a.ravel().tolist()) for name, a in (("W", W), ("V", V))]
    sizes = {"W/sizes": np.array(W.shape), "V/sizes": np.array(V.shape), "b": B}
    shaped = [N("Reshape", [f"{name}/flat", f"{name}/sizes"], [name]) for name in "WV"]
    return model(*flat, *shaped, *LAYERS, weights=sizes)


def in_float16() -> onnx.ModelProto:
    low = [constant(f"{name}16", a.astype(np.float16)) for name, a in (("W", W), ("b", B), ("V", V))]
    casts = [N("Cast", [f"{name}16"], [name], to=TensorProto.FLOAT) for name in "WbV"]
    return model(*low, *casts, *LAYERS)


def in_sparse_initialisers() -> onnx.ModelProto:
    return model(*LAYERS, weights={"b": B}, sparse=[sparse(thinned(W), "W"), sparse(thinned(V), "V", pairs=True)])


def in_sparse_constants() -> onnx.ModelProto:
    few = [N("Constant", [], [name], sparse_value=sparse(thinned(a), name)) for name, a in (("W", W), ("V", V))]
    return model(*few, constant("b", B), *LAYERS)


def in_a_function_called_twice() -> onnx.ModelProto:
    square = DRAW.normal(size=(4, 4)).astype(np.float32)
    body = [constant("S", square), *parsed("m = MatMul(a, S) c = Tanh(m)")]
    layer = helper.make_function("own", "Layer", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    calls = parsed("g = own.Layer(x) h = own.Layer(g)")
    end = DRAW.normal(size=(4, 3)).astype(np.float32)
    return model(*calls, "y = MatMul(h, E)", weights={"E": end}, domains={"own": 1}, functions=[layer])


def in_branches() -> onnx.ModelProto:
    def branch(name: str, *listed: onnx.NodeProto, **rest: Any) -> onnx.GraphProto:
        return helper.make_graph(list(listed), name, [], [value(f"{name}/y", "N", 3)], **rest)

    inner = {name: DRAW.normal(size=(4, 3)).astype(np.float32) for name in ("then", "else")}
    then = branch("then", constant("T", inner["then"]), N("MatMul", ["x", "T"], ["then/y"]))
    stored = [numpy_helper.from_array(inner["else"], "E")]
    other = branch("else", N("MatMul", ["x", "E"], ["else/y"]), initializer=stored)
    chosen = N("If", ["yes"], ["y"], then_branch=then, else_branch=other)
    return model(chosen, weights={"yes": np.array(True)})


def in_a_loop() -> onnx.ModelProto:
    square = DRAW.normal(size=(4, 4)).astype(np.float32) * 0.3
    body = helper.make_graph(
        [constant("S", square), *parsed("m = MatMul(state, S) next = Tanh(m) on = Identity(go)")],
        "body",
        [value("turn", kind=TensorProto.INT64), value("go", kind=TensorProto.BOOL), value("state", "N", 4)],
        [value("on", kind=TensorProto.BOOL), value("next", "N", 4)],
    )
    end = DRAW.normal(size=(4, 3)).astype(np.float32)
    given = {"turns": np.array(3), "yes": np.array(True), "E": end}
    return model(N("Loop", ["turns", "yes", "x"], ["h"], body=body), "y = MatMul(h, E)", weights=given)


def classical(kind: str, **attributes: Any) -> onnx.ModelProto:
    """A classifier of ai.onnx.ml alone: the default domain is not even imported."""
    node = N(kind, ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2], **attributes)
    outputs = "int64[N] label, float[N,3] y"
    made = model(node, outputs=outputs, domains={"ai.onnx.ml": 1})
    del made.opset_import[0]
    return made


def in_a_linear_classifier() -> onnx.ModelProto:
    numbers = DRAW.normal(size=12).tolist()
    return classical("LinearClassifier", coefficients=numbers, intercepts=[0.0, 0.1, -0.1], post_transform="SOFTMAX")


def in_a_support_vector_machine() -> onnx.ModelProto:
    return classical(
        "SVMClassifier",
        coefficients=DRAW.normal(size=12).tolist(),
        support_vectors=DRAW.normal(size=24).tolist(),
        vectors_per_class=[2, 2, 2],
        rho=[0.1, -0.2, 0.3],
        kernel_type="RBF",
        kernel_params=[0.5, 0.0, 3.0],
        post_transform="NONE",
    )


def behind_a_scaler() -> onnx.ModelProto:
    """What it does to inputs before its layers is no parameter."""
    scaled = N("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", offset=[0.1] * 4, scale=[2.0] * 4)
    layers = [N("Gemm", ["scaled", "W", "b"], ["h"]), *LAYERS[1:]]
    return model(scaled, *layers, weights={"W": W, "b": B, "V": V}, domains={"ai.onnx.ml": 1})


def tied() -> onnx.ModelProto:
    """One weight that is read twice, once turned."""
    layers = parsed("h = MatMul(x, W) T = Transpose(W) r = MatMul(h, T)")
    return model(constant("W", W), *layers, "y = MatMul(r, E)", weights={"E": W[:, :3].copy()})


def merged() -> onnx.ModelProto:
    """Two scales that torch's exporter has made one, as both are all ones."""
    scaled = parsed("s = Mul(x, ones) own = Identity(ones) h = Mul(s, own)")
    return model(*scaled, "y = MatMul(h, E)", weights={"ones": np.ones(4, np.float32), "E": W[:, :3]})


def with_single_numbers() -> onnx.ModelProto:
    halved = [constant("half", np.float32(0.5)), N("Mul", ["x", "half"], ["m"])]
    return model(*halved, "h = Gemm(m, W, b)", *LAYERS[1:], weights={"W": W, "b": B, "V": V})


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "initialisers": (in_initialisers, ALL),
    "Constant nodes": (in_constants, ALL),
    "lists of floats": (in_lists_of_floats, ALL),
    "float16 Constant nodes": (in_float16, ALL),
    "sparse initialisers": (in_sparse_initialisers, ALL),
    "sparse Constant nodes": (in_sparse_constants, ALL),
    "a function that is called twice": (in_a_function_called_twice, 16 + 12),
    "branches": (in_branches, 24),
    "a loop": (in_a_loop, 16 + 12),
    "a linear classifier": (in_a_linear_classifier, 15),
    "a support vector machine": (in_a_support_vector_machine, 12 + 24 + 3),
    "behind a scaler": (behind_a_scaler, ALL),
    "a weight that is read twice": (tied, 64 + 12),
    "equal weights made one": (merged, 4 + 4 + 12),
    "single numbers besides": (with_single_numbers, ALL),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    made = MODELS[name][0]()
    onnx.checker.check_model(made)
    onnx.save(made, tmp_path / "t.onnx")
    return tmp_path / "t.onnx"


@every_model
def test_inspect_counts_each_once(name: str, path: Path) -> None:
    ended = command("inspect", path, "--json")
    assert ended.code == 0, ended.err
    assert ended.told["cost"]["parameters"] == MODELS[name][1]


@every_model
def test_extract_says_the_same_before_it_starts(name: str, path: Path) -> None:
    ended = command("extract", path, "--passes", 500, "--dry-run", "--out", path.parent / "run")
    assert ended.code == 0, ended.err
    assert f"{MODELS[name][1]:,} parameters" in ended.out + ended.err
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize("name", ["Constant nodes", "sparse Constant nodes", "lists of floats"])
def test_shrink_cuts_them(name: str, path: Path) -> None:
    ended = command("shrink", path, "--keep", 0.6, "-o", path.parent / "small.onnx", "--json")
    assert ended.code == 0, ended.err
    teacher, student = ended.told["teacher"]["parameters"], ended.told["student"]["parameters"]
    assert teacher == MODELS[name][1] and 0 < student <= 0.6 * teacher
    assert parameters_of(onnx.load(path.parent / "small.onnx")) == student


@pytest.mark.parametrize("make", [in_constants, in_a_loop])
def test_a_student_learns_in_weights_that_were_constants(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """And the report counts both as `inspect` does their files."""
    onnx.save(make(), tmp_path / "t.onnx")
    ended = command("extract", tmp_path / "t.onnx", "--passes", 2e3, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for name, side in (("t.onnx", "teacher"), ("run/student.onnx", "student")):
        told = command("inspect", tmp_path / name, "--json").told
        assert report[side]["parameters"] == told["cost"]["parameters"] > 0
    assert report["student"]["parameters"] <= report["teacher"]["parameters"]


def test_a_teacher_without_parameters_gets_a_student(tmp_path: Path) -> None:
    """Scores that are the inputs' own means, in three groups of four."""
    sizes = np.array([0, 3, 4])
    nodes = parsed("groups = Reshape(x, sizes) y = ReduceMean<axes=[2], keepdims=0>(groups)")
    onnx.save(model(*nodes, weights={"sizes": sizes}, features=12), tmp_path / "t.onnx")
    for more in ([], ["-o", "student.architecture={auto: {max_params: 100}}"]):
        ended = command("extract", tmp_path / "t.onnx", "--passes", 500, "--dry-run", "--out", tmp_path / "run", *more)
        assert ended.code == 0, ended.err
        assert " 0 parameters" in ended.out + ended.err and "% of the teacher" not in ended.out + ended.err


@pytest.mark.parametrize(
    "name", ["Constant nodes", "sparse initialisers", "sparse Constant nodes", "float16 Constant nodes"]
)
def test_lifting_changes_no_answer(name: str, path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    asked = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    file = load_bytes(path.read_bytes(), "t.onnx")
    assert not file.proto.graph.sparse_initializer
    assert not [node for node in file.proto.graph.node if node.op_type == "Constant"]
    safe = normalise(file)
    assert not safe.weights, "small ones stay in the model, which can then be run as it is"
    session = onnxruntime.InferenceSession(safe.model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": x})[0], asked)
