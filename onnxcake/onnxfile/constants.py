"""Keep a model's weights in one place: as initialisers, however the file stores them.

PaddlePaddle and spox write weights as Constant nodes, sparse models keep them as values and places, and the functions
of a model can hold them in no other way than as Constant nodes. Whatever reads, trains or cuts weights looks at
initialisers alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..core.errors import BadTeacherFile
from ..core.text import first_line, shown
from .walk import graphs, nodes

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_LARGE = 1024  # bytes from which whole numbers are weights of a quantised layer and no sizes, axes or places
_IR_VERSION = 4  # before, an initialiser had to be an input too


def lift_constants(proto: onnx.ModelProto, name: str, shared: bool = False) -> None:
    """Turn Constant nodes and sparse initialisers of the main graph that may be weights into initialisers.

    Those are tensors of floats with an axis, and large ones of any numbers.

    Args:
        name: the file's, for messages.
        shared: make one initialiser of equal tensors. Those of a function that is called twice are one weight.

    Raises:
        BadTeacherFile: if a sparse tensor does not hold what its shape says.
    """
    graph = proto.graph
    outputs, kept, lifted = {value.name for value in graph.output}, [], list[TensorProto]()
    for node in graph.node:
        tensor = None if outputs.intersection(node.output) else held_by(node, name)
        if tensor is None or not _may_be_weights(tensor):
            kept.append(node)
            continue
        tensor.name = node.output[0]
        lifted.append(tensor)
    sparse = [one for one in graph.sparse_initializer if one.values.data_type not in FLOATS]
    lifted += [dense(one, name) for one in graph.sparse_initializer if one.values.data_type in FLOATS]
    if not lifted:
        return
    for field, items in (("node", kept), ("sparse_initializer", sparse)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    graph.initializer.extend(_merge_equal(proto, lifted) if shared else lifted)
    proto.ir_version = max(proto.ir_version, _IR_VERSION)


def held_by(node: onnx.NodeProto, name: str) -> TensorProto | None:
    """Read the tensor that a Constant node of numbers holds; None for any other node.

    Args:
        name: the file's, for messages.

    Raises:
        BadTeacherFile: if a sparse tensor does not hold what its shape says.
    """
    if node.op_type != "Constant" or node.domain:
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type != TensorProto.STRING:
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        if attribute.name == "value_floats":
            return numpy_helper.from_array(np.array(attribute.floats, np.float32))
        if attribute.name == "sparse_value":
            return dense(attribute.sparse_tensor, name)
    return None


def dense(sparse: onnx.SparseTensorProto, name: str) -> TensorProto:
    """Convert a sparse tensor to a dense one of the same name: its values at their places, zeros elsewhere.

    Args:
        name: the file's, for messages.

    Raises:
        BadTeacherFile: if there are values without a place, or places outside.
    """
    try:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        sizes = tuple(sparse.dims)
        flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), sizes)
        if len(flat) != len(values) or (len(flat) and not 0 <= flat.min() <= flat.max() < math.prod(sizes)):
            raise ValueError("its places are not those of its values")
        whole = np.zeros(math.prod(sizes), values.dtype)
        whole[flat] = values
        return numpy_helper.from_array(whole.reshape(sizes), sparse.values.name)
    except (ValueError, TypeError, IndexError) as error:
        raise BadTeacherFile(
            f"the sparse tensor {shown(sparse.values.name)} does not hold what its shape says ({first_line(error)})",
            where=name,
            remedy="Copy the file again, or ask its vendor for a sound one.",
        ) from error


def has_nan(array: np.ndarray[Any, Any]) -> bool:
    """Check whether any number is NaN."""
    return "float" in array.dtype.name and bool(np.isnan(array).any())  # bfloat16 and float8 have a kind of their own


def _may_be_weights(tensor: TensorProto) -> bool:
    if not tensor.dims:
        return False
    if tensor.data_type in FLOATS:  # exporters mark by NaN what is missing: a Constant that holds it is no weight
        return not has_nan(numpy_helper.to_array(tensor))
    return bool(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize >= _LARGE)


def _merge_equal(proto: onnx.ModelProto, tensors: Iterable[TensorProto]) -> list[TensorProto]:
    """Keep the first of equal tensors, and redirect the readers of the others to it."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    kept = []
    for tensor in tensors:
        bare = TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("name")
        known = first.setdefault(bare.SerializeToString(deterministic=True), tensor.name)
        if known == tensor.name:
            kept.append(tensor)
        else:
            instead[tensor.name] = known
    for node in nodes(proto):
        node.input[:] = [instead.get(name, name) for name in node.input]
    for graph in graphs(proto):
        for value in graph.output:
            value.name = instead.get(value.name, value.name)
    return kept
