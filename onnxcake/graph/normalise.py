"""A checked ModelProto → the same model under safe names, its functions inlined, with one input.

Names in a file are an attack (a quote in a node name once ended a string in generated Python source) and a
trap for every printer, so every node, value and initialiser is renamed before anything is built or given to
onnxruntime; a map back keeps messages readable.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto

from ..errors import BadTeacherFile, UnsupportedTeacher, UsageError, did_you_mean, first_line, shown
from .external import external_entry
from .load import LIMIT_METADATA, LIMIT_NODES, TeacherFile, graphs
from .load import nodes as nodes_of
from .tensors import type_name

INPUT = "input"
_LIMIT_INPUT = 1 << 26  # numbers in one: sixteen of them, with their gradients, are looked at
_IR_VERSION = 10  # what older runtimes read too; later ones add nothing that is left once functions are inlined


@dataclass(frozen=True)
class Choice:
    """What the user chose of a model.

    Attributes:
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name.
    """

    input: str | None = None
    output: str | None = None
    shape: tuple[int, ...] | None = None
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SafeGraph:
    """A model of one input under safe names.

    Attributes:
        model: without the data of its large weights, which are in `weights` under the same names.
        input_name, input_type: the input's name in the file, and its ONNX element type.
        input_shape: of one input, without the batch.
        batch: the batch that the file fixes, or None.
        outputs: the file's names of its outputs, by safe name; ``chosen`` is the user's.
        node_names, value_names: safe names → the file's.
        metadata: the file's own metadata entries.
        notes: what was changed, in words for the user.
    """

    model: onnx.ModelProto
    weights: dict[str, np.ndarray[Any, Any]] = field(repr=False)
    input_name: str
    input_type: int
    input_shape: tuple[int, ...]
    batch: int | None
    outputs: dict[str, str]
    chosen: str | None
    node_names: dict[str, str] = field(repr=False)
    value_names: dict[str, str] = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def opsets(self) -> dict[str, int]:
        """Opset versions by domain."""
        return {o.domain: o.version for o in self.model.opset_import}

    def with_names(self, text: str) -> str:
        """A library's message about `model`, with the file's own names in it."""
        known = {**self.node_names, **self.value_names}
        return re.sub(r"\b[nvw]\d+\b", lambda found: shown(known.get(found[0], found[0])), text)

    def name_of(self, value: str) -> str:
        """A value's name in the file, ready for a message."""
        return shown(self.value_names.get(value, value))

    def cut(self, output: str) -> onnx.ModelProto:
        """The part that makes one output: what onnxruntime is given, with `weights` beside it."""
        kept = reaching(self.model.graph.node, output)
        used = {name for node in kept for name in read_by(node)} | {output}
        part = onnx.ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(self.model.opset_import)
        graph = part.graph
        graph.name = "teacher"
        graph.input.extend(self.model.graph.input)
        graph.node.extend(kept)
        graph.initializer.extend(w for w in self.model.graph.initializer if w.name in used)
        graph.sparse_initializer.extend(w for w in self.model.graph.sparse_initializer if w.values.name in used)
        for weight in graph.initializer:
            if weight.name in self.weights:
                external_entry(weight)
        # Without a type: onnxruntime infers it. Inner values have none in the file.
        graph.output.add().name = output
        return part


def normalise(file: TeacherFile, choice: Choice = Choice()) -> SafeGraph:
    """Inlines functions, chooses the input, cuts what lies before it, renames everything. Consumes ``file.proto``.

    Raises:
        UnsupportedTeacher: no single numeric input of known shape, or no output that a node makes.
        BadTeacherFile: functions that call themselves.
        UsageError: a name or shape in ``choice`` that the file does not have.
    """
    proto = _inlined(file)
    graph = proto.graph
    for name in choice.constants:
        _known(name, {v.name for v in graph.input}, "input", file.name)
    source = _Source.of(proto, choice, file.name)
    notes = _in_evaluation_mode(proto)
    nodes = list(graph.node)
    wanted = [choice.output] if choice.output is not None else [value.name for value in graph.output]
    if not wanted:
        raise BadTeacherFile("it has no outputs", where=file.name, remedy=_SCORES)
    if choice.output is not None:
        made = {name for node in nodes for name in node.output} | {o.name for o in graph.output}
        _known(choice.output, made, "value", file.name)
    nodes = reaching(nodes, *wanted, stop=source.name)
    held = _held(proto, nodes, source, choice, file.name)
    return _Renamer(file, proto, source).rename([*held, *nodes], wanted, choice, notes)


