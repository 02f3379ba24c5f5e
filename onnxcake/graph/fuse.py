"""Fuse patterns of nodes that exporters write out back into the one torch call that they came from.

A graph that runs op by op keeps every intermediate value for the backward pass and reads memory once for each.
Each pattern is a rule: it looks at one node and the nodes that feed it, and offers one function in their place,
equal up to rounding. Nodes that nobody else reads then fall away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .fusions import RULES
from .module import GraphStep
from .node import Node
from .patterns import Derived, Patterns
from .values import Depends, Function, Obstacle, Value


def _fuse_slices(steps: Sequence[GraphStep], graph: Patterns) -> list[GraphStep]:
    """Replace slices, or single entries, that together are the whole of a tensor by one split of it.

    The backward pass of a slice fills a tensor of zeros as large as the whole; that of a split joins the parts.
    """
    groups: dict[tuple[int, str, int], list[tuple[int, int, GraphStep]]] = {}
    for step in steps:
        node = graph.makers.get(step.results[0]) if len(step.results) == 1 and step.results[0] is not None else None
        if node is not None and (part := _slice_bounds_of(node)) is not None:
            axis, start, end = part
            groups.setdefault((node.value(0).slot, node.op, axis), []).append((start, end, step))
    replaced: dict[int, GraphStep | None] = {}
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
        whole_step = GraphStep(function, (source,), slots, True, parts[0][2].name, op)
        replaced |= {id(step): None for _, _, step in parts}
        first = min((step for _, _, step in parts), key=steps.index)
        replaced[id(first)] = whole_step
    return [new for step in steps if (new := replaced.get(id(step), step)) is not None]


def _unbound(axis: int) -> Function:
    return lambda x: x.unbind(axis)


def _split(sizes: tuple[int, ...], axis: int) -> Function:
    return lambda x: x.split(sizes, axis)


def _slice_bounds_of(node: Node) -> tuple[int, int, int] | None:
    """Return (axis, start, end) of a slice along one axis, or of a single entry; None for anything else."""
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
    """Return the starts, ends, axes and steps of a Slice."""
    if node.version < 10:
        starts, ends = tuple(node.attr("starts")), tuple(node.attr("ends"))
        return starts, ends, tuple(node.attr("axes", range(len(starts)))), (1,) * len(starts)
    starts, ends = (node.numbers(i).base if node.numbers(i).fixed else () for i in (1, 2))
    axes = node.numbers(3).base if node.has(3) else tuple(range(len(starts)))
    return starts, ends, axes, node.numbers(4).base if node.has(4) else (1,) * len(starts)


def fuse(
    steps: Sequence[GraphStep], graph: Patterns, derived: Callable[..., Value], values: dict[int, Value]
) -> list[GraphStep]:
    """Replace every pattern that fits by its fused step; steps that are no longer read remain."""
    result: list[GraphStep] = []
    steps = _fuse_slices(steps, graph)
    for step in steps:
        slot = step.results[0] if len(step.results) == 1 else None
        node = graph.makers.get(slot) if slot is not None else None
        fused = None
        if node is not None and slot is not None and not node.proto.domain and slot in values:
            fused = next((f for rule in RULES if (f := rule(graph, node, values[slot])) is not None), None)
        if fused is None:
            result.append(step)
            continue
        arguments = tuple(
            (derived(a.function, *a.values) if isinstance(a, Derived) else a).slot for a in fused.arguments
        )
        result.append(GraphStep(fused.function, arguments, step.results, False, step.name, step.op))
    return result
