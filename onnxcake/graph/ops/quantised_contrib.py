"""Expand quantised operators of com.microsoft, which onnxruntime's quantiser and optimiser write."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .quantised import Body, form, requantised, to_channels_first, to_channels_last

MS = "com.microsoft"
_POOL = "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"


@form("QLinearAdd", "QLinearMul", domain=MS)
def binary(body: Body) -> str:
    out = body.add(body.call.op_type.removeprefix("QLinear"), body.dequantised(0), body.dequantised(3))
    return body.quantised(out, body[6], body[7], like=2)


@form("QLinearSigmoid", "QLinearLeakyRelu", domain=MS)
def unary(body: Body) -> str:
    out = body.add(body.call.op_type.removeprefix("QLinear"), body.dequantised(0), like="alpha")
    return body.quantised(out, body[3], body[4], like=2)


@form("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MS)
def average_pool(body: Body) -> str:
    last, x = body.attr("channels_last", 0), body.dequantised(0)
    if last:
        x = to_channels_first(body, x, body.rank(0))
    x = body.add(body.call.op_type.removeprefix("QLinear"), x, like=_POOL)
    x = body.quantised(x, body[3], body[4], like=2)
    return to_channels_last(body, x, body.rank(0)) if last else x


@form("NhwcMaxPool", domain=MS)
def nhwc_max_pool(body: Body) -> str:
    rank = body.rank(0)
    return to_channels_last(body, body.add("MaxPool", to_channels_first(body, body[0], rank), like=_POOL), rank)


@form("QLinearReduceMean", domain=MS)
def reduce_mean(body: Body) -> str:
    if body.opset >= 18:
        out = body.add("ReduceMean", body.dequantised(0), body.constant(body.attr("axes")), like="keepdims")
    else:
        out = body.add("ReduceMean", body.dequantised(0), like="axes keepdims")
    return body.quantised(out, body[3], body[4], like=2)


@form("QLinearConcat", domain=MS)
def concat(body: Body) -> str:
    parts = [body.dequantised(place) for place in range(2, len(body.call.input), 3)]
    return body.quantised(body.add("Concat", *parts, like="axis"), body[0], body[1], like=4)


@form("QLinearWhere", domain=MS)
def where(body: Body) -> str:
    return body.quantised(body.add("Where", body[0], body.dequantised(1), body.dequantised(4)), body[7], body[8], 3)


@form("QLinearSoftmax", domain=MS)
def softmax(body: Body) -> str:
    axis, rank = body.attr("axis", -1), body.rank(0)
    # Before version 13 it was over all axes from this one on; the attribute says which meaning it has here.
    if axis not in (-1, rank - 1) and (body.attr("opset") < 13) != (body.opset < 13):
        raise Obstacle("its Softmax is of another version than the model", "Quantise the model as opset 13 or newer.")
    return body.quantised(body.add("Softmax", body.dequantised(0), axis=axis), body[3], body[4], like=2)


@form("QGemm", domain=MS)
def gemm(body: Body) -> str:
    b = body.centred(3, 5, axis=0 if body.attr("transB", 0) else 1)
    bias = [body.floats(body[6])] if body.has(6) else []
    out = body.add("Gemm", body.centred(0, 2), b, *bias, like="transA transB")
    factor = body.product(body[1], body[4])
    if body.attr("alpha", 1.0) != 1:
        factor = body.add("Mul", factor, body.constant(body.attr("alpha")))
    return requantised(body, out, factor, 7) if body.has(7) else body.add("Mul", out, factor)


@form("MatMulIntegerToFloat", domain=MS)
def mat_mul_integer_to_float(body: Body) -> str:
    return _scaled_product(body, body.centred(0, 4), body.centred(1, 5, axis=-1), body.product(body[2], body[3]), 6)


@form("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_mat_mul(body: Body) -> str:
    a = body.add("DynamicQuantizeLinear", body[0], outputs=3)
    whole = body.add("DequantizeLinear", a, body.constant(1.0), f"{a}.2")
    return _scaled_product(body, whole, body.centred(1, 3, axis=-1), body.product(f"{a}.1", body[2]), 4)


def _scaled_product(body: Body, a: str, b: str, factor: str, bias: int) -> str:
    out = body.add("Mul", body.add("MatMul", a, b), factor)
    return body.add("Add", out, body[bias]) if body.has(bias) else out


@form("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm(body: Body) -> str:
    # onnxruntime also rounds what goes into each product, to 8 bits of its own range: that is left out.
    weights = []
    for place, scale in ((1, 8), (2, 10)):
        axes = [1] if body.rank(scale) == 2 else [1, 2]  # one for each column, or for each direction
        aligned = [_unsqueezed(body, body[p], axes) if body.has(p) else "" for p in (scale, scale + 1)]
        weights.append(body.add("Transpose", body.add("DequantizeLinear", body[place], *aligned), perm=[0, 2, 1]))
    like = "activation_alpha activation_beta activations clip direction hidden_size input_forget"
    others = [body[place] for place in range(3, 8)]
    return body.add("LSTM", body[0], *weights, *others, outputs=len(body.call.output), like=like)


def _unsqueezed(body: Body, x: str, axes: list[int]) -> str:
    if body.opset >= 13:
        return body.add("Unsqueeze", x, body.constant(axes))
    return body.add("Unsqueeze", x, axes=axes)


@form("QAttention", domain=MS)
def attention(body: Body) -> str:
    x = body.add("DequantizeLinear", body[0], body[3], body[6])
    weights = body.add("DequantizeLinear", body[1], body[4], body[7])
    like = "do_rotary mask_filter_value num_heads past_present_share_buffer scale unidirectional"
    inputs, outputs = (x, weights, body[2], body[5], body[8]), len(body.call.output)
    return body.add("Attention", *inputs, domain=MS, outputs=outputs, like=like)


@op("MatMulNBits", domain=MS)
def mat_mul_n_bits(node: Node) -> Function:
    inner, size, bits = node.attr("K"), node.attr("block_size"), node.attr("bits", 4)
    packed = node.constant(1)
    blocks = packed.shape[1]
    weights = _unpack(packed, bits).float()
    if node.has(3):
        zeros = node.constant(3)
        if not zeros.dtype.is_floating_point:
            zeros = _unpack(zeros.reshape(len(packed), -1), bits)[:, :blocks]
        weights = weights - zeros.reshape(-1, blocks, 1)
    else:
        weights = weights - 2 ** (bits - 1)
    scales = node.constant(2)
    weights = (weights.to(scales.dtype) * scales.reshape(-1, blocks, 1)).reshape(-1, blocks * size)
    if node.has(4):
        raise Obstacle("it orders its weights by group (g_idx)", "Quantise the model without act-order.")
    node.take(3)
    node.take(4)
    node.extra(weights[:, :inner].contiguous())
    if node.has(5):
        return lambda x, bias, w: F.linear(x, w, bias)
    return F.linear


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Unpack the last axis of bytes to numbers of so many bits, lowest first."""
    single = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    single = single.flatten(-2)
    count = single.shape[-1] // bits
    places = 1 << torch.arange(bits, dtype=torch.uint8)
    whole: Tensor = (single[..., : count * bits].unflatten(-1, (count, bits)) * places).sum(-1, dtype=torch.uint8)
    return whole
