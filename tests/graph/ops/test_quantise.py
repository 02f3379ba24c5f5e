"""To a grid of few values and back: what onnxruntime gives, and a gradient straight through the rounding."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from harness import Row, built, cases, data
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_text import model_of, value
from quantised_rows import forward, integers, numbers
from torch import Tensor

from onnxcake.graph.build import Builder
from onnxcake.graph.module import Graph

SCALE = np.float32(0.0173)
SCALES = np.linspace(0.011, 0.027, 3, dtype=np.float32)
X = data("N", 3, 4, 5, low=-3, high=3)  # 8-bit grids of these scales are left at both ends


def zero(dtype: str, *numbers: int) -> Any:
    return np.asarray(numbers[0] if len(numbers) == 1 else numbers, dtype)


ROWS = [
    Row("QuantizeLinear", [X, SCALE, zero("uint8", 7)], name="uint8"),
    Row("QuantizeLinear", [X, SCALE, zero("int8", -100)], name="int8"),
    Row("QuantizeLinear", [X, SCALE], name="no-zero"),
    Row("QuantizeLinear", [data("N", 4, dtype="int32", low=-999, high=999), SCALE * 99, zero("int8", 3)], name="int32"),
    Row("QuantizeLinear", [X, SCALE, zero("uint8", 0)], domain="com.microsoft", types=[TensorProto.UINT8], name="ms"),
    Row("QuantizeLinear", [X, SCALE / 300, zero("uint16", 70)], since=21, until=23, name="uint16"),
    Row("QuantizeLinear", [X, SCALE / 300], {"output_dtype": TensorProto.INT16}, since=21, until=23),
    Row("QuantizeLinear", [X, SCALES, zero("int8", 3, -4, 0)], {"axis": 1}, since=13),
    Row("QuantizeLinear", [X, np.tile(SCALES, 2)[:5], np.zeros(5, "uint8")], {"axis": -1}, since=13),
    Row("QuantizeLinear", [X, data(dtype="float32", low=0.01, high=0.02)], name="scale-is-data"),
    Row("DequantizeLinear", [integers("N", 3, 4), SCALE, zero("uint8", 130)], name="uint8"),
    Row("DequantizeLinear", [integers("N", 3, 4, dtype="int8"), SCALE], name="int8"),
    Row("DequantizeLinear", [integers("N", 3, 4, dtype="int16"), SCALE, zero("int16", 9)], since=21, name="int16"),
    Row("DequantizeLinear", [data("N", 3, dtype="int32", low=-999, high=999), SCALE], name="int32"),
    Row("DequantizeLinear", [integers("N", 3, 4), SCALES, zero("uint8", 3, 200, 7)], {"axis": 1}, since=13),
    Row("DequantizeLinear", [integers("N", 3, 4, dtype="int8"), SCALES, zero("int8", 0, 0, 0)], {"axis": -2}, since=13),
    Row("DequantizeLinear", [integers("N", 4), SCALE, zero("uint8", 9)], domain="com.microsoft", name="ms"),
    Row("DynamicQuantizeLinear", [X], outputs=("y", "scale", "zero")),
    Row("DynamicQuantizeLinear", [data("N", 7, low=1, high=4)], outputs=("y", "scale", "zero"), name="above-zero"),
]


@pytest.mark.parametrize(("row", "opset"), cases(ROWS))
def test_forward(row: Row, opset: int) -> None:
    forward(row, opset)


# --- kinds that no onnxruntime kernel, or no numpy, has: back and forth, against onnx's own evaluator -------------


def there_and_back(x: Any, scale: Any, zero: onnx.TensorProto | None, between: str = "", **attrs: Any) -> Any:
    """Make a model x → QuantizeLinear → (an operator) → DequantizeLinear."""
    parts = ["x", "scale"] + ["zero"] * (zero is not None)
    kept = {name: value for name, value in attrs.items() if name in ("axis", "block_size")}
    nodes = [helper.make_node("QuantizeLinear", parts, ["q"], **attrs)]
    if between:
        nodes.append(helper.make_node(between, ["q"], ["r"]))
    nodes.append(helper.make_node("DequantizeLinear", ["r" if between else "q", *parts[1:]], ["y"], **kept))
    weights = {"scale": np.asarray(scale, np.float32), **({} if zero is None else {"zero": zero})}
    inputs = [value("x", *x.shape)]
    return model_of(*nodes, weights=weights, inputs=inputs, outputs="float[] y", opset=25, ir_version=13)


def graph_of(proto: onnx.ModelProto, shape: tuple[int, ...], precision: torch.dtype | None = torch.float32) -> Graph:
    return built(proto, {"x": lambda _: shape}, precision)


def zeros_of(kind: int, *shape: int) -> onnx.TensorProto:
    return helper.make_tensor("zero", kind, shape, [0] * int(np.prod(shape)))


KINDS = ["INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT16", "FLOAT8E4M3FN", "FLOAT8E5M2"]
LINE = np.linspace(-3, 3, 60, dtype=np.float32).reshape(3, 20) * 1.01
BLOCKS = np.linspace(0.1, 0.3, 3 * 5, dtype=np.float32).reshape(3, 5)


@pytest.mark.parametrize("between", ["", "Transpose"])
@pytest.mark.parametrize("precision", [None, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str, precision: torch.dtype | None, between: str) -> None:
    scale = 0.25 if kind.endswith(("INT2", "INT4")) else 0.01
    proto = there_and_back(LINE, scale, zeros_of(getattr(TensorProto, kind)), between)
    (want,) = ReferenceEvaluator(proto).run(None, {"x": LINE})
    np.testing.assert_allclose(numbers(graph_of(proto, LINE.shape, precision)(torch.from_numpy(LINE))), want, rtol=1e-5)


@pytest.mark.parametrize("between", ["", "Abs"])
def test_blocks(between: str) -> None:
    attrs = {"axis": 1, "block_size": 4}
    proto = there_and_back(LINE, BLOCKS, zeros_of(TensorProto.INT8, 3, 5), between, **attrs)
    (want,) = ReferenceEvaluator(proto).run(None, {"x": LINE})
    np.testing.assert_allclose(numbers(graph_of(proto, LINE.shape)(torch.from_numpy(LINE))), want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8_beyond_its_range(kind: str, saturate: int) -> None:
    x = np.asarray([0.3, -1e3, 1e6, np.inf, -np.inf, np.nan], np.float32)
    proto = there_and_back(x, 1.0, zeros_of(getattr(TensorProto, kind)), saturate=saturate)
    dtype = getattr(ml_dtypes, kind.lower().replace("float8e", "float8_e"))
    largest = float(ml_dtypes.finfo(dtype).max)
    want = (np.clip(x, -largest, largest) if saturate else x).astype(dtype).astype(np.float32)
    for precision in (None, torch.float32):
        np.testing.assert_array_equal(numbers(graph_of(proto, x.shape, precision)(torch.from_numpy(x))), want)


def test_a_half_goes_to_the_even_number() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5]) * 0.25
    proto = there_and_back(x, 0.25, zeros_of(TensorProto.INT8))
    want = torch.tensor([-2.0, -2, 0, 0, 2, 2, 126, 127]) * 0.25
    torch.testing.assert_close(graph_of(proto, x.shape)(x), want, rtol=0, atol=0)


# --- the gradient -----------------------------------------------------------------------------------------------


def slope(graph: Graph, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(graph(x).sum(), x)
    return grad


ENDS = torch.tensor([-1.30, -1.29, -1.28, -0.3, 0.0, 1.0, 1.27, 1.274, 1.28, 5.0])
INSIDE = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
PARTS = {"joined": ("", 0.01), "apart": ("Neg", 0.01), "per-axis": ("", [0.01] * 10), "both": ("Neg", [0.01] * 10)}


@pytest.mark.parametrize(("between", "scale"), PARTS.values(), ids=PARTS)
def test_the_gradient_is_that_of_clipping(between: str, scale: Any) -> None:
    """It is one inside the range, its ends included, and nought outside."""
    zero = zeros_of(TensorProto.INT8, *np.shape(scale))
    graph = graph_of(there_and_back(ENDS, scale, zero, between, axis=0), ENDS.shape)
    assert len(graph.steps) == (3 if between else 1)
    sign = -1 if between else 1
    assert torch.equal(slope(graph, ENDS), sign * INSIDE)


@pytest.mark.parametrize("kind", ["UINT8", "UINT4", "FLOAT8E4M3FN"])
def test_the_gradient_with_other_kinds(kind: str) -> None:
    x = torch.tensor([-600.0, -1, 1, 14, 600])
    low, high = {"UINT8": (0, 255), "UINT4": (0, 15), "FLOAT8E4M3FN": (-448, 448)}[kind]
    graph = graph_of(there_and_back(x, 1.0, zeros_of(getattr(TensorProto, kind))), x.shape)
    assert torch.equal(slope(graph, x), ((x >= low) & (x <= high)).float())


def test_a_dynamic_scale_has_no_part_in_the_gradient() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10])]
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(helper.make_graph(nodes, "dynamic", inputs, outputs), opset_imports=opset)
    graph = graph_of(proto, (10,))
    assert torch.equal(slope(graph, ENDS), torch.ones(10))
    torch.testing.assert_close(graph(ENDS), ENDS, rtol=0, atol=0.02)


def test_what_is_not_undone_exactly_is_not_joined() -> None:
    proto = there_and_back(ENDS, 0.01, zeros_of(TensorProto.INT8))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "other"))
    proto.graph.node[1].input[1] = "other"
    graph = graph_of(proto, ENDS.shape)
    assert len(graph.steps) == 2
    torch.testing.assert_close(graph(ENDS), 2 * ENDS.clamp(-1.28, 1.27), rtol=0, atol=0.011)


def test_a_constant_weight_is_dequantised_once() -> None:
    weight = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["f"], axis=1),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(SCALES, "scale")]
    proto = helper.make_model(helper.make_graph(nodes, "weight", inputs, outputs, weights))
    proto.opset_import[0].version = 17
    graph = graph_of(proto, (2, 4))
    assert [step.op for step in graph.steps] == ["MatMul"]
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(graph(x), x @ torch.from_numpy(weight * SCALES))


# --- how it is run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("between", "scale"), PARTS.values(), ids=PARTS)
def test_compiled_and_vectorised(between: str, scale: Any) -> None:
    proto = there_and_back(ENDS, scale, zeros_of(TensorProto.INT8, *np.shape(scale)), between, axis=0)
    graph = graph_of(proto, ENDS.shape)
    torch.compiler.reset()
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(ENDS), graph(ENDS))
    assert torch.equal(slope(compiled, ENDS), slope(graph, ENDS))
    many = torch.stack([ENDS, -ENDS, 2 * ENDS])
    assert torch.equal(torch.vmap(graph)(many), torch.stack([graph(x) for x in many]))
    assert torch.equal(slope(torch.vmap(graph), many), torch.stack([slope(graph, x) for x in many]))


def test_refused() -> None:
    proto = there_and_back(ENDS, 0.01, zeros_of(TensorProto.INT8))
    proto.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT4E2M1))
    builder = Builder()
    x = builder.input((ENDS.shape, ENDS.shape), torch.float32)
    builder.graph(proto.graph, {"": 23}, {"x": x})
    assert [blocked.why for blocked in builder.blocked] == ["it quantises to float4e2m1"]
