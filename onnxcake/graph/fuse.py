"""Patterns that exporters write out, back as the one torch call they came from.

A graph that runs op by op keeps every intermediate value for the backward pass and reads memory once for each.
Each pattern is a rule: it looks at one node and the nodes that feed it, and offers one function in their place,
equal up to rounding. Nodes that nobody else reads then fall away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


import torch.nn.functional as F
from torch import Tensor

from .module import Step
from .node import Depends, Node, Obstacle, Value
from .ops import Function

Pattern = Any  # a name to bind, a number, or (operator, pattern, …); Add and Mul match either way round
Bound = dict[str, Value]


@dataclass(frozen=True)
class Fused:
    """A function, and what it is called with."""

    function: Function
    arguments: tuple[Value | Tensor, ...]


class Patterns:
    """The steps of a graph before it is finished, seen from a value: who makes it, how many read it."""

    def __init__(self, steps: Sequence[Step], makers: dict[int, Node], outputs: Sequence[Value]) -> None:
        self.steps, self.makers = steps, makers
        self.readers = Counter(a for step in steps for a in step.arguments if isinstance(a, int))
        self.readers.update(value.slot for value in outputs)

    def maker(self, value: Value | None) -> Node | None:
        """The node that makes a value which depends on data."""
        return None if value is None else self.makers.get(value.slot)

    def match(self, value: Value | None, pattern: Pattern, bound: Bound) -> Iterator[Bound]:
        """All ways in which ``pattern`` fits the nodes that make ``value``."""
        if value is None:
            return
        if isinstance(pattern, str):
            if bound.get(pattern, value) is value:
                yield {**bound, pattern: value}
            return
        if isinstance(pattern, (int, float)):
            if (number := scalar(value)) is not None and math.isclose(number, pattern, rel_tol=1e-3):
                yield bound
            return
        node = self.maker(value)
        if node is None or node.op != pattern[0] or node.proto.domain:
            return
        given, wanted = node.inputs, pattern[1:]
        yield from self._match_all(given, wanted, bound)
        if node.op in ("Add", "Mul") and len(wanted) == 2:
            yield from self._match_all(given[::-1], wanted, bound)

    def _match_all(self, given: Sequence[Value | None], wanted: Sequence[Pattern], bound: Bound) -> Iterator[Bound]:
        if not wanted:
            yield bound
        elif given:
            for first in self.match(given[0], wanted[0], bound):
                yield from self._match_all(given[1:], wanted[1:], first)

    def first(self, value: Value, *patterns: Pattern) -> Bound | None:
        """The first fit of the first pattern that fits."""
        return next((found for pattern in patterns for found in self.match(value, pattern, {})), None)


def scalar(value: Value | None) -> float | None:
    """A constant of one number."""
    if value is None or value.depends != Depends.NOTHING or not isinstance(value.seen[0], Tensor):
        return None
    return float(value.seen[0].reshape(-1)[0]) if value.seen[0].numel() == 1 else None


def _last_axis_only(node: Node | None, value: Value) -> bool:
    """Whether a reduction is over the last axis alone and keeps it."""
    if node is None or not node.attr("keepdims", 1):
        return False
    axes = node.attr("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = node.inputs[1].seen[0].reshape(-1).tolist() if node.inputs[1].depends == Depends.NOTHING else None
    return axes is not None and len(axes) == 1 and axes[0] in (-1, value.seen[0].dim() - 1)


_ERF = [("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0), ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)]
_GELU = [
    p
    for e in _ERF
    for p in (("Mul", ("Mul", "x", e), 0.5), ("Mul", ("Mul", "x", 0.5), e), ("Mul", "x", ("Mul", e, 0.5)))
]
_CUBE = [("Pow", "x", 3.0), ("Mul", "x", ("Mul", "x", "x"))]
_TANH = [("Add", ("Tanh", ("Mul", ("Add", "x", ("Mul", c, 0.044715)), math.sqrt(2 / math.pi))), 1.0) for c in _CUBE]
_GELU_TANH = [
    p
    for t in _TANH
    for p in (("Mul", ("Mul", "x", t), 0.5), ("Mul", ("Mul", "x", 0.5), t), ("Mul", "x", ("Mul", t, 0.5)))
]


def activation(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """GELU, SiLU and hard-swish, as older exports and opsets write them out."""
    if node.op not in ("Mul", "Div"):
        return None
    if (found := graph.first(value, *_GELU)) is not None:
        return Fused(F.gelu, (found["x"],))
    if (found := graph.first(value, *_GELU_TANH)) is not None:
        return Fused(lambda x: F.gelu(x, approximate="tanh"), (found["x"],))
    if (found := graph.first(value, ("Mul", "x", ("Sigmoid", "x")))) is not None:
        return Fused(F.silu, (found["x"],))
    clipped = ("Clip", ("Add", "x", 3.0), 0.0, 6.0)
    hard = graph.first(value, ("Div", ("Mul", "x", clipped), 6.0), ("Mul", "x", ("Div", clipped, 6.0)))
    if hard is not None:
        return Fused(F.hardswish, (hard["x"],))
    found = graph.first(value, ("Mul", "x", ("HardSigmoid", "x")))
    if found is not None:
        gate = next(n for v in node.inputs if (n := graph.maker(v)) is not None and n.op == "HardSigmoid")
        if math.isclose(gate.attr("alpha", 0.2), 1 / 6, rel_tol=1e-4) and gate.attr("beta", 0.5) == 0.5:
            return Fused(F.hardswish, (found["x"],))
    return None


_CENTRED = ("Sub", "x", ("ReduceMean", "x"))
_SQUARED = [("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED)]
_NORMED = [("Div", _CENTRED, ("Sqrt", ("Add", ("ReduceMean", s), "epsilon"))) for s in _SQUARED]


def layer_norm(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Layer normalisation over the last axis, as opsets before 17 write it out."""
    if node.op != "Add":
        return None
    found = graph.first(value, *(("Add", ("Mul", n, "scale"), "shift") for n in _NORMED))
    if found is None:
        return None
    x, scale, shift = found["x"], found["scale"], found["shift"]
    epsilon, size = scalar(found["epsilon"]), x.seen[0].shape[-1]
    vectors = all(v.depends == Depends.NOTHING and v.seen[0].shape == (size,) for v in (scale, shift))
    if epsilon is None or not vectors or not all(_last_axis_only(m, x) for m in _means(graph, value)):
        return None
    return Fused(lambda x, scale, shift: F.layer_norm(x, (size,), scale, shift, epsilon), (x, scale, shift))