_SCORES = "Export the model with its class scores (logits or probabilities) as output."


@dataclass(frozen=True)
class _Source:
    """The chosen input: name, element type, shape without the batch, and the batch if the file fixes it."""

    name: str
    type: int
    shape: tuple[int, ...]
    batch: int | None

    @classmethod
    def of(cls, proto: onnx.ModelProto, choice: Choice, file: str) -> _Source:
        value = _the_input(proto, choice, file)
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") and value.type.WhichOneof("value"):
            kind = value.type.WhichOneof("value")
            raise UnsupportedTeacher(
                f"input {shown(value.name)} is a {kind}, not a tensor",
                where=file,
                remedy="Export the model with a tensor as input.",
            )
        kind = tensor.elem_type or TensorProto.FLOAT
        if kind in (TensorProto.STRING, TensorProto.BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            raise UnsupportedTeacher(
                f"input {shown(value.name)} is {type_name(kind)}, which has no gradient",
                where=file,
                remedy="Choose a float tensor further inside with --input NAME.",
            )
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        known = dims if tensor.HasField("shape") else None
        batch, shape = _shape(value.name, known, choice.shape, [d.dim_param for d in tensor.shape.dim], file)
        if math.prod(shape) > _LIMIT_INPUT:
            raise UnsupportedTeacher(
                f"input {shown(value.name)} holds {math.prod(shape):,} numbers (allowed: {_LIMIT_INPUT:,})",
                where=file,
                remedy="Give a smaller teacher, or check the shapes in the file.",
            )
        return cls(value.name, kind, shape, batch)


def _shape(
    name: str, dims: list[int | None] | None, asked: tuple[int, ...] | None, params: list[str], file: str
) -> tuple[int | None, tuple[int, ...]]:
    """The batch that the file fixes, or None, and one input's shape."""
    remedy = "Say the sizes, batch included, with --shape, for example --shape 1,3,224,224."
    if asked is not None:
        fits = dims is None or (
            len(asked) == len(dims) and all(d in (None, a) for a, d in zip(asked[1:], dims[1:], strict=True))
        )
        if not fits or len(asked) < 2 or min(asked) < 1:
            said = "×".join("?" if d is None else str(d) for d in dims or ())
            raise UsageError(
                f"--shape {','.join(map(str, asked))} does not fit input {shown(name)} ({said or 'at least 2 sizes'})",
                where=file,
                remedy=remedy,
            )
        return (dims[0] or None) if dims else None, tuple(asked[1:])
    if dims is None:
        raise UnsupportedTeacher(f"the shape of input {shown(name)} is not known", where=file, remedy=remedy)
    if len(dims) < 2:
        raise UnsupportedTeacher(
            f"input {shown(name)} has {len(dims)} dimension(s), and a batch of inputs needs at least 2",
            where=file,
            remedy="Export the model with a batch dimension first.",
        )
    if any(d is None or d < 1 for d in dims[1:]) or (dims[0] is not None and dims[0] < 0):
        seen = "×".join(
            shown(p)[1:-1] if p else "?" if d is None else str(d) for d, p in zip(dims, params, strict=True)
        )
        raise UnsupportedTeacher(
            f"input {shown(name)} has the shape {seen[:200]}; all but the batch must be known",
            where=file,
            remedy=remedy,
        )
    return dims[0] or None, tuple(d for d in dims[1:] if d is not None)


def _the_input(proto: onnx.ModelProto, choice: Choice, file: str) -> onnx.ValueInfoProto:
    graph = proto.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in weights}
    inner = {name: onnx.ValueInfoProto(name=name) for node in graph.node for name in node.output if name}
    inner.update({value.name: value for value in graph.value_info if value.name in inner})
    if choice.input is not None:
        _known(choice.input, {**inner, **inputs}, "value", file)
        return inputs.get(choice.input) or inner[choice.input]
    free = [value for name, value in inputs.items() if name not in choice.constants]
    used = {name for node in reaching(graph.node, *(o.name for o in graph.output)) for name in read_by(node)}
    free = [value for value in free if value.name in used] or free
    if len(free) != 1:
        names = ", ".join(shown(value.name) for value in free[:10]) or "none"
        raise UnsupportedTeacher(
            f"{len(free)} inputs ({names}) where one is to be chosen",
            where=file,
            remedy="Choose one with --input NAME, and hold the others constant with --hold NAME=VALUE."
            if free
            else "Export the model with an input.",
        )
    return free[0]


