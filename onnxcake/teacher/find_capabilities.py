"""Find what a teacher's graph holds besides its answers; only values that its logits depend on count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..graph.convert import Converted
from ..graph.values import Depends
from ..onnxfile.rename import INPUT
from ..onnxfile.walk import reaching, read_by
from .capabilities import ActivationStatistics, TeacherCapabilities
from .last_layer import Head, attribute, head_of
from .open_graph import OpenGraph
from .signature import OutputKind
from .taps import by_input

_CONVOLUTIONS = ("Conv", "ConvTranspose")

_PROXY = 0.1  # what whitening counts beside statistics of the training data


def offers(opened: OpenGraph, kind: OutputKind) -> TeacherCapabilities:
    """Find statistics, convolutions, last layer and maps, as taps that `taps.Tapped` returns.

    The layer that makes the logits is the last layer, and not among the convolutions. Values in a sub-graph, or
    without an entry for each input along their first axis, are not listed.
    """
    graph, end = opened.converted, opened.end(kind)
    nodes = [node for node in reaching(graph.safe.model.graph.node, end) if _moves_data(graph, node)]
    head = head_of(opened, kind)
    convolutions = _convolutions(graph, nodes, _last_convolution(graph, nodes, end) if head is None else head.value)
    statistics = _statistics(graph, nodes, convolutions)
    maps = _maps(graph, nodes, end)
    taps = [*(() if statistics is None else statistics.taps), *convolutions, *maps, *_features(head)]
    return TeacherCapabilities(
        statistics=statistics,
        convolutions=convolutions,
        last_layer=None if head is None else head.layer,
        maps=maps,
        names=tuple((tap, _own_name(opened, tap)) for tap in dict.fromkeys(taps)),
    )


def whitening(opened: OpenGraph, kind: OutputKind) -> ActivationStatistics | None:
    """Return mean 0 and variance 1 of convolutions' outputs, for a teacher with folded BatchNormalization.

    That is about what a folded one leaves, with its own scale near 1 and its shift near 0. Convolutions that had none
    are
    left out: those of single places (gates), those that cut an image into patches, and the one that makes the logits.
    It counts a tenth of real statistics, as proxies do: a file does not show whether there ever was a
    BatchNormalization, and where there was none the whole weight does harm (benchmarks/RESULTS.md).
    """
    graph = opened.converted
    makers = {name: node for node in graph.safe.model.graph.node for name in node.output}
    taps = []
    for tap in offers(opened, kind).convolutions:
        kernel = graph.values[makers[tap].input[1]].seen[0].shape[2:]
        strides = attribute(makers[tap], "strides") or (1,) * len(kernel)
        patches = max(kernel) > 1 and all(step >= size for step, size in zip(strides, kernel, strict=True))
        if math.prod(_sizes(graph, tap)[1:]) > 1 and not patches:
            taps.append(tap)
    channels = [_sizes(graph, tap)[0] for tap in taps]
    means, variances = tuple(map(torch.zeros, channels)), tuple(map(torch.ones, channels))
    return ActivationStatistics(tuple(taps), means, variances, "whitening", _PROXY) if taps else None


def _features(head: Head | None) -> tuple[str, ...]:
    return () if head is None else (head.layer.features,)


def _own_name(opened: OpenGraph, tap: str) -> str:
    name, colon, form = tap.partition(":")
    return opened.safe.value_names.get(name, name) + colon + form


def _is_data(graph: Converted, name: str) -> bool:
    value = graph.values.get(name)
    return value is not None and value.depends == Depends.DATA


def _moves_data(graph: Converted, node: Any) -> bool:
    """Tell whether a node's output depends on data, and is more than shapes and constants."""
    return any(_is_data(graph, name) for name in node.output)


def _sizes(graph: Converted, name: str) -> tuple[int, ...]:
    """Return a value's shape without the first axis; () if it is no tensor."""
    seen = graph.values[name].seen[0]
    return tuple(seen.shape[1:]) if isinstance(seen, Tensor) else ()


# Convolutions and statistics


def _convolutions(graph: Converted, nodes: Sequence[Any], but: str | None) -> tuple[str, ...]:
    made = [node.output[0] for node in nodes if node.op_type in _CONVOLUTIONS and not node.domain]
    return tuple(name for name in made if name != but and by_input(graph, name))


