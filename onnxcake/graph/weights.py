"""Tell which of a model's constants are weights, what each is for, and how it is initialised.

A weight is a float initialiser of finite numbers. Not weights are: single numbers that no operator makes one (0.5, an
epsilon), divisors and exponents, masks, statistics of BatchNormalization, and what a model does to its inputs first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from ..onnxfile.rename import INPUT, SafeGraph

Role = Literal["uniform", "scale", "shift", "slope", "token", "statistic", "fixed"]

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_LARGEST = 1e4  # magnitude of a weight; beyond it are the stand-ins for infinity in masks
_MASKED = -30.0  # what masks add to logits that are to lose, or less
_SLOPE, _TOKEN_STD = 0.25, 0.02  # as in torch: of PReLU; of embeddings and tokens in vision transformers

_ALIKE = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}
_BEFORE = {"Sub", "Add", "Mul", "Div", "Identity", "Cast", "Transpose"}  # what pre-processing is made of
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "FusedConv", "FusedGemm", "Attention"}
_PRODUCTS = {"MatMul", "FusedMatMul"}
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
_AFFINE: dict[int, Role] = {1: "scale", 2: "shift"}
_PLACES: dict[str, dict[int, Role]] = {
    "BatchNormalization": {**_AFFINE, 3: "statistic", 4: "statistic"},
    "GroupNorm": _AFFINE,
    "GroupNormalization": _AFFINE,
    "InstanceNormalization": _AFFINE,
    "LayerNormalization": _AFFINE,
    "RMSNormalization": {1: "scale"},
    "SimplifiedLayerNormalization": {1: "scale"},
    "SkipLayerNormalization": {2: "scale", 3: "shift", 4: "shift"},
    "SkipSimplifiedLayerNormalization": {2: "scale", 3: "shift"},
    "EmbedLayerNormalization": {5: "scale", 6: "shift"},
    "PRelu": {1: "slope"},
    "Div": {1: "fixed"},
    "Pow": {1: "fixed"},
}


@dataclass(frozen=True)
class Weight:
    """Hold what a constant is for; ``bound`` is that of a uniform draw."""

    role: Role
    bound: float = 0.0

    def draw(self, tensor: Tensor) -> None:
        """Fill a tensor as torch initialises a fresh layer's, from the default generator."""
        with torch.no_grad():
            if self.role == "uniform":
                tensor.uniform_(-self.bound, self.bound)
            elif self.role == "token":
                tensor.normal_(0, _TOKEN_STD)
            else:
                tensor.fill_({"scale": 1.0, "shift": 0.0, "slope": _SLOPE}[self.role])


def weights_of(safe: SafeGraph) -> dict[str, Weight]:
    """Find the weights and the statistics of a model, by safe name."""
    stored = {tensor.name: tensor for tensor in safe.model.graph.initializer if tensor.data_type in _FLOATS}
    roles = _Roles(safe.model.graph.node, {name: tuple(tensor.dims) for name, tensor in stored.items()})
    found = {}
    for name, tensor in stored.items():
        weight = roles.of(name)
        single = math.prod(tensor.dims) <= 1 and weight.role == "token"
        if weight.role != "fixed" and not single and _are_weights(_array(safe, tensor)):
            found[name] = weight
    return found


