"""Borrow onnx2torch's converters for element-wise operators that need neither attributes nor sizes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import types
from typing import Any

import onnx

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle


@op("Acos", "Asin", "Atan", "Ceil", "Cos", "Exp", "Floor", "Log")
@op("Neg", "Reciprocal", "Round", "Sigmoid", "Sin", "Sqrt", "Tan", "Tanh")
def borrow(node: Node) -> Function:
    library = _onnx2torch()
    proto = library.onnx_node.OnnxNode(node.proto, node.op)
    result = _converter(node)(proto, library.onnx_graph.OnnxGraph(onnx.GraphProto()))
    forward: Function = result.torch_module.forward
    return forward


borrow.borrowed = True  # type: ignore[attr-defined]  # for the record of who converts what


def _converter(node: Node) -> Any:
    """Find onnx2torch's converter for the newest version it knows; later ones only add types to these operators."""
    registry = _onnx2torch().node_converters.registry
    for version in range(node.version, 0, -1):
        with contextlib.suppress(NotImplementedError):
            return registry.get_converter(node.op, version, node.proto.domain)
    raise Obstacle("onnx2torch has no converter for this version")


@functools.cache
def _onnx2torch() -> Any:
    """Import onnx2torch at the first use, as it takes a while, with a stand-in for torchvision if need be.

    torchvision's wheel only works with the torch build it was made for; onnx2torch needs it for NMS and
    RoiAlign alone, which are not borrowed. The stand-in leaves sys.modules again at once.
    """
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError, RuntimeError):
        return importlib.import_module("onnx2torch")
    kept = {key: module for key, module in sys.modules.items() if key.split(".")[0] == "torchvision"}
    stand_in, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    stand_in.__dict__["ops"] = ops
    ops.__dict__.update(roi_align=None, nms=None, box_convert=None)
    for key in [*kept, *(key for key in sys.modules if key.split(".")[0] == "onnx2torch")]:
        del sys.modules[key]
    sys.modules.update({"torchvision": stand_in, "torchvision.ops": ops})
    try:
        return importlib.import_module("onnx2torch")
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]
        sys.modules.update(kept)
