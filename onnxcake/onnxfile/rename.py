"""Rename every node, value and initialiser of a model to safe names.

Names in a file are an attack (a quote in a node name once ended a string in generated Python source) and a
trap for every printer, so every node, value and initialiser is renamed before anything is built or given to
onnxruntime; a map back keeps messages readable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from ..core.text import shown
from .external import mark_external
from .front import Front
from .input_choice import ChosenInput, GraphChoice
from .load import LIMIT_METADATA, TeacherFile
from .walk import reaching, read_by

INPUT = "input"
_IR_VERSION = 10  # what older runtimes read too; later ones add nothing that is left once functions are inlined


@dataclass(frozen=True)
class SafeGraph:
    """Hold a model of one input under safe names.

    Attributes:
        model: without the data of its large weights, which are in `weights` under the same names.
        input_name, input_type: the input's name in the file, and its ONNX element type.
        input_shape: of one input, without the batch.
        batch: the batch that the file fixes, or None.
        outputs: the file's names of its outputs, by safe name; ``chosen`` is the user's.
        node_names, value_names: safe names → the file's.
        metadata: the file's own metadata entries.
        notes: what was changed, in words for the user.
        front: what the file takes, and the part of it before the input; None where it takes the input alone.
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
    front: Front | None = field(default=None, repr=False)

    @property
    def opsets(self) -> dict[str, int]:
        """Return the opset versions by domain."""
        return {o.domain: o.version for o in self.model.opset_import}

    def with_names(self, text: str) -> str:
        """Replace the safe names in a library's message about `model` by the file's own."""
        known = {**self.node_names, **self.value_names}
        return re.sub(r"\b[nvw]\d+\b", lambda found: shown(known.get(found[0], found[0])), text)

    def name_of(self, value: str) -> str:
        """Return a value's name in the file, ready for a message."""
        return shown(self.value_names.get(value, value))

    def of_batch(self, batch: int) -> SafeGraph:
        """Declare the same graph to take batches of this size alone."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        return replace(self, model=model, batch=batch)

    def cut(self, output: str) -> onnx.ModelProto:
        """Cut out the part that computes one output, for onnxruntime; `beside` returns its large weights."""
        kept = reaching(self.model.graph.node, output)
        used = {name for node in kept for name in read_by(node)} | {output}
        part = onnx.ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(_needed(self.model.opset_import, kept))
        graph = part.graph
        graph.name = "teacher"
        graph.input.extend(self.model.graph.input)
        graph.node.extend(kept)
        graph.initializer.extend(w for w in self.model.graph.initializer if w.name in used)
        graph.sparse_initializer.extend(w for w in self.model.graph.sparse_initializer if w.values.name in used)
        for weight in graph.initializer:
            if weight.name in self.weights:
                mark_external(weight)
        # Without a type: onnxruntime infers it. Inner values have none in the file.
        graph.output.add().name = output
        return part

    def beside(self, part: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
        """Return the large weights of a part, by name."""
        return {w.name: self.weights[w.name] for w in part.graph.initializer if w.name in self.weights}


class Renamer:
    """Rename all values and nodes to n0…, v0…, w0…, in place."""

    def __init__(self, file: TeacherFile, proto: onnx.ModelProto, source: ChosenInput) -> None:
        self.file, self.proto, self.source = file, proto, source
        self.scopes: list[dict[str, str]] = [{"": "", source.name: INPUT}]
        self.node_names: dict[str, str] = {}
        self.value_names: dict[str, str] = {INPUT: source.name}

    def rename(
        self, nodes: list[onnx.NodeProto], wanted: Sequence[str], choice: GraphChoice, notes: tuple[str, ...]
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
        model.opset_import.extend(_needed(self.proto.opset_import, nodes))
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
        """Rename a sub-graph's values, within the scope of the names around it."""
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


def _needed(imports: Iterable[onnx.OperatorSetIdProto], nodes: Sequence[onnx.NodeProto]) -> list[Any]:
    """Select the opset imports of the domains that nodes are of; the standard's in any case."""
    domains, waiting = {""}, list(nodes)
    while waiting:
        node = waiting.pop()
        domains.add(node.domain)
        waiting += [inner for a in node.attribute for graph in (a.g, *a.graphs) for inner in graph.node]
    return [one for one in imports if one.domain in domains]


def _unname(tensor: onnx.TensorProto) -> None:
    """Remove all texts of the file from a tensor."""
    tensor.ClearField("name")
    tensor.ClearField("doc_string")
    tensor.ClearField("metadata_props")


def _unname_sizes(kind: onnx.TypeProto) -> None:
    """Remove the names of a value's sizes: sizes that are not known stay unknown."""
    kind.ClearField("denotation")
    if kind.HasField("sequence_type") or kind.HasField("optional_type"):
        _unname_sizes((kind.sequence_type if kind.HasField("sequence_type") else kind.optional_type).elem_type)
    if kind.HasField("tensor_type"):
        for dim in kind.tensor_type.shape.dim:
            dim.ClearField("dim_param")
            if dim.dim_value < 1:
                dim.ClearField("dim_value")
            dim.ClearField("denotation")
