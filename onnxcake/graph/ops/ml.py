"""Convert classical machine learning (ai.onnx.ml) with a gradient: linear models, scaling, normalising, imputing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from ...core.remedies import BEFORE
from ..node import Node
from ..registry import op
from ..values import Function, Obstacle, Value

ML = "ai.onnx.ml"


def table(node: Node, name: str) -> Tensor:
    """Read a list-of-floats attribute, in the precision that floats are computed in."""
    return torch.tensor(node.attr(name, []), dtype=node.dtype_of(TensorProto.FLOAT))


def rows(node: Node) -> Function:
    """Build the function that converts the input, which may be one sample alone, to a [samples, features] matrix."""
    dtype, flat = node.dtype_of(TensorProto.FLOAT), node.rank(0) == 1
    return lambda x: (x.unsqueeze(0) if flat else x).to(dtype)


def labelled(node: Node) -> tuple[Tensor, int]:
    """Return a classifier's labels (its own where they are numbers, else the classes' indices) and their number."""
    numbers, strings = (node.attr(kind, []) for kind in ("classlabels_ints", "classlabels_int64s"))
    numbers, strings = numbers or strings, node.attr("classlabels_strings", [])
    labels = torch.tensor(numbers) if numbers else torch.arange(len(strings))
    return labels, len(labels)


@op("LinearClassifier", domain=ML)
def linear_classifier(node: Node) -> Function:
    labels, classes = labelled(node)
    bias = table(node, "intercepts")
    weights = table(node, "coefficients")
    scores = len(bias) or classes
    weights = weights.reshape(scores, -1)
    bias = bias if len(bias) else weights.new_zeros(scores)
    matrix, transform = rows(node), node.attr("post_transform", "NONE")
    one = scores == 1 and classes == 2
    finish = of_one_score(transform) if one else transformed(transform, scores)
    for tensor in (weights, bias, labels):
        node.extra(tensor)

    def function(x: Tensor, weights: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        raw = F.linear(matrix(x), weights, bias)
        place = (raw[:, 0] > 0).long() if one else raw.argmax(1)
        return labels[place], finish(raw)

    return function


@op("LinearRegressor", domain=ML)
def linear_regressor(node: Node) -> Function:
    targets = node.attr("targets", 1)
    weights, bias = table(node, "coefficients").reshape(targets, -1), table(node, "intercepts")
    matrix, finish = rows(node), transformed(node.attr("post_transform", "NONE"), targets)
    node.extra(weights)
    node.extra(bias if len(bias) else weights.new_zeros(targets))
    return lambda x, weights, bias: finish(F.linear(matrix(x), weights, bias))


def transformed(transform: str, scores: int) -> Function:
    """Build the transform of a row of scores that ``post_transform`` names."""
    if transform == "PROBIT":
        return _probit
    if transform == "NONE" or scores == 1:  # as onnxruntime has it: one score alone is left as it is
        return lambda x: x
    if transform == "LOGISTIC":
        return torch.sigmoid
    if transform == "SOFTMAX":
        return lambda x: x.softmax(-1)
    if transform == "SOFTMAX_ZERO":
        return _softmax_zero
    raise Obstacle(f"its post_transform {transform!r} is not known")


def of_one_score(transform: str, margins: bool = False) -> Function:
    """Build the scores of two classes from the second's; ``margins``: an SVM's, whose signs differ."""
    if transform == "PROBIT":
        raise Obstacle("post_transform PROBIT is not defined for two classes with one score", BEFORE)
    if transform == "LOGISTIC":
        return lambda x: torch.cat([-x, x], 1).sigmoid()
    if transform == "NONE" and margins:
        return lambda x: torch.cat([-x, x], 1)
    return lambda x: torch.cat([1 - x, x], 1)


def _softmax_zero(x: Tensor) -> Tensor:
    """Compute a softmax in which a score of zero stays (about) zero."""
    top = x.amax(-1, keepdim=True)
    terms = torch.where(x.abs() > 1e-7, (x - top).exp(), x * (-top).exp())
    return terms / terms.sum(-1, keepdim=True)


def _probit(x: Tensor) -> Tensor:
    """Compute the normal distribution's quantiles, by Winitzki's formula for the inverse error function."""
    a = 0.147
    y = 2 * x - 1
    log = torch.log1p(-y * y)
    half = 2 / (math.pi * a) + log / 2
    # The floor keeps the gradient finite in the middle, where the root is of zero.
    return math.sqrt(2) * y.sign() * ((half * half - log / a).sqrt() - half).clamp(min=1e-30).sqrt()


@op("Scaler", domain=ML)
def scaler(node: Node) -> Function:
    dtype = node.dtype_of(TensorProto.FLOAT)
    node.extra(table(node, "offset"))
    node.extra(table(node, "scale"))
    return lambda x, offset, scale: (x.to(dtype) - offset) * scale


@op("Normalizer", domain=ML)
def normalizer(node: Node) -> Function:
    dtype, norm = node.dtype_of(TensorProto.FLOAT), node.attr("norm", "MAX")
    if norm == "MAX":  # the largest, not the largest in size
        size: Function = lambda x: x.amax(-1, keepdim=True)  # noqa: E731
    elif norm in ("L1", "L2"):
        order = int(norm[1])
        size = lambda x: torch.linalg.vector_norm(x, order, -1, keepdim=True)  # noqa: E731
    else:
        raise Obstacle(f"its norm {norm!r} is not known")

    def function(x: Tensor) -> Tensor:
        x = x.to(dtype)
        divisor = size(x)
        return x / torch.where(divisor == 0, 1, divisor)

    return function


@op("Imputer", domain=ML)
def imputer(node: Node) -> Function:
    if node.dtype(0).is_floating_point:
        fill, missing = table(node, "imputed_value_floats"), node.attr("replaced_value_float", 0.0)
    else:
        fill, missing = torch.tensor(node.attr("imputed_value_int64s", [])), node.attr("replaced_value_int64", 0)
    if not len(fill):
        raise Obstacle("it does not say what to put in for what is missing")
    node.extra(fill)
    if math.isnan(missing):
        return lambda x, fill: torch.where(x.isnan(), fill, x)
    return lambda x, fill: torch.where(x == missing, fill, x)


@op("Binarizer", domain=ML)
def binarizer(node: Node) -> Function:
    threshold = node.attr("threshold", 0.0)
    return lambda x: (x > threshold).to(x.dtype)


@op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(node: Node) -> Function:
    if not isinstance(node.sample(0), Tensor):
        raise Obstacle("it picks strings, which have no gradient", "Choose the scores as --output, not the labels.")
    flat = node.rank(0) == 1
    return lambda x, places: (x.unsqueeze(0) if flat else x).index_select(-1, places.reshape(-1))


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(node: Node) -> Function:
    dtype, widths = node.dtype_of(TensorProto.FLOAT), node.attr("inputdimensions")
    if any(node.rank(i) > 2 for i in range(len(node.inputs))):
        raise Obstacle("it joins tensors of more than two dimensions")

    def fitted(x: Tensor, width: int) -> Tensor:
        x = x.reshape(x.shape[0], -1).to(dtype)
        return F.pad(x, (0, width - x.shape[1]))

    return lambda *xs: torch.cat([fitted(x, width) for x, width in zip(xs, widths, strict=True)], 1)


@op("ZipMap", domain=ML)
def zip_map(node: Node) -> list[Value]:
    return [node.value(0)]  # a map from labels to scores per sample: the scores
