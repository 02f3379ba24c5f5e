"""Quantised operators, onnx's and com.microsoft's: onnxruntime's answers, and the gradient of their float twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    Row,
    built,
    cases,
    data,
    forward_matches_onnxruntime,
    gradient_matches_differences,
    model,
    opened,
    values,
)
from onnx import TensorProto
from onnx_text import model_of
from plain_session import plain_session
from quantised_rows import forward, integers

from onnxcake.graph.dequantise import float_twin, is_quantised

MS = "com.microsoft"
NEWEST = 21  # of what onnxruntime is given
RNG = np.random.default_rng(0)
U8, I8 = TensorProto.UINT8, TensorProto.INT8


def weights(*shape: int, dtype: str = "int8") -> Any:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def scale(*sizes: int) -> Any:
    return RNG.uniform(0.005, 0.02, sizes).astype(np.float32)


def zero(dtype: str, *numbers: int) -> Any:
    return np.asarray(numbers[0] if len(numbers) == 1 else numbers, dtype)


BIAS = weights(6, dtype="int16").astype(np.int32)
IMAGE = integers("N", 4, 9, 8)
X = [IMAGE, scale(), zero("uint8", 120)]
X_INT8 = [integers("N", 4, 9, 8, dtype="int8"), scale(), zero("int8", -7)]
Y, Y_INT8 = [np.float32(0.7), zero("uint8", 131)], [np.float32(0.6), zero("int8", 2)]
W, W_EACH = [weights(6, 4, 3, 3), scale(), zero("int8", 0)], [weights(6, 4, 3, 3), scale(6), np.zeros(6, np.int8)]
ROW, COLUMNS = [integers("N", 3, 16), scale(), zero("uint8", 99)], [weights(16, 5), scale(5), np.zeros(5, np.int8)]
ONE_COLUMN_SCALE = [weights(16, 5), scale(), zero("int8", 4)]
UNSIGNED = [weights(16, 5, dtype="uint8"), scale(), zero("uint8", 140)]
STRIDES = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}

ROWS = [
    Row("QLinearConv", [*X, *W, *Y, BIAS], name="bias"),
    Row("QLinearConv", [*X, *W_EACH, *Y], STRIDES, name="per-channel"),
    Row("QLinearConv", [*X_INT8, *W_EACH, *Y_INT8, BIAS], {"auto_pad": "SAME_UPPER"}, name="int8"),
    Row("QLinearConv", [*X, weights(6, 2, 3, 3, dtype="uint8"), scale(), zero("uint8", 9), *Y], {"group": 2}),
    Row(
        "QLinearConv",
        [integers("N", 9, 8, 4), *X[1:], *W_EACH, *Y, BIAS],
        {"channels_last": 1},
        domain=MS,
        types=[U8],
        name="channels-last",
    ),
    Row("QLinearMatMul", [*ROW, *COLUMNS, *Y], name="per-column"),
    Row("QLinearMatMul", [*ROW, *UNSIGNED, *Y], name="uint8"),
    Row("QLinearMatMul", [integers("N", 16, dtype="int8"), *X_INT8[1:], *ONE_COLUMN_SCALE, *Y_INT8], name="int8"),
    Row("MatMulInteger", [ROW[0], ONE_COLUMN_SCALE[0]], name="without-zeros"),
    Row("MatMulInteger", [ROW[0], ONE_COLUMN_SCALE[0], ROW[2], zero("int8", 3)], name="zeros"),
    Row("MatMulInteger", [ROW[0], COLUMNS[0], ROW[2], zero("int8", 3, 2, 1, 0, -1)], name="column-zeros"),
    Row("ConvInteger", [IMAGE, weights(6, 4, 3, 3, dtype="uint8"), X[2], zero("uint8", 77)], STRIDES),
    Row("ConvInteger", [IMAGE, weights(6, 4, 3, 3, dtype="uint8")], {"group": 1}, name="without-zeros"),
]
SOFT = [np.float32(1 / 256), zero("uint8", 0)]
CONTRIB = [
    Row("QLinearAdd", [*X, integers(4, 9, 8), scale(), zero("uint8", 80), scale() * 2, Y[1]], name="uint8"),
    Row("QLinearAdd", [*X_INT8, integers(4, 1, 8, dtype="int8"), *X_INT8[1:], scale() * 2, Y_INT8[1]], types=[I8]),
    Row("QLinearMul", [*X, integers("N", 4, 9, 8), scale(), zero("uint8", 80), scale() * 2, Y[1]]),
    Row("QLinearSigmoid", [*X, *SOFT]),
    Row("QLinearLeakyRelu", [*X, *X[1:]], {"alpha": 0.2}),
    Row("QLinearAveragePool", [*X, scale(), Y[1]], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "strides": [2, 2]}),
    Row("QLinearAveragePool", [*X, scale(), Y[1]], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    Row("QLinearAveragePool", [*X, scale(), Y[1]], {"kernel_shape": [3, 3], "channels_last": 1, "ceil_mode": 1}),
    Row("QLinearGlobalAveragePool", [*X, scale(), Y[1]], {"channels_last": 0}),
    Row("QLinearGlobalAveragePool", [*X, scale(), Y[1]], {"channels_last": 1}),
    Row("NhwcMaxPool", [IMAGE], {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]}),
    Row("QLinearConcat", [*Y, *X, integers("N", 2, 9, 8), scale(), zero("uint8", 3)], {"axis": 1}),
    Row("QLinearWhere", [data("N", 4, 9, 8, dtype="bool"), *X, IMAGE, scale(), zero("uint8", 5), *Y]),
    Row("QLinearSoftmax", [integers("N", 12), np.float32(0.05), zero("uint8", 99), *SOFT], {"axis": -1, "opset": 13}),
    Row("QLinearSoftmax", [integers("N", 3, 12), np.float32(0.05), None, *SOFT], {"axis": 2, "opset": 11}),
    Row("QGemm", [integers("N", 16), *ROW[1:], *COLUMNS, weights(5, dtype="int16").astype(np.int32), *Y]),
    Row(
        "QGemm", [integers("N", 16), *ROW[1:], COLUMNS[0].T.copy(), *COLUMNS[1:], None, *Y], {"transB": 1, "alpha": 0.7}
    ),
    Row("QGemm", [integers("N", 16), *ROW[1:], *ONE_COLUMN_SCALE], types=[1], name="to-float"),
    Row("MatMulIntegerToFloat", [ROW[0], COLUMNS[0], scale(), scale(5), ROW[2], COLUMNS[2], scale(5)], types=[1]),
    Row("MatMulIntegerToFloat", [ROW[0], COLUMNS[0], data(low=0.1, high=1), scale()], types=[1], name="scale-is-data"),
    Row("DynamicQuantizeMatMul", [data("N", 16), *COLUMNS, scale(5)], types=[1]),
    Row("DynamicQuantizeMatMul", [data("N", 3, 16), *ONE_COLUMN_SCALE[:2]], types=[1], name="without-zero"),
]
CONTRIB = [Row(r.op, r.inputs, r.attrs, MS, types=r.types or [U8], name=r.name) for r in CONTRIB]


@pytest.mark.parametrize(("row", "opset"), cases(ROWS))
def test_forward(row: Row, opset: int) -> None:
    forward(row, opset)


@pytest.mark.parametrize(("row", "opset"), cases(CONTRIB))
def test_forward_contrib(row: Row, opset: int) -> None:
    # The tables of onnxruntime's unary kernels and its order of additions tell at ties.
    forward(row, opset, steps=1)


def test_without_any_zero_point_the_type_is_unknown() -> None:
    proto = model_of(f'y = {MS}.QLinearMul(x, s, "", x, s, "", s)', weights={"s": np.float32(0.1)}, domains={MS: 1})
    _, builder = opened(proto)
    assert [blocked.why for blocked in builder.blocked] == ["it has no zero point that tells its type"]


# --- weights alone quantised, and operators that onnxruntime computes in another way ----------------------------


def n_bits(bits: int, inner: int, outer: int, size: int, zeros: str) -> Row:
    blocks = -(-inner // size)
    packed = RNG.integers(0, 256, (outer, blocks, size * bits // 8)).astype(np.uint8)
    given: list[Any] = [data("N", 3, inner), packed, RNG.uniform(0.01, 0.1, (outer, blocks)).astype(np.float32)]
    if zeros == "packed":
        given.append(RNG.integers(0, 256, (outer, -(-blocks * bits // 8))).astype(np.uint8))
    elif zeros == "floats":
        given.append(RNG.uniform(0, 2**bits - 1, (outer, blocks)).astype(np.float32))
    attrs = {"K": inner, "N": outer, "bits": bits, "block_size": size}
    return Row("MatMulNBits", given, attrs, MS, types=[1], rtol=1e-3, atol=1e-3)


BITS = [
    *(n_bits(4, inner, 6, 16, zeros) for inner in (32, 40) for zeros in ("", "packed", "floats")),
    *(n_bits(bits, 64, 6, 32, zeros) for bits in (2, 8) for zeros in ("", "packed")),
    Row("MatMulNBits", [*n_bits(4, 32, 6, 16, "").inputs, None, None, scale(6)], n_bits(4, 32, 6, 16, "").attrs, MS),
]


@pytest.mark.parametrize("row", BITS, ids=[f"{i}-{r}" for i, r in enumerate(BITS)])
def test_mat_mul_n_bits(row: Row) -> None:
    forward_matches_onnxruntime(row, 1)


DYNAMIC_LSTM = {
    "tensor": [scale(1), np.zeros(1, np.int8), scale(1), np.zeros(1, np.int8)],
    "columns": [scale(1, 20), np.zeros((1, 20), np.int8), scale(1, 20), np.zeros((1, 20), np.int8)],
}


@pytest.mark.parametrize("each", DYNAMIC_LSTM)
def test_dynamic_quantize_lstm(each: str) -> None:
    """As close as eight bits are: onnxruntime rounds the inputs of its products too."""
    given = [data(4, "N", 3), weights(1, 3, 20), weights(1, 5, 20), scale(1, 40), *[None] * 4, *DYNAMIC_LSTM[each]]
    outputs = ("y", "h", "c")
    row = Row("DynamicQuantizeLSTM", given, {"hidden_size": 5}, MS, types=[1, 1, 1], outputs=outputs)
    forward_matches_onnxruntime(replace(row, rtol=0, atol=0.03), 1)
    gradient_matches_differences(row, 1)


@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention(unidirectional: int) -> None:
    given = [
        *(integers("N", 5, 8), weights(8, 24), scale(24), np.float32(0.02), np.float32(0.004)),
        *(None, zero("uint8", 125), zero("int8", 0)),
    ]
    row = Row("QAttention", given, {"num_heads": 2, "unidirectional": unidirectional}, MS, types=[1])
    forward(row, 1)


# --- the float twin ---------------------------------------------------------------------------------------------

SMOOTH = [(row, opset) for row in (*ROWS, *CONTRIB) for opset in [cases([row])[-1].values[1]]]


@pytest.mark.parametrize(("row", "opset"), SMOOTH, ids=[f"{row}-{opset}" for row, opset in SMOOTH])
def test_the_gradient_is_that_of_the_float_twin(row: Row, opset: int) -> None:
    """Exactly: an operator alone meets whole numbers in the twin too."""
    proto = model(row, min(opset, NEWEST) if not row.domain else opset)
    twin = float_twin(proto)
    assert is_quantised(proto) and not is_quantised(twin)
    given = values(row, 2)
    floats = {name: x if x.dtype == bool else x.astype(np.float32) for name, x in given.items()}
    results, slopes = [], []
    for each in (proto, twin):
        graph = built(each, relaxed=True)
        inputs = [torch.from_numpy(x.copy()) for x in floats.values()]
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
        out = graph.run(2, *inputs)[0]
        weight = torch.linspace(-1, 1.3, out.numel()).reshape(out.shape)
        wanted = [x for x in inputs if x.requires_grad and x.dim()]
        slopes.append(torch.autograd.grad((out * weight).sum(), wanted))
        results.append(out.detach().numpy())
    for ours, theirs in zip(*slopes, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    (want,) = plain_session(twin.SerializeToString()).run(None, floats)
    np.testing.assert_allclose(results[1], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    step = 0.02 * np.abs(want).max() if row.types == [1] else 0.501  # dynamic quantisation, or rounding of y alone
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=step)
