"""Weights are found, counted once, taught and cut wherever a file keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from in_process import command
from onnx import helper, numpy_helper
from onnx_text import N, Values, model_of, parsed
from plain_session import plain_session

from onnxcake.graph.parameters import parameters_of
from onnxcake.onnxfile.load import load_bytes
from onnxcake.onnxfile.normalise import normalise

DRAW = np.random.default_rng(0)


def draw(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32) * 0.4


def stated(*shape: int, name: str = "") -> str:
    """Write a random tensor in onnx's text form, with its name where it is an initialiser."""
    return f"float[{','.join(map(str, shape))}] {name} {{{', '.join(map(str, draw(*shape).ravel()))}}}"


W, B, V = draw(4, 16), draw(16), draw(16, 3)
KEPT = {"W": W, "b": B, "V": V}
ALL = W.size + B.size + V.size
LAYERS = "h = Gemm(x, W, b) r = Relu(h) y = MatMul(r, V)"
END = "y = MatMul(h, E)"


def model(
    *body: str | onnx.NodeProto, features: int = 4, outputs: Values = "float[N,3] y", **rest: Any
) -> onnx.ModelProto:
    return model_of(*body, inputs=f"float[N,{features}] x", outputs=outputs, ir_version=8, **rest)


def constants(**arrays: Any) -> list[onnx.NodeProto]:
    return [N("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in arrays.items()]


def sparse(name: str, pairs: bool = False) -> onnx.SparseTensorProto:
    array = np.where(np.random.default_rng(1).random(KEPT[name].shape) < 0.6, 0, KEPT[name]).astype(np.float32)
    places = np.argwhere(array) if pairs else np.flatnonzero(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array[array != 0], name),
        numpy_helper.from_array(places.astype(np.int64), f"{name}/at"),
        array.shape,
    )


def classical(kind: str, **attributes: Any) -> onnx.ModelProto:
    """Make a classifier of ai.onnx.ml alone: the default domain is not even imported."""
    node = N(kind, ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2], **attributes)
    made = model(node, outputs="int64[N] label, float[N,3] y", domains={"ai.onnx.ml": 1})
    del made.opset_import[0]
    return made


