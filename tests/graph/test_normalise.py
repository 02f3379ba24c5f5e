"""What is left of a model once it is normalised, where its logits are found, and that no name can do harm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_text import N, parsed, value

from onnxcake.core.errors import UnsupportedTeacher, UsageError
from onnxcake.onnxfile.input_choice import GraphChoice
from onnxcake.onnxfile.load import TeacherFile
from onnxcake.onnxfile.normalise import normalise
from onnxcake.onnxfile.rename import SafeGraph
from onnxcake.teacher.teacher import Teacher

NO_CHOICE = GraphChoice()
SAFE = re.compile(r"input|[nvw]\d+|")


def normalised(model: onnx.ModelProto, choice: GraphChoice = NO_CHOICE) -> SafeGraph:
    onnx.checker.check_model(model)
    safe = normalise(TeacherFile(onnx.ModelProto.FromString(model.SerializeToString()), {}, "", 0, "t.onnx"), choice)
    for part in (safe.model, *(safe.cut(output) for output in safe.outputs)):
        assert all(SAFE.fullmatch(name) for name in all_names(part))
        assert [i.name for i in part.graph.input] == ["input"]
    return safe


def cut(safe: SafeGraph) -> onnx.ModelProto:
    """The part that makes the one output."""
    (output,) = safe.outputs
    return safe.cut(output)


def all_names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    names = {named.name for named in (*graph.node, *graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in graph.node for name in (*node.input, *node.output)}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- names -------------------------------------------------------------------------------------------------


def test_everything_is_renamed_and_the_way_back_is_kept(handmade: Any, normal: Any) -> None:
    nodes = parsed('["first layer"] hidden = MatMul(x, W) y = Relu(hidden)')
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}))
    assert safe.node_names == {"n0": "first layer", "n1": "Relu #1"}
    assert {new: old for new, old in safe.value_names.items() if new} == {
        "input": "x",
        "w0": "W",
        "v2": "hidden",
        "v3": "y",
    }
    assert (safe.input_name, safe.input_shape, safe.opsets) == ("x", (4,), {"": 17})
    assert safe.outputs == {"v3": "y"} and safe.name_of("v2") == "'hidden'"
    assert safe.with_names("n0 gives v2") == "'first layer' gives 'hidden'"
    assert safe.model.graph.name == "teacher" and safe.model.producer_name == ""


def test_texts_of_the_file_are_left_behind(handmade: Any, normal: Any) -> None:
    model = handmade([N("Gemm", ["x", "W"], ["y"], doc_string="SECRET", alpha=2.0)], {"W": normal(4, 3)})
    model.doc_string = model.producer_name = model.domain = model.graph.doc_string = model.graph.name = "SECRET"
    model.metadata_props.add(key="SECRET", value="SECRET")
    model.graph.initializer[0].doc_string = model.graph.node[0].attribute[0].doc_string = "SECRET"
    model.graph.input[0].doc_string = model.graph.output[0].doc_string = "SECRET"
    model.graph.value_info.append(value("SECRET", 1))
    safe = normalised(model)
    assert b"SECRET" not in safe.model.SerializeToString() + cut(safe).SerializeToString()


def test_names_of_our_own_kind_do_not_mix(handmade: Any, normal: Any) -> None:
    """A file that uses our names, all of them for something else."""
    weights = {"v1": normal(4, 4, seed=1), "input": normal(4, seed=2), "w0": normal(4, 3, seed=3)}
    nodes = parsed("[v0] n0 = MatMul(output, v1) [input] w1 = Add(n0, input) [n0] v0 = MatMul(w1, w0)")
    model = handmade(nodes, weights, inputs="float[b,4] output", outputs="float[b,3] v0")
    safe = normalised(model)
    x = normal(5, 4, seed=4)
    wanted = (x @ weights["v1"] + weights["input"]) @ weights["w0"]
    evaluated = ReferenceEvaluator(cut(safe)).run(None, {"input": x})[0]
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-4, atol=1e-4)


# --- what is kept ------------------------------------------------------------------------------------------


def test_what_the_output_does_not_need_is_cut(handmade: Any, normal: Any) -> None:
    nodes = parsed("h = Relu(x) aside = MatMul(h, big) y = MatMul(h, W) after = Relu(y)")
    safe = normalised(handmade(nodes, {"big": normal(4, 50), "W": normal(4, 3)}))
    assert operators(safe.model) == ["Relu", "MatMul"] and len(safe.model.graph.initializer) == 1


def test_weights_that_are_inputs_too_are_weights(handmade: Any, normal: Any) -> None:
    """Older files list every initialiser among the inputs."""
    inputs = "float[4,3] W, float[batch,4] x"
    safe = normalised(handmade(parsed("y = MatMul(x, W)"), {"W": normal(4, 3)}, inputs=inputs))
    assert safe.input_name == "x" and len(safe.model.graph.initializer) == 1


@pytest.mark.parametrize("imported", ["", "ai.onnx"])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_domain_may_be_spelled_out(domain: str, imported: str, tmp_path: Path, handmade: Any, normal: Any) -> None:
    model = handmade([N("MatMul", ["x", "W"], ["y"], domain=domain)], {"W": normal(4, 3)})
    model.opset_import[0].domain = imported
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    teacher = Teacher.load(tmp_path / "t.onnx")
    assert teacher.facts.opset == 17
    told = onnx.load_model_from_string(teacher.model)
    assert [item.domain for item in (*told.graph.node, *told.opset_import)] == ["", ""]


def test_left_out_inputs_stay_left_out(handmade: Any, normal: Any) -> None:
    nodes = parsed('c = Clip(x, "", top) y = MatMul(c, W)')
    safe = normalised(handmade(nodes, {"top": np.float32(1), "W": normal(4, 3)}))
    assert list(safe.model.graph.node[0].input) == ["input", "", "w0"]


@pytest.mark.parametrize("maker", parsed("y, places = TopK(h, k) y, places = Dropout(h)"))
def test_one_of_a_nodes_several_outputs(maker: onnx.NodeProto, handmade: Any, normal: Any) -> None:
    weights = {"W": normal(4, 3), "k": np.array([3])}
    safe = normalised(handmade([N("MatMul", ["x", "W"], ["h"]), maker], weights))
    assert operators(cut(safe)) == ["MatMul", maker.op_type]


@pytest.mark.parametrize("output", ["a", "b", "y"])
def test_any_value_may_be_the_output(output: str, handmade: Any, normal: Any) -> None:
    nodes = parsed("a = MatMul(x, W) b = Softmax<axis=1>(a) y = Add(a, b)")
    weights = {"W": normal(4, 3)}
    model = handmade(nodes, weights, outputs=[value(output, "batch", 3)])
    safe = normalised(model)
    x = normal(5, 4, seed=1)
    wanted = ReferenceEvaluator(model).run([output], {"x": x})[0]
    got = ReferenceEvaluator(cut(safe)).run(None, {"input": x})[0]
    np.testing.assert_array_equal(got, wanted)


# --- input and output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["batch", "N", 1, 7, 0, None])
def test_any_batch_becomes_a_free_one(batch: str | int | None, handmade: Any, normal: Any) -> None:
    model = handmade(parsed("y = MatMul(x, W)"), {"W": normal(4, 3)}, inputs=[value("x", batch, 4)])
    assert normalised(model).input_shape == (4,)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 4), (1, 1, 2, 4), (1, 1, 1, 2, 4)])
def test_any_rank_is_taken(shape: tuple[int, ...], handmade: Any, normal: Any) -> None:
    nodes = parsed("m = MatMul(x, W) y = Flatten(m)")
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}, inputs=[value("x", "batch", *shape)]))
    assert safe.input_shape == shape


def test_several_outputs_are_all_kept(handmade: Any, normal: Any) -> None:
    nodes = parsed("y = MatMul(x, W) i = ArgMax<axis=1, keepdims=0>(y)")
    outputs = "int64[batch] i, float[batch,3] y"
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}, outputs=outputs))
    assert list(safe.outputs.values()) == ["i", "y"] and safe.chosen is None
    assert operators(safe.cut(next(n for n, old in safe.outputs.items() if old == "y"))) == ["MatMul"]


# --- what the user chooses ---------------------------------------------------------------------------------


def test_a_value_inside_may_be_the_output(handmade: Any, normal: Any) -> None:
    nodes = parsed("h = MatMul(x, W) y = ArgMax<axis=1>(h)")
    safe = normalised(handmade(nodes, {"W": normal(4, 3)}), GraphChoice(output="h"))
    assert operators(safe.model) == ["MatMul"] and safe.value_names[safe.chosen or ""] == "h"


def test_a_value_inside_may_be_the_input(handmade: Any, normal: Any) -> None:
    nodes = parsed("h = Gather(table, x) r = Relu(h) y = Flatten(r)")
    model = handmade(nodes, {"table": normal(9, 4)}, inputs="int64[batch,5] x")
    safe = normalised(model, GraphChoice(input="h", shape=(1, 5, 4)))
    assert operators(safe.model) == ["Relu", "Flatten"] and not safe.model.graph.initializer
    assert (safe.input_name, safe.input_shape) == ("h", (5, 4))


@pytest.mark.parametrize("batch", ["batch", 5])
def test_other_inputs_are_held(batch: str | int, handmade: Any, normal: Any) -> None:
    nodes = parsed("m = Mul(x, mask) y = Add(m, bias)")
    inputs = [value("x", batch, 4), value("mask", batch, 4), value("bias")]
    model = handmade(nodes, inputs=inputs, outputs=[value("y", batch, 4)])
    safe = normalised(model, GraphChoice(constants={"mask": 2.0, "bias": 0.5}))
    x = normal(5, 4)
    got = ReferenceEvaluator(cut(safe)).run(None, {"input": x})[0]
    np.testing.assert_allclose(got, x * 2 + 0.5, rtol=1e-6)


def test_open_sizes_are_said(handmade: Any, normal: Any) -> None:
    model = handmade(parsed("y = Relu(x)"), inputs="float[batch,3,height,width] x")
    with pytest.raises(UnsupportedTeacher, match="height") as caught:
        normalised(model)
    assert "--shape" in caught.value.remedy
    assert normalised(model, GraphChoice(shape=(1, 3, 8, 9))).input_shape == (3, 8, 9)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (GraphChoice(input="nobody"), "no value is called 'nobody'"),
        (GraphChoice(output="yy"), "did you mean 'y'"),
        (GraphChoice(constants={"z": 1.0}), "no input is called 'z'"),
        (GraphChoice(shape=(1, 5)), "does not fit"),
        (GraphChoice(shape=(1, 4, 1)), "does not fit"),
        (GraphChoice(shape=(0, 4)), "does not fit"),
        (GraphChoice(shape=(4,)), "does not fit"),
    ],
)
def test_a_choice_that_the_file_does_not_have(choice: GraphChoice, words: str, handmade: Any, normal: Any) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        normalised(handmade(parsed("y = MatMul(x, W)"), {"W": normal(4, 3)}), choice)
    assert caught.value.exit_code == 2 and caught.value.remedy
