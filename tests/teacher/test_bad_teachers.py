"""Every bad teacher is refused by one error that says what, where and what to do, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from onnxcake import extract
from onnxcake.errors import (
    BadTeacherFile,
    ConversionMismatch,
    DeadTeacher,
    OnnxcakeError,
    TeacherError,
    UnsupportedTeacher,
)
from onnxcake.ort import Runtime
from onnxcake.teacher import Teacher

N = helper.make_node
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def refused(path: Path, runtime: Runtime, kind: type[TeacherError]) -> TeacherError:
    """Loads ``path``, and checks all that every refusal must hold to."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(OnnxcakeError) as caught:
        Teacher.load(path, runtime=runtime)
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    assert error.exit_code == 4
    assert path.name in error.where
    assert error.what and error.remedy.endswith("."), "what and what to do"
    text = str(error).replace("\n", "")
    assert text.isprintable() and len(str(error)) < 1500 and str(error).count("\n") < 6
    assert sorted(path.parent.iterdir()) == before
    return error


# --- not a file, or not an ONNX file -----------------------------------------------------------------------


def is_missing(path: Path) -> None:
    pass


def is_folder(path: Path) -> None:
    path.mkdir()


def is_fifo(path: Path) -> None:
    os.mkfifo(path)


def is_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def links_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def links_nowhere(path: Path) -> None:
    path.symlink_to("gone")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (is_missing, "No such file"),
        (is_folder, "folder"),
        (is_fifo, "not a regular file"),
        (is_device, "not a regular file"),
        (links_to_itself, "cannot be read"),
        (links_nowhere, "No such file"),
    ],
)
def test_not_a_file(make: Callable[[Path], None], words: str, tmp_path: Path, runtime: Runtime) -> None:
    make(tmp_path / "t.onnx")
    assert words in refused(tmp_path / "t.onnx", runtime, BadTeacherFile).what


def test_a_name_that_is_too_long(tmp_path: Path, runtime: Runtime) -> None:
    assert "too long" in refused(tmp_path / ("t" * 300 + ".onnx"), runtime, BadTeacherFile).what


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "t.onnx").write_bytes(b"x")
    (tmp_path / "t.onnx").chmod(0)
    assert "ermission" in refused(tmp_path / "t.onnx", runtime, BadTeacherFile).what


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (LFS, "git-LFS pointer"),
        (zipped(), "zip archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"<?xml version='1.0'?><net/>", "XML"),
        (json.dumps({"model": 1}).encode(), "JSON"),
        (pickle.dumps({"a": 1}, protocol=2), "pickle"),
        (pickle.dumps({"a": 1}, protocol=4), "pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "pickle"),
        (b"This is a text, not a model.\n" * 10, "not an ONNX model"),
        (bytes(1000), "not an ONNX model"),
        (b"\xff" * 1000, "not an ONNX model"),
        (bytes(range(256)), "not an ONNX model"),
    ],
)
def test_not_an_onnx_file(content: bytes, words: str, tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "t.onnx").write_bytes(content)
    assert words in refused(tmp_path / "t.onnx", runtime, BadTeacherFile).what


