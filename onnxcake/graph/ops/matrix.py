"""Convert products of matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..node import Node
from ..registry import op
from ..values import Function


@op("MatMul")
def matmul(node: Node) -> Function:
    return torch.matmul


@op("Gemm")
def gemm(node: Node) -> Function:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    first, second = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    if not node.dtype(0).is_floating_point:
        alpha, beta = int(alpha), int(beta)
    if not node.has(2) or beta == 0:
        if node.has(2):
            node.take(2)
        if alpha == 1:
            return lambda a, b, _=None: (a.t() if first else a) @ (b.t() if second else b)
        return lambda a, b, _=None: (a.t() if first else a) @ (b.t() if second else b) * alpha
    if alpha == beta == 1 and not first and node.rank(2) == 1 and node.shape(2) == (node.shape(1)[not second],):
        if second:
            return F.linear
        return lambda a, b, c: torch.addmm(c, a, b)
    return lambda a, b, c: torch.addmm(c, a.t() if first else a, b.t() if second else b, beta=beta, alpha=alpha)


@op("Einsum")
def einsum(node: Node) -> Function:
    equation = node.attr("equation")
    return lambda *xs: torch.einsum(equation, *xs)


@op("Det")
def det(node: Node) -> Function:
    return lambda x: torch.linalg.det(x)
