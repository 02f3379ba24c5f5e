"""Convert encoders of labels and categories (ai.onnx.ml); refuse by name the operators that have no gradient."""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .ml import ML

_STRINGS = "Give a teacher whose input is numbers, and choose its scores as --output, not the labels."


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(node: Node) -> Function:
    categories = node.attr("cats_int64s")
    if categories is None:
        raise Obstacle("it encodes strings, which have no gradient", _STRINGS)
    dtype = node.dtype_of(TensorProto.FLOAT)
    node.extra(torch.tensor(categories))
    return lambda x, categories: (x.long().unsqueeze(-1) == categories).to(dtype)


@op("LabelEncoder", domain=ML)
def label_encoder(node: Node) -> Function:
    keys, values = _read_values(node, "keys"), _read_values(node, "values")
    if keys is None or values is None or not isinstance(node.sample(0), Tensor):
        raise Obstacle("it maps to or from strings, which have no gradient", _STRINGS)
    if keys.is_floating_point() and bool(keys.isnan().any()):
        raise Obstacle("it has NaN among its keys", "Fill what is missing before the model.")
    default = _default(node, values)
    order = keys.argsort(stable=True)
    node.extra(keys[order])
    node.extra(values[order])

    def function(x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        place = torch.searchsorted(keys, x.to(keys.dtype).contiguous()).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == x, values[place], default)

    return function


def _read_values(node: Node, side: str) -> Tensor | None:
    whole, real, tensor = (node.attr(f"{side}_{kind}") for kind in ("int64s", "floats", "tensor"))
    if whole is not None:
        return torch.tensor(whole)
    if real is not None:
        return torch.tensor(real, dtype=node.dtype_of(TensorProto.FLOAT))
    return tensor.reshape(-1) if tensor is not None else None


def _default(node: Node, values: Tensor) -> Any:
    tensor = node.attr("default_tensor")
    if tensor is not None:
        return tensor.item()
    return node.attr("default_float", -0.0) if values.is_floating_point() else node.attr("default_int64", -1)


@op("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", domain=ML)
def tree_ensemble(node: Node) -> Function:
    raise Obstacle(
        "a tree ensemble is piecewise constant: its gradient is zero everywhere",
        "Use a teacher with a gradient (linear, SVM, neural), or distil the trees into a neural network first.",
    )


@op("CategoryMapper", "DictVectorizer", "CastMap", domain=ML)
def of_strings(node: Node) -> Function:
    raise Obstacle("it works on strings or maps, which have no gradient", _STRINGS)
