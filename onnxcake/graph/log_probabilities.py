"""Compute the logarithm of probabilities that a file makes in other ways than by a last Softmax or Sigmoid.

Naive Bayes takes an exponential of what it has subtracted a log-sum-exp of, one-versus-rest classifiers divide sigmoids
by their sum, averages of softmaxes stand at the end of ensembles. Such probabilities are 0 or 1 in float32 wherever
scores are far apart, as those of tables are, and no gradient comes out of 0 or 1. Their logarithms are finite
everywhere if they are computed from those of their parts: log(a / b) = log a − log b, log Σa = logsumexp(log a),
log σ(z) = −softplus(−z), log(1 − σ(z)) = −softplus(z). The nodes that do so are written beside those of the file, which
stay as they are: the softmax of what is written is compared with what the file answers, as any conversion is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from ..onnxfile.rename import SafeGraph
from .convert import Converted

_MOVES = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Concat"}
_MOVES |= {"ArrayFeatureExtractor"}
_AXES_AS_INPUT = 18  # the opset from which on the reductions used here take their axes as an input
_FLOATS = (1, 10, 11, 16)
_MOST = 500  # nodes that are written

Rule = Callable[[str], "str | None"]


def with_logs(graph: Converted, output: str) -> tuple[SafeGraph, str] | None:
    """Add nodes that compute the logits whose softmax (several scores) or sigmoid (one score) is the output.

    Returns:
        (the graph with these nodes, the value); None where the output is not made of probabilities.
    """
    value = graph.values.get(output)
    if value is None or not isinstance(value.seen[0], Tensor) or value.seen[0].dim() != 2:
        return None
    logs = _Logs(graph)
    told = logs.log(output)
    if told is None:
        return None
    if value.seen[0].shape[1] == 1:
        other = logs.complement(output)
        if other is None:
            return None
        told = logs.node("Sub", told, other)
    else:
        told = logs.node("Sub", told, logs.reduced("ReduceMean", told, -1))
    return None if len(logs.nodes) > _MOST else (logs.written(), told)


@dataclass
class _Logs:
    """Write nodes for logarithms of values: `log` for v, `complement` for 1 − v; None where no rule is known."""

    graph: Converted
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.safe = self.graph.safe
        self.makers = {name: node for node in self.safe.model.graph.node for name in node.output}
        self._number = itertools.count(len(self.safe.value_names))
        self._known: dict[tuple[bool, str], str | None] = {}

    def log(self, name: str) -> str | None:
        return self._cached(name, False, self._log)

    def complement(self, name: str) -> str | None:
        return self._cached(name, True, self._complement)

    def written(self) -> SafeGraph:
        """Return the graph with the new nodes."""
        model = onnx.ModelProto()
        model.CopyFrom(self.safe.model)
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants)
        made = [name for node in self.nodes for name in node.output]
        return replace(
            self.safe,
            model=model,
            node_names={**self.safe.node_names, **{node.name: "a logarithm of its scores" for node in self.nodes}},
            value_names={**self.safe.value_names, **dict.fromkeys(made, "a logarithm of its scores")},
        )

    # Writing

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{next(self._number)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"n_{name}", **attributes))
        return name

    def reduced(self, kind: str, name: str, axis: int, keep: bool = True) -> str:
        if self.safe.opsets.get("", 0) < _AXES_AS_INPUT:
            return self.node(kind, name, axes=[axis], keepdims=int(keep))
        return self.node(kind, name, self.constant(np.array([axis], np.int64)), keepdims=int(keep))

    def constant(self, array: Any) -> str:
        name = f"w_{next(self._number)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def minus_softplus(self, name: str) -> str:
        return self.node("Neg", self.node("Softplus", name))

    def added(self, logs: list[str]) -> str:
        """Write the logarithm of a sum from those of its parts."""
        total = logs[0]
        for one in logs[1:]:
            total = self.node("Add", total, self.node("Softplus", self.node("Sub", one, total)))
        return total

    # Rules

    def _cached(self, name: str, complement: bool, rule: Callable[[onnx.NodeProto], str | None]) -> str | None:
        key = (complement, name)
        if key not in self._known:
            self._known[key] = None  # no rule of a value may ask for the value itself
            constant, maker = self.graph.constant(name), self.makers.get(name)
            if constant is not None:
                self._known[key] = self._log_of_constant(1 - constant if complement else constant)
            elif maker is not None and len(self.nodes) < _MOST:
                self._known[key] = rule(maker)
        return self._known[key]

    def _log_of_constant(self, value: Tensor) -> str | None:
        if not value.dtype.is_floating_point or not bool((value > 0).all()):
            return None
        return self.constant(value.float().log().numpy())

    def _log(self, node: onnx.NodeProto) -> str | None:
        kind = node.op_type
        if kind in _MOVES:
            return self._rearranged(node, self.log)
        if node.domain:
            return self._share(node) if kind == "Normalizer" and _attribute(node, "norm") == b"L1" else None
        if kind == "Softmax":
            return self._copy_node(node, "LogSoftmax", list(node.input))
        if kind == "Sigmoid":
            return self.minus_softplus(self.node("Neg", node.input[0]))
        if kind == "Exp":
            return str(node.input[0])
        if kind == "Sub":
            return self.complement(node.input[1]) if self._is_one(node.input[0]) else None
        if kind == "LpNormalization":
            return self._share(node) if _attribute(node, "p") == 1 else None
        if kind in ("ReduceSum", "ReduceMean"):
            return self._reduced(node)
        parts = [self.log(name) for name in node.input] if kind in _OF_PARTS else []
        known = [part for part in parts if part is not None]
        return _OF_PARTS[kind](self, known) if known and len(known) == len(parts) else None

    def _complement(self, node: onnx.NodeProto) -> str | None:
        kind = node.op_type
        if kind in _MOVES:
            return self._rearranged(node, self.complement)
        if kind == "Sigmoid" and not node.domain:
            return self.minus_softplus(node.input[0])
        if kind == "Sub" and self._is_one(node.input[0]):
            return self.log(node.input[1])
        shape = self._shape(node.output[0])
        if len(shape) == 2 and shape[1] == 2 and self._sums_to_one(node):
            told = self.log(node.output[0])
            return None if told is None else self.node("Gather", told, self.constant(np.array([1, 0])), axis=1)
        return None

    def _rearranged(self, node: onnx.NodeProto, rule: Rule) -> str | None:
        """Apply a rule to the inputs of a value that only rearranges them."""
        if node.op_type == "Cast" and _attribute(node, "to") not in _FLOATS:
            return None
        data = len(node.input) if node.op_type == "Concat" else 1
        made = [rule(name) for name in node.input[:data]]
        known = [name for name in made if name is not None]
        return self._copy_node(node, node.op_type, [*known, *node.input[data:]]) if len(known) == data else None

    def _copy_node(self, node: onnx.NodeProto, kind: str, inputs: list[str]) -> str:
        name = self.node(kind, *inputs)
        self.nodes[-1].domain = node.domain
        self.nodes[-1].attribute.extend(node.attribute)
        return name

    def _share(self, node: onnx.NodeProto) -> str | None:
        told, axis = self.log(node.input[0]), _attribute(node, "axis", -1)
        return None if told is None else self.node("Sub", told, self.reduced("ReduceLogSumExp", told, axis))

    def _reduced(self, node: onnx.NodeProto) -> str | None:
        told, axis = self.log(node.input[0]), self._axis(node)
        if told is None or axis is None:
            return None
        total = self.reduced("ReduceLogSumExp", told, axis, bool(_attribute(node, "keepdims", 1)))
        if node.op_type == "ReduceSum":
            return total
        count = self._shape(node.input[0])[axis]
        return self.node("Sub", total, self.constant(np.float32(np.log(count))))

    # What is known of values

    def _sums_to_one(self, node: onnx.NodeProto) -> bool:
        """Tell whether the rows [n, 2] that a node makes are probabilities whose sum is 1."""
        kind = node.op_type
        if kind == "Softmax":
            return bool(_attribute(node, "axis", -1) in (1, -1))
        if kind in ("LpNormalization", "Normalizer"):
            return bool(_attribute(node, "p") == 1 or _attribute(node, "norm") == b"L1")
        if kind == "Div":
            return self._is_reduced(node.input[1], "ReduceSum", node.input[0])
        inner = self.makers.get(node.input[0]) if kind == "Exp" else None
        if inner is None or inner.op_type not in ("Sub", "LogSoftmax"):
            return False
        return inner.op_type == "LogSoftmax" or self._is_reduced(inner.input[1], "ReduceLogSumExp", inner.input[0])

    def _is_reduced(self, name: str, kind: str, of: str) -> bool:
        """Tell whether a value is another's rows reduced, reshaped or not."""
        node = self.makers.get(name)
        while node is not None and node.op_type in ("Reshape", "Unsqueeze", "Identity"):
            node = self.makers.get(node.input[0])
        return node is not None and node.op_type == kind and node.input[0] == of and self._axis(node) == 1

    def _axis(self, node: onnx.NodeProto) -> int | None:
        """Return the only axis of a reduction, from 0; None if there are several, or they are not known."""
        axes = _attribute(node, "axes")
        if axes is None and len(node.input) > 1:
            given = self.graph.constant(node.input[1])
            axes = None if given is None else given.reshape(-1).tolist()
        rank = len(self._shape(node.input[0]))
        return int(axes[0]) % rank if axes is not None and len(axes) == 1 and rank else None

    def _shape(self, name: str) -> tuple[int, ...]:
        value = self.graph.values.get(name)
        seen = None if value is None else value.seen[0]
        return tuple(seen.shape) if isinstance(seen, Tensor) else ()

    def _is_one(self, name: str) -> bool:
        value = self.graph.constant(name)
        return value is not None and bool((value == 1).all())


def _mean(logs: _Logs, parts: list[str]) -> str:
    return logs.node("Sub", logs.added(parts), logs.constant(np.float32(np.log(len(parts)))))


# Operators whose logarithm is made of those of all their inputs.
_OF_PARTS: dict[str, Callable[[_Logs, list[str]], str]] = {
    "Div": lambda logs, parts: logs.node("Sub", *parts),
    "Mul": lambda logs, parts: logs.node("Add", *parts),
    "Reciprocal": lambda logs, parts: logs.node("Neg", *parts),
    "Add": lambda logs, parts: logs.added(parts),
    "Sum": lambda logs, parts: logs.added(parts),
    "Mean": _mean,
}


def _attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
