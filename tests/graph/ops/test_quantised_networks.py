"""Whole networks, quantised by onnxruntime in each of its ways: the same answers, and a gradient that leads on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from harness import built
from onnx import TensorProto
from onnx_text import model_of
from quantised_models import WAYS, answer, exported, inputs, network, quantised
from torch import Tensor

from onnxcake.graph.dequantise import float_twin, is_quantised
from onnxcake.graph.values import Obstacle

EACH = [(name, way, opset) for name in ("cnn", "mlp") for way in WAYS for opset in (13, 17)]
IDS = [f"{name}-{way}-{opset}".replace(" ", "-") for name, way, opset in EACH]


def gradient(module: Any, x: Tensor) -> Tensor:
    """Of a mix of the outputs, the same for all."""
    x = x.clone().requires_grad_()
    out = module(x)
    (grad,) = torch.autograd.grad((out * torch.linspace(-1, 1.5, out.shape[1])).sum(), x)
    return grad


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a).ravel().astype(np.float64), np.asarray(b).ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(("name", "way", "opset"), EACH, ids=IDS)
def test_the_answers_are_those_of_onnxruntime(name: str, way: str, opset: int) -> None:
    proto, x = quantised(name, way, opset), inputs(name, 64)
    want = answer(proto, x)
    got = built(proto)(torch.from_numpy(x)).numpy()
    away = np.abs(got - want) / np.abs(want).max()
    assert (away < 1e-3).mean() >= 0.98, "of 320 outputs, a few may be one step off: a tie that the last bit decides"
    assert away.max() < 0.02


@pytest.mark.parametrize(("name", "way", "opset"), EACH, ids=IDS)
def test_the_gradient_is_close_to_the_float_network_s(name: str, way: str, opset: int) -> None:
    x = torch.from_numpy(inputs(name, 64))
    ours = gradient(built(quantised(name, way, opset)), x)
    theirs = gradient(network(name), x)
    assert np.median([cosine(a, b) for a, b in zip(ours, theirs, strict=True)]) > 0.98
    assert cosine(ours, theirs) > 0.95


@pytest.mark.parametrize(("name", "way", "opset"), EACH, ids=IDS)
def test_the_float_twin(name: str, way: str, opset: int) -> None:
    """It gives about the same, and its slopes, by onnxruntime, are the straight-through gradient's."""
    proto, x = quantised(name, way, opset), inputs(name, 32)
    twin = float_twin(proto)
    onnx.checker.check_model(twin)
    assert is_quantised(proto) and not is_quantised(twin)
    want = answer(proto, x)
    np.testing.assert_allclose(answer(twin, x), want, rtol=0, atol=0.01 * np.abs(want).max())
    graph = built(proto)
    grad = gradient(graph, torch.from_numpy(x)).numpy()
    rng = np.random.default_rng(0)
    ways = rng.normal(size=(20, *x.shape)).astype(np.float32)
    mix, step = np.linspace(-1, 1.5, want.shape[1]), 1e-3
    slopes = [((answer(twin, x + step * d) - answer(twin, x - step * d)) * mix).sum() / (2 * step) for d in ways]
    found = [(grad * d).sum() for d in ways]
    # Eight bits move a few values over a kink of Relu or MaxPool; sixteen bits hardly do.
    assert cosine(slopes, found) > (0.999 if "int16" in way else 0.99)


def test_the_twin_s_own_gradient_is_that_of_its_graph() -> None:
    x = inputs("cnn", 8)
    twin = float_twin(quantised("cnn", "qoperator"))
    graph = built(twin)
    np.testing.assert_allclose(graph(torch.from_numpy(x)), answer(twin, x), rtol=1e-4, atol=1e-4)


def test_one_function_for_there_and_back() -> None:
    graph = built(quantised("cnn", "qdq"))
    assert [step.op for step in graph.steps].count("DequantizeLinear") == 8
    assert all(step.op != "QuantizeLinear" for step in graph.steps)


