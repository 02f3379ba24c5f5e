"""M07 to M18: well-formed protobuf that is no teacher, each refused by what is wrong, where, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from in_process import command
from onnx import TensorProto, helper
from onnx_text import N, parsed, value
from refusals import (
    HIDDEN,
    SCORES,
    YES,
    Bad,
    W,
    answers_as_its_file,
    broken,
    dead,
    either,
    erring,
    made,
    misused,
    own,
    refused,
    saved,
    table,
    tensor,
    unsupported,
    with_fields,
)

from onnxcake import extract
from onnxcake.core.errors import BadTeacherFile, ConversionMismatch, OnnxcakeError, UnsupportedTeacher
from onnxcake.graph import build
from onnxcake.graph.build_log import Limits
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.examine import Examiner
from onnxcake.teacher.options import TeacherOptions

F16, I64, U8 = TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8

# --- M07: the graph itself ----------------------------------------------------------------------------------


FEW = helper.make_sparse_tensor(tensor([1.0], "W", np.float32), tensor([0], "at", np.int64), [4, 3])
GRAPHS = {
    "a cycle": broken(("'a'", "'b'", "in a circle"), "[first] a = Add(x, b) [second] b = Relu(a) y = MatMul(a, W)"),
    "a value that nothing makes": broken(
        ("nothing in it makes 'lost'", "node reads"), "y = Add(h, lost) h = MatMul(x, W)"
    ),
    "a circle beside a sound part": broken(
        "its values 'b', 'c', 'a' depend on each other in a circle",
        "after = Relu(y) a = Add(x, c) b = Relu(a) c = Relu(b) y = MatMul(a, W)",
    ),
    "a circle in a branch": broken(
        "in a circle", HIDDEN, either("c = Add(h, inner) inner = Relu(c)", "inner = Relu(h)"), weights=YES
    ),
    "a branch that reads what its own If gives": broken(
        "its value 'y' depends on itself", either("inner = Relu(y)", "inner = Relu(x)"), weights=YES
    ),
    "a node that reads its own output": broken("its value 'y' depends on itself", "y = Add(y, x)"),
    "an undefined input": broken("nowhere", "y = MatMul(x, nowhere)"),
    "an undefined input in a branch": broken(
        "nowhere", either("inner = Relu(nowhere)", "inner = Relu(x)"), weights=YES
    ),
    "an output never made": broken("'y'", HIDDEN),
    "a value made twice": broken("'y'", "y = MatMul(x, W) y = MatMul(x, W)"),
    "a node that makes the input": broken("'x'", "x = Relu(x) y = MatMul(x, W)"),
    "a node that makes a weight": broken("'W'", "W = Relu(x) y = MatMul(x, W)"),
    "two inputs of one name": broken("'x'", SCORES, inputs="float[batch,4] x, float[batch,4] x"),
    "the input as output": unsupported(("'x'", "the input itself"), SCORES, outputs="float[batch,4] x"),
    "a weight as output": unsupported(("'W'", "the same for every input"), SCORES, outputs="float[4,3] W"),
    "an unused weight as output": unsupported(
        ("'V'", "the same for every input"), SCORES, weights={"V": W}, outputs="float[4,3] V"
    ),
    "an output that reads a weight alone": unsupported(
        ("'y'", "the same for every input"),
        "s = Shape(x) n = Gather(s, first) to = Concat<axis=0>(n, three) y = Expand(row, to)",
        weights={"first": np.array([0]), "three": np.array([3]), "row": W[:1, :3]},
    ),
    "no input": unsupported("0 inputs", "y = Identity(W)", inputs=[]),
    "only inputs that are weights": unsupported("0 inputs", "y = Identity(W)", inputs="float[4,3] W"),
    "no outputs": broken("no outputs", SCORES, outputs=[]),
    "no nodes": broken("no operators"),
    "a node that makes nothing": broken("checker", N("Relu", ["x"], []), SCORES),
    "a node of too many inputs": broken("Relu", "y = Relu(x, x, x)"),
    "a node of too few inputs": broken("MatMul", "y = MatMul(x)"),
    "no such attribute": broken("axis", "y = MatMul<axis=1>(x, W)"),
    "a missing attribute": broken("to", "c = Cast(x) y = MatMul(c, W)"),
    "an attribute of another type": broken("axis", "h = MatMul(x, W) y = Softmax<axis=1.5>(h)"),
    "two weights of one name": broken(
        "W initializer name is not unique", SCORES, weights={"twice": tensor(W * 2, "W")}
    ),
    "a dense and a sparse weight of one name": broken("W sparse initializer name is not unique", SCORES, sparse=[FEW]),
    "shapes that do not fit": unsupported("'MatMul #0'", SCORES, weights={"W": W[:3]}),
    "an axis that is not there": erring(
        ("onnxruntime", "('last') Op (Softmax)"), "h = MatMul(x, W) [last] y = Softmax<axis=7>(h)"
    ),
    "a permutation that is none": unsupported("'Transpose #1'", "h = MatMul(x, W) y = Transpose<perm=[0, 0]>(h)"),
    "a reshape that does not fit": unsupported(
        "'Reshape #1'", "h = MatMul(x, W) y = Reshape(h, to)", weights={"to": np.array([-1, 7])}
    ),
}


# --- M08: operators, domains, versions ----------------------------------------------------------------------


def secret(name: str, source: str = "x", result: str = "y", op: str = "Secret") -> onnx.NodeProto:
    return N(op, [source, "W"], [result], name=name, domain="acme")


ACME = {"acme": 3}


def of_weight(words: str, **fields: Any) -> Bad:
    return broken(words, SCORES, weights={"W": with_fields(tensor(W, "W"), **fields)})


def of_file(words: str, **fields: Any) -> Bad:
    return Bad(with_fields(made(SCORES), **fields), BadTeacherFile, (words,))


OPERATORS = {
    "a weight of too few bytes": of_weight("'W' does not hold what its shape says", raw_data=b"123"),
    "a weight whose size overflows": of_weight("'W' does not hold what its shape says", dims=[2**62, 2**62]),
    "a weight of a negative size": of_weight("Negative dimension value (tensor name: W)", dims=[-4, 3]),
    "a weight of a type nobody knows": of_weight("'W'", data_type=99),
    "a weight of no type": of_weight("'W'", data_type=None),
    "no opset": of_file("opset_import", opset_import=None),
    "no IR version": of_file("not an ONNX model", ir_version=None),
    "IR version 99": of_file("ir_version 99", ir_version=99),
    "IR version −1": of_file("IR version < 3", ir_version=-1),
    "no graph": of_file("not an ONNX model", graph=None),
    "an input without a type": broken("type", SCORES, inputs=[onnx.ValueInfoProto(name="x")]),
    "opset 999": unsupported(("opset 999", "newer"), SCORES, opset=999),
    "opset 0": broken("MatMul", SCORES, opset=0),
    "opset −1": broken("MatMul", SCORES, opset=-1),
    "no such operator": unsupported(("Matmul-17: no conversion", "'Matmul #0'"), "y = Matmul(x, W)"),
    "an operator of a later opset": erring(("onnxruntime", "Gelu"), "h = MatMul(x, W) y = Gelu(h)", opset=17),
    "an empty operator": broken("op_type", N("", ["x", "W"], ["y"])),
    "a domain nobody knows": unsupported(("acme.Secret-3", "'s'"), secret("s"), domains=ACME),
    "an operator of another domain under a known name": unsupported(
        "acme.MatMul-3", secret("m", op="MatMul"), domains=ACME
    ),
    "a domain that is not imported": broken("acme", secret("s")),
    "training operators": unsupported(
        ("ai.onnx.preview.training.Momentum", "'learn'"),
        "h = MatMul(x, W)",
        "[learn] y, v = ai.onnx.preview.training.Momentum"
        '<alpha=0.9, beta=1.0, mode="standard", norm_coefficient=0.0>(r, t, h, h, h)',
        weights={"r": np.float32(0.1), "t": np.array(0)},
        domains={"ai.onnx.preview.training": 1},
    ),
    "a contrib operator that has no gradient": unsupported(
        ("com.microsoft.BeamSearch-1", "'beam'"),
        "[beam] y = com.microsoft.BeamSearch(x, W)",
        domains={"com.microsoft": 1},
    ),
    "several kinds of unsupported operators": unsupported(
        (
            "onnxruntime cannot run the file, as it lacks an operator; it cannot be converted: ",
            "acme.Secret-3: no conversion for this operator (at 'a', 'c', 'd' and 1 more)",
            "acme.Other-3: no conversion for this operator (at 'b')",
        ),
        secret("a", result="s1"),
        secret("b", result="s2", op="Other"),
        secret("c", result="s3"),
        secret("d", result="s4"),
        secret("", result="s5"),
        "y = Sum(s1, s2, s3, s4, s5)",
        domains=ACME,
    ),
    "unsupported operators behind one another": unsupported(
        ("acme.Secret-3", "'first'", "acme.Other-3", "'second'"),
        secret("first", result="s1"),
        secret("second", "s1", op="Other"),
        domains=ACME,
    ),
    "more kinds than a message holds": unsupported(
        "and 4 more kinds",
        *(secret(f"n{i}", result=f"s{i}", op=f"Op{i}") for i in range(12)),
        N("Sum", [f"s{i}" for i in range(12)], ["y"]),
        domains=ACME,
    ),
    "an unsupported operator without a name": unsupported("'Secret #1'", HIDDEN, secret("", "h"), domains=ACME),
    "an unsupported operator in a branch": unsupported(
        ("acme.Secret-3", "'deep'"),
        either("[deep] inner = acme.Secret(x, W)", "inner = MatMul(x, W)"),
        weights=YES,
        domains=ACME,
    ),
    "an unsupported operator in a function": unsupported(
        ("acme.Secret-3",),
        "h = MatMul(x, W) y = own.own(h)",
        functions=[own("own", "[deep] b = acme.Secret(a)")],
        domains={"own": 1, **ACME},
    ),
    "a function that calls one that is not there": unsupported(
        "own.nowhere-1",
        "h = MatMul(x, W) y = own.own(h)",
        functions=[own("own", "b = own.nowhere(a)")],
        domains={"own": 1},
    ),
}


def test_very_many_outputs(tmp_path: Path) -> None:
    names = [f"o{i}" for i in range(1000)]
    model = made(*(N("MatMul", ["x", "W"], [name]) for name in names), outputs=[value(n, "batch", 3) for n in names])
    refused(saved(model, tmp_path), UnsupportedTeacher, "not plain which output", "and 992 more")


def test_very_many_inputs(tmp_path: Path) -> None:
    names = [f"i{i}" for i in range(5000)]
    model = made(N("Sum", names, ["y"]), inputs=[value(name, "batch", 3) for name in names])
    refused(saved(model, tmp_path), UnsupportedTeacher, "5000 inputs", "'i0'")
    refused(saved(model, tmp_path), UnsupportedTeacher, "it also needs", arguments=["--input", "i7"])


def test_very_many_unsupported_operators(tmp_path: Path) -> None:
    width = 30_000
    names = [f"s{i}" for i in range(width)]
    model = made(*(secret(name, result=name) for name in names), N("Sum", names, ["y"]), domains=ACME)
    refused(saved(model, tmp_path), UnsupportedTeacher, f"'s0', 's1', 's2' and {width - 3} more")


# --- M09: weights -------------------------------------------------------------------------------------------

NAN, INF = np.float32("nan"), np.float32("inf")
HIGH = parsed("h = MatMul(x, W) y = Add(h, b)")


def with_low(kind: int, number: float) -> TensorProto:
    """Three numbers of a type of low precision, one of them special."""
    return helper.make_tensor("b", kind, [3], [0.0, number, 0.0])


CAST = parsed("h = MatMul(x, W) c = Cast<to=1>(b) y = Add(h, c)")
WEIGHTS = {
    "NaN everywhere": broken("the weight 'W' holds NaN", SCORES, weights={"W": np.full((4, 3), np.nan, np.float32)}),
    "one NaN": broken("'b' holds NaN", *HIGH, weights={"b": np.float32([0, NAN, 0])}),
    "NaN in float64": broken("'b' holds NaN", *CAST, weights={"b": np.array([0, NAN, 0], np.float64)}),
    "NaN in float16": broken("'b' holds NaN", *CAST, weights={"b": with_low(F16, np.nan)}),
    "NaN in bfloat16": broken("'b' holds NaN", *CAST, weights={"b": with_low(TensorProto.BFLOAT16, np.nan)}),
    "NaN in float8": broken(
        "'b' holds NaN", *CAST, weights={"b": with_low(TensorProto.FLOAT8E4M3FN, np.nan)}, opset=19
    ),
    "NaN in a Constant": dead(  # exporters mark what is missing by it, so it may be meant
        "not finite", HIDDEN, N("Constant", [], ["b"], value=tensor(np.float32([0, NAN, 0]))), "y = Add(h, b)"
    ),
    "infinite weights": dead("not finite", SCORES, weights={"W": np.full((4, 3), np.inf, np.float32)}),
    "minus infinity as a bias": dead(
        "logits on random inputs are not finite", *HIGH, weights={"b": np.full(3, -INF, np.float32)}
    ),
    "all zero": dead("gradient is zero", SCORES, weights={"W": np.zeros((4, 3), np.float32)}),
    "denormal": dead(("all the same", "e-"), SCORES, weights={"W": W * 1e-40}),
    "strings": unsupported(
        "'MatMul #0'",
        "y = MatMul(x, S)",
        weights={"S": helper.make_tensor("S", TensorProto.STRING, [4, 3], [b"a"] * 12)},
    ),
    "complex numbers": erring(
        ("onnxruntime", "complex64", "'S'"), "y = MatMul(x, S)", weights={"S": np.ones((4, 3), np.complex64)}
    ),
}


# --- M10 to M12: inputs -------------------------------------------------------------------------------------

IMAGE = parsed("p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, W)")
SUM = parsed("s = Add(x, mask) y = MatMul(s, W)")
TWO = "float[batch,4] x, float[batch,4] mask"

INPUTS = {
    "unknown sizes": unsupported(
        ("'x'", "shape batch×4×h×w; all but the batch must be known"), *IMAGE, inputs="float[batch,4,h,w] x"
    ),
    "sizes of one name": unsupported(("'x'", "all but the batch must be known"), *IMAGE, inputs="float[n,4,n,n] x"),
    "sizes without a name": unsupported(("'x'", "all but the batch must be known"), SCORES, inputs="float[?,?] x"),
    "no shape at all": unsupported(
        "the shape of input 'x' is not known",
        SCORES,
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
    ),
    "size zero": unsupported("must be known", SCORES, inputs="float[batch,0] x"),
    "a negative size": unsupported("must be known", SCORES, inputs=[value("x", "batch", -4)]),
    "negative sizes": unsupported("open: number 2", SCORES, inputs=[value("x", -1, -1)]),
    "no batch": unsupported(("'x'", "1 dimension(s)"), SCORES, inputs="float[4] x", outputs="float[3] y"),
    "a number": unsupported(("'x'", "0 dimension(s)"), "y = Mul(x, W)", inputs="float x"),
    "a size of 2⁴⁰": unsupported(
        "input 'x' holds 1,099,511,627,776 numbers",
        "s = ReduceMax<axes=[1]>(x) y = Add(s, W)",
        inputs=[value("x", "batch", 2**40)],
    ),
    "a shape that does not fit": misused(
        ("--shape 1,3,8,8 does not fit input 'x'",), *IMAGE, inputs="float[batch,4,h,w] x", arguments="--shape 1,3,8,8"
    ),
    "a sequence": unsupported(
        "input 'x' is a sequence_type, not a tensor",
        "c = ConcatFromSequence<axis=0>(x) y = MatMul(c, W)",
        inputs=[helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["batch", 4])],
    ),
    "a map": unsupported(
        "input 'x' is a map_type, not a tensor",
        'v = ai.onnx.ml.DictVectorizer<string_vocabulary=["a", "b", "c", "d"]>(x)',
        "y = MatMul(v, W)",
        inputs=[
            helper.make_value_info(
                "x",
                onnx.TypeProto(
                    map_type=onnx.TypeProto.Map(
                        key_type=TensorProto.STRING, value_type=helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                    )
                ),
            )
        ],
        domains={"ai.onnx.ml": 3},
    ),
    "an optional": unsupported(
        "input 'x' is a optional_type, not a tensor",
        "v = OptionalGetElement(x) y = MatMul(v, W)",
        inputs=[
            helper.make_value_info(
                "x", helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 4]))
            )
        ],
    ),
    "strings": unsupported(
        "input 'x' is string",
        'y = ai.onnx.ml.LabelEncoder<keys_strings=["a"], values_floats=[1.0]>(x)',
        inputs="string[batch,3] x",
        domains={"ai.onnx.ml": 2},
    ),
    "yes and no": unsupported("input 'x' is bool", "y = Cast<to=1>(x)", inputs="bool[batch,3] x"),
    "complex numbers": unsupported(
        "input 'x' is complex64", "y = Identity(x)", inputs="complex64[batch,4] x", outputs="complex64[batch,4] y"
    ),
    "indices of words": dead(
        ("gradient", "Gather"), "e = Gather(W, x) y = ReduceMean<axes=[1], keepdims=0>(e)", inputs="int64[batch,4] x"
    ),
    "two inputs": unsupported(("2 inputs", "'x'", "'mask'"), *SUM, inputs=TWO),
    "one chosen of two": unsupported(("it also needs 'mask'",), *SUM, inputs=TWO, arguments="--input x"),
    "an input that is not there": misused(
        ("no value is called 'mash'", "did you mean 'mask'?"), *SUM, inputs=TWO, arguments="--input mash"
    ),
    "a constant for an input that is not there": misused(
        "no input is called 'mash'", *SUM, inputs=TWO, arguments="--hold mash=1"
    ),
    "a constant of unknown sizes": unsupported(
        ("'mask'", "batch×other×4 is not known whole"),
        *SUM,
        inputs="float[batch,4] x, float[batch,other,4] mask",
        arguments="--hold mask=1",
    ),
    "a constant of a negative size": unsupported(
        ("'mask'", "a size of -7"),
        *SUM,
        inputs=[value("x", "batch", 4), value("mask", -7, 4)],
        arguments="--hold mask=1",
    ),
    "a constant of 2³¹ rows": unsupported(
        "input 'mask' holds 8,589,934,592 numbers",
        *SUM,
        inputs=[value("x", "batch", 4), value("mask", 2**31, 4)],
        arguments="--hold mask=1",
    ),
    "a constant of text": unsupported(
        "input 'mask' is string, which no number can be held for",
        *SUM,
        inputs="float[batch,4] x, string[1,4] mask",
        arguments="--hold mask=1",
    ),
    "a constant that its type does not hold": misused(
        "input 'mask' is int64 and cannot be held at 0.5",
        "m = Cast<to=1>(mask) s = Add(x, m) y = MatMul(s, W)",
        inputs="float[batch,4] x, int64[1,4] mask",
        arguments="--hold mask=0.5",
    ),
    "a fixed batch of 2³¹": unsupported("input 'x' holds 8,589,934,592 numbers", SCORES, inputs=[value("x", 2**31, 4)]),
    "a fixed batch of 2⁶²": unsupported(
        "input 'x' holds 18,446,744,073,709,551,616 numbers", SCORES, inputs=[value("x", 2**62, 4)]
    ),
    "all inputs held": unsupported("0 inputs", *SUM, inputs=TWO, arguments="--hold mask=1 --hold x=1"),
    "an inner value of unknown sizes": unsupported(
        "the shape of input 'h' is not known",
        secret("x", result="h"),
        "y = Relu(h)",
        domains=ACME,
        arguments="--input h",
    ),
}


def test_a_range_that_the_type_does_not_hold(tmp_path: Path) -> None:
    model = made("f = Cast<to=1>(x) y = MatMul(f, W)", inputs="uint8[batch,4] x")
    code, _, err = command("inspect", saved(model, tmp_path), "--range", "-1,1")
    assert code == 2 and "range -1,1 does not fit an input of type uint8" in err


# --- M12 and M13: outputs -----------------------------------------------------------------------------------

V = np.random.default_rng(1).normal(size=(4, 7)).astype(np.float32)


OUTPUTS = {
    "places of the largest": unsupported(
        ("'y'", "int64", "TopK"),
        "h = MatMul(x, W) most, y = TopK(h, k)",
        weights={"k": np.array([2])},
        outputs="int64[batch,2] y",
    ),
    "yes and no": unsupported(
        ("'y'", "bool", "Greater"),
        "h = MatMul(x, W) y = Greater(h, zero)",
        weights={"zero": np.zeros(1, np.float32)},
        outputs="bool[batch,3] y",
    ),
    "an output that is not there": misused(
        ("no value is called 'logit'", "did you mean 'logits'?"),
        "logits = MatMul(x, W)",
        outputs="float[batch,3] logits",
        arguments="--output logit",
    ),
    "the input chosen as output": misused("no value is called 'x'", SCORES, arguments="--output x"),
    "boxes chosen by NonMaxSuppression": unsupported(
        "NonMaxSuppression",
        "boxes = Reshape(x, four) s = ReduceMax<axes=[2], keepdims=0>(boxes) scores = Unsqueeze(s, one)",
        "y = NonMaxSuppression(boxes, scores, many)",
        weights={"four": np.array([-1, 1, 4]), "one": np.array([1]), "many": np.array([3])},
        outputs="int64[?,3] y",
    ),
    "a picture": unsupported(
        "[N, 3, 4, 4] holds one answer for each of many places",
        "y = Conv(x, K)",
        weights={"K": np.ones((3, 1, 1, 1), np.float32)},
        inputs="float[batch,1,4,4] x",
        outputs="float[batch,3,4,4] y",
    ),
    "one unbounded number": unsupported(
        ("'y'", "a binary logit, or the result of a regression"),
        "y = MatMul(x, v)",
        weights={"v": W[:, :1]},
        outputs="float[batch,1] y",
    ),
    "one task for many scores": misused("--task binary does not fit", SCORES, arguments="--task binary"),
    "many tasks for one score": misused(
        "--task multilabel does not fit",
        "y = MatMul(x, v)",
        weights={"v": W[:, :1]},
        outputs="float[batch,1] y",
        arguments="--task multilabel",
    ),
    "text": unsupported(
        ("'Cast #1'", "string"), f"h = MatMul(x, W) y = Cast<to={TensorProto.STRING}>(h)", outputs="string[batch,3] y"
    ),
    "a batch that is summed over": unsupported(
        "a batch of 2 gives an output of shape [3]",
        "h = MatMul(x, W) y = ReduceMean<axes=[0], keepdims=0>(h)",
        outputs="float[3] y",
    ),
    "a batch that is summed over and kept": unsupported(
        "does not hold one row for each input", "h = MatMul(x, W) y = ReduceMean<axes=[0]>(h)", outputs="float[1,3] y"
    ),
    "as many rows as the data say": unsupported(
        "depends on the data",
        "h = MatMul(x, W) places = NonZero(h) t = Transpose(places) y = GatherND(h, t)",
        outputs="float[?] y",
    ),
    "a tree ensemble": unsupported(
        ("TreeEnsembleClassifier", "'forest'"),
        "[forest] label, y = ai.onnx.ml.TreeEnsembleClassifier<"
        "class_ids=[0, 1], class_nodeids=[1, 2], class_treeids=[0, 0], class_weights=[1.0, 1.0], "
        "classlabels_int64s=[0, 1], nodes_falsenodeids=[2, 0, 0], nodes_featureids=[0, 0, 0], "
        'nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_nodeids=[0, 1, 2], nodes_treeids=[0, 0, 0], '
        'nodes_truenodeids=[1, 0, 0], nodes_values=[0.0, 0.0, 0.0], post_transform="NONE">(x)',
        outputs="int64[batch] label, float[batch,2] y",
        domains={"ai.onnx.ml": 3},
    ),
}


# --- M14 to M16: no gradient, no answer, no second answer ---------------------------------------------------

DEAD = {
    "places of the largest, compared": dead(
        ("no gradient", "'k' (TopK)"),
        "h = MatMul(x, W) [k] values, places = TopK(h, two) p = Cast<to=1>(places) y = MatMul(p, V)",
        weights={"two": np.int64([2]), "V": W[:2]},
    ),
    "rounded": dead(("gradient", "'r' (Round)"), "[r] z = Round(x) y = MatMul(z, W)"),
    "cut down": dead(("gradient", "'f' (Floor)"), "[f] z = Floor(x) y = MatMul(z, W)"),
    "signs": dead(("gradient", "'s' (Sign)"), "[s] z = Sign(x) y = MatMul(z, W)"),
    "through integers": dead(
        ("gradient", "'c' (Cast)"), f"[c] i = Cast<to={I64}>(x) f = Cast<to=1>(i) y = MatMul(f, W)"
    ),
    "a comparison": dead(
        ("gradient", "'g' (Greater)"),
        "[g] i = Greater(x, zero) f = Cast<to=1>(i) y = MatMul(f, W)",
        weights={"zero": np.zeros(1, np.float32)},
    ),
    "a label made into scores": dead(
        ("gradient", "(ArgMax)"),
        "h = MatMul(x, W) [a] label = ArgMax<axis=1, keepdims=0>(h) y = OneHot(label, depth, ends)",
        weights={"depth": np.array(3), "ends": np.float32([0, 1])},
    ),
    "saturated": dead(
        ("gradient is zero", "'s' (Sigmoid)"),
        "h = MatMul(x, W) m = Mul(h, huge) [s] s = Sigmoid(m) y = MatMul(s, Q)",
        weights={"huge": np.float32(1e9), "Q": W[:3]},
    ),
    "a dead ReLU": dead(
        ("gradient is zero", "'r' (Relu)"),
        "h = MatMul(x, W) m = Sub(h, far) [r] r = Relu(m) y = MatMul(r, Q)",
        weights={"far": np.float32(1e3), "Q": W[:3]},
    ),
    "multiplied by zero": dead(
        "gradient is zero", "h = MatMul(x, W) y = Mul(h, nothing)", weights={"nothing": np.zeros(3, np.float32)}
    ),
    "the same score for every class": dead(
        "scores for one input are all the same, whatever the input",
        "m = ReduceMax<axes=[1]>(x) y = Concat<axis=1>(m, m, m)",
    ),
    "the same answer to everything": dead(("gradient is zero", "(Sub)"), "z = Sub(x, x) y = MatMul(z, W)"),
    "overflow": dead("not finite", "h = MatMul(x, W) e = Exp(h) f = Exp(e) y = Exp(f)"),
    "NaN by division": dead("not finite", "h = MatMul(x, W) z = Sub(h, h) y = Div(z, z)"),
    "NaN by logarithm": dead("not finite", "h = MatMul(x, W) y = Log(h)"),
    "inputs that are mixed": unsupported(
        "depends on the others of its batch", "h = MatMul(x, W) mean = ReduceMean<axes=[0]>(h) y = Sub(h, mean)"
    ),
    "a decision over the whole batch": unsupported(
        "depends on the others of its batch", "h = MatMul(x, W) most = ReduceMax<axes=[0]>(h) y = Div(h, most)"
    ),
    "a decision by the place in the batch": unsupported(
        "depends on the others of its batch", "h = MatMul(x, W) y = Trilu(h)"
    ),
    "the steps of a sequence": unsupported(
        ("depends on the others of its batch", "the first one's does not", "steps of one sequence"),
        "h = MatMul(x, W) y = CumSum(h, first)",
        weights={"first": np.array(0)},
    ),
    "a fixed batch that is mixed": unsupported(
        "depends on the others of its batch",
        "h = MatMul(x, W) mean = ReduceMean<axes=[0]>(h) y = Sub(h, mean)",
        inputs="float[5,4] x",
        outputs="float[5,3] y",
    ),
    "classes that are masked": dead(
        "logits on random inputs are not finite",
        "h = MatMul(x, W) m = Where(mask, h, never) y = Softmax<axis=1>(m)",
        weights={"mask": np.array([True, False, True]), "never": np.array(-INF)},
    ),
    "numbers of words that are not there": erring(
        ("onnxruntime", "out of data bounds", "'look up'"),
        f'above = Exp(x) far = Mul(above, hundred) i = Cast<to={I64}>(far) ["look up"] e = Gather(W, i)',
        "r = ReduceMean<axes=[1], keepdims=0>(e) m = ReduceMean<axes=[1]>(x) y = Add(r, m)",
        weights={"hundred": np.float32(100)},
    ),
    "noise": unsupported(
        ("RandomNormalLike", "random numbers", "'noise'"),
        "h = MatMul(x, W) [noise] n = RandomNormalLike(h) y = Add(h, n)",
    ),
    "a coin": unsupported(("Bernoulli", "'coin'"), "h = MatMul(x, W) p = Sigmoid(h) [coin] y = Bernoulli(p)"),
    "a draw": unsupported(
        ("Multinomial", "'draw'"), "h = MatMul(x, W) [draw] i = Multinomial<sample_size=3>(h) y = Cast<to=1>(i)"
    ),
}


TABLES = {
    "graph": GRAPHS,
    "operators": OPERATORS,
    "weights": WEIGHTS,
    "inputs": INPUTS,
    "outputs": OUTPUTS,
    "gradient": DEAD,
}


@table({f"{part}, {name}": row for part, rows in TABLES.items() for name, row in rows.items()})
def test_each_is_refused(row: Bad, tmp_path: Path) -> None:
    refused(saved(row.model, tmp_path), row.kind, *row.words, arguments=row.arguments)


# --- M21: onnxruntime and the converted graph disagree ------------------------------------------------------


class Examined:
    """A file examined in this process, with one operator's conversion replaced."""

    def __init__(self, model: onnx.ModelProto, folder: Path, runtime: Runtime) -> None:
        self.examiner = Examiner(runtime)
        self.path = saved(model, folder)

    def error(self) -> OnnxcakeError:
        with pytest.raises(OnnxcakeError) as caught:
            self.examiner.read(self.path, TeacherOptions(), Limits())
            self.examiner.run()
        return caught.value


