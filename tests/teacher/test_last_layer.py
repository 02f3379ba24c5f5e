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

from onnxcake.teacher import find_capabilities
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

N = helper.make_node


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
HALF = np.array(0.5, np.float32)
ENDS = {
    "Gemm": End((N("Gemm", ["h", "W", "b"], ["y"]),), {"W": W, "b": B}),
    "Gemm, transB": End((N("Gemm", ["h", "W", "b"], ["y"], transB=1),), {"W": W.T, "b": B}),
    "Gemm, alpha and beta": End((N("Gemm", ["h", "W", "b"], ["y"], alpha=0.5, beta=3.0),), {"W": W, "b": B}),
    "Gemm without a bias": End((N("Gemm", ["h", "W"], ["y"], alpha=2.0),), {"W": W}),
    "Gemm, one bias for all": End((N("Gemm", ["h", "W", "b"], ["y"]),), {"W": W, "b": B[:1]}),
    "Gemm, a row of biases": End((N("Gemm", ["h", "W", "b"], ["y"]),), {"W": W, "b": B[None]}),
    "Gemm, transA": End(
        (N("Transpose", ["h"], ["t"], perm=[1, 0]), N("Gemm", ["t", "W", "b"], ["y"], transA=1, transB=1)),
        {"W": W.T, "b": B},
        features="t:turned",
    ),
    "MatMul": End((N("MatMul", ["h", "W"], ["y"]),), {"W": W}),
    "MatMul and Add": End((MATMUL, BIAS), {"W": W, "b": B}),
    "MatMul and Add, the other way round": End((MATMUL, N("Add", ["b", "m"], ["y"])), {"W": W, "b": B}),
    "MatMul and Sub": End((MATMUL, N("Sub", ["m", "b"], ["y"])), {"W": W, "b": B}),
    "MatMul taken from a constant": End((MATMUL, N("Sub", ["b", "m"], ["y"])), {"W": W, "b": B}),
    "divided by a temperature": End(
        (N("Gemm", ["h", "W", "b"], ["m"]), N("Div", ["m", "half"], ["y"])), {"W": W, "b": B, "half": HALF}
    ),
    "scaled, then moved": End(
        (MATMUL, N("Mul", ["c", "m"], ["s"]), N("Add", ["s", "b"], ["y"])), {"W": W, "c": B * B, "b": B}
    ),
    "moved, then scaled": End(
        (MATMUL, N("Add", ["m", "b"], ["s"]), N("Mul", ["s", "c"], ["y"])), {"W": W, "c": B * B, "b": B}
    ),
    "behind an axis of one": End(
        (N("Unsqueeze", ["h", "axis"], ["u"]), N("MatMul", ["u", "W"], ["m"]), N("Squeeze", ["m", "axis"], ["y"])),
        {"W": W, "axis": np.array([1])},
        features="u:rows",
    ),
    "reshaped": End((MATMUL, N("Reshape", ["m", "to"], ["y"])), {"W": W, "to": np.array([-1, 3, 1])}),
    "Softmax after it": End(
        (MATMUL, N("Add", ["m", "b"], ["z"]), N("Softmax", ["z"], ["y"], axis=1)), {"W": W, "b": B}
    ),
    "LogSoftmax after it": End((MATMUL, N("LogSoftmax", ["m"], ["y"], axis=1)), {"W": W}),
    "labels": End((MATMUL, N("Sigmoid", ["m"], ["y"])), {"W": W}),
    "label logits": End((MATMUL, BIAS), {"W": W, "b": B}, said={"task": "multilabel"}),
    "a yes or no": End(
        (N("Gemm", ["h", "w", "b"], ["z"]), N("Sigmoid", ["z"], ["y"])), {"w": W[:, :1], "b": B[:1]}, scores=1
    ),
    "a yes or no, as a logit": End((N("Gemm", ["h", "w"], ["y"]),), {"w": W[:, :1]}, 1, {"task": "binary"}),
    "a yes or no, from a vector": End(
        (N("MatMul", ["h", "w"], ["m"]), N("Unsqueeze", ["m", "axis"], ["y"])),
        {"w": W[:, 0], "axis": np.array([1])},
        1,
        {"task": "binary"},
    ),
    "averaged after a convolution": End(
        (N("Conv", ["h", "K", "b"], ["c"]), N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["y"])),
        {"K": K, "b": B},
        image=True,
        features="h:pooled",
    ),
    "averaged after a convolution, moved between": End(
        (
            *(N("Conv", ["h", "K"], ["c"]), N("Add", ["c", "d"], ["a"])),
            N("ReduceMean", ["a"], ["y"], axes=[-2, -1], keepdims=0),
        ),
        {"K": K, "d": B.reshape(3, 1, 1)},
        image=True,
        features="h:pooled",
    ),
    "averaged before a convolution": End(
        (N("GlobalAveragePool", ["h"], ["g"]), N("Conv", ["g", "K", "b"], ["c"]), N("Flatten", ["c"], ["y"])),
        {"K": K, "b": B},
        image=True,
        features="g:rows",
    ),
    "a convolution of the whole": End(
        (N("Conv", ["h", "K", "b"], ["c"]), N("Flatten", ["c"], ["y"])),
        {"K": numbers(3, 4, 5, 5), "b": B},
        image=True,
        features="h:rows",
    ),
    "within 0 … 1 by chance": End(
        (N("Sigmoid", ["h"], ["s"]), N("MatMul", ["s", "W"], ["y"])),
        {"W": np.abs(W) / np.abs(W).sum(0)},
        features="s",
    ),
}


