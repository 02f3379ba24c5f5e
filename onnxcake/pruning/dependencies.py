"""Follow dependencies through a graph: how each operator relates the indices of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from ..graph.values import Sizes
from ..onnxfile.rename import INPUT
from ..onnxfile.walk import read_by
from .folded_graph import Array, FoldedGraph
from .indices import Axes, Axis, Indices

Keep = Callable[[Any], np.ndarray[Any, np.dtype[np.bool_]]]  # an axis → which of its indices stay


@dataclass
class Call:
    """Hold one node with the axes of its inputs, as far as they are known.

    Attributes:
        axes: of each input: the elements of each axis; None where it is absent or holds sizes.
        seen: the inputs that its rule has read; the others must stay whole.
        facts: what its rule has found out and its rewriting needs.
    """

    proto: onnx.NodeProto
    graph: FoldedGraph
    indices: Indices
    axes: list[Axes | None]
    seen: set[int] = field(default_factory=set)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """Return the operator's name."""
        return str(self.proto.op_type)

    @property
    def version(self) -> int:
        """Return the opset version of the standard's operators."""
        return next((o.version for o in self.graph.opsets if not o.domain), 1)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute as int, float, bytes or a list of these."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return list(value) if attribute.type in _LISTS else value
        return default

    def has(self, place: int) -> bool:
        """Tell whether an input is given."""
        return place < len(self.proto.input) and bool(self.proto.input[place])

    def input(self, place: int) -> Axes:
        """Return the axes of an input.

        Raises:
            CannotFollow: if it is absent or holds sizes.
        """
        axes = self.optional(place)
        if axes is None:
            raise CannotFollow
        return axes

    def optional(self, place: int) -> Axes | None:
        """Return the axes of an input that may be absent."""
        self.seen.add(place)
        return self.axes[place] if place < len(self.axes) else None

    def given(self) -> list[Axes]:
        """Return the axes of all inputs that are given.

        Raises:
            CannotFollow: if one holds sizes, of which it is not known along which axis they lie.
        """
        for place, name in enumerate(self.proto.input):
            if name and self.axes[place] is None and self.graph.shapes[name][0]:
                raise CannotFollow
        return [axes for place in range(len(self.axes)) if (axes := self.optional(place)) is not None]

    def constant(self, place: int) -> Array | None:
        """Return an input that depends on nothing; None if it depends on data or batch."""
        return self.graph.constants.get(self.proto.input[place]) if self.has(place) else None

    def numbers(self, place: int) -> Sizes | None:
        """Return an input that is whole numbers known up to the batch; None if it depends on data."""
        return self.graph.numbers(self.proto.input[place]) if self.has(place) else None

    def ints(self, place: int, name: str = "") -> tuple[int, ...] | None:
        """Return whole numbers that are an input, or were an attribute in earlier opsets; None if absent.

        Raises:
            CannotFollow: if they depend on more than constants.
        """
        if name and (given := self.attr(name)) is not None:
            return tuple(given) if isinstance(given, list) else (given,)
        if not self.has(place):
            return None
        sizes = self.numbers(place)
        if sizes is None or not sizes.fixed:
            raise CannotFollow
        return sizes.base

    def out_shape(self, place: int = 0) -> tuple[int, ...]:
        """Return the shape of an output at the first trial batch."""
        return self.graph.shapes[self.proto.output[place]][0]

    def shapes_of(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return a value's shapes at both trial batches."""
        if name in self.graph.shapes:
            return self.graph.shapes[name]
        shape = tuple(self.graph.constants[name].shape)
        return shape, shape


_LISTS = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS)


class CannotFollow(Exception):
    """Signal that a node's effect on indices is not known: all of them must stay."""


Rule = Callable[[Call], list[Axes]]
Rewrite = Callable[[Call, onnx.NodeProto, "Writer"], None]


