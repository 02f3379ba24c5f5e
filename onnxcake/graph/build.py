"""A safe graph → a differentiable torch module, by running it once before there is data.

Every node is converted and run at two trial batch sizes. What depends on nothing is folded into a constant;
what depends only on the batch (shapes and what is computed from them) becomes whole numbers of the form
slope · batch + base; what depends on data runs on torch's meta device, which knows shapes and types and
computes nothing. So every shape, axis and slice bound is a plain Python number in the finished graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor

from ..errors import first_line
from .fuse import fuse
from .module import Graph, Step
from .node import Depends, Node, Obstacle, Sizes, Value
from .ops import Function, find
from .patterns import Patterns
from .tensors import DTYPES, dense_of, to_tensor, type_name

BATCHES = (3, 7)  # odd and far apart, so that few accidents look like a rule
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_DEEPEST = 64  # sub-graphs and functions within one another


@dataclass(frozen=True)
class Limits:
    """What a graph may ask for while it is built: bytes in one value, and nodes once loops are unrolled."""

    value_bytes: int = 4 << 30
    steps: int = 200_000


@dataclass(frozen=True)
class Blocked:
    """A node that cannot be converted.

    Attributes:
        node: its name in the graph; ``op``: its operator, with domain and version.
        why, remedy: in words.
        missing: whether the operator has no converter at all.
    """

    node: str
    op: str
    why: str
    remedy: str
    missing: bool = False


@dataclass(frozen=True)
class Record:
    """A converted node: its operator, who converts it, and the shapes and dtype of what goes in and comes out.

    Shapes are those at the first trial batch; None stands for an absent input or a sequence.
    """

    node: str
    op: str
    domain: str
    version: int
    by: str
    depends: Depends
    inputs: tuple[tuple[int, ...] | None, ...]
    outputs: tuple[tuple[int, ...] | None, ...]
    slots: tuple[int, ...]
    proto: onnx.NodeProto = field(repr=False)


@dataclass
class Frame:
    """Where names are looked up: a graph, a sub-graph (sees its parent's names), or a function (does not)."""

    opsets: dict[str, int]
    attributes: dict[str, onnx.AttributeProto]
    values: dict[str, Value]
    parent: Frame | None = None
    depth: int = 0


class Builder:
    """Builds one `Graph`.

    Args:
        functions: the model's own functions, by (domain, name).
        precision: the dtype that all floating-point types are computed in; None keeps each its own.
        batches: the two trial batch sizes; the same twice where the batch is fixed.
        fixed_batch: a batch that the file has baked in; leading sizes equal to it are made to follow the batch.
    """

    def __init__(
        self,
        functions: dict[tuple[str, str], onnx.FunctionProto] | None = None,
        precision: torch.dtype | None = torch.float32,
        batches: tuple[int, int] = BATCHES,
        fixed_batch: int | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.functions, self.precision, self.batches = functions or {}, precision, batches
        self.fixed_batch, self.limits = fixed_batch, limits
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self.records: list[Record] = []
        self.blocked: list[Blocked] = []
        self.values: dict[str, Value] = {}  # the main graph's, by name
        self.makers: dict[int, Node] = {}  # by the slot of what they make
        self.known: dict[int, Value] = {}  # what nodes make, by slot
        self._slots = itertools.count()
        self.turns, self.unrolled = 1, 0  # of the loops around what is built; nodes asked for by all loops
        self._frame = Frame({}, {}, {})

    # Values

    def dtype_of(self, elem_type: int) -> torch.dtype:
        """The torch dtype that stands for an ONNX element type.

        Raises:
            Obstacle: for a type without one.
        """
        dtype = DTYPES.get(elem_type)
        if dtype is None:
            raise Obstacle(f"{type_name(elem_type)} tensors are not supported", "Cut the part that needs them off.")
        return self.precision if self.precision is not None and dtype in _FLOATS else dtype

    def constant(self, value: Any) -> Value:
        """A value that depends on nothing."""
        slot = next(self._slots)
        self.constants[slot] = value
        return Value(Depends.NOTHING, (value, value), slot)

    def input(self, shapes: tuple[Sequence[int], Sequence[int]], dtype: torch.dtype) -> Value:
        """A value that is data, of these shapes at the two trial batches."""
        seen = tuple(torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in shapes)
        return Value(Depends.DATA, (seen[0], seen[1]), next(self._slots))

    def fresh(self, seen: tuple[Any, Any]) -> Value:
        """A value that is data, as seen at the trial batches: what a sub-graph gets from one turn to the next."""
        return Value(Depends.DATA, (_meta(seen[0]), _meta(seen[1])), next(self._slots))

    # Graphs

    def graph(self, proto: onnx.GraphProto, opsets: dict[str, int], inputs: dict[str, Value]) -> list[Value]:
        """Builds a main graph; returns its outputs, those that could not be built left out."""
        self._frame = Frame(opsets, {}, dict(inputs))
        self.values = self._frame.values
        for declared in proto.input:
            if declared.name in inputs:
                inputs[declared.name].elem_type = declared.type.tensor_type.elem_type
        return self._body(proto)

    def inline(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """Builds a sub-graph in place."""
        outer = self._frame
        formal = dict(zip((value.name for value in proto.input), inputs, strict=False))
        self._frame = Frame(outer.opsets, outer.attributes, formal, outer, outer.depth + 1)
        try:
            self._check_depth()
            before = len(self.blocked)
            outputs = self._body(proto)
            if len(self.blocked) > before or len(outputs) < len(proto.output):
                raise _Reported
            return outputs
        finally:
            self._frame = outer

    def module(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> tuple[Graph, list[Value], list[Value]]:
        """A sub-graph as a module of its own, for what is decided at run time.

        Returns:
            (the module, whose inputs are those given and then the outer values it reads; those outer values;
            its outputs, for what is known of them).
        """
        captured: list[Value] = []
        steps, constants, makers = self.steps, self.constants, self.makers
        read = _outer_names(proto)
        for name in sorted(read):
            value = self.look_up(name)
            if value is not None and value.depends != Depends.NOTHING and value not in captured:
                captured.append(value)
        self.steps, self.makers = [], {}
        try:
            outputs = self.inline(proto, inputs)
            graph = self.finish([*inputs, *captured], outputs)
        finally:
            self.steps, self.constants, self.makers = steps, constants, makers
        return graph, captured, outputs

    def _body(self, proto: onnx.GraphProto) -> list[Value]:
        self._constants_of(proto.initializer, proto.sparse_initializer)
        self._nodes(proto.node)
        return [value for out in proto.output if (value := self.look_up(out.name)) is not None]

    def _constants_of(self, dense: Iterable[onnx.TensorProto], sparse: Iterable[onnx.SparseTensorProto]) -> None:
        for tensor in dense:
            if tensor.name not in self._frame.values:  # else a caller's value replaces the default
                try:
                    value = self._frame.values[tensor.name] = self.constant(to_tensor(tensor, self.dtype_of))
                    value.elem_type = tensor.data_type
                except Obstacle:
                    if tensor.data_type != onnx.TensorProto.STRING:  # those that read strings say so themselves
                        raise
                    strings = [s.decode("utf-8", "replace") for s in tensor.string_data]
                    self._frame.values[tensor.name] = self.constant(strings)
        for tensor in sparse:
            self._frame.values[tensor.values.name] = self.constant(dense_of(tensor, self.dtype_of))

    def opset(self, domain: str) -> int:
        """The version of a domain's operators where the builder is."""
        return self._frame.opsets.get(domain, 0)

    def look_up(self, name: str) -> Value | None:
        """The value of a name, in this graph or one around it."""
        frame: Frame | None = self._frame
        while frame is not None:
            if name in frame.values:
                return frame.values[name]
            frame = frame.parent
        return None

    # Nodes

    def _nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for proto in nodes:
            inputs = [self.look_up(name) if name else None for name in proto.input]
            domain = proto.domain
            version = self._frame.opsets.get(domain, 0)
            try:
                if len(self.steps) > self.limits.steps:
                    raise Obstacle(f"the graph has more than {self.limits.steps:,} steps", "Give a smaller teacher.")
                if any(name and value is None for name, value in zip(proto.input, inputs, strict=True)):
                    if find(domain, proto.op_type) is None:
                        self._expand(proto, version, inputs, dry=True)
                    continue  # what it needs is blocked, and was told
                outputs = self.convert(proto, version, inputs)
            except _Reported:
                continue
            except Obstacle as obstacle:
                kind = f"{domain + '.' if domain else ''}{proto.op_type}"
                missing = isinstance(obstacle, _Missing)
                self.blocked.append(Blocked(proto.name, f"{kind}-{version}", obstacle.why, obstacle.remedy, missing))
                continue
            for name, value in zip(proto.output, outputs, strict=False):
                if name:
                    self._frame.values[name] = value

    def convert(self, proto: onnx.NodeProto, version: int, inputs: list[Value | None]) -> list[Value]:
        """Adds a node with its inputs given, whatever its proto calls them; returns its outputs."""
        proto = self._bound(proto)
        converter = find(proto.domain, proto.op_type)
        if (proto.domain, proto.op_type) in self.functions or converter is None:
            return self._expand(proto, version, inputs)
        node = Node(proto, version, inputs, self)
        try:
            made = converter(node)
            outputs = made if isinstance(made, list) else self.run(node, made)
            if proto.op_type == "Constant" and not proto.domain:
                outputs[0].elem_type = next((a.t.data_type for a in proto.attribute if a.name == "value"), 0)
        except (Obstacle, _Reported):
            raise
        except Exception as error:
            raise Obstacle(f"its conversion fails: {first_line(error)}", "Please report the model.") from error
        by = "onnx2torch" if getattr(converter, "borrowed", False) else "onnxcake"
        self._record(proto, version, by, inputs, outputs)
        return outputs

    def _bound(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        """The node with references to a function's attributes replaced by what the call gives."""
        if not any(a.ref_attr_name for a in proto.attribute):
            return proto
        bound = onnx.NodeProto()
        bound.CopyFrom(proto)
        del bound.attribute[:]
        for attribute in proto.attribute:
            given = self._frame.attributes.get(attribute.ref_attr_name)
            if attribute.ref_attr_name and given is None:
                continue
            copy = bound.attribute.add()
            copy.CopyFrom(given if given is not None else attribute)
            copy.name = attribute.name
        return bound

    def _expand(
        self, proto: onnx.NodeProto, version: int, inputs: list[Value | None], dry: bool = False
    ) -> list[Value]:
        """A node whose operator is a function, the model's or the standard's, built from that function's body."""
        function = self.functions.get((proto.domain, proto.op_type)) or _standard_function(proto, version, inputs)
        if function is None:
            raise _Missing(
                "no conversion for this operator", "Export the model without it, or choose an --output before it."
            )
        if dry:
            return []
        outer = self._frame
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import}
        attributes = {a.name: a for a in (*function.attribute_proto, *proto.attribute)}
        given = {name: value for name, value in zip(function.input, inputs, strict=False) if value is not None}
        self._frame = Frame(outer.opsets | opsets, attributes, given, None, outer.depth + 1)
        try:
            self._check_depth()
            before = len(self.blocked)
            absent = {name for name in function.input if name not in given}
            self._nodes(_without(function.node, absent))
            if len(self.blocked) > before:
                raise _Reported
            return [self._frame.values[name] for name in function.output[: len(proto.output)]]
        finally:
            self._frame = outer

    def _check_depth(self) -> None:
        if self._frame.depth > _DEEPEST:
            raise Obstacle(f"sub-graphs or functions more than {_DEEPEST} deep", "Export the model again, flat.")

    def _record(
        self, proto: onnx.NodeProto, version: int, by: str, inputs: Sequence[Value | None], outputs: list[Value]
    ) -> None:
        depends = max((value.depends for value in outputs), default=Depends.NOTHING)
        shapes = [tuple(_shape(value) for value in values) for values in (inputs, outputs)]
        slots = tuple(value.slot for value in outputs)
        self.records.append(
            Record(proto.name, proto.op_type, proto.domain, version, by, depends, shapes[0], shapes[1], slots, proto)
        )

    # Running

    def run(self, node: Node, function: Function) -> list[Value]:
        """Runs a converted node on what is known, and adds it to the steps unless it is a constant."""
        arguments = node.arguments()
        depends = max((_depends(a) for a in arguments), default=Depends.NOTHING)
        if node.known is not None and depends == Depends.DATA:
            first, second = (_meta(known) for known in node.known)
            self._check_bytes(second)
        else:
            first = self._run_at(node, function, arguments, 0, depends)
            second = first if depends == Depends.NOTHING else self._run_at(node, function, arguments, 1, depends)
        several = isinstance(first, tuple)
        pairs = list(zip(first, second, strict=True)) if several else [(first, second)]
        pairs = pairs[: max(node.outputs, 1)]
        if depends == Depends.NOTHING:
            return [self.constant(value) for value, _ in pairs]
        values = [self._known(pair, depends) for pair in pairs]
        slots = tuple(v.slot if v.depends != Depends.NOTHING else None for v in values)
        called = tuple(a.slot if isinstance(a, Value) else a for a in arguments)
        self.steps.append(Step(function, called, slots, several, node.proto.name, node.op))
        self.makers.update((slot, node) for slot in slots if slot is not None)
        return values

    def _known(self, pair: tuple[Any, Any], depends: Depends) -> Value:
        """A result as a value; a constant if it depended on the batch and came out the same for both."""
        if depends == Depends.BATCH and _same(*pair) and self.batches[0] != self.batches[1]:
            return self.constant(pair[0])
        value = Value(depends, pair, next(self._slots))
        self.known[value.slot] = value
        return value

    def _run_at(
        self, node: Node, function: Function, arguments: list[Value | Sizes | None], trial: int, depends: Depends
    ) -> Any:
        batch = self.batches[trial]
        given = [_seen(a, trial, batch) for a in arguments]
        with torch.no_grad():
            try:
                with torch.device("meta"):
                    out = function(*[_meta(g) for g in given])
                    self._check_bytes(out)
            except Obstacle:
                raise
            except Exception:  # noqa: BLE001 - an operation that the meta device does not know
                if depends == Depends.DATA:
                    return self._tried(function, given)
            if depends == Depends.DATA:
                return _meta(out)
            return function(*given)

    def _tried(self, function: Function, given: list[Any]) -> Any:
        """What a function gives for made-up values, where the meta device does not know the operation."""
        draws = [[_made_up(g, fill) for g in given] for fill in (0, 1)]
        first, second = (function(*draw) for draw in draws)
        if not _same_shapes(first, second):
            raise Obstacle(
                "the size of its output depends on the data",
                "Choose an --output before it, or export the model without it.",
            )
        return _meta(first)

    def _check_bytes(self, out: Any) -> None:
        asked = sum(t.numel() * t.element_size() for t in _tensors(out))
        if asked > self.limits.value_bytes:
            raise Obstacle(
                f"it asks for {asked / 2**30:,.0f} GiB in one value (allowed: {self.limits.value_bytes / 2**30:g})",
                "Give a smaller teacher, or check the shapes in the file.",
            )

    # The end

    def finish(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        """The module of those steps that the outputs need."""
        kept, _ = _needed(self.steps, outputs)
        patterns = Patterns(kept, self.makers, outputs)
        kept, needed = _needed(fuse(kept, patterns, self.constant, self.known), outputs)
        constants = {slot: value for slot, value in self.constants.items() if slot in needed}
        kept = [*self._listed(constants), *kept]
        graph = Graph(kept, constants, [v.slot for v in inputs], [v.slot for v in outputs])
        graph.requires_grad_(False)
        return graph.eval()

    def _listed(self, constants: dict[int, Any]) -> list[Step]:
        """Steps that make constant sequences of their tensors, which move with the module."""
        steps = []
        for slot, value in list(constants.items()):
            if isinstance(value, list) and any(isinstance(v, Tensor) for v in value):
                places = tuple(next(self._slots) for _ in value)
                constants.update(zip(places, value, strict=True))
                del constants[slot]
                steps.append(Step(lambda *xs: list(xs), places, (slot,), False, "", "SequenceConstruct"))
        return steps


class _Missing(Obstacle):
    """No converter and no function body."""


class _Reported(Exception):
    """Something inside is blocked, and was told."""


def _needed(steps: Sequence[Step], outputs: Sequence[Value]) -> tuple[list[Step], set[int]]:
    """The steps that the outputs depend on, in order, and all slots that these touch."""
    needed = {value.slot for value in outputs}
    kept: list[Step] = []
    for step in reversed(steps):
        if needed.intersection(s for s in step.results if s is not None):
            kept.append(step)
            needed.update(a for a in step.arguments if isinstance(a, int))
    return kept[::-1], needed


def _standard_function(
    proto: onnx.NodeProto, version: int, inputs: Sequence[Value | None]
) -> onnx.FunctionProto | None:
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
    except Exception:  # noqa: BLE001 - onnx's own exception type; an operator that the standard does not know
        return None
    if schema.has_function:
        return schema.function_body
    if schema.has_context_dependent_function:
        kinds = {dtype: kind for kind, dtype in DTYPES.items() if kind < onnx.TensorProto.FLOAT8E4M3FN}
        types = []
        for value in inputs:
            made = onnx.TypeProto()
            if value is not None and isinstance(value.seen[0], Tensor):
                made = onnx.helper.make_tensor_type_proto(kinds[value.seen[0].dtype], list(value.seen[0].shape))
            types.append(made.SerializeToString())
        body = onnx.FunctionProto()
        body.ParseFromString(schema.get_context_dependent_function(proto.SerializeToString(), types))
        return body if body.node else None
    return None


def _without(nodes: Iterable[onnx.NodeProto], absent: set[str]) -> Iterable[onnx.NodeProto]:
    """Nodes of a function, with inputs that the call left out left out of them too."""
    for node in nodes:
        if absent.intersection(node.input):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = ["" if name in absent else name for name in node.input]
            yield copy
        else:
            yield node


def _outer_names(proto: onnx.GraphProto) -> set[str]:
    names: set[str] = {out.name for out in proto.output}
    for node in proto.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= _outer_names(inner)
    return names - {""}


def _depends(argument: Value | Sizes | None) -> Depends:
    if isinstance(argument, Value):
        return argument.depends
    return Depends.BATCH if isinstance(argument, Sizes) and not argument.fixed else Depends.NOTHING


def _seen(argument: Value | Sizes | None, trial: int, batch: int) -> Any:
    if isinstance(argument, Value):
        return argument.seen[trial]
    return argument.at(batch) if isinstance(argument, Sizes) else None


def _meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return type(value)(_meta(v) for v in value) if isinstance(value, (list, tuple)) else value


def _made_up(value: Any, fill: int) -> Any:
    if isinstance(value, Tensor):
        made = torch.full(value.shape, fill, dtype=value.dtype, device="cpu") if value.is_meta else value
        if fill and made.dtype.is_floating_point and value.is_meta:
            return torch.linspace(-1, 1, max(made.numel(), 1), dtype=made.dtype)[: made.numel()].reshape(made.shape)
        return made
    return type(value)(_made_up(v, fill) for v in value) if isinstance(value, (list, tuple)) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []


def _same_shapes(first: Any, second: Any) -> bool:
    a, b = _tensors(first), _tensors(second)
    return len(a) == len(b) and all(x.shape == y.shape for x, y in zip(a, b, strict=True))


def _same(first: Any, second: Any) -> bool:
    a, b = _tensors(first), _tensors(second)
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _shape(value: Value | None) -> tuple[int, ...] | None:
    return tuple(value.seen[0].shape) if value is not None and isinstance(value.seen[0], Tensor) else None
