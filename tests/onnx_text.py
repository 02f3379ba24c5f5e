"""Build models out of onnx's text form: a table of models holds a line for each, not a call for each node.

Test files have no package around them: their names must be unique in all of tests/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

N = helper.make_node
Values = str | Sequence[onnx.ValueInfoProto]


def parsed(*parts: str | onnx.NodeProto) -> list[onnx.NodeProto]:
    """Read nodes, as in ``h = MatMul(x, W) [last] y = Softmax<axis = 1>(h)``; a name goes first, in brackets."""
    found: list[onnx.NodeProto] = []
    for part in parts:
        found += parser.parse_graph(f"g () => () {{ {part} }}").node if isinstance(part, str) else [part]
    for node in found:
        if not node.domain:
            node.ClearField("domain")  # as onnx.helper leaves it
    return found


def values(given: Values) -> list[onnx.ValueInfoProto]:
    """Read descriptions of inputs or outputs, as in ``float[batch,4] x, int64 n``; ? is a size without a name."""
    return list(parser.parse_graph(f"g ({given}) => () {{}}").input) if isinstance(given, str) else list(given)


def value(name: str, *shape: str | int | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Describe an input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    *body: str | onnx.NodeProto,
    weights: Mapping[str, Any] | None = None,
    inputs: Values = "float[batch,4] x",
    outputs: Values = "float[batch,3] y",
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
    sparse: Sequence[onnx.SparseTensorProto] = (),
    **rest: Any,
) -> onnx.ModelProto:
    """Make a model of these nodes, with arrays or tensors as weights; the rest is `helper.make_model`'s."""
    graph = helper.make_graph(
        parsed(*body),
        "by hand",
        values(inputs),
        values(outputs),
        [
            a if isinstance(a, TensorProto) else numpy_helper.from_array(np.asarray(a), n)
            for n, a in (weights or {}).items()
        ],
        sparse_initializer=list(sparse),
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=imports, **rest)


def whole(text: str, weights: Mapping[str, Any] | None = None, opset: int = 17, domains: str = "") -> onnx.ModelProto:
    """Read a graph, as in ``(float[N,4] x) => (float[N,3] y) { y = MatMul(x, W) }``, and give it its weights."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items())
    return model
