"""A safe graph → a frozen, differentiable torch module, by way of onnx2torch."""

from __future__ import annotations

import logging
import sys
import types
from collections import Counter
from typing import Any

import onnx
import torch
from torch import nn

from ..errors import UnsupportedTeacher, first_line, shown
from .normalise import SafeGraph

_EXAMPLES = 3  # nodes named for each operator that is missing


def build(graph: SafeGraph, name: str) -> nn.Module:
    """The module whose forward maps [batch, …] inputs to the logits tensor of ``graph``, in eval mode, frozen.

    Args:
        name: the teacher's name, for messages.

    Raises:
        UnsupportedTeacher: operators without a converter (all of them, with the nodes' own names), or a node
            whose converter fails.
    """
    onnx2torch, get_converter = _onnx2torch()
    versions = {o.domain: o.version for o in graph.logits_model.opset_import}
    missing: dict[str, list[str]] = {}
    for node in graph.logits_model.graph.node:
        try:
            get_converter(node.op_type, versions.get(node.domain, 0), node.domain)
        except NotImplementedError:
            kind = f"{node.domain or 'ai.onnx'}.{node.op_type} (opset {versions.get(node.domain, '?')})"
            missing.setdefault(kind, []).append(graph.node_names.get(node.name, node.name))
    if missing:
        raise _unsupported(missing, name)
    try:
        module = onnx2torch.convert(graph.logits_model)
    except Exception as error:
        raise UnsupportedTeacher(
            f"its graph cannot be converted: {first_line(error)} (operators: {_operators(graph)})",
            where=name,
            remedy="Export it with torch.onnx.export(..., dynamo=False, opset_version=17).",
        ) from error
    return _frozen(module)


def _frozen(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval().to(torch.float32)


def _unsupported(missing: dict[str, list[str]], name: str) -> UnsupportedTeacher:
    lines = []
    for kind, nodes in sorted(missing.items()):
        named = ", ".join(shown(node) for node in nodes[:_EXAMPLES])
        more = f" and {len(nodes) - _EXAMPLES} more" if len(nodes) > _EXAMPLES else ""
        lines.append(f"{shown(kind)} at {named}{more}")
    return UnsupportedTeacher(
        "no conversion for " + "; ".join(lines),
        where=name,
        remedy="Export it with torch.onnx.export(..., dynamo=False, opset_version=17), "
        "which writes operators that are converted.",
    )


def _operators(graph: SafeGraph) -> str:
    counts = Counter(node.op_type for node in graph.logits_model.graph.node)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _onnx2torch() -> tuple[Any, Any]:
    """onnx2torch and its converter look-up, with a stand-in for torchvision where that cannot be imported.

    torchvision's wheel only works with the torch build it was made for; onnx2torch needs it for NMS and
    RoiAlign alone. The stand-in leaves sys.modules again at once.
    """
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    try:
        import onnx2torch
    except (ImportError, RuntimeError):
        kept = {key: module for key, module in sys.modules.items() if key.split(".")[0] == "torchvision"}
        stand_in, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
        stand_in.ops = ops  # type: ignore[attr-defined]
        ops.roi_align = ops.nms = ops.box_convert = None  # type: ignore[attr-defined]
        for key in [key for key in sys.modules if key.split(".")[0] == "onnx2torch"]:
            del sys.modules[key]
        for key in kept:
            del sys.modules[key]
        sys.modules.update({"torchvision": stand_in, "torchvision.ops": ops})
        try:
            import onnx2torch
        finally:
            del sys.modules["torchvision"], sys.modules["torchvision.ops"]
            sys.modules.update(kept)
    from onnx2torch.node_converters.registry import get_converter

    def look_up(op_type: str, version: int, domain: str) -> Any:
        if domain and domain != "ai.onnx" and not onnx.defs.has(op_type, domain=domain):
            raise NotImplementedError(op_type)
        return get_converter(operation_type=op_type, version=version, domain=domain)

    return onnx2torch, look_up
