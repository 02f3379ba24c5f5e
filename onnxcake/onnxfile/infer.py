"""Infer the types and sizes of the values inside a graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import TensorProto, helper

from .walk import reaching, read_by

# Operators of ai.onnx.ml that keep the shape, for which onnx infers nothing; for the inference a Cast stands for them.
_KEEP_SHAPE = {"Scaler", "Imputer", "Normalizer", "Binarizer", "LabelEncoder"}
_LABELS = {"s": TensorProto.STRING, "i": TensorProto.INT64, "f": TensorProto.FLOAT}


def inferred(proto: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Infer the types and sizes of a graph's values, by name, its inputs and outputs included.

    What the file itself declares of a value inside is kept where nothing follows from the operators.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.graph.ClearField("value_info")
    for node in bare.graph.node:
        if node.domain == "ai.onnx.ml" and node.op_type in _KEEP_SHAPE:
            kind = _type_of(node)
            node.domain, node.op_type = "", "Cast"
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", kind))
    graph = _infer_or_bare(bare)
    if _tell_widths(bare, {value.name for value in (*graph.value_info, *graph.output) if _has_sizes(value)}):
        graph = _infer_or_bare(bare)
    stated = {value.name: value for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)}
    found = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    return {**stated, **{name: value for name, value in found.items() if _says_more(value, stated.get(name))}}


def _infer_or_bare(bare: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # noqa: BLE001 - what is not known is asked for
        return bare.graph


def _tell_widths(bare: onnx.ModelProto, told: Collection[str]) -> bool:
    """Replace operators whose attributes alone tell their columns by inputs, as onnx infers nothing behind a tokenizer.

    Args:
        told: the values whose sizes have been inferred.

    Returns:
        whether there were any.
    """
    found = [node for node in bare.graph.node if _width(node) and node.output[0] not in told]
    for node in found:
        columns = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None, _width(node)])
        bare.graph.input.append(columns)
        bare.graph.node.remove(node)
    return bool(found)


def _has_sizes(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _width(node: onnx.NodeProto) -> int:
    """Read from an operator's attributes how many columns it makes of each row; 0 where they do not say so."""
    said = {a.name: a.ints for a in node.attribute}
    if node.op_type == "TfIdfVectorizer" and not node.domain:
        return 1 + max(said.get("ngram_indexes", ()), default=-1)
    if node.op_type == "FeatureVectorizer" and node.domain == "ai.onnx.ml":
        return sum(said.get("inputdimensions", ()))
    return 0


def _type_of(node: onnx.NodeProto) -> int:
    if node.op_type != "LabelEncoder":
        return int(TensorProto.FLOAT)
    for attribute in node.attribute:  # values_strings, values_int64s, values_floats; classes_strings gives integers
        if attribute.name == "values_tensor":
            return int(attribute.t.data_type)
        if attribute.name.startswith("values_"):
            return int(_LABELS[attribute.name[len("values_")]])
    return int(TensorProto.INT64)


def _says_more(value: onnx.ValueInfoProto, stated: onnx.ValueInfoProto | None) -> bool:
    if stated is None:
        return True
    return known(value) >= known(stated)


def known(value: onnx.ValueInfoProto) -> int:
    """Count the known facts of a tensor: its type, its rank, and each of its sizes but the first."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return 0
    return sum([tensor.elem_type > 0, tensor.HasField("shape"), *(d.dim_value > 0 for d in tensor.shape.dim[1:])])


def file_inputs(proto: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return a file's inputs that have no value in the file, by name."""
    weights = {weight.name for weight in proto.graph.initializer}
    return {value.name: value for value in proto.graph.input if value.name not in weights}


def free_inputs(proto: onnx.ModelProto, held: Collection[str], outputs: Sequence[str]) -> list[str]:
    """List the inputs that are not held and that the outputs depend on; all that are not held, if there is none."""
    free = [name for name in file_inputs(proto) if name not in held]
    used = {name for node in reaching(proto.graph.node, *outputs) for name in read_by(node)}
    return [name for name in free if name in used] or free
