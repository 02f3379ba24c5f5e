"""Replace linear weights by two thinner ones: find the candidates, and build the graph with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..onnxfile.walk import read_by
from .factor import Factor, energy, rank_for
from .folded_graph import Array, FoldedGraph, Shapes

Form = tuple[tuple[int, ...], int, tuple[int, int]]  # of a `Factor`: its order, lead and shape


def factors(graph: FoldedGraph) -> tuple[Factor, ...]:
    """Find the weights that can be factorised: read once, by one node, and larger than their factors of rank one.

    They are those of Gemm, of MatMul (either operand) and of convolutions without groups.
    """
    return tuple(_best_factor(graph, node, place) for node, place in _candidates(graph))


def factorised(graph: FoldedGraph, ranks: Mapping[str, int], known: Iterable[Factor] = ()) -> FoldedGraph:
    """Replace the named weights by factors of these ranks, and each of their nodes by two of the same operator.

    Args:
        known: the result of `factors` for this graph, which is then not computed again.

    Raises:
        ValueError: if a weight is not among `factors`, or a rank is not 1 … full.
    """
    places = {node.input[place]: (node, place) for node, place in _candidates(graph)}
    if strangers := sorted(ranks.keys() - places.keys()):
        raise ValueError(f"not to be factorised: {', '.join(strangers)}")
    found = {factor.name: factor for factor in known}
    split = {places[name][0].output[0]: found.get(name) or _best_factor(graph, *places[name]) for name in ranks}
    taken = {*graph.constants, *graph.sizes, *graph.shapes, *(name for node in graph.nodes for name in read_by(node))}
    constants = {name: array for name, array in graph.constants.items() if name not in ranks}
    names = {name: called for name, called in graph.names.items() if name not in ranks}
    shapes = dict(graph.shapes)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        factor = split.get(node.output[0])
        if factor is None:
            nodes.append(node)
            continue
        pair = _pair(graph, node, factor, ranks[factor.name], taken)
        nodes += pair.nodes
        constants |= pair.constants
        called = graph.names[factor.name]
        names |= {name: f"{called}.{part}" for name, part in zip(pair.constants, _PARTS, strict=False)}
        shapes[pair.nodes[0].output[0]] = pair.inner
    return replace(graph, nodes=tuple(nodes), constants=constants, names=names, shapes=shapes)


def ranks_at(found: Iterable[Factor], level: float) -> dict[str, int]:
    """Compute the rank at which each weight keeps a share of its energy; only for those that become smaller.

    Args:
        level: the share of the squared singular values, 0 … 1.
    """
    ranks = {}
    for factor in found:
        squares = np.cumsum(factor.values**2)
        rank = min(int(np.searchsorted(squares, level * squares[-1])) + 1, factor.full)
        if factor.parameters(rank) < factor.weight.size:
            ranks[factor.name] = rank
    return ranks


# What is offered


def _candidates(graph: FoldedGraph) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Iterate over nodes with a weight to factorise, and its index among the node's inputs."""
    readers = Counter(name for node in graph.nodes for name in (*node.input, *(read_by(node) - set(node.input))))
    for node in graph.nodes:
        place = _place(graph, node)
        if place is None or readers[node.input[place]] != 1:
            continue
        weight = graph.constants[node.input[place]]
        if weight.dtype.kind == "f" and any(sum(shape) < weight.size for *_, shape in _forms(node, place, weight)):
            yield node, place


