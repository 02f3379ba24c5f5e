"""Convert from one element type to another, by value or by bits."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from ...onnxfile.tensors import DTYPES, type_name
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value

_FLOAT8 = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}
_E4M3FN_OVER = 464.0  # halfway from its largest number, 448, to where the next one would be


@op("Cast")
def cast(node: Node) -> Function | list[Value]:
    to = node.attr("to")
    to = TensorProto.DataType.Value(to) if isinstance(to, str) else to  # a name before version 6
    return _converted(node, node.dtype_of(to), to)


@op("CastLike")
def cast_like(node: Node) -> Function | list[Value]:
    if not isinstance(node.sample(1), Tensor):
        raise Obstacle("it makes strings", "Cut the part that writes text off.")
    node.take(1)
    source, target = node.dtype(0), node.dtype(1)
    whole = not source.is_floating_point and source != torch.bool  # cut to its lower bits, so it matters how many
    if node.version >= _SMALL_SINCE.get(target, node.version + 1) and (whole or target.is_floating_point):
        raise Obstacle(
            "the type to cast to may be one of fewer than eight bits, which cannot be told apart here",
            "Write it as a Cast, which names the type.",
        )
    return _converted(node, target, None)


def _converted(node: Node, target: torch.dtype, to: int | None) -> Function | list[Value]:
    if not isinstance(node.sample(0), Tensor):
        raise Obstacle("it reads numbers from strings", "Cut the part that reads text off.")
    if to in _SMALL:
        small = _SMALL[to]
        return lambda x: small(x).to(target)
    source = node.dtype(0)
    if source == target:
        return [node.value(0)]
    if target not in _FLOAT8:
        return lambda x: x.to(target)
    wide = source if source in (torch.float32, torch.float64) else torch.float32  # float8 has few operations
    if node.attr("saturate", 1):
        largest = torch.finfo(target).max
        return lambda x: x.to(wide).clamp(-largest, largest).to(target)
    if target == torch.float8_e4m3fn:  # some versions of torch saturate this one
        return lambda x: _to_e4m3fn(x.to(wide))
    return lambda x: x.to(wide).to(target)


def _to_e4m3fn(x: Tensor) -> Tensor:
    return torch.where(x.abs() > _E4M3FN_OVER, torch.nan, x).to(torch.float8_e4m3fn)


def _to_e2m1(x: Tensor) -> Tensor:
    """Round to the nearest of ±{0, ½, 1, 1½, 2, 3, 4, 6}, ties to even; there is no NaN."""
    x = torch.nan_to_num(x.float(), nan=0.0).clamp(-6, 6)
    size = x.abs()
    step = 0.5 * (1 + (size >= 2) + 2 * (size >= 4))
    return torch.round(x / step) * step


# Types of two and four bits, kept one to a byte: integers lose their higher bits.
_SMALL: dict[int | None, Function] = {
    TensorProto.INT4: lambda x: ((x.to(torch.int64) + 8) & 15) - 8,
    TensorProto.UINT4: lambda x: x.to(torch.int64) & 15,
    TensorProto.INT2: lambda x: ((x.to(torch.int64) + 2) & 3) - 2,
    TensorProto.UINT2: lambda x: x.to(torch.int64) & 3,
    TensorProto.FLOAT4E2M1: _to_e2m1,
}


# The opset from which a torch dtype may stand for a small type.
_SMALL_SINCE = {torch.int8: 21, torch.uint8: 21, torch.float8_e4m3fn: 23}


@op("BitCast")
def bit_cast(node: Node) -> Function | list[Value]:
    to = node.attr("to")
    target, source = node.dtype_of(to), node.dtype(0)
    same = target == DTYPES[to] and target.itemsize == source.itemsize
    if not same or to == TensorProto.FLOAT4E2M1:
        raise Obstacle(f"it reads bits as {type_name(to)}, and the numbers are kept here in other bits")
    if to in _SMALL:
        small = _SMALL[to]
        return lambda x: small(x).to(target)
    return [node.value(0)] if source == target else lambda x: x.view(target)