def _means(graph: Patterns, value: Value, depth: int = 7) -> list[Node]:
    node = graph.maker(value) if depth else None
    if node is None:
        return []
    own = [node] if node.op == "ReduceMean" else []
    inside = node.inputs[:1] if own and depth < 4 else node.inputs
    return own + [mean for v in inside if v is not None for mean in _means(graph, v, depth - 1)]


def linear(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """A matrix product with weights and a bias: one call."""
    if node.op != "Add":
        return None
    found = graph.first(value, ("Add", ("MatMul", "x", "weight"), "bias"))
    if found is None:
        return None
    x, weight, bias = found["x"], found["weight"], found["bias"]
    constant = weight.depends == bias.depends == Depends.NOTHING and x.depends == Depends.DATA
    if (
        not constant
        or weight.seen[0].dim() != 2
        or x.seen[0].dim() < 2
        or bias.seen[0].shape != weight.seen[0].shape[1:]
    ):
        return None
    return Fused(F.linear, (x, weight.seen[0].t().contiguous(), bias))


def attention(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """softmax(q kᵀ · scale + mask) v: one call that does not keep the attention matrix."""
    if node.op != "MatMul":
        return None
    found = graph.first(value, ("MatMul", ("Softmax", "scores"), "v"))
    if found is None or not _softmax_over_last(graph, node):
        return None
    scores, v = found["scores"], found["v"]
    mask: Value | None = None
    product = graph.first(
        scores,
        ("Add", ("MatMul", "q", "k"), "mask"),
        ("Add", ("Mul", ("MatMul", "q", "k"), "s"), "mask"),
        ("Add", ("Div", ("MatMul", "q", "k"), "d"), "mask"),
        ("Mul", ("MatMul", "q", "k"), "s"),
        ("Div", ("MatMul", "q", "k"), "d"),
        ("MatMul", "q", "k"),
    )
    if product is None or any(product[n].seen[0].dim() != 4 for n in "qk") or v.seen[0].dim() != 4:
        return None
    mask = product.get("mask")
    scale = 1.0
    for name in "sd":
        if name in product:
            number = scalar(product[name])
            if number is None or number == 0:
                return None
            scale *= number if name == "s" else 1 / number
    q, scale = _unscaled(graph, product["q"], scale)
    k, scale = _unscaled(graph, product["k"], scale)
    if not all(t.depends == Depends.DATA for t in (q, k, v)) or scale <= 0:
        return None
    if mask is None:
        return Fused(lambda q, k, v: F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, scale=scale), (q, k, v))
    return Fused(
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, attn_mask=mask, scale=scale),
        (q, k, v, mask),
    )


def _unscaled(graph: Patterns, value: Value, scale: float) -> tuple[Value, float]:
    """A value before it was multiplied by a number, and that number times ``scale``."""
    node = graph.maker(value)
    if node is None or node.op not in ("Mul", "Div") or node.proto.domain:
        return value, scale
    for place in (1, 0) if node.op == "Mul" else (1,):
        number, other = scalar(node.inputs[place]), node.inputs[1 - place]
        if number and other is not None and other.seen[0].shape == value.seen[0].shape:
            return other, scale * number if node.op == "Mul" else scale / number
    return value, scale


def _softmax_over_last(graph: Patterns, node: Node) -> bool:
    softmax = graph.maker(node.inputs[0])
    if softmax is None:
        return False
    rank = softmax.rank(0)
    axis = softmax.attr("axis", -1 if softmax.version >= 13 else 1)
    return bool(axis in (-1, rank - 1))


