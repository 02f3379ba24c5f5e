"""Store a quantised student's weights as int8 where the exporters leave floats to be rounded in the graph.

The exporters write a rounded weight as float constant → QuantizeLinear → DequantizeLinear, with scales that are
computed in the graph. Afterwards the file holds the result of QuantizeLinear, a quarter of the bytes, and constant
scales; and runtimes find the patterns that they have integer kernels for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, Any]


def with_whole_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Store the model's rounded weights as int8, and fold BatchNormalization after them into their scales.

    A model without QuantizeLinear is returned as it is.
    """
    graph = proto.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        return proto
    constants = _Constants(proto)
    for node in list(graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            for place in range(1, len(node.input)):
                if node.input[place] in constants:
                    constants.keep(node.input[place])
        if node.op_type == "QuantizeLinear" and all(name in constants for name in node.input):
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            constants.put(node.output[0], _quantised(axis, *(constants[name] for name in node.input)))
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        _fold(graph, node, constants)
    _drop_unused(graph)
    return proto


class _Constants:
    """Evaluate the values of a graph that depend on no input, when asked for."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto, self.graph = proto, proto.graph
        self.values: dict[str, Array] = {
            weight.name: numpy_helper.to_array(weight) for weight in self.graph.initializer
        }
        self.made = {name: node for node in self.graph.node for name in node.output}
        self.known = set(self.values)
        for node in self.graph.node:  # comes after what it takes
            if (node.input or node.op_type == "Constant") and all(not name or name in self for name in node.input):
                self.known.update(node.output)

    def __contains__(self, name: str) -> bool:
        return name in self.known

    def __getitem__(self, name: str) -> Array:
        if name not in self.values:
            self.values[name] = self._evaluate(name)
        return self.values[name]

    def put(self, name: str, value: Array) -> None:
        """Store a value as an initialiser in place of the node that computes it."""
        if name in self.made:
            self.graph.node.remove(self.made.pop(name))
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        self.values[name] = value
        self.known.add(name)

    def keep(self, name: str) -> None:
        """Store a computed value as an initialiser."""
        if name in self.made:
            self.put(name, self[name])

    def _evaluate(self, name: str) -> Array:
        nodes: list[onnx.NodeProto] = []
        wanted = [name]
        seen = set(wanted)
        for wish in wanted:  # grows on the way
            if wish in self.made and self.made[wish] not in nodes:
                nodes.append(self.made[wish])
                more = [each for each in self.made[wish].input if each and each not in seen]
                wanted += more
                seen.update(more)
        held = [numpy_helper.from_array(self.values[wish], wish) for wish in wanted if wish not in self.made]
        result = onnx.ValueInfoProto(name=name)
        graph = helper.make_graph(nodes[::-1], "constant", [], [result], held)
        model = helper.make_model(graph, opset_imports=self.proto.opset_import)
        return np.asarray(ReferenceEvaluator(model).run(None, {})[0])


def _quantised(axis: int, value: Array, scale: Array, zero: Array) -> Array:
    """Compute QuantizeLinear, rounded as torch does: the value times 1 / scale."""
    if scale.ndim:
        shape = [-1 if place == axis % value.ndim else 1 for place in range(value.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(value * (np.float32(1) / scale)) + zero.astype(np.float32)
    return np.asarray(rounded.clip(limits.min, limits.max).astype(zero.dtype))


def _fold(graph: onnx.GraphProto, norm: onnx.NodeProto, constants: _Constants) -> None:
    """Fold a BatchNormalization into the convolution before it, whose weights are int8 with a scale per channel.

    Exact: γ / σ of a channel goes into its scale, its sign into the whole numbers. Runtimes compute a convolution
    in whole numbers only where nothing stands between it and the next rounding but an activation.
    """
    makers = {name: node for node in graph.node for name in node.output}
    takers = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    conv = makers.get(norm.input[0])
    if conv is None or conv.op_type != "Conv" or takers.count(conv.output[0]) > 1:
        return
    weight = makers.get(conv.input[1])
    if weight is None or weight.op_type != "DequantizeLinear" or takers.count(weight.output[0]) > 1:
        return
    if not all(name in constants for name in (*weight.input, *conv.input[1:], *norm.input[1:])):
        return
    whole, scale = constants[weight.input[0]], constants[weight.input[1]].astype(np.float64)
    if scale.ndim != 1 or whole.min() == -128:  # whose opposite int8 does not have
        return
    gamma, beta, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:])
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    bias = constants[conv.input[2]] if len(conv.input) > 2 else np.zeros_like(mean)
    sign = np.sign(factor).astype(np.int8).reshape(-1, *[1] * (whole.ndim - 1))
    new: dict[str, Array] = {
        "whole": whole * sign,
        "scale": np.where(factor == 0, scale, scale * np.abs(factor)).astype(np.float32),
        "bias": ((bias - mean) * factor + beta).astype(np.float32),
    }
    names = {part: f"{norm.output[0]}.{part}" for part in new}
    for part, value in new.items():
        constants.put(names[part], value)
    weight.input[0], weight.input[1] = names["whole"], names["scale"]
    conv.input[:] = [*conv.input[:2], names["bias"]]
    conv.output[0] = norm.output[0]
    graph.node.remove(norm)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers on which no output depends."""
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used & set(node.output):
            used.update(node.input)
            kept.append(node)
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(weights)