LAYER = [f"S = Constant<value = {stated(4, 4)}>() m = MatMul(a, S) c = Tanh(m)"]
MODELS: dict[str, tuple[onnx.ModelProto, int]] = {
    "initialisers": (model(LAYERS, weights=KEPT), ALL),
    "Constant nodes": (model(*constants(**KEPT), LAYERS), ALL),
    "lists of floats": (
        model(
            *(N("Constant", [], [f"{name}_flat"], value_floats=KEPT[name].ravel().tolist()) for name in "WV"),
            "W = Reshape(W_flat, W_sizes) V = Reshape(V_flat, V_sizes)",
            LAYERS,
            weights={"W_sizes": np.array(W.shape), "V_sizes": np.array(V.shape), "b": B},
        ),
        ALL,
    ),
    "float16 Constant nodes": (
        model(
            *constants(**{f"{name}16": array.astype(np.float16) for name, array in KEPT.items()}),
            "W = Cast<to=1>(W16) b = Cast<to=1>(b16) V = Cast<to=1>(V16)",
            LAYERS,
        ),
        ALL,
    ),
    "sparse initialisers": (model(LAYERS, weights={"b": B}, sparse=[sparse("W"), sparse("V", pairs=True)]), ALL),
    "sparse Constant nodes": (
        model(*(N("Constant", [], [n], sparse_value=sparse(n)) for n in "WV"), LAYERS, weights={"b": B}),
        ALL,
    ),
    "a function that is called twice": (
        model(
            f"g = own.Layer(x) h = own.Layer(g) {END}",
            weights={"E": draw(4, 3)},
            domains={"own": 1},
            functions=[
                helper.make_function("own", "Layer", ["a"], ["c"], parsed(*LAYER), [helper.make_opsetid("", 17)])
            ],
        ),
        16 + 12,
    ),
    "branches": (
        model(
            "y = If(yes) <then_branch = t () => (float[N,3] p) "
            f"{{ T = Constant<value = {stated(4, 3)}>() p = MatMul(x, T) }}, "
            f"else_branch = e () => (float[N,3] q) <{stated(4, 3, name='E =')}> {{ q = MatMul(x, E) }}>",
            weights={"yes": np.array(True)},
        ),
        24,
    ),
    "a loop": (
        model(
            "h = Loop(turns, yes, x) <body = b (int64 turn, bool go, float[N,4] a) => (bool on, float[N,4] c) "
            f"{{ {LAYER[0]} on = Identity(go) }}> {END}",
            weights={"turns": np.array(3), "yes": np.array(True), "E": draw(4, 3)},
        ),
        16 + 12,
    ),
    "a linear classifier": (
        classical(
            "LinearClassifier",
            coefficients=DRAW.normal(size=12).tolist(),
            intercepts=[0.0, 0.1, -0.1],
            post_transform="SOFTMAX",
        ),
        15,
    ),
    "a support vector machine": (
        classical(
            "SVMClassifier",
            coefficients=DRAW.normal(size=12).tolist(),
            support_vectors=DRAW.normal(size=24).tolist(),
            vectors_per_class=[2, 2, 2],
            rho=[0.1, -0.2, 0.3],
            kernel_type="RBF",
            kernel_params=[0.5, 0.0, 3.0],
            post_transform="NONE",
        ),
        12 + 24 + 3,
    ),
    "behind a scaler, which is no parameter": (
        model(
            f"scaled = ai.onnx.ml.Scaler<offset={[0.1] * 4}, scale={[2.0] * 4}>(x)",
            LAYERS.replace("(x,", "(scaled,"),
            weights=KEPT,
            domains={"ai.onnx.ml": 1},
        ),
        ALL,
    ),
    "a weight that is read twice, once turned": (
        model(*constants(W=W), f"g = MatMul(x, W) T = Transpose(W) h = MatMul(g, T) {END}", weights={"E": W[:, :3]}),
        64 + 12,
    ),
    "equal weights that torch's exporter made one": (
        model(
            f"s = Mul(x, ones) own = Identity(ones) h = Mul(s, own) {END}",
            weights={"ones": np.ones(4, np.float32), "E": W[:, :3]},
        ),
        4 + 4 + 12,
    ),
    "single numbers besides": (
        model(*constants(half=np.float32(0.5)), "m = Mul(x, half)", LAYERS.replace("(x,", "(m,"), weights=KEPT),
        ALL,
    ),
}


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    onnx.checker.check_model(MODELS[name][0])
    onnx.save(MODELS[name][0], tmp_path / "t.onnx")
    return tmp_path / "t.onnx"


@pytest.mark.parametrize("name", MODELS)
def test_inspect_counts_each_once(name: str, path: Path) -> None:
    ended = command("inspect", path, "--json")
    assert ended.code == 0, ended.err
    assert ended.told["cost"]["parameters"] == MODELS[name][1]


@pytest.mark.parametrize("name", ["Constant nodes", "sparse initialisers", "a loop", "a support vector machine"])
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


@pytest.mark.parametrize("name", ["Constant nodes", "a loop"])
def test_a_student_learns_in_weights_that_were_constants(name: str, path: Path, tmp_path: Path) -> None:
    """The report counts both as `inspect` does their files."""
    ended = command("extract", path, "--passes", 2e3, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for file, side in (("t.onnx", "teacher"), ("run/student.onnx", "student")):
        told = command("inspect", tmp_path / file, "--json").told
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
    asked = plain_session(path.read_bytes()).run(None, {"x": x})[0]
    file = load_bytes(path.read_bytes(), "t.onnx")
    assert not file.proto.graph.sparse_initializer
    assert not [node for node in file.proto.graph.node if node.op_type == "Constant"]
    safe = normalise(file)
    assert not safe.weights, "small ones stay in the model, which can then be run as it is"
    session = plain_session(safe.model.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"input": x})[0], asked)
