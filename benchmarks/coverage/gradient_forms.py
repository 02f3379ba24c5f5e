"""Examples for each operator at each of its versions: the onnx package's own, brought into the older forms."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper

from .common import NEWEST, as_array
from .nodes import TYPES

Key = tuple[str, str]  # domain, operator

# Inputs that were attributes before a version: operator → (version, {input: attribute}).
_WERE_ATTRIBUTES: dict[str, tuple[int, dict[int, str]]] = {
    **{name: (13, {1: "axes"}) for name in ("Squeeze", "Unsqueeze", "ReduceSum")},
    **{
        f"Reduce{name}": (18, {1: "axes"})
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "Split": (13, {1: "split"}),
    "Pad": (11, {1: "pads", 2: "value"}),
    "Slice": (10, {1: "starts", 2: "ends", 3: "axes"}),
    "Clip": (11, {1: "min", 2: "max"}),
    "TopK": (10, {1: "k"}),
    "Dropout": (12, {1: "ratio"}),
    "Upsample": (9, {1: "scales"}),
}


@dataclass(frozen=True)
class Example:
    """A model of one operator and a value for each of its inputs."""

    name: str
    model: onnx.ModelProto
    arrays: list[Any]


@cache
def _tests() -> dict[Key, list[Any]]:
    from onnx.backend.test.loader import load_model_tests

    found: dict[Key, list[Any]] = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        graph = test.model.graph
        tensors = all(v.type.HasField("tensor_type") for v in (*graph.input, *graph.output))
        plain = tensors and {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} <= TYPES
        if len(graph.node) == 1 and plain:
            found[graph.node[0].domain, graph.node[0].op_type].append(test)
    return found


@cache
def versions() -> dict[Key, list[int]]:
    """Each operator's versions from opset 7 on, the one in force at 7 counted as 7; those of other domains from 1."""
    found: dict[Key, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.deprecated:
            found[schema.domain, schema.name].add(schema.since_version)
    result = {}
    for (domain, name), since in found.items():
        first = 7 if not domain else 1
        old = {first} if min(since) < first else set()
        result[domain, name] = sorted(old | {version for version in since if version >= first})
        if first == 7 and old and _deprecated(name, 7):
            result[domain, name].remove(7)
    return result


def _deprecated(name: str, version: int) -> bool:
    return bool(onnx.defs.get_schema(name, version, "").deprecated)


def examples(domain: str, name: str, version: int) -> list[Example]:
    """The onnx package's examples of an operator that can be said in the form of ``version``."""
    return [
        Example(test.name, model, arrays)
        for test in _tests().get((domain, name), ())
        for inputs, _ in test.data_sets[:1]
        if (made := _at(test.model, inputs, domain, version)) is not None
        for model, arrays in [made]
    ]


def _at(
    model: onnx.ModelProto, inputs: list[Any], domain: str, version: int
) -> tuple[onnx.ModelProto, list[Any]] | None:
    """A model of one node and its inputs in the form of an older version; None where that has no such form."""
    schema = onnx.defs.get_schema(model.graph.node[0].op_type, version, domain)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for opset in changed.opset_import:
        if opset.domain == domain:
            opset.version = version
    (node,) = changed.graph.node
    given = {value.name: as_array(array) for value, array in zip(model.graph.input, inputs, strict=False)}
    if not _inputs_to_attributes(node, version, given) or not _attributes_fit(node, schema, domain):
        return None
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        return None
    kept = [value for value in changed.graph.input if value.name in node.input]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.ir_version = min(changed.ir_version, 10)
    try:
        onnx.checker.check_model(changed)
    except onnx.checker.ValidationError:
        return None
    return changed, [given[value.name] for value in kept]


def _inputs_to_attributes(node: onnx.NodeProto, version: int, given: dict[str, np.ndarray]) -> bool:
    """Turns inputs into the attributes that they were; whether that can be done."""
    if node.op_type == "Resize" and version < 11:  # had no region of interest, and no sizes
        if len(node.input) != 3 or not node.input[2]:
            return False
        del node.input[1]
    if node.op_type not in _WERE_ATTRIBUTES:
        return True
    until, places = _WERE_ATTRIBUTES[node.op_type]
    if version >= until:
        return True
    for index, attribute in places.items():
        if index < len(node.input) and node.input[index]:
            value = given[node.input[index]]
            plain = value.reshape(-1).tolist()
            single = attribute in ("k", "ratio", "value", "min", "max")
            if not plain:  # an empty list was said by leaving it out
                continue
            node.attribute.append(helper.make_attribute(attribute, plain[0] if single else plain))
    if node.op_type == "Slice" and len(node.input) > 4 and (given[node.input[4]] != 1).any():
        return False
    del node.input[1:]
    return True


def _attributes_fit(node: onnx.NodeProto, schema: Any, domain: str) -> bool:
    """Leaves out attributes that the version does not know yet; whether they say no more than the default."""
    newest = onnx.defs.get_schema(node.op_type, NEWEST if not domain else 99, domain)
    for attribute in [a for a in node.attribute if a.name not in schema.attributes]:
        known = newest.attributes.get(attribute.name)
        value = helper.get_attribute_value(attribute)
        default = helper.get_attribute_value(known.default_value) if known and known.default_value.type else None
        plain = attribute.type in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.STRING)
        neutral = not plain and isinstance(value, Sequence) and set(value) <= {1}
        if not neutral and value != default:  # ones: dilations
            return False
        node.attribute.remove(attribute)
    return True