class _Roles:
    """Collect the roles of each constant from the operators that read it, itself or in another shape."""

    def __init__(self, nodes: Any, dims: dict[str, tuple[int, ...]]) -> None:
        self.dims = dims
        self.made: dict[str, onnx.NodeProto] = {name: node for node in nodes for name in node.output if name}
        self.turned: dict[str, tuple[str, bool]] = {name: (name, False) for name in dims}  # and whether transposed
        self.first = {INPUT}  # the input as pre-processing leaves it
        self.roles: dict[str, list[Weight]] = {}
        for node in nodes:
            self._note_roles(node)

    def of(self, name: str) -> Weight:
        """Return the one role that says most."""
        rank = ("fixed", "statistic", "uniform", "scale", "shift", "slope")
        return min(self.roles.get(name, ()), key=lambda weight: rank.index(weight.role), default=Weight("token"))

    def _note_roles(self, node: onnx.NodeProto) -> None:
        if node.op_type in _ALIKE and node.input[0] in self.turned:
            name, turned = self.turned[node.input[0]]
            flips = node.op_type == "Transpose" and len(self.dims[name]) == 2
            self.turned[node.output[0]] = (name, turned != flips)
            return
        for place, weight in self._roles(node):
            if place < len(node.input) and node.input[place] in self.turned:
                self.roles.setdefault(self.turned[node.input[place]][0], []).append(weight)
        if node.op_type in _BEFORE and self._is_preprocessing(node):
            self.first.update(node.output)

    def _is_preprocessing(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node reads nothing but the input and constants."""
        others = [self.made.get(name) for name in node.input if name not in self.first and name not in self.turned]
        return bool(self.first.intersection(node.input)) and all(
            one is None or one.op_type == "Constant" for one in others
        )

    def _roles(self, node: onnx.NodeProto) -> Iterator[tuple[int, Weight]]:
        kind = node.op_type
        for place, role in _PLACES.get(kind, {}).items():
            yield place, Weight(role)
        if kind in _BEFORE and self._is_preprocessing(node):
            yield from ((place, Weight("fixed")) for place in range(len(node.input)))
        elif kind in _LAYERS or kind in _PRODUCTS:
            bound = self._bound(node)
            if bound is not None:
                yield from ((place, Weight("uniform", bound)) for place in range(3))
        elif kind in _RECURRENT and node.input[2] in self.turned:
            hidden = self.dims[self.turned[node.input[2]][0]][-1]
            yield from ((place, Weight("uniform", 1 / math.sqrt(hidden))) for place in (1, 2, 3, 7))
        elif kind in ("Add", "Mul") and len(node.input) == 2:
            weight = self._role_beside(kind, [self.made.get(name) for name in node.input])
            if weight is not None:
                yield from ((place, weight) for place in range(2))

    def _role_beside(self, kind: str, makers: list[onnx.NodeProto | None]) -> Weight | None:
        """Return the role of a constant that is added to, or multiplied with, the output of one of ``makers``."""
        for maker in makers:
            if maker is None:
                continue
            if kind == "Add" and maker.op_type in _PRODUCTS and (bound := self._bound(maker)) is not None:
                return Weight("uniform", bound)
            if kind == "Mul" and self._normalises(maker):
                return Weight("scale")
            if kind == "Add" and maker.op_type == "Mul":
                inner = [self.made.get(name) for name in maker.input]
                if any(one is not None and self._normalises(one) for one in inner):
                    return Weight("shift")
        return None

    def _normalises(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node divides by a root, as normalisations do that are written out."""
        divisor = self.made.get(node.input[1]) if node.op_type == "Div" else None
        return divisor is not None and divisor.op_type == "Sqrt"

    def _bound(self, node: onnx.NodeProto) -> float | None:
        """Return 1 / √fan-in of a layer, torch's Kaiming bound; None if none of its factors is stored."""
        place = next((i for i in (1, 0) if i < len(node.input) and node.input[i] in self.turned), None)
        if place is None:
            return None
        name, turned = self.turned[node.input[place]]
        dims = self.dims[name]
        if "Conv" in node.op_type:
            fan_in = math.prod(dims[1:])
        else:
            attribute = "transB" if place else "transA"
            flipped = turned != any(a.name == attribute and a.i for a in node.attribute)
            along = (-2 if place else -1) + (1 if place else -1) * flipped
            fan_in = dims[along] if len(dims) > 1 else math.prod(dims)
        return 1 / math.sqrt(max(fan_in, 1))


def _array(safe: SafeGraph, tensor: TensorProto) -> np.ndarray[Any, Any]:
    given = safe.weights.get(tensor.name)
    return numpy_helper.to_array(tensor) if given is None else given


def _are_weights(array: np.ndarray[Any, Any]) -> bool:
    """Tell whether an array holds numbers, all of them such as weights have."""
    numbers = array.astype(np.float32, copy=False)
    if not numbers.size or not np.isfinite(numbers).all() or np.abs(numbers).max() > _LARGEST:
        return False
    low = numbers <= _MASKED
    return not (low.any() and (low | (numbers == 0)).all())
