"""Describe a file and its graph as plain data, for `onnxcake inspect`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from ..graph.convert import Converted
from ..onnxfile.class_names import class_names
from ..onnxfile.tensors import type_name

_LISTED = 1000  # rows of one kind
_LONGEST = 1000  # characters of a text


def describe_file(proto: Any) -> dict[str, Any]:
    """Describe what the file (a ModelProto) declares about itself."""
    return {
        "ir_version": proto.ir_version,
        "opsets": {told(o.domain) or "ai.onnx": o.version for o in proto.opset_import[:_LISTED]},
        "producer": f"{proto.producer_name} {proto.producer_version}".strip()[:100],
        "class_names": list(class_names(proto)),
    }


def describe_graph(graph: Converted) -> dict[str, Any]:
    """Describe input, outputs, operators with their converters, obstacles, and batch normalisation."""
    safe = graph.safe
    outputs = list(safe.outputs.items())[:_LISTED]
    return {
        "input": {
            "name": told(safe.input_name),
            "type": type_name(safe.input_type),
            "shape": [safe.batch or "N", *safe.input_shape],
        },
        "outputs": [{"name": told(old), **_value_of(graph, new)} for new, old in outputs],
        "operators": _operators(graph),
        "obstacles": [
            {
                "node": told(safe.node_names.get(b.node, b.node)),
                "op": told(b.op),
                "why": told(b.why),
                "remedy": told(b.remedy),
            }
            for b in graph.blocked[:_LISTED]
        ],
        "batch_norm": _batch_norm(graph),
    }


def _operators(graph: Converted) -> list[dict[str, Any]]:
    """Count the graph's own nodes by operator; nodes of inlined functions and unrolled loops are not listed."""
    by = {record.node: record.by for record in reversed(graph.records)}
    blocked = {one.node for one in graph.blocked}
    counts: Counter[tuple[str, str, int, str]] = Counter()
    for node in graph.safe.model.graph.node:
        who = "nobody" if node.name in blocked else by.get(node.name, "its definition")
        counts[node.domain, node.op_type, graph.safe.opsets.get(node.domain, 0), who] += 1
    return [
        {"op": told(op), "domain": told(domain) or "ai.onnx", "opset": version, "by": who, "count": count}
        for (domain, op, version, who), count in sorted(counts.items())
    ][:_LISTED]


def _batch_norm(graph: Converted) -> dict[str, Any]:
    kinds = Counter(record.op for record in graph.records)
    return {
        "nodes": kinds["BatchNormalization"],
        "statistics": "present" if kinds["BatchNormalization"] else "folded or absent",
        "convolutions": kinds["Conv"] + kinds["ConvTranspose"],
    }


def _value_of(graph: Converted, name: str) -> dict[str, Any]:
    value = graph.values.get(name)
    if value is None or not isinstance(value.seen[0], Tensor):
        return {"type": None, "shape": None}
    first, second = (v.shape for v in value.seen)
    shape = [a if a == b else "N" for a, b in zip(first, second, strict=True)]
    return {"type": str(value.seen[0].dtype).removeprefix("torch."), "shape": shape}


def told(text: str) -> str:
    """Shorten a text out of the file to a readable length."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