def transposed(graph: Patterns, node: Node, value: Value) -> Fused | None:
    """Matrices transposed by way of one axis for all leading ones: a view."""
    if node.op != "Reshape":
        return None
    found = graph.first(value, ("Reshape", ("Transpose", ("Reshape", "x", "there")), "back"))
    swap = graph.maker(node.inputs[0])
    if found is None or swap is None or tuple(swap.attr("perm", ())) != (0, 2, 1):
        return None
    for trial in (0, 1):
        (*lead, rows, columns), after = found["x"].seen[trial].shape, value.seen[trial].shape
        if swap.value(0).seen[trial].shape[1:] != (rows, columns) or after != (*lead, columns, rows):
            return None
    return Fused(lambda x: x.transpose(-2, -1), (found["x"],))


Rule = Callable[[Patterns, Node, Value], Fused | None]
RULES: tuple[Rule, ...] = (activation, layer_norm, attention, linear, transposed)


def _parted(steps: Sequence[Step], graph: Patterns) -> list[Step]:
    """Slices, or single places, that together are the whole of a tensor, as one split of it.

    The backward pass of a slice fills a tensor of zeros as large as the whole; that of a split joins the parts.
    """
    groups: dict[tuple[int, str, int], list[tuple[int, int, Step]]] = {}
    for step in steps:
        node = graph.makers.get(step.results[0]) if len(step.results) == 1 and step.results[0] is not None else None
        if node is not None and (part := _part(node)) is not None:
            axis, start, end = part
            groups.setdefault((node.value(0).slot, node.op, axis), []).append((start, end, step))
    replaced: dict[int, Step | None] = {}
    for (source, op, axis), parts in groups.items():
        parts.sort(key=lambda part: part[:2])
        whole = graph.makers[parts[0][2].results[0]].shape(0)[axis]  # type: ignore[index]
        ends = [0, *(end for _, end, _ in parts)]
        if (
            len(parts) < 2
            or ends[-1] != whole
            or any(start != end for (start, _, _), end in zip(parts, ends, strict=False))
        ):
            continue
        sizes = tuple(end - start for start, end, _ in parts)
        function: Function = _unbound(axis) if op == "Gather" else _split(sizes, axis)
        slots = tuple(step.results[0] for _, _, step in parts)
        whole_step = Step(function, (source,), slots, True, parts[0][2].name, op)
        replaced |= {id(step): None for _, _, step in parts}
        first = min((step for _, _, step in parts), key=steps.index)
        replaced[id(first)] = whole_step
    return [new for step in steps if (new := replaced.get(id(step), step)) is not None]


def _unbound(axis: int) -> Function:
    return lambda x: x.unbind(axis)


def _split(sizes: tuple[int, ...], axis: int) -> Function:
    return lambda x: x.split(sizes, axis)


def _part(node: Node) -> tuple[int, int, int] | None:
    """(axis, start, end) of a slice along one axis, or of a single place; None for anything else."""
    source = node.inputs[0]
    if node.proto.domain or node.op not in ("Slice", "Gather") or source is None or source.depends != Depends.DATA:
        return None
    try:
        shape = node.shape(0)
        if node.op == "Gather":
            place, axis = node.value(1), node.attr("axis", 0) % len(shape)
            if place.depends != Depends.NOTHING or place.seen[0].dim() or shape[axis] < 0:
                return None
            start = int(place.seen[0]) % shape[axis]
            return axis, start, start + 1
        starts, ends, axes, strides = _bounds(node)
        axis = axes[0] % len(shape)
        if len(starts) != 1 or strides != (1,) or shape[axis] < 0:
            return None
        limits = slice(starts[0], ends[0]).indices(shape[axis])
        return axis, limits[0], limits[1]
    except (Obstacle, IndexError):
        return None


def _bounds(node: Node) -> tuple[tuple[int, ...], ...]:
    """Starts, ends, axes and steps of a Slice."""
    if node.version < 10:
        starts, ends = tuple(node.attr("starts")), tuple(node.attr("ends"))
        return starts, ends, tuple(node.attr("axes", range(len(starts)))), (1,) * len(starts)
    starts, ends = (node.numbers(i).base if node.numbers(i).fixed else () for i in (1, 2))
    axes = node.numbers(3).base if node.has(3) else tuple(range(len(starts)))
    return starts, ends, axes, node.numbers(4).base if node.has(4) else (1,) * len(starts)


def fuse(
    steps: Sequence[Step], graph: Patterns, constant: Callable[[Tensor], Value], values: dict[int, Value]
) -> list[Step]:
    """The steps with every pattern that fits replaced; those that nobody reads any longer are still there."""
    result: list[Step] = []
    steps = _parted(steps, graph)
    for step in steps:
        slot = step.results[0] if len(step.results) == 1 else None
        node = graph.makers.get(slot) if slot is not None else None
        fused = None
        if node is not None and slot is not None and not node.proto.domain and slot in values:
            fused = next((f for rule in RULES if (f := rule(graph, node, values[slot])) is not None), None)
        if fused is None:
            result.append(step)
            continue
        arguments = tuple((constant(a) if isinstance(a, Tensor) else a).slot for a in fused.arguments)
        result.append(Step(fused.function, arguments, step.results, False, step.name, step.op))
    return result