DEEP = made(
    "h = MatMul(x, W) [right] r = Relu(h) [wrong] t = Tanh(r) [after] s = Sigmoid(t) y = MatMul(s, Q)",
    weights={"Q": W[:3]},
)


def with_tanh(monkeypatch: pytest.MonkeyPatch, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    real = build.find
    monkeypatch.setattr(build, "find", lambda domain, op: (lambda node: function) if op == "Tanh" else real(domain, op))


def test_a_conversion_that_differs_is_refused_and_the_first_node_named(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tanh(monkeypatch, lambda x: torch.tanh(x) + 0.05)
    error = Examined(DEEP, tmp_path, runtime).error()
    assert type(error) is ConversionMismatch and error.exit_code == 4
    assert "differ by" in error.what and error.what.endswith("first at 'wrong' (Tanh)")


def test_a_conversion_that_fails_is_refused(tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta:
            raise AssertionError
        return x

    with_tanh(monkeypatch, fails)
    error = Examined(DEEP, tmp_path, runtime).error()
    assert type(error) is ConversionMismatch and "AssertionError" in error.what


def test_a_gradient_that_differs_is_refused(tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tanh(monkeypatch, lambda x: torch.tanh(x.detach()) + 3 * (x - x.detach()))
    error = Examined(DEEP, tmp_path, runtime).error()
    assert type(error) is ConversionMismatch and "its gradient differs" in error.what


# --- a whole run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [GRAPHS["a cycle"], OPERATORS["a domain nobody knows"], WEIGHTS["one NaN"], INPUTS["two inputs"], DEAD["rounded"]],
    ids=["a cycle", "a domain", "a NaN", "two inputs", "rounded"],
)
def test_a_run_with_a_bad_teacher_leaves_nothing(row: Bad, tmp_path: Path) -> None:
    path = saved(row.model, tmp_path)
    with pytest.raises(row.kind):
        extract(path, out=tmp_path / "out")
    assert [left.name for left in tmp_path.iterdir()] == ["t.onnx"]
    code, out, err = command("extract", path, "--out", tmp_path / "out", "--json")
    assert code == 4 and json.loads(out)["error"] == row.kind.__name__ and "Traceback" not in err
    assert [left.name for left in tmp_path.iterdir()] == ["t.onnx"]
    code, out, err = command("inspect", path)
    assert code == 4 and "cannot be used" in out and all(word in err for word in row.words) and "Traceback" not in err


def test_the_graph_that_most_of_these_are_made_from_is_a_teacher(tmp_path: Path) -> None:
    assert answers_as_its_file(saved(made(SCORES), tmp_path)).signature.classes == 3
    code, out, _ = command("inspect", tmp_path / "t.onnx")
    assert code == 0 and "can be used" in out