class Writer:
    """Declare the part of `cut.Cutter` that rewrites may use."""

    def mask(self, axis: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return the mask of the indices of an axis that stay."""
        raise NotImplementedError

    def count(self, axis: Any) -> int:
        """Count the indices of an axis that stay."""
        return int(self.mask(axis).sum())

    def shape(self, name: str) -> Sizes:
        """Return a value's new shape, as a function of the batch."""
        raise NotImplementedError

    def ints(self, values: Sequence[int], like: Array | None = None) -> str:
        """Add a constant of whole numbers; return its name."""
        raise NotImplementedError

    def sizes(self, sizes: Sizes, scalar: bool = False) -> str:
        """Add a value that holds these numbers for each batch; return its name."""
        raise NotImplementedError

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node of one output before the one that is rewritten, and return the output's name."""
        raise NotImplementedError


RULES: dict[str, Rule] = {}
REWRITES: dict[str, Rewrite] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register the dependency rule of some operators: input axes → output axes; it unites axes that must agree."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def rewrite(*operators: str) -> Callable[[Rewrite], Rewrite]:
    """Register how a node of some operators is rewritten once it is known which indices stay."""

    def register(function: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(operators, function))
        return function

    return register


@dataclass(frozen=True)
class Followed:
    """Hold a graph's dependencies.

    Attributes:
        axes: the elements along each axis of each value and constant.
        fresh: of each constant, its axes before anything was followed.
        calls: the nodes with their followed axes.
    """

    graph: FoldedGraph
    indices: Indices
    axes: dict[str, Axes]
    fresh: dict[str, Axes]
    calls: tuple[Call, ...]

    @cached_property
    def table(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the atoms of every element, filled up with −1 [elements, most]."""
        return self.indices.table()

    def stays(self, dropped: Axis) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for each element whether it stays once these atoms are dropped [elements]."""
        atoms = np.ones(self.indices.size + 1, np.bool_)  # the last stands for −1
        atoms[dropped] = False
        found: np.ndarray[Any, np.dtype[np.bool_]] = atoms[self.table].all(1)
        return found


def follow(graph: FoldedGraph) -> Followed:
    """Find which indices of a graph's values and constants stand and fall together.

    The graph's input and output stay whole; so does whatever an operator without a rule reads or makes.
    """
    indices = Indices()
    batch = graph.batches[0]
    axes: dict[str, Axes] = {INPUT: [indices.kept(size) for size in (batch, *graph.input_shape)]}
    for name, array in graph.constants.items():
        axes[name] = [indices.fresh(size) for size in array.shape]
    fresh = dict(axes)
    calls = []
    for node in graph.nodes:
        call = Call(node, graph, indices, [axes.get(name) if name else None for name in node.input])
        indices.because(node.op_type)
        made = _output_axes(call, [axes[name] for name in sorted(read_by(node)) if name in axes])
        for name, found in zip(node.output, made, strict=False):
            if name:
                axes[name] = found
        calls.append(call)
    indices.because("the output")
    for axis in axes[graph.output]:
        indices.hold(axis)
    return Followed(graph, indices, axes, fresh, tuple(calls))


def _output_axes(call: Call, read: list[Axes]) -> list[Axes]:
    """Compute the axes of a node's outputs; hold all that it reads where no rule applies to it."""
    known = RULES.get(call.op) if not call.proto.domain else None
    shapes = [call.graph.shapes.get(name) for name in call.proto.output]
    if known is not None:
        try:
            made = known(call)
            if all(
                not name or (shape is not None and [len(a) for a in axes] == list(shape[0]))
                for name, shape, axes in zip(call.proto.output, shapes, made, strict=False)
            ) and all(not name for name in call.proto.output[len(made) :]):
                for place in range(len(call.axes)):
                    for axis in () if place in call.seen else call.axes[place] or ():
                        call.indices.hold(axis)
                return made
        except CannotFollow:
            pass
    for value in read:
        for axis in value:
            call.indices.hold(axis)
    return [[call.indices.kept(size) for size in (shape[0] if shape else ())] for shape in shapes]