def _known(name: str, names: Iterable[str], what: str, file: str) -> None:
    if name not in names:
        raise UsageError(
            f"no {what} is called {shown(name)}{did_you_mean(name, names)}",
            where=file,
            remedy="`onnxcake inspect` lists inputs and outputs.",
        )


def _in_evaluation_mode(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Takes Dropout and BatchNormalization out of training mode, which exporters leave them in by mistake."""
    read = {name for node in nodes_of(proto) for name in node.input} | {
        value.name for graph in graphs(proto) for value in graph.output
    }
    version = max((o.version for o in proto.opset_import if not o.domain), default=0)
    changed: Counter[str] = Counter()
    for node in nodes_of(proto):
        if node.domain or node.op_type not in ("Dropout", "BatchNormalization"):
            continue
        dropout = node.op_type == "Dropout"
        modes = [a for a in node.attribute if a.name == "training_mode" and a.i]
        if version < 7 and not any(a.name == "is_test" and a.i for a in node.attribute):
            modes = [*modes, node.attribute.add(name="is_test", type=onnx.AttributeProto.INT)]
            modes[-1].i = 1
        elif dropout and len(node.input) > 2:
            del node.input[2:]
        elif not dropout and (modes or len(node.output) > 1) and not read.intersection(node.output[1:]):
            for mode in modes:
                mode.i = 0
            del node.output[1:]
        else:
            continue
        changed[node.op_type] += 1
    return tuple(f"{count} × {kind} in training mode, used as in evaluation" for kind, count in changed.items())


def _held(
    proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], source: _Source, choice: Choice, file: str
) -> list[onnx.NodeProto]:
    """Nodes that make the other inputs, held at the values of ``choice.constants``."""
    weights = {weight.name for weight in proto.graph.initializer}
    used = {name for node in nodes for name in read_by(node)}
    others = [v for v in proto.graph.input if v.name in used - weights - {source.name}]
    missing = [value.name for value in others if value.name not in choice.constants]
    if missing:
        raise UnsupportedTeacher(
            f"it also needs {', '.join(shown(n) for n in missing[:10])}",
            where=file,
            remedy="Hold what else it needs constant with --hold NAME=VALUE.",
        )
    made: list[onnx.NodeProto] = []
    for value in others:
        made += _constant_nodes(value, choice.constants[value.name], source, file)
    return made


def _constant_nodes(value: onnx.ValueInfoProto, number: float, source: _Source, file: str) -> list[onnx.NodeProto]:
    """One tensor full of ``number``; its first size follows the batch if the file leaves it open."""
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if any(d is None for d in dims[1:]):
        raise UnsupportedTeacher(
            f"input {shown(value.name)} is to be held constant, but its sizes are open",
            where=file,
            remedy="Export the model with fixed sizes.",
        )
    kind = tensor.elem_type or TensorProto.FLOAT
    follows = bool(dims) and dims[0] is None
    shape = [1 if d is None else int(d) for d in dims]
    array = np.full(shape, number, onnx.helper.tensor_dtype_to_np_dtype(kind))
    make = onnx.helper.make_node
    full = make("Constant", [], [value.name], value=onnx.numpy_helper.from_array(array))
    if not follows:
        return [full]
    one, whole = f"{value.name}/one", f"{value.name}/sizes"
    full.output[0] = one
    ones = onnx.numpy_helper.from_array(np.array([0], np.int64))
    rest = onnx.numpy_helper.from_array(np.array([1] * (len(dims) - 1), np.int64))
    return [
        full,
        make("Shape", [source.name], [f"{whole}/shape"]),
        make("Constant", [], [f"{whole}/first"], value=ones),
        make("Gather", [f"{whole}/shape", f"{whole}/first"], [f"{whole}/batch"]),
        make("Constant", [], [f"{whole}/rest"], value=rest),
        make("Concat", [f"{whole}/batch", f"{whole}/rest"], [whole], axis=0),
        make("Expand", [one, whole], [value.name]),
    ]


class _Renamer:
    """Everything under the names n0…, v0…, w0…, in place."""

    def __init__(self, file: TeacherFile, proto: onnx.ModelProto, source: _Source) -> None:
        self.file, self.proto, self.source = file, proto, source
        self.scopes: list[dict[str, str]] = [{"": "", source.name: INPUT}]
        self.node_names: dict[str, str] = {}
        self.value_names: dict[str, str] = {INPUT: source.name}

    def rename(
        self, nodes: list[onnx.NodeProto], wanted: Sequence[str], choice: Choice, notes: tuple[str, ...]
    ) -> SafeGraph:
        graph, weights = self.proto.graph, {}
        used = {name for node in nodes for name in read_by(node)} | set(wanted)
        kept = [w for w in graph.initializer if w.name in used and w.name != self.source.name]
        sparse = [w for w in graph.sparse_initializer if w.values.name in used]
        for one in sparse:
            _unname(one.indices)
        for number, weight in enumerate([*kept, *(w.values for w in sparse)]):
            new = f"w{number}"
            if weight.name in self.file.weights:
                weights[new] = self.file.weights[weight.name]
            self.scopes[0][weight.name], self.value_names[new] = new, weight.name
            _unname(weight)
            weight.name = new
        renamed = [self.node(node) for node in nodes]
        outputs: dict[str, str] = {}
        for name in wanted:
            if name in self.scopes[0] and self.scopes[0][name] not in outputs:
                outputs[self.scopes[0][name]] = name
        model = onnx.ModelProto(ir_version=min(max(self.proto.ir_version, 4), _IR_VERSION))
        model.opset_import.extend(self.proto.opset_import)
        model.graph.name = "teacher"
        model.graph.node.extend(node for node in renamed if node is not None)
        model.graph.initializer.extend(kept)
        model.graph.sparse_initializer.extend(sparse)
        batch = "batch" if self.source.batch is None else self.source.batch
        described = onnx.helper.make_tensor_value_info(INPUT, self.source.type, [batch, *self.source.shape])
        model.graph.input.append(described)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        return SafeGraph(
            model=model,
            weights=weights,
            input_name=self.source.name,
            input_type=self.source.type,
            input_shape=self.source.shape,
            batch=self.source.batch,
            outputs=outputs,
            chosen=None if choice.output is None else self.scopes[0][choice.output],
            node_names=self.node_names,
            value_names=self.value_names,
            metadata={entry.key: entry.value for entry in self.proto.metadata_props[:LIMIT_METADATA]},
            notes=notes,
        )

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml":  # the same scores, as a list of dicts
            self.scopes[-1][node.output[0]] = self.known(node.input[0])
            return None
        copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=f"n{len(self.node_names)}")
        self.node_names[copy.name] = node.name or f"{node.op_type} #{len(self.node_names)}"
        copy.input.extend(self.known(name) for name in node.input)
        for attribute in node.attribute:
            new = copy.attribute.add()
            new.CopyFrom(attribute)
            new.doc_string = ""
            if attribute.HasField("t"):
                _unname(new.t)
            if attribute.HasField("sparse_tensor"):
                _unname(new.sparse_tensor.values)
                _unname(new.sparse_tensor.indices)
            if attribute.HasField("tp"):
                _unname_sizes(new.tp)
            if attribute.HasField("g"):
                self.graph(new.g)
            for inner in new.graphs:
                self.graph(inner)
        copy.output.extend(self.new(name) for name in node.output)
        return copy

    def graph(self, graph: onnx.GraphProto) -> None:
        """A sub-graph, which sees the names around it."""
        self.scopes.append({})
        graph.name, graph.doc_string = "inner", ""
        del graph.metadata_props[:], graph.quantization_annotation[:]
        for value in graph.input:
            self.value(value, self.new(value.name))
        for one in graph.sparse_initializer:
            _unname(one.indices)
        for weight in (*graph.initializer, *(w.values for w in graph.sparse_initializer)):
            new = self.new(weight.name)
            _unname(weight)
            weight.name = new
        renamed = [node for original in graph.node if (node := self.node(original)) is not None]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(renamed)
        for value in graph.output:
            self.value(value, self.known(value.name))
        self.scopes.pop()

    @staticmethod
    def value(value: onnx.ValueInfoProto, name: str) -> None:
        value.name, value.doc_string = name, ""
        del value.metadata_props[:]
        _unname_sizes(value.type)

    def new(self, name: str) -> str:
        if not name:
            return ""
        known = self.scopes[-1].get(name)  # a value listed twice, as an initialiser that is an input too
        if known is not None:
            return known
        safe = f"v{len(self.value_names)}"
        self.scopes[-1][name], self.value_names[safe] = safe, name
        return safe

    def known(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return self.new(name)  # an input that is held nowhere: the builder says so


def _unname(tensor: onnx.TensorProto) -> None:
    """Takes all texts of the file off a tensor."""
    tensor.ClearField("name")
    tensor.ClearField("doc_string")
    tensor.ClearField("metadata_props")


def _unname_sizes(kind: onnx.TypeProto) -> None:
    """Takes the names off the sizes of a value: sizes that are not known stay unknown."""
    kind.ClearField("denotation")
    if kind.HasField("sequence_type") or kind.HasField("optional_type"):
        _unname_sizes((kind.sequence_type if kind.HasField("sequence_type") else kind.optional_type).elem_type)
    if kind.HasField("tensor_type"):
        for dim in kind.tensor_type.shape.dim:
            dim.ClearField("dim_param")
            dim.ClearField("denotation")


def _inlined(file: TeacherFile) -> onnx.ModelProto:
    """The model with its own functions in place of the calls."""
    proto = file.proto
    if not proto.functions:
        return proto
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], path: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in path or len(path) > 50:
                raise BadTeacherFile(
                    f"its function {shown(key[1])} calls itself", where=file.name, remedy="Export the model again."
                )
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, (*path, key))
            total += sizes.get(key, 1)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    total += size(inner.node, path)
        return total

    if (count := size(proto.graph.node, ())) > LIMIT_NODES:
        raise UnsupportedTeacher(
            f"its functions, written out, are {count:,} operators (allowed: {LIMIT_NODES:,})",
            where=file.name,
            remedy="Give a smaller teacher.",
        )
    for node in nodes_of(proto):  # the inliner forgets the defaults of a function's attributes
        if (function := functions.get((node.domain, node.op_type))) is not None:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        raise BadTeacherFile(
            f"its functions cannot be written out: {first_line(error)}", where=file.name, remedy="Export it again."
        ) from error


def reaching(nodes: Sequence[onnx.NodeProto], *outputs: str, stop: str | None = None) -> list[onnx.NodeProto]:
    """Those of the (sorted) nodes that ``outputs`` depend on, outer values of sub-graphs included, after ``stop``."""
    wanted, kept = set(outputs) - {stop}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(read_by(node) - {stop})
    return kept[::-1]


def read_by(node: onnx.NodeProto) -> set[str]:
    """The names of all values that a node reads, its sub-graphs' included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(value.name for value in inner.output)
            for one in inner.node:
                names |= read_by(one)
    return names
