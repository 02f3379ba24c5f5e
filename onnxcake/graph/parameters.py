"""Count a model's parameters: the one definition for what is inspected, extracted, cut and reported.

A parameter is a number of a constant of floats that has an axis, wherever the file keeps it: in an initialiser, dense
or sparse (with its zeros), in a Constant node, in the attributes of a classical model (ai.onnx.ml), in the main graph
or in the body of an If, Loop, Scan or function; once, however often it is read. Torch's exporter makes equal weights,
such as the scales of fresh normalisations, one weight that is read by way of Identity nodes: these count as often as
the network has them. A quantised model's are whole numbers too. Not counted are single numbers without an axis (an
epsilon, 0.5) and the attributes of operators that prepare inputs (Scaler, Imputer).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ..onnxfile.constants import FLOATS
from ..onnxfile.walk import graphs, nodes, read_by
from .dequantise import is_quantised

_QUANTISED = {TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT4, TensorProto.INT4}
_ML = "ai.onnx.ml"
_LINEAR = ("coefficients", "intercepts")
_MACHINE = ("coefficients", "support_vectors", "rho", "prob_a", "prob_b")
_TREES = ("nodes_values", "nodes_values_as_tensor", "base_values", "base_values_as_tensor")
_LEARNT = {  # the attributes of these operators that were learnt from data
    "LinearClassifier": _LINEAR,
    "LinearRegressor": _LINEAR,
    "SVMClassifier": _MACHINE,
    "SVMRegressor": _MACHINE,
    "TreeEnsembleClassifier": (*_TREES, "class_weights", "class_weights_as_tensor"),
    "TreeEnsembleRegressor": (*_TREES, "target_weights", "target_weights_as_tensor"),
    "TreeEnsemble": ("nodes_splits", "leaf_weights"),
}
_CONSTANT = ("value", "value_floats", "sparse_value")


def parameters_of(model: onnx.ModelProto) -> int:
    """Count the parameters of a model; the data of its weights may lie elsewhere."""
    kinds = FLOATS | _QUANTISED if is_quantised(model) else FLOATS
    return sum(math.prod(dims) for kind, dims in _stored(model) if kind in kinds and dims)


def count_in(content: bytes) -> int:
    """Count the parameters of a model that is at hand as bytes."""
    return parameters_of(onnx.ModelProto.FromString(content))


def _copies(model: onnx.ModelProto) -> Counter[str]:
    """Count under how many names each initialiser is read, its own and those that Identity nodes give it."""
    root: dict[str, str] = {tensor.name: tensor.name for tensor in model.graph.initializer}
    read = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "Identity" and not node.domain and node.input[0] in root:
            root[node.output[0]] = root[node.input[0]]
        else:
            read |= read_by(node)
    return Counter(root[name] for name in read & root.keys())


def _stored(model: onnx.ModelProto) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the element type and the shape of each constant, as often as the network has it."""
    copies = _copies(model)
    for graph in graphs(model):
        for tensor in graph.initializer:
            for _ in range(max(copies[tensor.name], 1)):
                yield tensor.data_type, tuple(tensor.dims)
        for sparse in graph.sparse_initializer:
            yield sparse.values.data_type, tuple(sparse.dims)
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.name in _learnt_by(node):
                yield _type_and_shape(attribute)


def _learnt_by(node: onnx.NodeProto) -> tuple[str, ...]:
    """Name the attributes of a node that hold parameters."""
    if node.domain == _ML:
        return _LEARNT.get(node.op_type, ())
    return _CONSTANT if node.op_type == "Constant" and not node.domain else ()


def _type_and_shape(attribute: onnx.AttributeProto) -> tuple[int, tuple[int, ...]]:
    if attribute.HasField("t"):
        return attribute.t.data_type, tuple(attribute.t.dims)
    if attribute.HasField("sparse_tensor"):
        return attribute.sparse_tensor.values.data_type, tuple(attribute.sparse_tensor.dims)
    return TensorProto.FLOAT, (len(attribute.floats),)
