"""Round to whole numbers with a straight-through gradient (Bengio et al., 2013)."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

RANGES = {
    TensorProto.UINT2: (0, 3),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}
FLOAT8 = range(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2FNUZ + 1)


class StraightThroughRound(torch.autograd.Function):
    """Round x, and pass its gradient on unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class StraightThroughQuantise(torch.autograd.Function):
    """Round x to whole numbers of ``scale``, low … high, as these numbers or (``back``) times the scale.

    One function instead of a chain of operators: it keeps x alone for its gradient, which is one pass. ``step``
    is the scale as a number, beside the tensor: CUDA divides by a number inexactly.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, step: float, low: float, high: float, back: bool) -> Tensor:
        y = (x.round() if step == 1 else (x / scale).round_()).clamp(low, high)
        return y.mul_(scale) if back else y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, scale, ctx.step, ctx.low, ctx.high, ctx.back = inputs
        ctx.save_for_backward(x, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, scale = ctx.saved_tensors
        # Inside is what rounds to low … high; so an x at the very end of its range keeps its gradient.
        low, high = (ctx.low - 0.5) * ctx.step, (ctx.high + 0.5) * ctx.step
        grad = torch.ops.aten.hardtanh_backward(grad, x, low, high)
        return grad if ctx.back or ctx.step == 1 else grad / scale, None, None, None, None, None
