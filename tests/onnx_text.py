"""Read nodes in onnx's text form: a table of models holds a line for each model, not a call for each node.

Test files have no package around them: their names must be unique in all of tests/.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, parser

N = helper.make_node


def parsed(*parts: str | onnx.NodeProto) -> list[onnx.NodeProto]:
    """Read nodes, as in ``h = MatMul(x, W) [last] y = Softmax<axis = 1>(h)``; a name goes first, in brackets."""
    found: list[onnx.NodeProto] = []
    for part in parts:
        found += parser.parse_graph(f"g () => () {{ {part} }}").node if isinstance(part, str) else [part]
    for node in found:
        if not node.domain:
            node.ClearField("domain")  # as onnx.helper leaves it
    return found


def value(name: str, *shape: str | int | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Describe an input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)
