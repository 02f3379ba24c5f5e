"""Find the standard's bodies of operators that are functions, and bind calls to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from torch import Tensor

from ..onnxfile.tensors import DTYPES
from .values import Value


def standard_function(proto: onnx.NodeProto, version: int, inputs: Sequence[Value | None]) -> onnx.FunctionProto | None:
    """Return the body that the standard gives for an operator, where it is a function; else None."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
    except Exception:  # noqa: BLE001 - onnx's own exception type; an operator that the standard does not know
        return None
    if schema.has_function:
        return schema.function_body
    if schema.has_context_dependent_function:
        kinds = {dtype: kind for kind, dtype in DTYPES.items() if kind < onnx.TensorProto.FLOAT8E4M3FN}
        types = []
        for value in inputs:
            made = onnx.TypeProto()
            if value is not None and isinstance(value.seen[0], Tensor):
                made = onnx.helper.make_tensor_type_proto(kinds[value.seen[0].dtype], list(value.seen[0].shape))
            types.append(made.SerializeToString())
        body = onnx.FunctionProto()
        body.ParseFromString(schema.get_context_dependent_function(proto.SerializeToString(), types))
        return body if body.node else None
    return None


def without(nodes: Iterable[onnx.NodeProto], absent: set[str]) -> Iterable[onnx.NodeProto]:
    """Iterate over a function's nodes, with inputs that the call left out left out of them too."""
    for node in nodes:
        if absent.intersection(node.input):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = ["" if name in absent else name for name in node.input]
            yield copy
        else:
            yield node


def outer_names(proto: onnx.GraphProto) -> set[str]:
    """Collect all names that a sub-graph reads, its own among them."""
    names: set[str] = {out.name for out in proto.output}
    for node in proto.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= outer_names(inner)
    return names - {""}


def bound(proto: onnx.NodeProto, attributes: dict[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Replace references to a function's attributes in one of its nodes by what the call gives."""
    if not any(a.ref_attr_name for a in proto.attribute):
        return proto
    made = onnx.NodeProto()
    made.CopyFrom(proto)
    del made.attribute[:]
    for attribute in proto.attribute:
        given = attributes.get(attribute.ref_attr_name)
        if attribute.ref_attr_name and given is None:
            continue
        copy = made.attribute.add()
        copy.CopyFrom(given if given is not None else attribute)
        copy.name = attribute.name
    return made