# --- damage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, export: Any) -> bytes:
    """A teacher with every field that an exporter writes, in about a kilobyte."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    path: Path = export(nn.Sequential(body, nn.Softmax(1)), (1, 4, 4), tmp_path_factory.mktemp("tiny") / "t.onnx")
    return path.read_bytes()


def is_refused_or_a_teacher(content: bytes, path: Path, runtime: Runtime) -> bool:
    """Whether it is still a teacher; anything else than that or an `OnnxcakeError` fails the test."""
    path.write_bytes(content)
    try:
        teacher = Teacher.load(path, runtime=runtime)
    except OnnxcakeError as error:
        assert error.exit_code == 4 and error.remedy and str(error).replace("\n", "").isprintable()
        return False
    assert teacher.logits(torch.zeros(1, *teacher.signature.input_shape)).isfinite().all()
    return True


def test_truncated_anywhere(tiny: bytes, tmp_path: Path, runtime: Runtime) -> None:
    lengths = sorted({round(i * (len(tiny) - 1) / 60) for i in range(60)} | set(range(len(tiny) - 12, len(tiny))))
    assert len(lengths) >= 60
    assert not any(is_refused_or_a_teacher(tiny[:length], tmp_path / "t.onnx", runtime) for length in lengths)


def test_a_flipped_bit_anywhere(tiny: bytes, tmp_path: Path, runtime: Runtime) -> None:
    outcomes = []
    for bit in np.random.default_rng(0).choice(len(tiny) * 8, 150, replace=False).tolist():
        flipped = bytearray(tiny)
        flipped[bit // 8] ^= 1 << (bit % 8)
        outcomes.append(is_refused_or_a_teacher(bytes(flipped), tmp_path / "t.onnx", runtime))
    assert any(outcomes) and not all(outcomes), "some bits are in weights, others in the structure"


def test_zeroed_and_doubled_stretches(tiny: bytes, tmp_path: Path, runtime: Runtime) -> None:
    for start in range(0, len(tiny) - 16, len(tiny) // 40):
        blank = tiny[:start] + bytes(16) + tiny[start + 16 :]
        is_refused_or_a_teacher(blank, tmp_path / "t.onnx", runtime)
        is_refused_or_a_teacher(tiny[: start + 16] + tiny[start:], tmp_path / "t.onnx", runtime)


# --- well-formed, but no teacher ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A model by hand (see the fixture ``handmade``), the error it must end in, and words of its message."""

    kind: type[TeacherError]
    words: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    weights: dict[str, Any]
    rest: dict[str, Any]


def bad(kind: type[TeacherError], words: str | tuple[str, ...], *nodes: onnx.NodeProto, **rest: Any) -> Bad:
    weights = {"W": W, **rest.pop("weights", {})}
    return Bad(kind, (words,) if isinstance(words, str) else words, nodes, weights, rest)