def test_only_what_is_rounded_is_quantised() -> None:
    assert not is_quantised(exported("cnn"))
    weights = {"w": np.eye(4, dtype=np.int8), "s": np.float32(0.1)}
    assert not is_quantised(of("f = DequantizeLinear(w, s) y = MatMul(x, f)", weights))


def of(body: str, weights: dict[str, Any], kind: str = "float") -> onnx.ModelProto:
    return model_of(body, weights=weights, inputs=f"{kind}[N,4] x", outputs="float[] y", ir_version=8)


CONSTANTS = {
    "s": np.float32(0.5),
    "z": np.uint8(3),
    "more": np.full((1, 2), 9, np.uint8),
    "pads": np.int64([0, 1]),
    "each": np.float32([0.5, 1, 2, 4]),
    "bias": np.int32([[5]]),
    "w": np.arange(8, dtype=np.int8).reshape(4, 2),
}
TWINS = {
    "integer input": ("y = DequantizeLinear(x, s, z)", "uint8"),
    "integer constants in between": (
        "q = QuantizeLinear(x, s, z) g = Gather<axis=1>(q, pads) c = Concat<axis=1>(g, g, q) m = Max(c, z) "
        "y = DequantizeLinear(m, s, z)",
        "float",
    ),
    "integer sums": (
        "q = QuantizeLinear(x, s, z) m = MatMulInteger(q, w, z) a = Add(m, bias) y = Cast<to=1>(a)",
        "float",
    ),
    "casts in between": (f"q = QuantizeLinear(x, s, z) i = Cast<to={TensorProto.INT32}>(q) y = Cast<to=1>(i)", "float"),
    "along an axis": ('q = QuantizeLinear<axis=1>(x, each, "") y = DequantizeLinear<axis=-1>(q, each)', "float"),
    "constants computed": (
        "f = DequantizeLinear(w, s) k = QuantizeLinear(f, s) q = QuantizeLinear(x, s, z) m = MatMulInteger(q, k, z) "
        "y = Cast<to=1>(m)",
        "float",
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_what_lies_between(name: str) -> None:
    body, kind = TWINS[name]
    proto = of(body, CONSTANTS, kind)
    x = np.linspace(1, 60, 12).reshape(3, 4).astype(np.float32)
    x = np.round(x) if kind != "float" else x
    want = answer(proto, x.astype(np.uint8) if kind != "float" else x)
    twin = float_twin(proto)
    got = answer(twin, x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=0.1 * np.abs(want).max())
    slope = (answer(twin, x + 0.01) - answer(twin, x - 0.01)) / 0.02
    assert (slope > 0).mean() > 0.5, "and none of it is flat"


def test_the_twin_of_a_model_without_types_or_weights_at_hand() -> None:
    """As the checker has it: the output untyped, large weights outside."""
    proto = onnx.ModelProto()
    proto.CopyFrom(quantised("cnn", "qoperator per channel"))
    want = answer(float_twin(proto), inputs("cnn", 4))
    proto.graph.output[0].ClearField("type")
    kept = {w.name: w.raw_data for w in proto.graph.initializer if len(w.dims) == 4}
    for weight in proto.graph.initializer:
        if weight.name in kept:
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="elsewhere")
    twin = float_twin(proto)
    for weight in twin.graph.initializer:
        if weight.name in kept:
            weight.ClearField("data_location")
            del weight.external_data[:]
            weight.raw_data = kept[weight.name]
    np.testing.assert_array_equal(answer(twin, inputs("cnn", 4)), want)


def test_the_twin_is_refused_inside_a_sub_graph() -> None:
    branches = (
        "then_branch = b () => (float[] r) { q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) }, "
        "else_branch = o () => (float[] i) { i = Identity(x) }"
    )
    proto = of(f"m = ReduceMax<keepdims=0>(x) c = Greater(m, s) y = If(c) <{branches}>", CONSTANTS)
    assert is_quantised(proto)
    with pytest.raises(Obstacle, match="sub-graph of If"):
        float_twin(proto)
