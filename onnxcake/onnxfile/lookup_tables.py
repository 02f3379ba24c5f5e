"""Find the values that an input of whole numbers or texts takes: the rows of the tables that it is looked up in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import helper, numpy_helper

from .choose_value import leaves_an_index

_MOST = 200  # inputs that are followed
_TABLES = {"Gather": 0, "GatherElements": 0, "GatherND": 0}
_EMBEDDING = {0: 2, 1: 4}  # of EmbedLayerNormalization: ids → their table


@dataclass(frozen=True)
class Values:
    """Hold the values that an input may have.

    Attributes:
        limit: whole numbers are below it; None where the file does not show it.
        choices: all that it may hold, where the file lists it.
    """

    limit: int | None = None
    choices: tuple[str, ...] | tuple[int, ...] = ()


def values_of_inputs(proto: onnx.ModelProto, names: Iterable[str]) -> dict[str, Values]:
    """Find the values that the inputs of a graph may have."""
    weights = {weight.name: weight for weight in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and not node.domain:
            weights.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    listed = list(names)
    return {name: _values(proto, name, weights) if len(listed) <= _MOST else Values() for name in listed}


def _values(proto: onnx.ModelProto, name: str, weights: Mapping[str, onnx.TensorProto]) -> Values:
    indices, limits = {name}, []
    for node in proto.graph.node:
        places = [place for place, one in enumerate(node.input) if one in indices]
        if not places:
            continue
        if choices := _known_values(node, weights, places):
            return Values(None, choices)
        limits += [limit for place in places if (limit := _table_rows(node, place, weights))]
        if leaves_an_index(node, places):
            indices.update(node.output)
    return Values(min(limits, default=None))


def _table_rows(node: onnx.NodeProto, place: int, weights: Mapping[str, onnx.TensorProto]) -> int | None:
    """Count the rows of the table that an operator's input indexes."""
    if node.op_type == "OneHot" and place == 0 and node.input[1] in weights:
        return int(numpy_helper.to_array(weights[node.input[1]]).reshape(-1)[0])
    table = _EMBEDDING.get(place) if node.op_type == "EmbedLayerNormalization" else None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if node.op_type in _TABLES and place == 1:
        table = 0
    if table is None or len(node.input) <= table or node.input[table] not in weights:
        return None
    dims = weights[node.input[table]].dims
    return int(dims[axis]) if -len(dims) <= axis < len(dims) else None


def _known_values(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], places: list[int]
) -> tuple[str, ...] | tuple[int, ...]:
    """List the texts or numbers that an operator knows."""
    given = {a.name: a for a in node.attribute}
    for name in ("keys_strings", "cats_strings", "classes_strings", "string_vocabulary", "pool_strings"):
        if name in given:
            return tuple(one.decode("utf-8", "replace") for one in helper.get_attribute_value(given[name]))
    for name in ("keys_int64s", "cats_int64s", "pool_int64s", "int64_vocabulary"):
        if name in given:
            return tuple(int(one) for one in helper.get_attribute_value(given[name]))
    if node.op_type == "Equal" and node.input[1 - places[0]] in weights:
        array = numpy_helper.to_array(weights[node.input[1 - places[0]]]).reshape(-1)
        if array.dtype.kind in "OSU" and array.size:
            return tuple(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in array)
    return ()