def value(name: str, *shape: str | int | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(name: str) -> onnx.GraphProto:
    return helper.make_graph([N("MatMul", ["x", "W"], [name])], name, [], [value(name, "batch", 3)])


SCORES = N("MatMul", ["x", "W"], ["y"])
HIDDEN = N("MatMul", ["x", "W"], ["h"])

BAD = {
    "two inputs": bad(
        UnsupportedTeacher,
        ("2 inputs", "'x'", "'mask'"),
        N("Add", ["x", "mask"], ["s"]),
        N("MatMul", ["s", "W"], ["y"]),
        inputs=[value("x", "batch", 4), value("mask", "batch", 4)],
    ),
    "no input": bad(
        UnsupportedTeacher,
        "0 inputs",
        N("Identity", ["W"], ["y"]),
        inputs=[value("W", 4, 3)],
    ),
    "integer input": bad(
        UnsupportedTeacher,
        ("'x'", "int64"),
        N("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        N("MatMul", ["f", "W"], ["y"]),
        inputs=[value("x", "batch", 4, kind=TensorProto.INT64)],
    ),
    "uint8 input": bad(
        UnsupportedTeacher,
        ("'x'", "uint8"),
        N("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        N("MatMul", ["f", "W"], ["y"]),
        inputs=[value("x", "batch", 4, kind=TensorProto.UINT8)],
    ),
    "half precision input": bad(
        UnsupportedTeacher,
        ("'x'", "float16"),
        N("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        N("MatMul", ["f", "W"], ["y"]),
        inputs=[value("x", "batch", 4, kind=TensorProto.FLOAT16)],
    ),
    "string input": bad(
        UnsupportedTeacher,
        ("'x'", "string"),
        N("StringNormalizer", ["x"], ["s"]),
        N("Identity", ["W"], ["y"]),
        inputs=[value("x", "batch", kind=TensorProto.STRING)],
    ),
    "dynamic spatial size": bad(
        UnsupportedTeacher,
        ("'x'", "height", "all but the batch must be fixed"),
        N("GlobalAveragePool", ["x"], ["p"]),
        N("Flatten", ["p"], ["f"]),
        N("MatMul", ["f", "W"], ["y"]),
        inputs=[value("x", "batch", 4, "height", "width")],
    ),
    "unnamed sizes": bad(
        UnsupportedTeacher, ("'x'", "all but the batch must be fixed"), SCORES, inputs=[value("x", None, None)]
    ),
    "size zero": bad(UnsupportedTeacher, "all but the batch must be fixed", SCORES, inputs=[value("x", "batch", 0)]),
    "no batch": bad(UnsupportedTeacher, ("'x'", "[4]"), SCORES, inputs=[value("x", 4)], outputs=[value("y", 3)]),
    "output of rank 3": bad(
        UnsupportedTeacher,
        "shape [2, 1, 3]",
        HIDDEN,
        N("Unsqueeze", ["h", "one"], ["y"]),
        weights={"one": np.array([1])},
        outputs=[value("y", "batch", 1, 3)],
    ),
    "output of rank 1": bad(
        UnsupportedTeacher,
        "shape [2]",
        HIDDEN,
        N("ReduceMax", ["h"], ["y"], axes=[1], keepdims=0),
        outputs=[value("y", "batch")],
    ),
    "one class": bad(
        UnsupportedTeacher,
        ("one output number", "two"),
        N("MatMul", ["x", "v"], ["y"]),
        weights={"v": W[:, :1]},
        outputs=[value("y", "batch", 1)],
    ),
    "ArgMax": bad(
        UnsupportedTeacher,
        ("'y'", "int64", "ArgMax", "no gradient"),
        HIDDEN,
        N("ArgMax", ["h"], ["y"], axis=1, keepdims=0),
        outputs=[value("y", "batch", kind=TensorProto.INT64)],
    ),
    "two matrices": bad(
        UnsupportedTeacher,
        ("2 outputs", "'y'", "'other'"),
        SCORES,
        N("Relu", ["y"], ["other"]),
        outputs=[value("y", "batch", 3), value("other", "batch", 3)],
    ),
    "a sequence": bad(
        UnsupportedTeacher,
        ("'y'", "SequenceConstruct"),
        HIDDEN,
        N("SequenceConstruct", ["h"], ["y"]),
        outputs=[helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    ),
    "an unsupported operator": bad(
        UnsupportedTeacher,
        ("Hardmax (opset 17)", "'the last one'"),
        HIDDEN,
        N("Hardmax", ["h"], ["y"], name="the last one"),
    ),
    "several unsupported operators": bad(
        UnsupportedTeacher,
        ("Hardmax (opset 18)' at 'a', 'c', 'd' and 1 more", "Mish (opset 18)' at 'b'"),
        HIDDEN,
        N("Hardmax", ["h"], ["h1"], name="a"),
        N("Mish", ["h1"], ["h2"], name="b"),
        N("Hardmax", ["h2"], ["h3"], name="c"),
        N("Hardmax", ["h3"], ["h4"], name="d"),
        N("Hardmax", ["h4"], ["y"]),
        opset=18,
    ),
    "an unsupported operator without a name": bad(
        UnsupportedTeacher, ("Hardmax", "'Hardmax #1'"), HIDDEN, N("Hardmax", ["h"], ["y"])
    ),
    "com.microsoft": bad(
        UnsupportedTeacher,
        ("com.microsoft.FusedMatMul (opset 1)", "'fused'"),
        N("FusedMatMul", ["x", "W"], ["y"], name="fused", domain="com.microsoft"),
        domains={"com.microsoft": 1},
    ),
    "a domain nobody knows": bad(
        UnsupportedTeacher,
        ("acme.Secret (opset 3)", "'s'"),
        N("Secret", ["x", "W"], ["y"], name="s", domain="acme"),
        domains={"acme": 3},
    ),
    "an operator of another domain under a known name": bad(
        UnsupportedTeacher,
        "acme.MatMul",
        N("MatMul", ["x", "W"], ["y"], domain="acme"),
        domains={"acme": 1},
    ),
    "control flow": bad(
        UnsupportedTeacher,
        ("If (opset 17)", "'which'"),
        N("If", ["yes"], ["y"], name="which", then_branch=branch("then"), else_branch=branch("else")),
        weights={"yes": np.array(True)},
    ),
    "noise": bad(
        UnsupportedTeacher,
        ("RandomNormalLike", "'noise'"),
        HIDDEN,
        N("RandomNormalLike", ["h"], ["n"], name="noise"),
        N("Add", ["h", "n"], ["y"]),
    ),
    "constant output": bad(
        DeadTeacher,
        "the gradient is zero",
        HIDDEN,
        N("Mul", ["h", "nothing"], ["y"]),
        weights={"nothing": np.zeros(3, np.float32)},
    ),
    "the input as output": bad(
        UnsupportedTeacher, ("'x'", "the input itself"), SCORES, outputs=[value("x", "batch", 4)]
    ),
    "a weight as output": bad(
        UnsupportedTeacher, ("'W'", "the same for every input"), SCORES, outputs=[value("W", 4, 3)]
    ),
    "an unused weight as output": bad(
        UnsupportedTeacher,
        ("'V'", "the same for every input"),
        SCORES,
        weights={"V": W},
        outputs=[value("V", 4, 3)],
    ),
    "an output that reads a weight alone": bad(
        DeadTeacher,
        "no gradient reaches the input",
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "first"], ["n"]),
        N("Concat", ["n", "three"], ["to"], axis=0),
        N("Expand", ["row", "to"], ["y"]),
        weights={"first": np.array([0]), "three": np.array([3]), "row": W[:1, :3]},
    ),
    "rounded": bad(DeadTeacher, "the gradient is zero", N("Round", ["x"], ["r"]), N("MatMul", ["r", "W"], ["y"])),
    "through integers": bad(
        DeadTeacher,
        "no gradient reaches the input",
        N("Cast", ["x"], ["i"], to=TensorProto.INT64),
        N("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        N("MatMul", ["f", "W"], ["y"]),
    ),
    "saturated": bad(
        DeadTeacher,
        "the gradient is zero",
        N("Mul", ["x", "huge"], ["m"]),
        N("Sigmoid", ["m"], ["s"]),
        N("MatMul", ["s", "W"], ["y"]),
        weights={"huge": np.array(1e9, np.float32)},
    ),
    "the same score for every class": bad(
        DeadTeacher,
        "the gradient is zero",
        N("ReduceMax", ["x"], ["m"], axes=[1]),
        N("Concat", ["m", "m", "m"], ["y"], axis=1),
    ),
    "NaN weights": bad(DeadTeacher, "not finite", SCORES, weights={"W": np.full((4, 3), np.nan, np.float32)}),
    "infinite weights": bad(DeadTeacher, "not finite", SCORES, weights={"W": np.full((4, 3), np.inf, np.float32)}),
    "one NaN": bad(
        DeadTeacher,
        "not finite",
        HIDDEN,
        N("Add", ["h", "b"], ["y"]),
        weights={"b": np.array([0, np.nan, 0], np.float32)},
    ),
    "overflow": bad(
        DeadTeacher, "not finite", HIDDEN, N("Exp", ["h"], ["e"]), N("Exp", ["e"], ["f"]), N("Exp", ["f"], ["y"])
    ),
    "opset 999": bad(UnsupportedTeacher, ("opset 999", "newer"), SCORES, opset=999),
    "opset 0": bad(BadTeacherFile, "MatMul", SCORES, opset=0),
    "cycle": bad(
        BadTeacherFile,
        "topologically sorted",
        N("Add", ["x", "b"], ["a"], name="first"),
        N("Relu", ["a"], ["b"], name="second"),
        N("MatMul", ["a", "W"], ["y"]),
    ),
    "not sorted": bad(BadTeacherFile, "topologically sorted", N("Relu", ["h"], ["y"]), HIDDEN),
    "undefined input": bad(BadTeacherFile, "'nowhere'", N("MatMul", ["x", "nowhere"], ["y"])),
    "output never made": bad(BadTeacherFile, "'y'", HIDDEN),
    "a value made twice": bad(BadTeacherFile, "'y'", SCORES, SCORES),
    "no such operator": bad(BadTeacherFile, "Matmul", N("Matmul", ["x", "W"], ["y"])),
    "no such attribute": bad(BadTeacherFile, "axis", N("MatMul", ["x", "W"], ["y"], axis=1)),
    "a missing attribute": bad(BadTeacherFile, "to", N("Cast", ["x"], ["c"]), N("MatMul", ["c", "W"], ["y"])),
    "shapes that do not fit": bad(TeacherError, "onnxruntime", SCORES, weights={"W": W[:3]}),
    "more memory than there is": bad(
        TeacherError,
        "onnxruntime cannot run it",
        HIDDEN,
        N("ConstantOfShape", ["many"], ["big"]),
        N("ReduceSum", ["big"], ["sum"], keepdims=0),
        N("Add", ["h", "sum"], ["y"]),
        weights={"many": np.array([1 << 30, 1 << 20])},
    ),
    "a batch that cannot be freed": bad(
        TeacherError,
        "onnxruntime cannot run it on a batch of 5",
        HIDDEN,
        N("Expand", ["h", "to"], ["y"]),
        weights={"to": np.array([2, 3])},
    ),
    "a batch that is summed over": bad(
        UnsupportedTeacher,
        "a batch of 2 gives an output of shape [1, 3]",
        HIDDEN,
        N("ReduceMean", ["h"], ["y"], axes=[0]),
        outputs=[value("y", 1, 3)],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_no_teacher(name: str, tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    row = BAD[name]
    path = tmp_path / "t.onnx"
    path.write_bytes(handmade(row.nodes, row.weights, **row.rest).SerializeToString())
    error = refused(path, runtime, row.kind)
    assert all(word in error.what for word in row.words), error.what


def test_the_graph_that_all_of_these_are_made_from_is_a_teacher(
    tmp_path: Path, handmade: Any, runtime: Runtime
) -> None:
    onnx.save(handmade([SCORES], {"W": W}), tmp_path / "t.onnx")
    assert Teacher.load(tmp_path / "t.onnx", runtime=runtime).signature.classes == 3


def mistyped(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"123"


def overflowing(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**62, 2**62]


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-4, 3]


def without_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def without_ir_version(model: onnx.ModelProto) -> None:
    model.ClearField("ir_version")


def of_a_later_format(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def without_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def without_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def without_a_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize(
    "spoil",
    [
        mistyped,
        overflowing,
        negative,
        without_opset,
        without_ir_version,
        of_a_later_format,
        without_nodes,
        without_graph,
        without_a_shape,
    ],
)
def test_spoilt_fields(
    spoil: Callable[[onnx.ModelProto], None], tmp_path: Path, handmade: Any, runtime: Runtime
) -> None:
    model = handmade([SCORES], {"W": W})
    spoil(model)
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "t.onnx", runtime, BadTeacherFile)


def test_no_output(tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    model = handmade([SCORES], {"W": W})
    del model.graph.output[:]
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    assert "0 outputs" in refused(tmp_path / "t.onnx", runtime, UnsupportedTeacher).what


def test_nothing_of_the_standard_domain(tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    fused = N("FusedMatMul", ["x", "W"], ["y"], domain="com.microsoft")
    model = handmade([fused], {"W": W}, domains={"com.microsoft": 1})
    del model.opset_import[0]
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    assert "FusedMatMul" in refused(tmp_path / "t.onnx", runtime, UnsupportedTeacher).what


# --- weights elsewhere -------------------------------------------------------------------------------------


def kept_outside(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("location", ["t.data", "../secret", "/etc/passwd", "a/../../b", "", "nul\0byte", "C:\\x"])
@pytest.mark.parametrize("place", ["initialiser", "attribute", "branch"])
def test_external_data(place: str, location: str, tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    outside = numpy_helper.from_array(W, "far\naway")
    kept_outside(outside, location)
    constant = N("Constant", [], ["C"])
    constant.attribute.append(helper.make_attribute("value", outside))
    if place == "initialiser":
        model = handmade([N("MatMul", ["x", "far\naway"], ["y"])])
        model.graph.initializer.append(outside)
    elif place == "attribute":
        model = handmade([constant, N("MatMul", ["x", "C"], ["y"])])
    else:
        inner = helper.make_graph([constant, N("MatMul", ["x", "C"], ["z"])], "inner", [], [value("z", "batch", 3)])
        model = handmade([N("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)], {"yes": np.array(True)})
    (tmp_path / "t.data").write_bytes(W.tobytes())
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    error = refused(tmp_path / "t.onnx", runtime, UnsupportedTeacher)
    assert "'far\\naway'" in error.what and "external file" in error.what


def test_external_data_under_a_name_that_is_no_text(tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    outside = numpy_helper.from_array(W, "name")
    kept_outside(outside, "t.data")
    model = handmade([N("MatMul", ["x", "name"], ["y"])])
    model.graph.initializer.append(outside)
    content = model.SerializeToString().replace(b"name", b"\xff\xfe\xfd\xfc")
    (tmp_path / "t.onnx").write_bytes(content)
    refused(tmp_path / "t.onnx", runtime, UnsupportedTeacher)


# --- what an untrusted file may say in a message -----------------------------------------------------------

LOUD = 'x\x1b[31m\u202e\r\n"; import os'


@pytest.mark.parametrize(
    ("kind", "nodes", "rest"),
    [
        (UnsupportedTeacher, [N("Hardmax", ["x"], ["y"], name=LOUD)], {}),
        (UnsupportedTeacher, [N(LOUD, ["x"], ["y"], domain=LOUD)], {"domains": {LOUD: 1}}),
        (
            UnsupportedTeacher,
            [N(LOUD, ["x"], ["y"], domain="acme")],
            {"domains": {"acme": 1}, "outputs": [value("y", "batch", kind=TensorProto.INT64)]},
        ),
        (UnsupportedTeacher, [N("Add", ["x", LOUD], ["y"])], {"inputs": [value("x", "b", 4), value(LOUD, "b", 4)]}),
        (UnsupportedTeacher, [N("Relu", ["x"], ["y"])], {"inputs": [value("x", "b", LOUD)]}),
        (UnsupportedTeacher, [N("Relu", [LOUD], ["y"])], {"inputs": [value(LOUD, "b", kind=TensorProto.BOOL)]}),
        (
            UnsupportedTeacher,
            [N("Relu", ["x"], ["y"]), N("Relu", ["x"], [LOUD])],
            {"outputs": [value("y", "b", 4), value(LOUD, "b", 4)]},
        ),
        (BadTeacherFile, [N("Relu", [LOUD], ["y"])], {}),
        (BadTeacherFile, [N(LOUD, ["x"], ["y"])], {}),
        (BadTeacherFile, [N("Relu", ["x"], ["y"], **{LOUD: 1})], {}),
        (BadTeacherFile, [N("Relu", ["x"], [LOUD]), N("Relu", ["x"], [LOUD])], {}),
        (UnsupportedTeacher, [N("Relu", ["x"], ["y"])], {"weights": {LOUD: W}, "outputs": [value(LOUD, 4, 3)]}),
    ],
)
def test_messages_escape_what_the_file_says(
    kind: type[TeacherError],
    nodes: list[onnx.NodeProto],
    rest: dict[str, Any],
    tmp_path: Path,
    handmade: Any,
    runtime: Runtime,
) -> None:
    model = handmade(nodes, **rest)
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    error = refused(tmp_path / "t.onnx", runtime, kind)
    assert "\\x1b[31m" in error.what and error.what.isascii() | ("…" in error.what)


def test_long_names_are_cut(tmp_path: Path, handmade: Any, runtime: Runtime) -> None:
    nodes = [N("Hardmax", ["x"], ["h"], name="a" * 10_000), N("Hardmax", ["h"], ["y"], name="b" * 10_000)]
    (tmp_path / "t.onnx").write_bytes(handmade(nodes).SerializeToString())
    error = refused(tmp_path / "t.onnx", runtime, UnsupportedTeacher)
    assert "a" * 90 in error.what and "b" * 90 in error.what


# --- a whole run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no such operator", "an unsupported operator", "NaN weights", "opset 999"])
def test_a_run_with_a_bad_teacher_leaves_no_output(name: str, tmp_path: Path, handmade: Any) -> None:
    row = BAD[name]
    path = tmp_path / "t.onnx"
    path.write_bytes(handmade(row.nodes, row.weights, **row.rest).SerializeToString())
    with pytest.raises(row.kind):
        extract(path, out=tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["t.onnx"]


# --- onnxruntime and torch disagree ------------------------------------------------------------------------


def test_a_conversion_that_differs_is_refused(
    tmp_path: Path, handmade: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(handmade([SCORES], {"W": W}), tmp_path / "t.onnx")

    class Off(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.from_numpy(W) + 0.01

    monkeypatch.setattr("onnxcake.teacher.teacher.build", lambda graph, name: Off())
    error = refused(tmp_path / "t.onnx", runtime, ConversionMismatch)
    assert "differ by" in error.what


def test_a_conversion_that_fails_without_a_word_is_refused(
    tmp_path: Path, handmade: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(handmade([SCORES], {"W": W}), tmp_path / "t.onnx")

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    monkeypatch.setattr("onnxcake.teacher.teacher.build", lambda graph, name: Broken())
    error = refused(tmp_path / "t.onnx", runtime, ConversionMismatch)
    assert "AssertionError" in error.what