def ended(end: End, path: Path, handmade: Any) -> Teacher:
    """``x`` → ``h``, not linear, → the end."""
    sizes = (4, 5, 5) if end.image else (4,)
    info, shape = helper.make_tensor_value_info, ["batch", *sizes]
    nodes = [N("Tanh", ["x"], ["h"]), *end.nodes]
    outputs = [info("y", TensorProto.FLOAT, ["batch", end.scores])]
    if end.nodes[-1].op_type == "Reshape":
        outputs = [info("y", TensorProto.FLOAT, ["batch", 3, 1])]
    model = handmade(nodes, end.weights, inputs=[info("x", TensorProto.FLOAT, shape)], outputs=outputs)
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
    "an activation after it": End((MATMUL, N("Relu", ["m"], ["y"])), {"W": W}),
    "a product of two values": End((MATMUL, N("Mul", ["m", "m"], ["y"])), {"W": W}),
    "a bias from the data": End(
        (MATMUL, N("Relu", ["m"], ["r"]), N("Gemm", ["h", "V", "r"], ["y"])), {"W": W, "V": numbers(4, 3, seed=5)}
    ),
    "probabilities that no Softmax makes": End(
        (
            *(N("MatMul", ["h", "W"], ["m"]), N("Exp", ["m"], ["e"]), N("ReduceSum", ["e", "axis"], ["s"])),
            N("Div", ["e", "s"], ["y"]),
        ),
        {"W": W, "axis": np.array([1])},
    ),
    "an activation before the mean": End(
        (
            *(N("Conv", ["h", "K"], ["c"]), N("Relu", ["c"], ["r"])),
            *(N("GlobalAveragePool", ["r"], ["g"]), N("Flatten", ["g"], ["y"])),
        ),
        {"K": K},
        image=True,
    ),
    "padding before the mean": End(
        (
            N("Conv", ["h", "K"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            *(N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["y"])),
        ),
        {"K": K},
        image=True,
    ),
    "a mean over channels": End(
        (
            *(N("Conv", ["h", "K"], ["c"]), N("ReduceMean", ["c"], ["r"], axes=[1, 3], keepdims=0)),
            *(N("Slice", ["r", "from", "to", "from1"], ["y"]),),
        ),
        {"K": K, "from": np.array([0]), "to": np.array([3]), "from1": np.array([1])},
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
    onnx.save(handmade(nodes, end.weights, inputs=sizes[0], outputs=sizes[1]), tmp_path / "t.onnx")
    for fixed in (True, False):
        opened = open_graph(tmp_path / "t.onnx", TeacherOptions(), fixed=fixed)
        assert (find_capabilities.offers(opened, "logits").last_layer is None) is fixed
