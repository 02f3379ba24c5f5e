"""Give a converter access to one node: its attributes, and what is known of its inputs while the graph is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx
import torch
from torch import Tensor

from ..core.remedies import SIZES
from ..onnxfile.tensors import from_attribute
from .build_log import Limits, Record
from .module import Graph, GraphStep
from .values import Depends, Function, Obstacle, Sizes, Value


class Host(Protocol):
    """Declare the part of `Builder` that nodes and converters may use.

    Attributes:
        batches: the two trial batch sizes.
        fixed_batch: a batch that the file has baked in.
        precision: the dtype that all floating-point types are computed in; None keeps each its own.
        trained: whether the graph is going to be trained in its weights.
        makers: the nodes of the graph that is being built, by the slot of their outputs.
        turns: the number of iterations of the loops around the node, all together.
        unrolled: the number of nodes that all loops have asked for.
    """

    batches: tuple[int, int]
    fixed_batch: int | None
    limits: Limits
    precision: torch.dtype | None
    trained: bool
    makers: dict[int, Node]
    steps: list[GraphStep]
    records: list[Record]
    turns: int
    unrolled: int

    def dtype_of(self, elem_type: int) -> torch.dtype:
        """Return the torch dtype that stands for an ONNX element type."""

    def opset(self, domain: str) -> int:
        """Return the version of a domain's operators at this place."""

    def look_up(self, name: str) -> Value | None:
        """Find the value of a name, in this graph or one around it."""

    def constant(self, value: Any) -> Value:
        """Make a value that depends on nothing."""

    def derived(self, function: Function, *values: Value) -> Value:
        """Make a constant that a function works out of constants."""

    def fresh(self, seen: tuple[Any, Any]) -> Value:
        """Make a value that is data, as seen at the two trial batches."""

    def inline(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """Build a sub-graph in place; return its outputs."""

    def module(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> tuple[Graph, list[Value], list[Value]]:
        """Build a sub-graph as a module; return it, the outer values that it reads, and its outputs."""

    def run(self, node: Node, function: Function) -> list[Value]:
        """Add a function to the graph; return its results."""

    def convert(self, proto: onnx.NodeProto, version: int, inputs: list[Value | None]) -> list[Value]:
        """Add a node whose inputs are given; return its outputs."""


@dataclass(eq=False)
class Node:
    """Hold one node, its inputs known as far as they can be before there is data.

    The function that a converter returns is called with the node's inputs in order: a tensor for each that was
    not taken (`ints`, `constant`, … take), a tuple of Python ints for each that `sizes` was asked for, None for
    an absent optional one; then the arguments that `extra` added.
    """

    proto: onnx.NodeProto
    version: int
    inputs: list[Value | None]
    builder: Host = field(repr=False)
    _taken: set[int] = field(default_factory=set, repr=False)
    _instead: dict[int, Sizes | Value] = field(default_factory=dict, repr=False)
    _extra: list[Value | Sizes] = field(default_factory=list, repr=False)
    known: tuple[Any, Any] | None = field(default=None, repr=False)

    @property
    def op(self) -> str:
        """Return the operator's name."""
        return str(self.proto.op_type)

    @property
    def outputs(self) -> int:
        """Count the outputs that the node names; a function with several returns a tuple of at least as many."""
        return len(self.proto.output)

    def wanted(self, index: int) -> bool:
        """Tell whether the node names its output ``index``."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    # Attributes

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute: int, float, str, a list of these, a tensor, or a GraphProto; ``default`` if absent."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return from_attribute(attribute, self.dtype_of)
        return default

    def dtype_of(self, elem_type: int) -> torch.dtype:
        """Return the torch dtype that stands for an ONNX element type here (low precision is computed in float32)."""
        return self.builder.dtype_of(elem_type)

    # Inputs

    def has(self, index: int) -> bool:
        """Tell whether input ``index`` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Return input ``index``.

        Raises:
            Obstacle: if it is absent.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise Obstacle(f"its input {index} is missing")
        return value

    def maker(self, index: int) -> Node | None:
        """Return the node of this graph that makes input ``index``, for operators that are better joined, or None."""
        return self.builder.makers.get(self.value(index).slot)

    def sample(self, index: int) -> Any:
        """Return input ``index`` as seen at the first trial batch; a meta tensor if it depends on data."""
        return self.value(index).seen[0]

    def dtype(self, index: int) -> torch.dtype:
        """Return the dtype of input ``index``."""
        dtype: torch.dtype = self.sample(index).dtype
        return dtype

    def rank(self, index: int) -> int:
        """Return the number of dimensions of input ``index``."""
        rank: int = self.sample(index).dim()
        return rank

    def dims(self, index: int) -> Sizes:
        """Return the shape of input ``index``, as a function of the batch."""
        first, second = (tuple(t.shape) for t in self.value(index).seen)
        return Sizes.through(self.builder.batches, (first, second))

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of input ``index``, its batch-dependent entries −1."""
        dims = self.dims(index)
        return tuple(-1 if slope else base for slope, base in zip(dims.slope, dims.base, strict=True))

    def size(self, index: int, axis: int) -> int:
        """Return one dimension of input ``index``.

        Raises:
            Obstacle: if it depends on the batch.
        """
        size = self.shape(index)[axis]
        if size < 0:
            raise Obstacle("it needs a size that depends on the batch")
        return size

    def is_constant(self, index: int) -> bool:
        """Tell whether input ``index`` is given and depends on nothing."""
        return self.has(index) and self.value(index).depends == Depends.NOTHING

    def constant(self, index: int) -> Tensor:
        """Take input ``index``, known now, on the CPU. Compute numbers from it; do not close over it.

        Raises:
            Obstacle: if it depends on data or batch.
        """
        value = self.value(index)
        if value.depends != Depends.NOTHING:
            raise Obstacle(
                f"its input {index} must be a constant, and depends on the model's input",
                SIZES,
            )
        self._taken.add(index)
        value.read = True
        tensor: Tensor = value.seen[0]
        return tensor

    def derived(self, function: Function, *indices: int) -> Value:
        """Make a constant by ``function`` of constant inputs, recomputed at every call if they are trained."""
        self._taken.update(indices)
        return self.builder.derived(function, *map(self.value, indices))

    def take(self, index: int) -> None:
        """Leave input ``index`` out of the function's arguments."""
        self._taken.add(index)

    def ints(self, index: int) -> tuple[int, ...]:
        """Take input ``index`` as whole numbers known now; () if it is absent.

        Raises:
            Obstacle: if they depend on data or batch.
        """
        if not self.has(index):
            return ()
        return tuple(int(i) for i in self.constant(index).reshape(-1).tolist())

    def numbers(self, index: int) -> Sizes:
        """Return input ``index`` as whole numbers, batch-dependent or not, without taking it.

        Raises:
            Obstacle: if they depend on data.
        """
        value = self.value(index)
        if value.depends == Depends.DATA:
            raise Obstacle(
                f"its input {index} (sizes or positions) depends on the data",
                SIZES,
            )
        value.read = True
        first, second = ([int(i) for i in t.reshape(-1).tolist()] for t in value.seen)
        return Sizes.through(self.builder.batches, (first, second))

    def sizes(self, index: int) -> None:
        """Pass input ``index`` to the function as a tuple of ints, computed from the batch when it runs."""
        self._instead[index] = self.numbers(index)

    def replace(self, index: int, tensor: Tensor) -> None:
        """Pass ``tensor``, a constant computed now, to the function in the place of input ``index``."""
        self._instead[index] = self.builder.constant(tensor)

    def extra(self, value: Tensor | Sizes | Value) -> None:
        """Pass a further argument to the function: a tensor (moved with the module), sizes (given as ints), a value."""
        self._extra.append(self.builder.constant(value) if isinstance(value, Tensor) else value)

    # Sub-graphs

    def inline(self, graph: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """Build a sub-graph in place, with ``inputs`` for its own; return its outputs."""
        return self.builder.inline(graph, inputs)

    def module(self, graph: onnx.GraphProto, inputs: Sequence[Value]) -> tuple[Graph, list[Value], list[Value]]:
        """Build a sub-graph as a module, for branches and loops that are decided at run time; see `Builder.module`."""
        return self.builder.module(graph, inputs)

    def call(self, function: Function, *inputs: Value, outputs: int = 1) -> list[Value]:
        """Add a function of some values, for what stands around a sub-graph; return its results."""
        proto = onnx.NodeProto(op_type=self.op, name=self.proto.name, output=[""] * outputs)
        return self.builder.run(Node(proto, self.version, list(inputs), self.builder), function)

    def standard(self, op: str, version: int, *inputs: Value | None, **attributes: Any) -> Value:
        """Convert another operator of the standard as a part of this node; return its result."""
        names = ["" if value is None else f"input{place}" for place, value in enumerate(inputs)]
        proto = onnx.helper.make_node(op, names, ["output"], name=self.proto.name, **attributes)
        return self.builder.convert(proto, version, list(inputs))[0]

    def declare_results(self, first: Any, second: Any) -> None:
        """Declare what the function returns at the two trial batches, where the meta device cannot tell."""
        self.known = (first, second)

    def arguments(self) -> list[Value | Sizes | None]:
        """List the arguments that the function is called with."""
        given: list[Value | Sizes | None] = [
            self._instead.get(i, value) for i, value in enumerate(self.inputs) if i not in self._taken
        ]
        return given + self._extra
