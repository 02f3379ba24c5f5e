"""The last linear layer is found whatever way a file writes it, and not where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_text import N, parsed

from onnxcake.teacher import find_capabilities
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher


@dataclass(frozen=True)
class End:
    """How a model ends, from features ``h`` [batch, 4] or [batch, 4, 5, 5], and what the user says."""

    nodes: tuple[onnx.NodeProto, ...]
    weights: Mapping[str, Any] = field(default_factory=dict)
    scores: int = 3
    said: Mapping[str, Any] = field(default_factory=dict)
    image: bool = False
    features: str = "h"


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


W, B, K = numbers(4, 3), numbers(3, seed=1), numbers(3, 4, 1, 1, seed=2)
MATMUL, BIAS = N("MatMul", ["h", "W"], ["m"]), N("Add", ["m", "b"], ["y"])
AT_HAND = {"W": W, "b": B, "K": K, "half": np.float32(0.5), "scale": B * B, "axis": np.array([1])}
ENDS = {
    "Gemm": End(parsed("y = Gemm(h, W, b)")),
    "Gemm, transB": End(parsed("y = Gemm<transB=1>(h, W, b)"), {"W": W.T}),
    "Gemm, alpha and beta": End(parsed("y = Gemm<alpha=0.5, beta=3.0>(h, W, b)")),
    "Gemm without a bias": End(parsed("y = Gemm<alpha=2.0>(h, W)")),
    "Gemm, one bias for all": End(parsed("y = Gemm(h, W, b)"), {"b": B[:1]}),
    "Gemm, a row of biases": End(parsed("y = Gemm(h, W, b)"), {"b": B[None]}),
    "Gemm, transA": End(
        parsed("t = Transpose<perm=[1, 0]>(h) y = Gemm<transA=1, transB=1>(t, W, b)"), {"W": W.T}, features="t:turned"
    ),
    "MatMul": End(parsed("y = MatMul(h, W)")),
    "MatMul and Add": End((MATMUL, BIAS)),
    "MatMul and Add, the other way round": End(parsed("m = MatMul(h, W) y = Add(b, m)")),
    "MatMul and Sub": End(parsed("m = MatMul(h, W) y = Sub(m, b)")),
    "MatMul taken from a constant": End(parsed("m = MatMul(h, W) y = Sub(b, m)")),
    "divided by a temperature": End(parsed("m = Gemm(h, W, b) y = Div(m, half)")),
    "scaled, then moved": End(parsed("m = MatMul(h, W) s = Mul(scale, m) y = Add(s, b)")),
    "moved, then scaled": End(parsed("m = MatMul(h, W) s = Add(m, b) y = Mul(s, scale)")),
    "behind an axis of one": End(
        parsed("u = Unsqueeze(h, axis) m = MatMul(u, W) y = Squeeze(m, axis)"), features="u:rows"
    ),
    "reshaped": End(parsed("m = MatMul(h, W) y = Reshape(m, to)"), {"to": np.array([-1, 3, 1])}),
    "Softmax after it": End(parsed("m = MatMul(h, W) z = Add(m, b) y = Softmax<axis=1>(z)")),
    "LogSoftmax after it": End(parsed("m = MatMul(h, W) y = LogSoftmax<axis=1>(m)")),
    "labels": End(parsed("m = MatMul(h, W) y = Sigmoid(m)")),
    "label logits": End((MATMUL, BIAS), said={"task": "multilabel"}),
    "a yes or no": End(parsed("z = Gemm(h, w, b) y = Sigmoid(z)"), {"w": W[:, :1], "b": B[:1]}, scores=1),
    "a yes or no, as a logit": End(parsed("y = Gemm(h, w)"), {"w": W[:, :1]}, 1, {"task": "binary"}),
    "a yes or no, from a vector": End(
        parsed("m = MatMul(h, w) y = Unsqueeze(m, axis)"), {"w": W[:, 0], "axis": np.array([1])}, 1, {"task": "binary"}
    ),
    "averaged after a convolution": End(
        parsed("c = Conv(h, K, b) g = GlobalAveragePool(c) y = Flatten(g)"), image=True, features="h:pooled"
    ),
    "averaged after a convolution, moved between": End(
        (*parsed("c = Conv(h, K) a = Add(c, d)"), N("ReduceMean", ["a"], ["y"], axes=[-2, -1], keepdims=0)),
        {"K": K, "d": B.reshape(3, 1, 1)},
        image=True,
        features="h:pooled",
    ),
    "averaged before a convolution": End(
        parsed("g = GlobalAveragePool(h) c = Conv(g, K, b) y = Flatten(c)"), image=True, features="g:rows"
    ),
    "a convolution of the whole": End(
        parsed("c = Conv(h, K, b) y = Flatten(c)"), {"K": numbers(3, 4, 5, 5)}, image=True, features="h:rows"
    ),
    "within 0 … 1 by chance": End(
        parsed("s = Sigmoid(h) y = MatMul(s, W)"), {"W": np.abs(W) / np.abs(W).sum(0)}, features="s"
    ),
}


def weights_of(end: End) -> dict[str, Any]:
    read = {name for node in end.nodes for name in node.input}
    return {name: array for name, array in {**AT_HAND, **end.weights}.items() if name in read}


def ended(end: End, path: Path, handmade: Any) -> Teacher:
    """``x`` → ``h``, not linear, → the end."""
    sizes = (4, 5, 5) if end.image else (4,)
    info, shape = helper.make_tensor_value_info, ["batch", *sizes]
    nodes = [N("Tanh", ["x"], ["h"]), *end.nodes]
    outputs = [info("y", TensorProto.FLOAT, ["batch", end.scores])]
    if end.nodes[-1].op_type == "Reshape":
        outputs = [info("y", TensorProto.FLOAT, ["batch", 3, 1])]
    model = handmade(nodes, weights_of(end), inputs=[info("x", TensorProto.FLOAT, shape)], outputs=outputs)
    onnx.save(model, path)
    return Teacher.load(path, **end.said)


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_logits_are_features_times_weights_plus_bias(end: End, tmp_path: Path, handmade: Any) -> None:
    teacher = ended(end, tmp_path / "t.onnx", handmade)
    layer = teacher.offers.last_layer
    assert layer is not None and dict(teacher.offers.names)[layer.features] == end.features
    x = torch.randn(6, *teacher.signature.shape, generator=torch.Generator().manual_seed(3))
    logits, taps = teacher.answer(x, (layer.features,))
    features = taps[layer.features]
    assert features.shape == (6, layer.weight.shape[1]) and teacher.shape_of(layer.features) == features.shape[1:]
    assert layer.weight.shape[0] == len(layer.bias) == logits.shape[1]
    torch.testing.assert_close(features @ layer.weight.t() + layer.bias, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.logits(x), logits)


NO_ENDS = {
    "an activation after it": End(parsed("m = MatMul(h, W) y = Relu(m)")),
    "a product of two values": End(parsed("m = MatMul(h, W) y = Mul(m, m)")),
    "a bias from the data": End(parsed("m = MatMul(h, W) r = Relu(m) y = Gemm(h, V, r)"), {"V": numbers(4, 3, seed=5)}),
    "probabilities that no Softmax makes": End(
        (*parsed("m = MatMul(h, W) e = Exp(m) s = ReduceSum(e, axis)"), N("Div", ["e", "s"], ["y"]))
    ),
    "an activation before the mean": End(
        (*parsed("c = Conv(h, K) r = Relu(c)"), *parsed("g = GlobalAveragePool(r) y = Flatten(g)")), image=True
    ),
    "padding before the mean": End(
        (
            N("Conv", ["h", "K"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            *parsed("g = GlobalAveragePool(c) y = Flatten(g)"),
        ),
        image=True,
    ),
    "a mean over channels": End(
        (
            *parsed("c = Conv(h, K) r = ReduceMean<axes=[1, 3], keepdims=0>(c)"),
            *parsed("y = Slice(r, from, to, from1)"),
        ),
        {"from": np.array([0]), "to": np.array([3]), "from1": np.array([1])},
        image=True,
    ),
}


@pytest.mark.parametrize("end", NO_ENDS.values(), ids=list(NO_ENDS))
def test_no_last_layer_where_the_logits_are_not_linear(end: End, tmp_path: Path, handmade: Any) -> None:
    assert ended(end, tmp_path / "t.onnx", handmade).offers.last_layer is None


def test_a_turned_layer_cannot_be_put_together_from_pieces(tmp_path: Path, handmade: Any) -> None:
    end, info = ENDS["Gemm, transA"], helper.make_tensor_value_info
    sizes = [info("x", TensorProto.FLOAT, [2, 4])], [info("y", TensorProto.FLOAT, [2, 3])]
    nodes = [N("Tanh", ["x"], ["h"]), *end.nodes]
    onnx.save(handmade(nodes, weights_of(end), inputs=sizes[0], outputs=sizes[1]), tmp_path / "t.onnx")
    for fixed in (True, False):
        opened = open_graph(tmp_path / "t.onnx", TeacherOptions(), fixed=fixed)
        assert (find_capabilities.offers(opened, "logits").last_layer is None) is fixed
