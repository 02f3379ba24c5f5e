"""What is left of a model once it is normalised, where its logits are found, and that no name can do harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from onnxcake.errors import UnsupportedTeacher
from onnxcake.graph.export import export as export_student
from onnxcake.graph.load import TeacherFile
from onnxcake.graph.normalise import SafeGraph, normalise
from onnxcake.ort import Runtime
from onnxcake.teacher import Teacher

N = helper.make_node
SAFE = re.compile(r"input|output|[nvw]\d+|end|")


def value(name: str, *shape: str | int | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def normalised(model: onnx.ModelProto) -> SafeGraph:
    onnx.checker.check_model(model)
    safe = normalise(TeacherFile(model, "", 0, "t.onnx"))
    for part in (safe.model, safe.logits_model):
        assert all(SAFE.fullmatch(name) for name in all_names(part))
        assert [i.name for i in part.graph.input] == ["input"]
        assert [o.name for o in part.graph.output] == ["output"]
        assert not part.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"), "the batch is free"
    return safe


def all_names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    names = {named.name for named in (*graph.node, *graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in graph.node for name in (*node.input, *node.output)}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- names -------------------------------------------------------------------------------------------------


def test_everything_is_renamed_and_the_way_back_is_kept(handmade: Any, normal: Any) -> None:
    nodes = [N("MatMul", ["x", "W"], ["hidden"], name="first layer"), N("Relu", ["hidden"], ["y"])]
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}))
    assert safe.node_names == {"n0": "first layer", "n1": "Relu #1"}
    assert {new: old for new, old in safe.value_names.items() if new} == {
        "input": "x",
        "w0": "W",
        "v3": "hidden",
        "v4": "y",
    }
    assert (safe.input_name, safe.output_name, safe.input_shape, safe.opset) == ("x", "y", (4,), 17)
    assert safe.model.graph.name == "teacher" and safe.model.producer_name == ""


def test_texts_of_the_file_are_left_behind(handmade: Any, normal: Any) -> None:
    model = handmade([N("Gemm", ["x", "W"], ["y"], doc_string="SECRET", alpha=2.0)], {"W": normal(4, 3)})
    model.doc_string = model.producer_name = model.domain = model.graph.doc_string = model.graph.name = "SECRET"
    model.metadata_props.add(key="SECRET", value="SECRET")
    model.graph.initializer[0].doc_string = model.graph.node[0].attribute[0].doc_string = "SECRET"
    model.graph.input[0].doc_string = model.graph.output[0].doc_string = "SECRET"
    model.graph.value_info.append(value("SECRET", 1))
    safe = normalised(model)
    assert b"SECRET" not in safe.model.SerializeToString() + safe.logits_model.SerializeToString()


def test_names_of_our_own_kind_do_not_mix(handmade: Any, normal: Any) -> None:
    """A file that uses our names, all of them for something else."""
    weights = {"v1": normal(4, 4, seed=1), "input": normal(4, seed=2), "w0": normal(4, 3, seed=3)}
    nodes = [
        N("MatMul", ["output", "v1"], ["n0"], name="v0"),
        N("Add", ["n0", "input"], ["w1"], name="input"),
        N("MatMul", ["w1", "w0"], ["v0"], name="n0"),
    ]
    model = handmade(nodes, weights, inputs=[value("output", "b", 4)], outputs=[value("v0", "b", 3)])
    safe = normalised(model)
    x = normal(5, 4, seed=4)
    wanted = (x @ weights["v1"] + weights["input"]) @ weights["w0"]
    evaluated = ReferenceEvaluator(safe.model).run(None, {"input": x})[0]
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-4, atol=1e-4)


# --- what is kept ------------------------------------------------------------------------------------------


def test_what_the_output_does_not_need_is_cut(handmade: Any, normal: Any) -> None:
    nodes = [
        N("Relu", ["x"], ["h"]),
        N("MatMul", ["h", "big"], ["aside"]),
        N("MatMul", ["h", "W"], ["y"]),
        N("Relu", ["y"], ["after"]),
    ]
    safe = normalised(handmade(nodes, {"big": normal(4, 50), "W": normal(4, 3)}))
    assert operators(safe.model) == ["Relu", "MatMul"] and len(safe.model.graph.initializer) == 1
    assert safe.parameters == 12


def test_only_numbers_with_a_fraction_count_as_parameters(handmade: Any, normal: Any) -> None:
    nodes = [N("Reshape", ["x", "to"], ["r"]), N("MatMul", ["r", "W"], ["y"])]
    assert normalised(handmade(nodes, {"to": np.array([-1, 4]), "W": normal(4, 3)})).parameters == 12


def test_weights_that_are_inputs_too_are_weights(handmade: Any, normal: Any) -> None:
    """Older files list every initialiser among the inputs."""
    inputs = [value("W", 4, 3), value("x", "batch", 4)]
    safe = normalised(handmade([N("MatMul", ["x", "W"], ["y"])], {"W": normal(4, 3)}, inputs=inputs))
    assert safe.input_name == "x" and safe.parameters == 12


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_domain_may_be_spelled_out(
    domain: str, imported: str, tmp_path: Path, handmade: Any, normal: Any, runtime: Runtime
) -> None:
    model = handmade([N("MatMul", ["x", "W"], ["y"], domain=domain)], {"W": normal(4, 3)})
    model.opset_import[0].domain = imported
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    teacher = Teacher.load(tmp_path / "t.onnx", runtime=runtime)
    assert teacher.facts.opset == 17
    told = onnx.load_model_from_string(teacher.model)
    assert [item.domain for item in (*told.graph.node, *told.opset_import)] == ["", ""]


def test_left_out_inputs_stay_left_out(handmade: Any, normal: Any) -> None:
    nodes = [N("Clip", ["x", "", "top"], ["c"]), N("MatMul", ["c", "W"], ["y"])]
    safe = normalised(handmade(nodes, {"top": np.array(1, np.float32), "W": normal(4, 3)}))
    assert list(safe.model.graph.node[0].input) == ["input", "", "w0"]


@pytest.mark.parametrize("maker", [N("TopK", ["h", "k"], ["y", "places"]), N("Dropout", ["h"], ["y", "places"])])
def test_one_of_a_nodes_several_outputs(maker: onnx.NodeProto, handmade: Any, normal: Any) -> None:
    weights = {"W": normal(4, 3), "k": np.array([3])}
    safe = normalised(handmade([N("MatMul", ["x", "W"], ["h"]), maker], weights))
    assert operators(safe.model) == ["MatMul", maker.op_type, "Identity"]


@pytest.mark.parametrize("output", ["a", "b", "y"])
def test_any_value_may_be_the_output(output: str, handmade: Any, normal: Any) -> None:
    nodes = [
        N("MatMul", ["x", "W"], ["a"]),
        N("Softmax", ["a"], ["b"], axis=1),
        N("Add", ["a", "b"], ["y"]),
    ]
    weights = {"W": normal(4, 3)}
    model = handmade(nodes, weights, outputs=[value(output, "batch", 3)])
    safe = normalised(model)
    x = normal(5, 4, seed=1)
    wanted = ReferenceEvaluator(model).run([output], {"x": x})[0]
    got = ReferenceEvaluator(safe.model).run(None, {"input": x})[0]
    np.testing.assert_array_equal(got, wanted)


# --- where the logits are ----------------------------------------------------------------------------------

H = N("MatMul", ["x", "W"], ["h"])
TAILS: dict[str, tuple[list[onnx.NodeProto], str | None, list[str]]] = {
    "none (an Identity is only another name)": ([H, N("Identity", ["h"], ["y"])], None, ["MatMul"]),
    "Softmax": ([H, N("Softmax", ["h"], ["y"])], "probabilities", ["MatMul"]),
    "Softmax, axis 1": ([H, N("Softmax", ["h"], ["y"], axis=1)], "probabilities", ["MatMul"]),
    "Softmax, axis -1": ([H, N("Softmax", ["h"], ["y"], axis=-1)], "probabilities", ["MatMul"]),
    "Softmax over the batch": ([H, N("Softmax", ["h"], ["y"], axis=0)], None, ["MatMul", "Softmax"]),
    "LogSoftmax": ([H, N("LogSoftmax", ["h"], ["y"], axis=1)], "log_probabilities", ["MatMul"]),
    "LogSoftmax over the batch": ([H, N("LogSoftmax", ["h"], ["y"], axis=0)], None, ["MatMul", "LogSoftmax"]),
    "Log of Softmax": (
        [H, N("Softmax", ["h"], ["s"]), N("Log", ["s"], ["y"])],
        "log_probabilities",
        ["MatMul"],
    ),
    "Log of something else": ([H, N("Exp", ["h"], ["s"]), N("Log", ["s"], ["y"])], None, ["MatMul", "Exp", "Log"]),
    "Log of the input": ([N("Log", ["x"], ["y"])], None, ["Log"]),
    "Softmax, then Identity and Dropout": (
        [H, N("Softmax", ["h"], ["s"]), N("Identity", ["s"], ["i"]), N("Dropout", ["i"], ["y"])],
        "probabilities",
        ["MatMul"],
    ),
    "Identity between Log and Softmax": (
        [H, N("Softmax", ["h"], ["s"]), N("Identity", ["s"], ["i"]), N("Log", ["i"], ["y"])],
        "log_probabilities",
        ["MatMul"],
    ),
    "Softmax, then scaled": (
        [H, N("Softmax", ["h"], ["s"]), N("Mul", ["s", "s"], ["y"])],
        None,
        ["MatMul", "Softmax", "Mul"],
    ),
    "two Softmaxes": (
        [H, N("Softmax", ["h"], ["s"]), N("Softmax", ["s"], ["y"])],
        "probabilities",
        ["MatMul", "Softmax"],
    ),
    "Softmax of the input": ([N("Softmax", ["x"], ["y"])], "probabilities", ["Identity"]),
}


@pytest.mark.parametrize("name", TAILS)
def test_the_logits_are_found(name: str, handmade: Any, normal: Any) -> None:
    nodes, tail, kept = TAILS[name]
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}))
    assert safe.tail == tail and operators(safe.logits_model) == kept
    assert safe.logits_model.graph.output[0].name == "output"


# --- input and output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["batch", "N", 1, 7, 0, None])
def test_any_batch_becomes_a_free_one(batch: str | int | None, handmade: Any, normal: Any) -> None:
    model = handmade([N("MatMul", ["x", "W"], ["y"])], {"W": normal(4, 3)}, inputs=[value("x", batch, 4)])
    assert normalised(model).input_shape == (4,)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 4), (1, 1, 2, 4), (1, 1, 1, 2, 4)])
def test_any_rank_is_taken(shape: tuple[int, ...], handmade: Any, normal: Any) -> None:
    nodes = [N("MatMul", ["x", "W"], ["m"]), N("Flatten", ["m"], ["y"])]
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}, inputs=[value("x", "batch", *shape)]))
    assert safe.input_shape == shape


@pytest.mark.parametrize(
    "outputs",
    [
        [value("y", "batch", 3), value("i", "batch", kind=TensorProto.INT64)],
        [value("i", "batch", kind=TensorProto.INT64), value("y", "batch", 3)],
        [value("u", "batch", 1, 3), value("y", "batch", 3)],
    ],
)
def test_the_one_matrix_of_several_outputs(outputs: list[onnx.ValueInfoProto], handmade: Any, normal: Any) -> None:
    nodes = [
        N("MatMul", ["x", "W"], ["y"]),
        N("ArgMax", ["y"], ["i"], axis=1, keepdims=0),
        N("Unsqueeze", ["y", "one"], ["u"]),
    ]
    model = handmade(nodes, {"W": normal(4, 3), "one": np.array([1])}, outputs=outputs)
    assert normalised(model).output_name == "y"


def test_no_matrix_among_several_outputs(handmade: Any, normal: Any) -> None:
    nodes = [N("MatMul", ["x", "W"], ["h"]), N("Unsqueeze", ["h", "one"], ["y"]), N("Relu", ["y"], ["z"])]
    outputs = [value("y", "batch", 1, 3), value("z", "batch", 1, 3)]
    model = handmade(nodes, {"W": normal(4, 3), "one": np.array([1])}, outputs=outputs)
    with pytest.raises(UnsupportedTeacher, match="2 outputs"):
        normalise(TeacherFile(model, "", 0, "t.onnx"))


# --- hostile names -----------------------------------------------------------------------------------------

CANARY = "CANARY"
HOSTILE = {
    "double quote": '"{}"',
    "single quote": "'{}'",
    "both quotes": "\"'{}'\"",
    "backslash": "\\{}\\",
    "newline": "{}\nimport os\n",
    "carriage return": "{}\r\n",
    "NUL": "\0{}",
    "dunder": "__class__{}",
    "an attribute of modules": "__class__.__init__.__globals__{}",
    "import": "\"+__import__('os').system('touch CANARY{}')+\"",
    "import in single quotes": "'+__import__('os').system('touch CANARY{}')+'",
    "call": "\");__import__('pathlib').Path('CANARY{}').touch();getattr(self, \"x",
    "format": "{{0.__class__}}%s%n{}",
    "statement": "x{}\n    __import__('os').system('touch CANARY')\n    return x",
    "keyword": "lambda{}",
    "self": "self.forward{}",
    "dots": "a.b..{}.",
    "slashes": "/../../{}/",
    "ANSI": "\x1b[31m\x1b]0;title\x07{}",
    "bidi": "\u202e{}\u2066",
    "not ASCII": "é層🍰{}",
    "blank": " {} ",
    "long": "x" * 10_000 + "{}",
    "number": "{}",
}


def renamed(model: onnx.ModelProto, rename: Callable[[int], str]) -> onnx.ModelProto:
    """The same model with every name in it replaced."""
    names: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        return names.setdefault(name, rename(len(names)))

    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    graph.name = new(graph.name)
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = named.doc_string = new(named.name)
    for number, node in enumerate(graph.node):
        node.name = node.doc_string = new(f"node {number}")
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            attribute.doc_string = new("documentation")
            if attribute.HasField("t"):
                attribute.t.name = attribute.t.doc_string = new("tensor")
    for dim in graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param:
            dim.dim_param = new(dim.dim_param)
    return model


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, export: Any) -> onnx.ModelProto:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(1))
    model = onnx.load(export(body, (1, 4, 4), tmp_path_factory.mktemp("clean") / "t.onnx"))
    constant = N("Constant", [], ["offset"], value=numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    first = model.graph.node[0]
    shifted = [constant, N("Add", ["x", "offset"], ["shifted"])]
    first.input[0] = "shifted"
    for number, node in enumerate(shifted):
        model.graph.node.insert(number, node)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_change_nothing(
    kind: str, clean: onnx.ModelProto, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = renamed(clean, lambda number: HOSTILE[kind].format(number))
    onnx.save(clean, tmp_path / "clean.onnx")
    onnx.save(hostile, tmp_path / "hostile.onnx")
    one, other = (Teacher.load(tmp_path / name, runtime=runtime) for name in ("clean.onnx", "hostile.onnx"))

    assert other.model == one.model, "onnxruntime gets the same bytes"
    own = hostile.graph
    assert (other.signature.input_name, other.signature.output_name) == (own.input[0].name, own.output[0].name)
    assert replace(other.signature, input_name="x", output_name="y") == one.signature
    assert (other.facts.operators, other.facts.parity) == (one.facts.operators, one.facts.parity)
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    answers, gradients = [], []
    for teacher in (one, other):
        leaf = x.clone().requires_grad_(True)
        answers.append(teacher.logits(leaf))
        gradients.append(torch.autograd.grad(answers[-1].square().sum(), leaf)[0])
    assert torch.equal(*answers) and torch.equal(*gradients)
    assert not [path.name for path in tmp_path.iterdir() if CANARY in path.name]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_in_a_refusal(
    kind: str, tmp_path: Path, handmade: Any, normal: Any, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = handmade([N("MatMul", ["x", "W"], ["h"]), N("Hardmax", ["h"], ["y"])], {"W": normal(4, 3)})
    onnx.save(renamed(plain, lambda number: HOSTILE[kind].format(number)), tmp_path / "t.onnx")
    with pytest.raises(UnsupportedTeacher) as caught:
        Teacher.load(tmp_path / "t.onnx", runtime=runtime)
    text = str(caught.value)
    assert "Hardmax" in text and text.replace("\n", "").isprintable()
    assert text.count("\n") == 1 and len(text) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["t.onnx"]


def test_equal_weights_that_an_exporter_names_twice_are_converted(tmp_path: Path) -> None:
    """Torch's exporter keeps one of two equal weights and writes an Identity for the other."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 36, 3),
    )
    content = export_student(net, (1, 6, 6), input_name="x", output_name="y", opset=17)
    path = tmp_path / "twice.onnx"
    path.write_bytes(content)
    assert any(node.op_type == "Identity" for node in onnx.load(path).graph.node)
    teacher = Teacher.load(path)
    x = torch.randn(3, 1, 6, 6)
    assert torch.allclose(teacher.logits(x), net.eval()(x), atol=1e-5)
