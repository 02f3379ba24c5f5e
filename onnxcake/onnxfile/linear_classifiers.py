"""Rewrite scikit-learn's linear classifiers as matrix products, whose weights can be trained and cut.

ai.onnx.ml's LinearClassifier keeps its weights in attributes and its transform inside. As a Gemm, a Softmax and an
ArgMax it is what every other network's last layer is, and its logits can be seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .walk import nodes

_ML = "ai.onnx.ml"


def write_out_linear(proto: onnx.ModelProto) -> None:
    """Replace each LinearClassifier by a Gemm, a transform of the scores and an ArgMax where these are equivalent."""
    graph = proto.graph
    opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < 9 or not any(n.op_type == "LinearClassifier" and n.domain == _ML for n in graph.node):
        return
    used = {name for node in nodes(proto) for name in (*node.input, *node.output, node.name)}
    used |= {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    used |= {weight.name for weight in graph.initializer}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        parts = _read_parts(node) if node.op_type == "LinearClassifier" and node.domain == _ML else None
        written += [node] if parts is None else _as_gemm(graph, node, parts, used)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del graph.node[:]
    graph.node.extend(kept)


Parts = tuple[Any, Any, Any, str]  # weights [features, scores], bias, labels, the operator that transforms


def _read_parts(node: onnx.NodeProto) -> Parts | None:
    """Read a classifier's weights, bias, labels and transform; None where it is no product with a known transform."""
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    bias = np.array(said.get("intercepts", ()), np.float32)
    numbers, words = said.get("classlabels_ints", ()), said.get("classlabels_strings", ())
    labels = np.array(numbers if len(numbers) else range(len(words)), np.int64)
    scores = len(bias) or len(labels)
    weights = np.array(said.get("coefficients", ()), np.float32)
    transform = {b"NONE": "", b"SOFTMAX": "Softmax", b"LOGISTIC": "Sigmoid"}.get(said.get("post_transform", b"NONE"))
    if transform is None or scores < 2 or scores != len(labels) or not len(weights) or len(weights) % scores:
        return None
    weights = weights.reshape(scores, -1).T
    bias = bias if len(bias) else np.zeros(scores, np.float32)
    if transform == "Sigmoid" and scores == 2 and np.array_equal(weights[:, 0], -weights[:, 1]) and bias[0] == -bias[1]:
        return weights / 2, bias / 2, labels, "Softmax"  # the sigmoids of z and −z are the softmax of z/2 and −z/2
    return weights, bias, labels, transform


def _as_gemm(graph: onnx.GraphProto, node: onnx.NodeProto, parts: Parts, used: set[str]) -> list[onnx.NodeProto]:
    weights, bias, labels, transform = parts

    def name(of: str) -> str:
        called = f"{node.output[1] or node.output[0]}/{of}"
        while called in used:
            called += "_"
        used.add(called)
        return called

    def constant(of: str, array: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name(of)))
        return str(graph.initializer[-1].name)

    scores = node.output[1] if len(node.output) > 1 and node.output[1] else name("scores")
    logits = name("logits") if transform else scores
    floats = name("floats")
    made = [
        helper.make_node("Cast", [node.input[0]], [floats], name("cast"), to=TensorProto.FLOAT),
        helper.make_node("Gemm", [floats, constant("weight", weights), constant("bias", bias)], [logits], name("gemm")),
    ]
    if transform == "Softmax":
        made.append(helper.make_node(transform, [logits], [scores], name("softmax"), axis=1))
    elif transform:
        made.append(helper.make_node(transform, [logits], [scores], name("sigmoid")))
    if node.output[0]:
        place = name("place")
        made.append(helper.make_node("ArgMax", [logits], [place], name("argmax"), axis=1, keepdims=0))
        made.append(helper.make_node("Gather", [constant("labels", labels), place], [node.output[0]], name("label")))
    return made
