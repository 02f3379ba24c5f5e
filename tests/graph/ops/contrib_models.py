"""Models of more than a row: made of nodes, opened in onnxruntime, built here."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from harness import Row

MS = "com.microsoft"


def ms(op: str, inputs: list[Any], name: str = "", outputs: tuple[str, ...] = ("y",), **more: Any) -> Row:
    """A row of com.microsoft's; attributes are those of ``more`` that are no field of `Row`."""
    fields = {k: more.pop(k) for k in ("types", "gradient", "refused", "expected") if k in more}
    return Row(op, inputs, more, domain=MS, outputs=outputs, name=name, **fields)


def proto_of(nodes: list[onnx.NodeProto], inputs: dict[str, Any], weights: dict[str, Any]) -> onnx.ModelProto:
    kinds = {"mask": onnx.TensorProto.INT32}
    infos = [onnx.helper.make_tensor_value_info(name, kinds.get(name, 1), shape) for name, shape in inputs.items()]
    outputs = [onnx.helper.make_tensor_value_info(name, 1, None) for name in nodes[-1].output]
    held = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MS, 1)]
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", infos, outputs, held), opset_imports=opsets, ir_version=8
    )