def _last_convolution(graph: Converted, nodes: Sequence[Any], end: str) -> str | None:
    """Find the convolution whose output reaches the scores through activations and pooling alone; None if none does."""
    makers = {name: node for node in nodes for name in node.output}
    at = end
    while (node := makers.get(at)) is not None and not node.domain:
        if node.op_type in _CONVOLUTIONS:
            return at
        read = {name for name in node.input if _is_data(graph, name)}
        if len(read) != 1 or any(_is_matrix(graph.constant(name)) for name in node.input):
            return None
        (at,) = read
    return None


def _is_matrix(constant: Tensor | None) -> bool:
    return constant is not None and sum(size > 1 for size in constant.shape) > 1


def _statistics(graph: Converted, nodes: Sequence[Any], convolutions: Sequence[str]) -> ActivationStatistics | None:
    """Read the running statistics of the inputs of all BatchNormalization nodes.

    Where an exporter has folded others into convolutions, the sum over those that are left is scaled up to the number
    of layers: convolutions of more than one place, and linear layers with a BatchNormalization (a gate, or any other
    layer on single places, had none).
    """
    makers = {name: node for node in nodes for name in node.output}
    taps, means, variances, linear = [], [], [], 0
    for node in nodes:
        if node.op_type != "BatchNormalization" or node.domain:
            continue
        tap, mean, variance = node.input[0], graph.constant(node.input[3]), graph.constant(node.input[4])
        if mean is None or variance is None or not by_input(graph, tap) or mean.shape != _sizes(graph, tap)[:1]:
            continue
        taps.append(tap)
        means.append(mean.float())
        variances.append(variance.float())
        linear += _is_linear(makers, tap)
    if not taps:
        return None
    layers = linear + sum(math.prod(_sizes(graph, name)[1:]) > 1 for name in convolutions)
    scale = max(1.0, layers / len(taps))
    return ActivationStatistics(tuple(taps), tuple(means), tuple(variances), "batch_norm", scale)


def _is_linear(makers: dict[str, Any], name: str) -> bool:
    """Tell whether a value is a matrix product, with its bias or without."""
    node = makers.get(name)
    if node is not None and node.op_type == "Add":
        return any(makers[one].op_type == "MatMul" for one in node.input if one in makers)
    return node is not None and node.op_type in ("Gemm", "MatMul")


# Maps


def _maps(graph: Converted, nodes: Sequence[Any], end: str) -> tuple[str, ...]:
    """Find the values at the ends of stages: the last before a side is halved, or before there are no sides any longer.

    They are among the values [batch, channels, height, width] that come from a convolution and that every path to the
    logits goes through.
    """
    first = _channels_first(graph, nodes)
    necks = [name for name in _necks(graph, nodes, end) if name in first and len(_sizes(graph, name)) == 3]
    sides = [_sizes(graph, name)[1:] for name in necks]
    halved = [
        any(2 * after <= before + 1 < 2 * before for before, after in zip(*pair, strict=True))
        for pair in pairwise(sides)
    ]
    chosen = zip(necks, sides, [*halved, True], strict=False)
    return tuple(name for name, side, last in chosen if last and math.prod(side) > 1 and by_input(graph, name))


def _necks(graph: Converted, nodes: Sequence[Any], end: str) -> list[str]:
    """List the values that every path from the input to ``end`` goes through, in order.

    While such a value is live, no other value is still to be read.
    """
    last = {name: place for place, node in enumerate(nodes) for name in read_by(node) if _is_data(graph, name)}
    last[end] = len(nodes)
    there, necks = {INPUT}, list[str]()
    for place, node in enumerate(nodes):
        there -= {name for name in read_by(node) if last.get(name) == place}
        there |= {name for name in node.output if name in last}
        if len(there) == 1 and not there.isdisjoint(node.output):
            necks += there
    return necks


def _channels_first(graph: Converted, nodes: Sequence[Any]) -> set[str]:
    """Find the values that come from a convolution and still are maps, their places along the last axes."""
    first: dict[str, bool] = {}  # False: the channels are last
    for node in nodes:
        made, source = node.output[0], next((name for name in node.input if name in first), None)
        if node.op_type in _CONVOLUTIONS:
            first[made] = True
        elif source is not None and node.op_type == "Transpose":
            order = tuple(attribute(node, "perm") or ())
            if order == ((0, 2, 3, 1) if first[source] else (0, 3, 1, 2)):
                first[made] = not first[source]
            elif order[3:] == (3, 4):  # channels in groups, shuffled
                first[made] = first[source]
        elif source is not None:
            kept = _sizes(graph, made)[-2:] == _sizes(graph, source)[-2:]
            if kept or node.op_type != "Reshape":
                first[made] = first[source]
    return {name for name, yes in first.items() if yes}