def _place(graph: FoldedGraph, node: onnx.NodeProto) -> int | None:
    """Return which input of a node is its weight, if it has one of a kind that can be factorised."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    constant = [name in graph.constants for name in node.input[:2]]
    if constant[0] == constant[1]:
        return None
    place = constant.index(True)
    if node.op_type == "Conv":
        return place if place == 1 and _attributes(node).get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return place if place == 1 else None
    other = graph.shapes[node.input[1 - place]][0]
    return place if graph.constants[node.input[place]].ndim == 2 and (place == 1 or len(other) > 1) else None


def _forms(node: onnx.NodeProto, place: int, weight: Array) -> list[Form]:
    """List the ways in which a weight can be written as a matrix."""
    if node.op_type != "Conv":
        turned = place == 0 or (node.op_type == "Gemm" and _attributes(node).get("transB", 0))
        splits: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((1,), (0,)) if turned else ((0,), (1,))]
    else:
        kernel = range(2, weight.ndim)
        long = [axis for axis in kernel if weight.shape[axis] > 1]
        seconds = [some for count in range(len(long) + 1) for some in combinations(long, count)]
        splits = [((1, *(axis for axis in kernel if axis not in some)), (0, *some)) for some in seconds]
    size = weight.shape
    return [
        ((*first, *second), len(first), (prod(size[i] for i in first), prod(size[i] for i in second)))
        for first, second in splits
    ]


def _best_factor(graph: FoldedGraph, node: onnx.NodeProto, place: int) -> Factor:
    """Return the form that keeps most at half the parameters."""
    name = node.input[place]
    weight = graph.constants[name]
    forms = [Factor(name, node.op_type, *form, weight) for form in _forms(node, place, weight)]
    return forms[0] if len(forms) == 1 else max(forms, key=lambda form: energy(form, rank_for(form, weight.size // 2)))


# The two nodes

_PARTS = ("first", "second", "zero")


@dataclass(frozen=True)
class _Pair:
    """Hold two nodes instead of one, their constants (as `_PARTS`), and the shapes of the value between them."""

    nodes: tuple[onnx.NodeProto, onnx.NodeProto]
    constants: dict[str, Array]
    inner: Shapes


def _pair(graph: FoldedGraph, node: onnx.NodeProto, factor: Factor, rank: int, taken: set[str]) -> _Pair:
    inner = _free(f"{node.output[0]}_inner", taken)
    first, second, zero = (_free(f"{factor.name}_{part}", taken) for part in _PARTS)
    constants = dict(zip((first, second), _weights(factor, rank), strict=True))
    left = factor.operator == "MatMul" and node.input[0] == factor.name
    reads = [first, node.input[1]] if left else [node.input[0], first]
    onwards = [second, inner] if left else [inner, second, *node.input[2:]]
    given = _attributes(node)
    if factor.operator == "Conv":
        each = [_convolution(given, factor, is_first) for is_first in (True, False)]
    else:
        each = [
            {k: v for k, v in given.items() if k in kept} for kept in (("transA", "transB"), given.keys() - {"transA"})
        ]
    if factor.operator == "Gemm" and next((o.version for o in graph.opsets if not o.domain), 1) < 11:
        constants[zero] = np.zeros((), factor.weight.dtype)  # there a Gemm must add something
        reads.append(zero)
    nodes = (
        helper.make_node(factor.operator, reads, [inner], name=inner, **each[0]),
        helper.make_node(factor.operator, onwards, list(node.output), name=node.name, **each[1]),
    )
    shapes = (graph.shapes[node.input[int(left)]], graph.shapes[node.output[0]])
    between = [_inner_shape(factor, rank, left, x, y) for x, y in zip(*shapes, strict=True)]
    return _Pair(nodes, constants, (between[0], between[1]))


def _weights(factor: Factor, rank: int) -> tuple[Array, Array]:
    """Lay out the factors for the two nodes: convolutions' [rank, in, …] and [out, rank, …], 1 on the other's axes."""
    first, second = factor.halves(rank)
    if factor.operator != "Conv":
        turned = factor.order == (1, 0)
        return (np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)) if turned else (first, second)
    kernel = list(enumerate(factor.weight.shape[2:], 2))
    own = factor.order[1 : factor.lead]
    return (
        np.ascontiguousarray(np.moveaxis(first, -1, 0)).reshape(rank, -1, *(n if i in own else 1 for i, n in kernel)),
        np.ascontiguousarray(np.swapaxes(second, 0, 1)).reshape(-1, rank, *(1 if i in own else n for i, n in kernel)),
    )


def _convolution(given: dict[str, Any], factor: Factor, first: bool) -> dict[str, Any]:
    """Assign strides, padding and dilation to the factor that has the kernel's axis."""
    own = factor.order[1 : factor.lead]
    kernel = factor.weight.shape[2:]
    made = {key: value for key, value in given.items() if key == "auto_pad"}
    for key, neutral in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
        value = list(kernel) if key == "kernel_shape" else given.get(key, ())
        if value:
            mine = [(i % len(kernel) + 2 in own) == first for i in range(len(value))]
            made[key] = [v if is_mine else neutral for v, is_mine in zip(value, mine, strict=True)]
    return made


def _inner_shape(factor: Factor, rank: int, left: bool, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the value between input and output."""
    if factor.operator == "Conv":
        own = factor.order[1 : factor.lead]
        return (y[0], rank, *(y[i] if i in own else x[i] for i in range(2, len(y))))
    place = len(y) - (2 if left else 1)
    return (*y[:place], rank, *y[place + 1 :])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or a similar one that is free, and mark it as taken."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
