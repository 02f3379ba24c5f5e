"""Build a differentiable torch module from a safe graph, by running the graph once before there is data.

Every node is converted and run at two trial batch sizes. What depends on nothing is folded into a constant;
what depends only on the batch (shapes and what is computed from them) becomes whole numbers of the form
slope · batch + base; what depends on data runs on torch's meta device, which knows shapes and types and
computes nothing. So every shape, axis and slice bound is a plain Python number in the finished graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from ..core.remedies import BUG, SMALLER, around
from ..core.text import first_line
from ..onnxfile.tensors import DTYPES, dense_of, to_tensor, type_name
from .build_log import LIMITS, Blocked, Frame, Limits, Record
from .function_bodies import bound, outer_names, standard_function, without
from .fuse import fuse
from .lineage import Lineage
from .module import Graph, GraphStep
from .node import Node
from .patterns import Patterns
from .registry import find
from .trial_run import Argument, check_bytes, depends_of, meta, run_at, same, shape_of
from .values import Depends, Function, Obstacle, TooMuch, Unfit, Value

BATCHES = (3, 7)  # odd and far apart, so that few accidents look like a rule
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_DEEPEST = 64  # sub-graphs and functions within one another


class Builder:
    """Build one `Graph`.

    Args:
        functions: the model's own functions, by (domain, name).
        precision: the dtype that all floating-point types are computed in; None keeps each its own.
        batches: the two trial batch sizes; the same twice where the batch is fixed.
        fixed_batch: a batch that the file has baked in; leading sizes equal to it are made to follow the batch.
        trained: whether the graph is going to be trained in its weights, and not run as it is.
    """

    def __init__(
        self,
        functions: dict[tuple[str, str], onnx.FunctionProto] | None = None,
        precision: torch.dtype | None = torch.float32,
        batches: tuple[int, int] = BATCHES,
        fixed_batch: int | None = None,
        limits: Limits = LIMITS,
        trained: bool = False,
    ) -> None:
        self.functions, self.precision, self.batches = functions or {}, precision, batches
        self.fixed_batch, self.limits, self.trained = fixed_batch, limits, trained
        self.lineage = Lineage()
        self.steps: list[GraphStep] = []
        self.constants: dict[int, Any] = {}
        self.records: list[Record] = []
        self.blocked: list[Blocked] = []
        self.values: dict[str, Value] = {}  # the main graph's, by name
        self.makers: dict[int, Node] = {}  # by the slot of what they make
        self.known: dict[int, Value] = {}  # what nodes make, by slot
        self._derived: dict[tuple[Function, tuple[int, ...]], Value] = {}
        self._slots = itertools.count()
        self.turns, self.unrolled = 1, 0  # of the loops around what is built; nodes asked for by all loops
        self._frame = Frame({}, {}, {})

    # Values

    def dtype_of(self, elem_type: int) -> torch.dtype:
        """Return the torch dtype that stands for an ONNX element type.

        Raises:
            Obstacle: for a type without one.
        """
        dtype = DTYPES.get(elem_type)
        if dtype is None:
            raise Obstacle(f"{type_name(elem_type)} tensors are not supported", "Cut the part that needs them off.")
        return self.precision if self.precision is not None and dtype in _FLOATS else dtype

    def constant(self, value: Any) -> Value:
        """Make a value that depends on nothing."""
        slot = next(self._slots)
        self.constants[slot] = value
        return Value(Depends.NOTHING, (value, value), slot)

    def derived(self, function: Function, *values: Value) -> Value:
        """Make a constant by a function of values that depend on nothing; all graphs that need it share one."""
        slots = tuple(value.slot for value in values)
        if (function, slots) not in self._derived:
            made = self.constant(function(*(value.seen[0] for value in values)).contiguous())
            self.lineage.note(GraphStep(function, slots, (made.slot,), False, "", ""), values, [made])
            self._derived[function, slots] = made
        return self._derived[function, slots]

    def input(self, shapes: tuple[Sequence[int], Sequence[int]], dtype: torch.dtype) -> Value:
        """Make a value that depends on data, of these shapes at the two trial batches."""
        seen = tuple(torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in shapes)
        return Value(Depends.DATA, (seen[0], seen[1]), next(self._slots))

    def fresh(self, seen: tuple[Any, Any]) -> Value:
        """Make a value that depends on data, shaped as at the trial batches, for a loop to carry between iterations."""
        return Value(Depends.DATA, (meta(seen[0]), meta(seen[1])), next(self._slots))

    # Graphs

    def graph(self, proto: onnx.GraphProto, opsets: dict[str, int], inputs: dict[str, Value]) -> list[Value]:
        """Build a main graph; return its outputs, except those that could not be built."""
        self._frame = Frame(opsets, {}, dict(inputs))
        self.values = self._frame.values
        for declared in proto.input:
            if declared.name in inputs:
                inputs[declared.name].elem_type = declared.type.tensor_type.elem_type
        return self._body(proto)

    def inline(self, proto: onnx.GraphProto, inputs: Sequence[Value]) -> list[Value]:
        """Build a sub-graph in place; return its outputs."""
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
        """Build a sub-graph as a module of its own, for branches and loops that are decided at run time.

        Returns:
            (the module, whose inputs are those given and then the outer values it reads; those outer values;
            its outputs, for what is known of them).
        """
        captured: list[Value] = []
        steps, constants, makers = self.steps, self.constants, self.makers
        read = outer_names(proto)
        for name in sorted(read):
            value = self.look_up(name)
            if value is not None and value.depends != Depends.NOTHING and value not in captured:
                captured.append(value)
        self.steps, self.makers = [], {}
        try:
            outputs = self.inline(proto, inputs)
            graph = self.finish([*inputs, *captured], outputs)
            self.lineage.fixed |= graph.constants  # it has them for itself
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
        """Return the opset version of a domain at the builder's present place."""
        return self._frame.opsets.get(domain, 0)

    def look_up(self, name: str) -> Value | None:
        """Find the value of a name, in this graph or one around it."""
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
                    raise TooMuch(f"the graph has more than {self.limits.steps:,} steps", "Give a smaller teacher.")
                if any(name and value is None for name, value in zip(proto.input, inputs, strict=True)):
                    if find(domain, proto.op_type) is None:
                        self._expand(proto, version, inputs, dry=True)
                    continue  # what it needs is blocked, and was told
                outputs = self.convert(proto, version, inputs)
            except _Reported:
                continue
            except Obstacle as obstacle:
                kind = f"{domain + '.' if domain else ''}{proto.op_type}"
                kinds = (isinstance(obstacle, one) for one in (_Missing, TooMuch, Unfit))
                self.blocked.append(Blocked(proto.name, f"{kind}-{version}", obstacle.why, obstacle.remedy, *kinds))
                continue
            for name, value in zip(proto.output, outputs, strict=False):
                if name:
                    self._frame.values[name] = value

    def convert(self, proto: onnx.NodeProto, version: int, inputs: list[Value | None]) -> list[Value]:
        """Add a node with its inputs given, whatever its proto calls them; return its outputs."""
        proto = bound(proto, self._frame.attributes)
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
            raise Unfit(f"its conversion fails: {first_line(error)}", BUG) from error
        by = "onnx2torch" if getattr(converter, "borrowed", False) else "onnxcake"
        self._record(proto, version, by, inputs, outputs)
        return outputs

    def _expand(
        self, proto: onnx.NodeProto, version: int, inputs: list[Value | None], dry: bool = False
    ) -> list[Value]:
        """Build a node whose operator is a function, the model's or the standard's, from that function's body."""
        function = self.functions.get((proto.domain, proto.op_type)) or standard_function(proto, version, inputs)
        if function is None:
            raise _Missing("no conversion for this operator", around("without this operator"))
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
            self._nodes(without(function.node, absent))
            if len(self.blocked) > before:
                raise _Reported
            return [self._frame.values[name] for name in function.output[: len(proto.output)]]
        finally:
            self._frame = outer

    def _check_depth(self) -> None:
        if self._frame.depth > _DEEPEST:
            raise TooMuch(f"sub-graphs or functions more than {_DEEPEST} deep", SMALLER)

    def _record(
        self, proto: onnx.NodeProto, version: int, by: str, inputs: Sequence[Value | None], outputs: list[Value]
    ) -> None:
        depends = max((value.depends for value in outputs), default=Depends.NOTHING)
        shapes = [tuple(shape_of(value) for value in values) for values in (inputs, outputs)]
        slots = tuple(value.slot for value in outputs)
        self.records.append(
            Record(proto.name, proto.op_type, proto.domain, version, by, depends, shapes[0], shapes[1], slots, proto)
        )

    # Running

    def run(self, node: Node, function: Function) -> list[Value]:
        """Run a converted node on what is known, and add it to the steps unless it is a constant."""
        arguments = node.arguments()
        depends = max((depends_of(a) for a in arguments), default=Depends.NOTHING)
        if node.known is not None and depends == Depends.DATA:
            first, second = (meta(known) for known in node.known)
            check_bytes(second, self.limits.value_bytes)
        else:
            first = self._run_at(function, arguments, 0, depends)
            second = first if depends == Depends.NOTHING else self._run_at(function, arguments, 1, depends)
        several = isinstance(first, tuple)
        pairs = list(zip(first, second, strict=True)) if several else [(first, second)]
        pairs = pairs[: max(node.outputs, 1)]
        called = tuple(a.slot if isinstance(a, Value) else a for a in arguments)
        if depends == Depends.NOTHING:
            values = [self.constant(value) for value, _ in pairs]
        else:
            values = [self._as_value(pair, depends) for pair in pairs]
        if depends != Depends.DATA:
            step = GraphStep(function, called, tuple(v.slot for v in values), several, node.proto.name, node.op)
            self.lineage.note(step, (a for a in arguments if isinstance(a, Value)), values)
        if depends == Depends.NOTHING:
            return values
        slots = tuple(v.slot if v.depends != Depends.NOTHING else None for v in values)
        self.steps.append(GraphStep(function, called, slots, several, node.proto.name, node.op))
        self.makers.update((slot, node) for slot in slots if slot is not None)
        return values

    def _run_at(self, function: Function, arguments: list[Argument], trial: int, depends: Depends) -> Any:
        return run_at(function, arguments, trial, self.batches[trial], depends, self.limits.value_bytes)

    def _as_value(self, pair: tuple[Any, Any], depends: Depends) -> Value:
        """Wrap a result as a value; as a constant if it depended on the batch and came out the same for both."""
        if depends == Depends.BATCH and same(*pair) and self.batches[0] != self.batches[1]:
            return self.constant(pair[0])
        value = Value(depends, pair, next(self._slots))
        self.known[value.slot] = value
        return value

    # The end

    def finish(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        weights: Sequence[Value] = (),
        statistics: Sequence[Value] = (),
    ) -> Graph:
        """Build the module of those steps that the outputs depend on.

        Args:
            inputs, outputs: the module's, in order.
            weights: constants to be trained, as far as the steps compute with them and no step was fixed by them.
            statistics: constants that belong to the module's state, though they are not trained.
        """
        kept, _ = _needed(self.steps, outputs)
        patterns = Patterns(kept, self.makers, outputs)
        kept, needed = _needed(fuse(kept, patterns, self.derived, self.known), outputs)
        first, needed, learnt = self.lineage.unfolded(needed, weights)
        worked_out = {slot for step in first for slot in step.results}
        constants = {slot: value for slot, value in self.constants.items() if slot in needed - worked_out}
        kept = [*self._sequence_steps(constants), *first, *kept]
        state = {value.slot for value in statistics} & constants.keys()
        graph = Graph(kept, constants, [v.slot for v in inputs], [v.slot for v in outputs], learnt, state)
        graph.requires_grad_(bool(learnt))
        return graph.eval()

    def _sequence_steps(self, constants: dict[int, Any]) -> list[GraphStep]:
        """Build steps that make constant sequences of their tensors, which then move with the module."""
        steps = []
        for slot, value in list(constants.items()):
            if isinstance(value, list) and any(isinstance(v, Tensor) for v in value):
                places = tuple(next(self._slots) for _ in value)
                constants.update(zip(places, value, strict=True))
                del constants[slot]
                steps.append(GraphStep(lambda *xs: list(xs), places, (slot,), False, "", "SequenceConstruct"))
        return steps


class _Missing(Obstacle):
    """Operator without a converter and without a function body."""


class _Reported(Exception):
    """Signal that a node inside is blocked, and was recorded."""


def _needed(steps: Sequence[GraphStep], outputs: Sequence[Value]) -> tuple[list[GraphStep], set[int]]:
    """Select the steps that the outputs depend on, in order, and all slots that these steps touch."""
    needed = {value.slot for value in outputs}
    kept: list[GraphStep] = []
    for step in reversed(steps):
        if needed.intersection(s for s in step.results if s is not None):
            kept.append(step)
            needed.update(a for a in step.arguments if isinstance(a, int))
    return kept[::-1], needed
