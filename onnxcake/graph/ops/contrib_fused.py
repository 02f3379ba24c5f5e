"""Convert convolutions and products fused with an activation by onnxruntime's optimiser (com.microsoft)."""

from __future__ import annotations

from typing import Any

import torch

from ...core.text import shown
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value

_DOMAIN = "com.microsoft"
_PARAMETERS = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu", "Celu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}


@op("FusedConv", domain=_DOMAIN)
def fused_conv(node: Node) -> list[Value]:
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    out = node.standard("Conv", 11, *node.inputs[:3], **_attributes(node, names))
    if node.has(3):
        out = node.standard("Add", 13, out, node.value(3))
    kind, given = node.attr("activation", ""), list(node.attr("activation_params") or ())
    if kind == "Clip":
        edges = [node.builder.constant(torch.tensor(edge, dtype=node.dtype(0))) for edge in given]
        return [node.standard("Clip", 13, out, *edges)]
    return [_activated(node, out, kind, dict(zip(_PARAMETERS.get(kind, ()), given, strict=False)))]


@op("FusedGemm", domain=_DOMAIN)
def fused_gemm(node: Node) -> list[Value]:
    out = node.standard("Gemm", 13, *node.inputs[:3], **_attributes(node, ("alpha", "beta", "transA", "transB")))
    kind = node.attr("activation", "")
    given = {name: node.attr(f"activation_{name}") for name in _PARAMETERS.get(kind, ())}
    return [_activated(node, out, kind, {name: value for name, value in given.items() if value is not None})]


def _attributes(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := node.attr(name)) is not None}


def _activated(node: Node, value: Value, kind: str, parameters: dict[str, float]) -> Value:
    if not kind:
        return value
    if kind not in _PARAMETERS:
        raise Obstacle(f"the activation {shown(kind)} in it is not supported")
    return node.standard(kind, 22, value, **parameters)


@op("Conv", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", domain="com.microsoft.nchwc")
@op("ReorderInput", "ReorderOutput", "Upsample", domain="com.microsoft.nchwc")
def blocked_layout(node: Node) -> Function:
    raise Obstacle(
        "onnxruntime saved this model in the memory layout of one kind of processor",
        "Save it again with the optimisation level ORT_ENABLE_EXTENDED, or take the model before onnxruntime's.",
    )
