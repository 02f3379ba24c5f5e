"""Convert support vector machines (ai.onnx.ml), as onnxruntime computes them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .ml import ML, labelled, of_one_score, rows, table, transformed

_SWEEPS = 6  # of the pairwise coupling; it has always stopped after four
_CLOSE = 0.005


def _kernel(node: Node, vectors: Tensor) -> tuple[Function, tuple[Tensor, ...]]:
    """Return (the kernel function of samples and support vectors, the tensors that it needs)."""
    kind = node.attr("kernel_type", "LINEAR")
    gamma, shift, degree = node.attr("kernel_params") or (0.0, 0.0, 0.0)
    if kind == "LINEAR":
        return (lambda x, v: x @ v), (vectors.T,)
    if kind == "POLY":
        power = int(degree) if degree == int(degree) else degree
        return (lambda x, v: (gamma * (x @ v) + shift) ** power), (vectors.T,)
    if kind == "SIGMOID":
        return (lambda x, v: torch.tanh(gamma * (x @ v) + shift)), (vectors.T,)
    if kind != "RBF":
        raise Obstacle(f"its kernel {kind!r} is not known")
    middle = vectors.mean(0)  # distances do not depend on where zero is, and rounding does
    centred = vectors - middle
    norms = centred.square().sum(1)

    def rbf(x: Tensor, v: Tensor, norms: Tensor, middle: Tensor) -> Tensor:
        x = x - middle
        distance = torch.addmm(norms, x, v, alpha=-2) + x.square().sum(1, keepdim=True)
        return torch.exp(-gamma * distance.clamp(min=0))

    return rbf, (centred.T, norms, middle)


@op("SVMRegressor", domain=ML)
def svm_regressor(node: Node) -> Function:
    weights, bias, matrix = table(node, "coefficients"), table(node, "rho")[:1], rows(node)
    count = node.attr("n_supports", 0)
    kernel: Function = lambda x: x  # noqa: E731 - without support vectors it is linear
    tensors: tuple[Tensor, ...] = ()
    if count:
        kernel, tensors = _kernel(node, table(node, "support_vectors").reshape(count, -1))
    inlier = bool(node.attr("one_class", 0))
    for tensor in (weights.reshape(1, -1), bias, *tensors):
        node.extra(tensor)

    def function(x: Tensor, weights: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
        y = F.linear(kernel(matrix(x), *tensors), weights, bias)
        return 2.0 * (y > 0).to(y.dtype) - 1 if inlier else y

    return function


@op("SVMClassifier", domain=ML)
def svm_classifier(node: Node) -> Function:
    return _with_vectors(node) if node.attr("vectors_per_class") else _linear(node)


def _linear(node: Node) -> Function:
    """Convert a classifier without support vectors: one row of weights for each class, and one bias."""
    labels, classes = labelled(node)
    weights, bias = table(node, "coefficients").reshape(classes, -1), table(node, "rho")[:1]
    matrix, finish = rows(node), transformed(node.attr("post_transform", "NONE"), classes)
    two = classes == 2 and not node.attr("prob_a")
    threshold = 0.5 if bool((weights >= 0).all()) else 0.0
    for tensor in (weights, bias, labels):
        node.extra(tensor)

    def function(x: Tensor, weights: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        raw = F.linear(matrix(x), weights) + bias
        place = raw.argmax(1)
        if two:  # as onnxruntime has it
            place = torch.where(raw.amax(1) > threshold, 1, place)
        return labels[place], finish(raw)

    return function


def _with_vectors(node: Node) -> Function:
    """Convert a classifier of one score per pair of classes; with prob_a and prob_b, probabilities from these."""
    labels, classes = labelled(node)
    per_class = node.attr("vectors_per_class")
    if len(per_class) != classes:
        raise Obstacle(f"it has {classes} labels, and support vectors of {len(per_class)} classes")
    vectors = table(node, "support_vectors").reshape(sum(per_class), -1)
    weights = _pairwise(table(node, "coefficients").reshape(classes - 1, -1), per_class)
    first, second = torch.triu_indices(classes, classes, 1)
    kernel, tensors = _kernel(node, vectors)
    matrix, transform = rows(node), node.attr("post_transform", "NONE")
    slopes, shifts = table(node, "prob_a"), table(node, "prob_b")
    platt = len(slopes) > 0
    if platt or classes > 2:
        finish = transformed(transform, classes)
    else:
        finish = of_one_score(transform, margins=True)
    for tensor in (weights, table(node, "rho"), labels, first, second, slopes, shifts, *tensors):
        node.extra(tensor)

    def function(
        x: Tensor,
        weights: Tensor,
        bias: Tensor,
        labels: Tensor,
        first: Tensor,
        second: Tensor,
        slopes: Tensor,
        shifts: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        scores = F.linear(kernel(matrix(x), *tensors), weights, bias)
        winners = torch.where(scores > 0, first, second)
        votes = F.one_hot(winners, classes).sum(1)
        if platt:
            scores = _coupled(_clip_probability(torch.sigmoid(-slopes * scores - shifts)), classes)
        return labels[votes.argmax(1)], finish(scores)

    return function


def _clip_probability(p: Tensor) -> Tensor:
    return p.clamp(1e-7, 1 - 1e-7)


def _pairwise(weights: Tensor, per_class: list[int]) -> Tensor:
    """Rearrange libsvm's weights [classes − 1, vectors] to [pairs, vectors]; a pair weighs two classes' vectors."""
    ends = torch.tensor([0, *per_class]).cumsum(0).tolist()
    parts = [slice(ends[i], ends[i + 1]) for i in range(len(per_class))]
    lines = []
    for i in range(len(per_class)):
        for j in range(i + 1, len(per_class)):
            line = weights.new_zeros(weights.shape[1])
            line[parts[i]], line[parts[j]] = weights[j - 1, parts[i]], weights[i, parts[j]]
            lines.append(line)
    return torch.stack(lines)


def _coupled(pairs: Tensor, classes: int) -> Tensor:
    """Compute class probabilities from those of each pair: Wu, Lin and Weng (2004), algorithm 2, as libsvm stops it.

    A sweep improves one class after the other; a sample whose condition is met is not changed from then on.
    """
    first, second = torch.triu_indices(classes, classes, 1, device=pairs.device)
    r = pairs.new_zeros(pairs.shape[0], classes, classes)
    r[:, first, second] = pairs
    r[:, second, first] = 1 - pairs
    q = torch.diag_embed(r.square().sum(1)) - r * r.mT
    p = pairs.new_full((pairs.shape[0], classes), 1 / classes)
    for _ in range(_SWEEPS):
        qp = (q @ p.unsqueeze(2)).squeeze(2)
        pqp = (p * qp).sum(1)
        met = (qp - pqp.unsqueeze(1)).abs().amax(1, keepdim=True) < _CLOSE / classes
        p = torch.where(met, p, _swept(p, q, qp, pqp))
    return p


def _swept(p: Tensor, q: Tensor, qp: Tensor, pqp: Tensor) -> Tensor:
    """Compute one sweep of the coupling; p sums to ``total`` until the end, where it is divided by it."""
    total, new = torch.ones_like(pqp), []
    for t in range(p.shape[1]):
        step = (pqp / total - qp[:, t]) / q[:, t, t]
        new.append(p[:, t] + step)
        pqp = pqp + step * (step * q[:, t, t] + 2 * qp[:, t])
        qp = qp + step.unsqueeze(1) * q[:, t]
        total = total + step
    return torch.stack(new, 1) / total.unsqueeze(1)
