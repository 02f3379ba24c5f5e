"""What looks odd and is a teacher all the same: its logits, brought back, are what onnxruntime makes of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_text import N, parsed, value
from refusals import HIDDEN, SCORES, YES, W, answers_as_its_file, either, made, own, saved, table, tensor

from onnxcake.teacher.teacher import Teacher

F16, F64, I64, U8 = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8
Q = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
V = np.random.default_rng(2).normal(size=(4, 7)).astype(np.float32)
K = np.random.default_rng(3).normal(size=(3, 2, 3, 3)).astype(np.float32)
ONES = np.ones(3, np.float32)


@dataclass(frozen=True)
class Good:
    """A model, what the user says of it, what onnxruntime is given beside the input, and what is inferred."""

    model: onnx.ModelProto
    said: Mapping[str, Any] = field(default_factory=dict)
    feed: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    twin: onnx.ModelProto | None = None
    count: int = 6
    tolerance: float = 2e-3


NAMED = ("said", "feed", "expected", "twin", "count", "tolerance")


def good(*body: str | onnx.NodeProto, **rest: Any) -> Good:
    told = {name: rest.pop(name) for name in NAMED if name in rest}
    return Good(made(*body, **rest), **told)


def changed(change: Callable[[onnx.ModelProto], object], *body: str | onnx.NodeProto, **rest: Any) -> Good:
    row = good(*(body or (SCORES,)), **rest)
    change(row.model)
    return row


def sparse(indices: Any, name: str = "S") -> onnx.SparseTensorProto:
    numbers = np.random.default_rng(4).normal(size=len(indices)).astype(np.float32)
    return helper.make_sparse_tensor(tensor(numbers, name), tensor(np.int64(indices), "at"), [4, 3])


FLAT, PAIRS = [0, 4, 7, 11], [[0, 0], [1, 1], [2, 1], [3, 2]]


# --- M07: the graph -----------------------------------------------------------------------------------------


GRAPHS = {
    "as plain as can be": good(SCORES),
    "nodes in no order": good("r = Relu(h) y = MatMul(r, Q) h = MatMul(x, W)", weights={"Q": Q}),
    "an output that is listed twice": changed(lambda m: m.graph.output.append(m.graph.output[0])),
    "shapes that are not so": changed(
        lambda m: m.graph.value_info.extend([value("h", 17, 19, 23), value("nowhere", 1)]),
        "h = MatMul(x, W) y = Relu(h)",
        outputs="float[batch,who_knows] y",
    ),
    "an output without a shape": good(SCORES, outputs="float[] y"),
    "weights that are inputs too": good(SCORES, inputs="float[4,3] W, float[batch,4] x"),
    "an input that has a default": good(
        "s = Add(x, offset) y = MatMul(s, W)",
        inputs="float[batch,4] x, float[4] offset",
        weights={"offset": np.arange(4, dtype=np.float32)},
    ),
    "nodes and weights for nothing": good(
        "y = MatMul(x, W) aside = MatMul(x, V) noise = RandomNormal<shape=[3]>()", weights={"V": V}
    ),
    "an input for nothing": good(
        SCORES, inputs="float[batch,4] x, float[batch,9] unused", feed={"unused": np.zeros((6, 9), np.float32)}
    ),
    "inputs left out": good('h = MatMul(x, W) y = Clip(h, "", top)', weights={"top": np.float32(0.5)}),
    "outputs left out": good(HIDDEN, N("Dropout", ["h"], ["y", ""])),
    "names that are used again in sub-graphs": good(
        HIDDEN,
        "[n] y = If(yes) <then_branch = same () => (float[] inner) { [n] inner = Tanh(h) }, "
        "else_branch = same () => (float[] inner) { [n] inner = Relu(h) }>",
        weights=YES,
    ),
    "a constant of text for nothing": good('y = MatMul(x, W) text = Constant<value_string="hello">()'),
    "two outputs, scores and label": good(
        "y = MatMul(x, W) label = ArgMax<axis=1, keepdims=0>(y)",
        outputs="int64[batch] label, float[batch,3] y",
        expected={"output_name": "y"},
    ),
    "two outputs, one chosen": good(
        "y = MatMul(x, W) other = MatMul(x, V)",
        weights={"V": V},
        outputs="float[batch,3] y, float[batch,7] other",
        said={"output": "other"},
        expected={"output_name": "other", "classes": 7},
    ),
    "logits and probabilities": good(
        "y = MatMul(x, W) p = Softmax<axis=1>(y)",
        outputs="float[batch,3] p, float[batch,3] y",
        expected={"output_name": "y", "output_kind": "logits"},
    ),
}


# --- M08: versions, domains, functions ----------------------------------------------------------------------


def spelled_out(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"


def referring(op: str, name: str, kind: int) -> onnx.NodeProto:
    """A node of a function whose attribute the call gives."""
    node = N(op, ["a"], ["b"])
    node.attribute.add(name=name, ref_attr_name=name, type=kind)
    return node


FUNCTIONS = {
    "a function": good(
        "h = MatMul(x, W) y = own.act(h)", functions=[own("act", "t = Tanh(a) b = Add(a, t)")], domains={"own": 1}
    ),
    "functions in functions": good(
        "h = MatMul(x, W) y = own.twice(h)",
        functions=[own("act", "b = Tanh(a)"), own("twice", "t = own.act(a) b = own.act(t)")],
        domains={"own": 1},
    ),
    "a function with an attribute": good(
        "h = MatMul(x, W) y = own.leaky<alpha=0.3>(h)",
        functions=[own("leaky", referring("LeakyRelu", "alpha", onnx.AttributeProto.FLOAT), attributes=["alpha"])],
        domains={"own": 1},
    ),
    "a function whose attribute has a default": good(
        "h = MatMul(x, W) y = own.leaky(h)",
        functions=[
            own(
                "leaky",
                referring("LeakyRelu", "alpha", onnx.AttributeProto.FLOAT),
                attribute_protos=[helper.make_attribute("alpha", 0.2)],
            )
        ],
        domains={"own": 1},
    ),
    "a function in a branch": good(
        HIDDEN,
        either("inner = own.act(h)", "inner = Relu(h)"),
        weights=YES,
        functions=[own("act", "b = Tanh(a)")],
        domains={"own": 1},
    ),
    "a function under the name of an operator": good(
        "h = MatMul(x, W) y = own.Relu(h)", functions=[own("Relu", "b = Tanh(a)")], domains={"own": 1}
    ),
    "a domain spelled out": changed(spelled_out),
    "a domain for nothing": good(SCORES, domains={"nobody.uses.this": 7}),
    "how it was trained": changed(lambda m: m.training_info.add(), SCORES),
    "IR version 3": good(SCORES, inputs="float[batch,4] x, float[4,3] W", opset=8, ir_version=3),
    **{
        f"opset {opset}": good("y = Gemm(x, W, b)", weights={"b": ONES}, opset=opset)
        for opset in (7, 9, 11, 13, 15, 18, 21, 24)
    },
    "an operator of onnxruntime's": good(
        "y = com.microsoft.FusedMatMul<alpha=0.5>(x, W)", domains={"com.microsoft": 1}
    ),
    "no operator of the standard": good("y = com.microsoft.FusedMatMul(x, W)", domains={"com.microsoft": 1}),
    "a linear classifier": good(
        N(
            "LinearClassifier",
            ["x"],
            ["label", "y"],
            domain="ai.onnx.ml",
            coefficients=W.T.reshape(-1).tolist(),
            intercepts=[0.1, 0.2, 0.3],
            classlabels_ints=[0, 1, 2],
            post_transform="SOFTMAX",
        ),
        outputs="int64[batch] label, float[batch,3] y",
        domains={"ai.onnx.ml": 1},
        expected={"output_kind": "probabilities", "output_name": "y"},
    ),
}

# --- M09: weights -------------------------------------------------------------------------------------------


def cast_from(kind: int, **rest: Any) -> Good:
    numbers = helper.make_tensor("B", kind, [4, 3], W.reshape(-1).tolist())
    return good("w = Cast<to=1>(B) y = MatMul(x, w)", weights={"B": numbers}, **rest)


def dequantised(kind: int, numbers: Sequence[int], **rest: Any) -> Good:
    weights = {
        "B": helper.make_tensor("B", kind, [4, 3], list(numbers)),
        "scale": np.float32(0.1),
        "zero": helper.make_tensor("zero", kind, [], [1]),
    }
    return good("w = DequantizeLinear(B, scale, zero) y = MatMul(x, w)", weights=weights, **rest)


WEIGHTS = {
    "float16": cast_from(F16),
    "bfloat16": cast_from(TensorProto.BFLOAT16),
    "float64": cast_from(F64),
    "float8": cast_from(TensorProto.FLOAT8E4M3FN, opset=19),
    "int8": dequantised(TensorProto.INT8, range(-6, 6)),
    # onnxruntime multiplies by fewer bits than it is given.
    "uint8": dequantised(U8, range(12), tolerance=1e-2),
    "int4": dequantised(TensorProto.INT4, [-8, 7, 1, -2, 3, 4, -5, 0, 6, 2, -1, 5], opset=21),
    "uint4": dequantised(TensorProto.UINT4, range(12), opset=21, tolerance=1e-2),
    "half precision throughout": good(
        f"low = Cast<to={F16}>(x) m = MatMul(low, H) y = Cast<to=1>(m)", weights={"H": W.astype(np.float16)}
    ),
    "double precision throughout": good(
        "y = MatMul(x, D)", weights={"D": W.astype(np.float64)}, inputs="double[batch,4] x", outputs="double[batch,3] y"
    ),
    "sparse, by number": good("y = MatMul(x, S)", sparse=[sparse(FLAT)]),
    "sparse, by place": good("y = MatMul(x, S)", sparse=[sparse(PAIRS)]),
    "a sparse constant": good(N("Constant", [], ["S"], sparse_value=sparse(FLAT)), "y = MatMul(x, S)"),
    "a large number for what is masked": good(
        "h = MatMul(x, W) y = Add(h, mask)", weights={"mask": np.float32([0, -1e9, 0])}
    ),
    "no elements": good("h = MatMul(x, W) y = Concat<axis=0>(h, none)", weights={"none": np.zeros((0, 3), np.float32)}),
    "typed fields in place of bytes": good(
        SCORES, weights={"W": helper.make_tensor("W", 1, [4, 3], W.reshape(-1).tolist())}
    ),
}

# --- M10 to M12: inputs -------------------------------------------------------------------------------------

POOLED = parsed("c = Conv<pads=[1, 1, 1, 1]>(x, K) p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, Q)")
IMAGE = {"K": K, "Q": Q}
SUM = parsed("s = Add(x, mask) y = MatMul(s, W)")


def fixed(batch: int, *body: str | onnx.NodeProto, **rest: Any) -> Good:
    return good(*body, inputs=[value("x", batch, 4)], outputs=[value("y", batch, 3)], count=2 * batch, **rest)


INPUTS = {
    "a fixed batch of 1": fixed(1, SCORES),
    "a fixed batch of 7": fixed(7, SCORES),
    "a batch of 1 in a Reshape": fixed(1, "h = MatMul(x, W) y = Reshape(h, to)", weights={"to": np.array([1, 3])}),
    "a batch of 7 in a Reshape": fixed(7, "h = MatMul(x, W) y = Reshape(h, to)", weights={"to": np.array([7, 3])}),
    "a batch of 1 in an Expand": fixed(
        1, "h = MatMul(x, W) r = Expand(row, to) y = Add(h, r)", weights={"to": np.array([1, 3]), "row": Q[:1]}
    ),
    "a batch without a name": good(SCORES, inputs="float[?,4] x", outputs="float[?,3] y"),
    "one name for batch and size": good(SCORES, inputs="float[n,4] x", outputs="float[n,3] y"),
    "no shape at all": good(
        *POOLED, inputs=[helper.make_tensor_value_info("x", 1, None)], weights=IMAGE, said={"shape": (1, 2, 6, 5)}
    ),
    "a shape that says what the file says": good(
        *POOLED, inputs="float[batch,2,6,5] x", weights=IMAGE, said={"shape": (9, 2, 6, 5)}
    ),
    "volumes": good("p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, W)", inputs="float[batch,4,3,3,3] x"),
    "series": good("p = GlobalMaxPool(x) f = Flatten(p) y = MatMul(f, W)", inputs="float[batch,4,9] x"),
    "whole numbers": good(
        "f = Cast<to=1>(x) y = MatMul(f, W)",
        inputs="int64[batch,4] x",
        said={"range": (-10, 10)},
        expected={"input_dtype": "int64", "range": (-10.0, 10.0)},
    ),
    "a mask held at one": good(
        *SUM,
        inputs="float[batch,4] x, float[batch,4] mask",
        said={"constants": {"mask": 1}},
        feed={"mask": np.ones((6, 4), np.float32)},
        expected={"input_name": "x"},
    ),
    "a number held": good(
        "s = Mul(x, scale) y = MatMul(s, W)",
        inputs="float[batch,4] x, float scale",
        said={"constants": {"scale": 0.5}},
        feed={"scale": np.array(0.5, np.float32)},
    ),
    "names like those of a held input": good(
        N("Identity", ["W"], ["mask/held/one"]),
        N("Add", ["x", "mask"], ["mask/held/sizes"]),
        N("MatMul", ["mask/held/sizes", "mask/held/one"], ["y"]),
        inputs="float[batch,4] x, float[batch,4] mask",
        said={"constants": {"mask": 1}},
        feed={"mask": np.ones((6, 4), np.float32)},
    ),
    "the other of the two chosen": good(
        *SUM,
        inputs="float[batch,4] x, float[1,4] mask",
        said={"input": "x", "constants": {"mask": -2}},
        feed={"mask": np.full((1, 4), -2, np.float32)},
    ),
    "several inputs of several types": good(
        "s = Where(use, x, other) nf = Cast<to=1>(n) t = Add(s, nf) y = MatMul(t, W)",
        inputs="bool[batch,4] use, float[batch,4] x, float[4] other, int64[batch,1] n",
        said={"input": "x", "constants": {"use": 1, "other": 3.5, "n": 2}},
        feed={"use": np.ones((6, 4), bool), "other": np.full(4, 3.5, np.float32), "n": np.full((6, 1), 2)},
    ),
}

# --- M16 and M17: training mode, control flow ---------------------------------------------------------------

NORM = {"scale": ONES * 2, "bias": ONES, "mean": ONES * 0.5, "var": ONES * 3}
EVALUATED = made("h = MatMul(x, W) n = BatchNormalization(h, scale, bias, mean, var) y = Relu(n)", weights=NORM)


def branches(condition: str, *before: str, **weights: Any) -> Good:
    return good(
        HIDDEN,
        *before,
        either("inner = Tanh(h)", "twice = Constant<value_float=2.0>() inner = Mul(h, twice)", condition),
        weights=weights,
    )


def loop(times: str, step: str, **weights: Any) -> Good:
    body = "body (int64 i, bool c, float[batch,3] s) => (bool go, float[batch,3] t)"
    return good(HIDDEN, f"y = Loop({times}, h) <body = {body} {{ {step} }}>", weights=weights)


STEP = "u = Tanh(s) t = Add(u, s)"
FLOW = {
    "Dropout in training mode": Good(
        made(
            "h = MatMul(x, W) d = Dropout(h, ratio, train) y = Relu(d)",
            weights={"ratio": np.float32(0.5), "train": np.array(True)},
        ),
        twin=made("h = MatMul(x, W) y = Relu(h)"),
    ),
    "BatchNormalization in training mode": Good(
        made(
            "h = MatMul(x, W) n, m, v = BatchNormalization<training_mode=1>(h, scale, bias, mean, var)",
            "y = Relu(n)",
            weights=NORM,
        ),
        twin=EVALUATED,
    ),
    "BatchNormalization in an old training mode": Good(
        made(
            "h = MatMul(x, W) n, m, v, sm, sv = BatchNormalization(h, scale, bias, mean, var) y = Relu(n)",
            weights=NORM,
            opset=9,
        ),
        twin=EVALUATED,
    ),
    "If, always": branches("yes", **YES),
    "If, never": branches("no", no=np.array(False)),
    "If, by the shape": branches(
        "long", "shape = Shape(h) size = Gather(shape, one) long = Greater(size, two)", one=np.array(1), two=np.array(2)
    ),
    "If, by the data": branches(
        "long", "most = ReduceMax<keepdims=0>(h) long = Greater(most, least)", least=np.float32(-1e3)
    ),
    "Loop, five times": loop("five, ", f"go = Identity(c) {STEP}", five=np.array(5)),
    "Loop, not at all": loop("none, ", f"go = Identity(c) {STEP}", none=np.array(0)),
    "Loop, until a number is reached": loop(", yes", f"go = Less(i, four) {STEP}", **YES, four=np.array(4)),
    "Loop, while the data say": loop(
        "many, ", f"{STEP} most = ReduceMax<keepdims=0>(t) go = Less(most, ten)", many=np.array(4), ten=np.float32(1e9)
    ),
    "Scan": good(
        "turned = Transpose<perm=[1, 0]>(x) start = ReduceMin<axes=[0], keepdims=0>(turned)",
        "end, each = Scan(start, turned) <num_scan_inputs = 1, "
        "body = body (float[batch] state, float[batch] part) => (float[batch] new, float[batch] out) "
        "{ sum = Add(state, part) new = Tanh(sum) out = Identity(new) }>",
        "back = Transpose<perm=[1, 0]>(each) y = MatMul(back, W)",
    ),
}


def same_logits(path: Path, other: Path) -> None:
    right = answers_as_its_file(other)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Teacher.load(path).logits(x), right.logits(x), atol=1e-6, rtol=1e-6)


ROWS = {**GRAPHS, **FUNCTIONS, **WEIGHTS, **INPUTS}


@table({name: row for name, row in {**ROWS, **FLOW}.items() if row.twin is None})
def test_it_answers_as_its_file(row: Good, tmp_path: Path) -> None:
    path = saved(row.model, tmp_path)
    teacher = answers_as_its_file(path, feed=row.feed, count=row.count, tolerance=row.tolerance, **row.said)
    got = {name: getattr(teacher.signature, name) for name in row.expected}
    assert got == dict(row.expected)


@pytest.mark.parametrize(
    ("first", "second"), [("inner = Add(r, h)", "r = Relu(h)"), ("inner = Relu(s)", "s = Tanh(h)")]
)
def test_a_branch_in_no_order_answers_as_the_sorted_one(first: str, second: str, tmp_path: Path) -> None:
    """onnxruntime sorts the main graph alone; the second branch has a value of the If's own name."""

    def model(*nodes: str) -> onnx.ModelProto:
        return made("y = Tanh(s)", either(" ".join(nodes), "inner = Relu(h)", result="s"), HIDDEN, weights=YES)

    same_logits(saved(model(first, second), tmp_path), saved(model(second, first), tmp_path, "sorted.onnx"))


@table({name: row for name, row in FLOW.items() if row.twin is not None})
def test_it_answers_as_its_twin_in_evaluation_mode(row: Good, tmp_path: Path) -> None:
    teacher = Teacher.load(saved(row.model, tmp_path))
    assert any("training mode, used as in evaluation" in text for text in teacher.signature.assumptions)
    assert row.twin is not None
    same_logits(tmp_path / "t.onnx", saved(row.twin, tmp_path, "twin.onnx"))
