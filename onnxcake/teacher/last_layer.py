"""Find the linear layer that makes a teacher's logits, from the end of its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graph.convert import Converted
from ..graph.values import Depends
from ..onnxfile.tensors import from_attribute
from .capabilities import LastLayer
from .open_graph import OpenGraph
from .signature import OutputKind
from .taps import by_input

_SAME = {"Identity", "Dropout", "Cast"}
_RESHAPED = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_PLAIN = ("logits", "binary_logit", "multilabel_logits")


@dataclass(frozen=True)
class Head:
    """Hold the last linear layer, and its output, before operators that only rescale or reshape it."""

    layer: LastLayer
    value: str


def head_of(opened: OpenGraph, kind: OutputKind) -> Head | None:
    """Find the layer with logits = features · weightᵀ + bias, as `scores.Logits` returns them; None if there is none.

    It may be a Gemm, a MatMul with constant weights, a convolution of a single place, or one of kernel 1 whose
    places are averaged; after it may come what is linear for each class by itself, and reshapes.
    """
    if opened.end(kind) == opened.output and kind not in _PLAIN:  # a logarithm is taken of the scores
        return None
    found = _Backwards(opened.converted, opened.end(kind)).find()
    if found is None or not kind.startswith("binary"):
        return found
    one = found.layer
    weight, bias = (torch.cat([-part / 2, part / 2]) for part in (one.weight, one.bias))
    return Head(LastLayer(weight, bias, one.features), found.value)


class _Backwards:
    """Walk back from the scores as long as they are scale · value + shift, class by class.

    Once a mean over the places was passed, the value is [batch, classes, places …].
    """

    def __init__(self, graph: Converted, end: str) -> None:
        self.graph, self.at = graph, end
        self.makers = {name: node for node in graph.safe.model.graph.node for name in node.output}
        self.classes = graph.values[end].seen[0].numel() // graph.batch
        self.scale = torch.ones(self.classes, dtype=torch.float64)
        self.shift = torch.zeros(self.classes, dtype=torch.float64)
        self.pooled = False

    def find(self) -> Head | None:
        while self._fits() and (node := self.makers.get(self.at)) is not None and not node.domain:
            if (layer := self._linear(node)) is not None:
                return Head(layer, self.at)
            if not self._move_on(node):
                return None
        return None

    def _fits(self) -> bool:
        """Tell whether the present value holds a number for each class, or many that are averaged."""
        if not by_input(self.graph, self.at):
            return False
        sizes = self._shape(self.at)
        if self.pooled:
            return len(sizes) > 1 and sizes[0] == self.classes
        return [size for size in sizes if size > 1] == [self.classes] * (self.classes > 1)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.graph.values[name].seen[0].shape[1:])

    # What is passed

    def _move_on(self, node: Any) -> bool:
        """Move on to the input of ``node``; return False if the scores are no such function of it."""
        if node.op_type in _SAME or (node.op_type in _RESHAPED and not self.pooled):
            self.at = node.input[0]
            return True
        if node.op_type in ("GlobalAveragePool", "ReduceMean") and not self.pooled:
            self.at, self.pooled = node.input[0], self._is_spatial_mean(node)
            return self.pooled
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            return self._rescaled(node)
        return False

    def _is_spatial_mean(self, node: Any) -> bool:
        value = self.graph.values.get(node.input[0])
        rank = value.seen[0].dim() if value is not None and isinstance(value.seen[0], Tensor) else 0
        axes = attribute(node, "axes")
        if node.op_type == "ReduceMean" and axes is None and len(node.input) > 1:
            given = self.graph.constant(node.input[1])
            axes = None if given is None else given.reshape(-1).tolist()
        if node.op_type == "GlobalAveragePool":
            axes = range(2, rank)
        return rank > 2 and axes is not None and sorted(axis % rank for axis in axes) == list(range(2, rank))

    def _rescaled(self, node: Any) -> bool:
        """Pass a sum or product with a constant."""
        for place in (0, 1):
            constant, other = self.graph.constant(node.input[1 - place]), node.input[place]
            if constant is None or (node.op_type == "Div" and place == 1):
                continue
            numbers = self._by_class(constant, other)
            if numbers is None:
                return False
            sign = -1.0 if node.op_type == "Sub" else 1.0
            if node.op_type in ("Add", "Sub"):
                self.shift = self.shift + self.scale * numbers * (sign if place == 0 else 1.0)
                self.scale = self.scale * (sign if place == 1 else 1.0)
            else:
                self.scale = self.scale * numbers if node.op_type == "Mul" else self.scale / numbers
            self.at = other
            return True
        return False

    def _by_class(self, constant: Tensor, beside: str) -> Tensor | None:
        """Return a constant that is combined with a value as one number for each class; None if it is none."""
        if not by_input(self.graph, beside):
            return None
        sizes = self._shape(beside)
        if self.pooled:
            sizes = (self.classes, *(1 for _ in sizes[1:]))
        try:
            return constant.double().broadcast_to((1, *sizes)).reshape(self.classes)
        except RuntimeError:  # of another shape
            return None

    # What is looked for

    def _linear(self, node: Any) -> LastLayer | None:
        """Return ``node`` as the layer, the passed scale and shift taken into it; None if it is no linear layer."""
        readers = {"Gemm": self._gemm, "MatMul": self._matmul, "Conv": self._conv}
        if node.op_type not in readers or (self.pooled and node.op_type != "Conv"):
            return None
        source, weight = self.graph.values.get(node.input[0]), self.graph.constant(node.input[1])
        if source is None or source.depends != Depends.DATA or weight is None:
            return None
        found = readers[node.op_type](node, weight.double())
        if found is None or found[0].dim() != 2 or len(found[0]) != self.classes:
            return None
        weight, bias, features = found
        return LastLayer(
            weight=(self.scale[:, None] * weight).float(),
            bias=(self.scale * bias + self.shift).float(),
            features=features,
        )

    def _gemm(self, node: Any, weight: Tensor) -> tuple[Tensor, Tensor, str] | None:
        turned = bool(attribute(node, "transA", 0))
        weight = (weight if attribute(node, "transB", 0) else weight.t()) * attribute(node, "alpha", 1.0)
        source, bias = node.input[0] + (":turned" if turned else ""), self._bias(node)
        if bias is None or not by_input(self.graph, source):
            return None
        return weight, bias * attribute(node, "beta", 1.0), source

    def _matmul(self, node: Any, weight: Tensor) -> tuple[Tensor, Tensor, str] | None:
        source = node.input[0]
        if not by_input(self.graph, source):
            return None
        weight = weight[None] if weight.dim() == 1 else weight.t() if weight.dim() == 2 else weight
        return weight, torch.zeros_like(self.shift), source + (":rows" if len(self._shape(source)) > 1 else "")

    def _conv(self, node: Any, weight: Tensor) -> tuple[Tensor, Tensor, str] | None:
        source, bias = node.input[0], self._bias(node)
        padded = any(attribute(node, "pads") or ()) or str(attribute(node, "auto_pad", "NOTSET")).startswith("SAME")
        if bias is None or attribute(node, "group", 1) != 1 or padded or not by_input(self.graph, source):
            return None
        kernel, places = tuple(weight.shape[2:]), self._shape(source)[1:]
        if kernel == places and not self.pooled:
            return weight.flatten(1), bias, source + ":rows"
        strides = attribute(node, "strides") or (1,)
        if self.pooled and set(kernel) == {1} and set(strides) == {1}:
            return weight.flatten(1), bias, source + ":pooled"
        return None

    def _bias(self, node: Any) -> Tensor | None:
        """Return the third input as one number for each class, zeros if absent; None if it is no such constant."""
        if len(node.input) < 3 or not node.input[2]:
            return torch.zeros_like(self.shift)
        constant = self.graph.constant(node.input[2])
        if constant is None or (node.op_type == "Gemm" and constant.dim() > 1 and constant.shape[0] != 1):
            return None
        return constant.double().reshape(-1).expand(self.classes) if constant.numel() in (1, self.classes) else None


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return a node's attribute, such as a number or a list of them."""
    found = (from_attribute(one, lambda _: torch.float32) for one in node.attribute if one.name == name)
    return next(found, default)
