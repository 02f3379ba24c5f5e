"""A checked ModelProto → the same model under safe names, one input, one output, and its logits.

Names in a file reach torch.fx's generated Python source unescaped (a quote in a node name ends the string
and the rest runs), so every node, value and initialiser is renamed before anything is built; a map back
keeps messages readable.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from ..errors import UnsupportedTeacher, shown
from .load import TeacherFile

INPUT, OUTPUT = "input", "output"
_PASS_THROUGH = {"Identity", "Dropout"}


@dataclass(frozen=True)
class SafeGraph:
    """One input to one output under safe names, the batch free.

    ``model`` ends in the teacher's own output; ``logits_model`` ends in the tensor before a trailing
    (Log)Softmax, or is the same model. ``tail`` says which: "probabilities", "log_probabilities", or None
    where the graph does not show it. ``node_names`` and ``value_names`` map safe names to the file's.
    """

    model: onnx.ModelProto
    logits_model: onnx.ModelProto
    tail: str | None
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    opset: int
    parameters: int
    node_names: dict[str, str] = field(repr=False)
    value_names: dict[str, str] = field(repr=False)


def normalise(file: TeacherFile) -> SafeGraph:
    """Chooses input and output, cuts what the output does not need, renames everything.

    Raises:
        UnsupportedTeacher: no single float input of known shape, or no single classifier output made by a node.
    """
    graph = file.proto.graph
    source = _the_input(graph, file.name)
    shape = _fixed_shape(source, file.name)
    output = _the_output(file)
    nodes = _reaching(list(graph.node), output.name)
    if not nodes:
        kind = "the input itself" if output.name == source.name else "a weight, the same for every input"
        raise UnsupportedTeacher(
            f"output {shown(output.name)} is {kind}",
            where=file.name,
            remedy="Export the model with its class scores (logits or probabilities) as output.",
        )
    safe = _Renamed(file.proto, nodes, source.name)
    tail, logits = _tail(nodes, output.name)
    return SafeGraph(
        model=safe.model_to(output.name, shape),
        logits_model=safe.model_to(logits, shape),
        tail=tail,
        input_name=source.name,
        input_shape=shape,
        output_name=output.name,
        opset=safe.opset,
        parameters=safe.parameters,
        node_names=safe.node_names,
        value_names={new: old for old, new in safe.values.items()},
    )


class _Renamed:
    """The needed nodes and initialisers under the names n0…, v0…, w0…"""

    def __init__(self, proto: onnx.ModelProto, nodes: list[onnx.NodeProto], source: str) -> None:
        self.ir_version = proto.ir_version
        self.opset_imports = [(o.domain, o.version) for o in proto.opset_import]
        self.opset = dict(self.opset_imports).get("", 0)
        used = {name for node in nodes for name in node.input}
        self.values: dict[str, str] = {"": "", source: INPUT}
        self.weights: list[onnx.TensorProto] = []
        for weight in proto.graph.initializer:
            if weight.name in used:
                copy = onnx.TensorProto()
                copy.CopyFrom(weight)
                copy.name = self.values[weight.name] = f"w{len(self.weights)}"
                copy.doc_string = ""
                self.weights.append(copy)
        self.parameters = sum(_size(weight) for weight in self.weights if weight.data_type in _FLOATS)
        self.node_names: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        for number, node in enumerate(nodes):
            if node.op_type == "Identity" and not node.domain:
                # Only another name. Exporters write one for each weight that equals another, and some
                # converters want to see the weight itself.
                self.values[node.output[0]] = self.values[node.input[0]]
            else:
                self.nodes.append(self._node(number, node))

    def _node(self, number: int, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.op_type, copy.domain, copy.name = node.op_type, node.domain, f"n{number}"
        copy.attribute.extend(node.attribute)
        for attribute in copy.attribute:
            attribute.doc_string = ""
            if attribute.HasField("t"):
                attribute.t.name = attribute.t.doc_string = ""
        copy.input.extend(self.values.get(name, "") for name in node.input)
        for name in node.output:
            self.values.setdefault(name, f"v{len(self.values)}")
        copy.output.extend(self.values[name] for name in node.output)
        self.node_names[copy.name] = node.name or f"{node.op_type} #{number}"
        return copy

    def model_to(self, output: str, shape: tuple[int, ...]) -> onnx.ModelProto:
        """The part of the model that makes ``output`` (a name of the file), with a free batch."""
        end = self.values[output]
        nodes, weights = _reaching(self.nodes, end), {w.name: w for w in self.weights}
        names = {name for node in nodes for name in node.input}
        alone = bool(nodes) and len(nodes[-1].output) == 1
        if not alone:  # the input itself, a weight, or one of a node's several outputs
            nodes = [*nodes, onnx.helper.make_node("Identity", [end], [OUTPUT], name="end")]
        graph = onnx.helper.make_graph(
            nodes,
            "teacher",
            [onnx.helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *shape])],
            [onnx.helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)],
            [weights[name] for name in weights if name in names],
        )
        if alone:
            for node in graph.node:
                node.input[:] = [OUTPUT if name == end else name for name in node.input]
                node.output[:] = [OUTPUT if name == end else name for name in node.output]
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opset_imports]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)


_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def _the_input(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise UnsupportedTeacher(
            f"{len(inputs)} inputs ({', '.join(shown(i.name) for i in inputs)}) where one is needed",
            where=name,
            remedy="Export the classifier with one input; make the others constants.",
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise UnsupportedTeacher(
            f"input {shown(inputs[0].name)} is {_kind(kind)}, and only float32 inputs are supported",
            where=name,
            remedy="Export the model with a float32 input, its pre-processing left outside.",
        )
    return inputs[0]


def _fixed_shape(value: onnx.ValueInfoProto, name: str) -> tuple[int, ...]:
    """The input's shape without its batch dimension."""
    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if not tensor.HasField("shape") or len(dims) < 2 or any(d < 1 for d in dims[1:]):
        seen = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
        raise UnsupportedTeacher(
            f"input {shown(value.name)} has the shape {shown(seen)}; all but the batch must be fixed",
            where=name,
            remedy="Export the model with fixed sizes, only the batch dynamic.",
        )
    return tuple(dims[1:])


def _the_output(file: TeacherFile) -> onnx.ValueInfoProto:
    outputs = list(file.proto.graph.output)
    if len(outputs) == 1:
        chosen = outputs[0]
    else:
        floats = [o for o in outputs if o.type.tensor_type.elem_type == TensorProto.FLOAT]
        matrices = [o for o in floats if len(o.type.tensor_type.shape.dim) == 2]
        if len(matrices) != 1:
            raise UnsupportedTeacher(
                f"{len(outputs)} outputs ({', '.join(shown(o.name) for o in outputs)}), and it is not plain "
                "which of them holds the class scores [batch, classes]",
                where=file.name,
                remedy="Export the model with the class scores as its only output.",
            )
        chosen = matrices[0]
    kind = chosen.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        maker = next((n for n in file.proto.graph.node if chosen.name in n.output), None)
        by = f" from {shown(maker.op_type)}" if maker else ""
        raise UnsupportedTeacher(
            f"output {shown(chosen.name)} ({_kind(kind)}) comes{by} and has no gradient",
            where=file.name,
            remedy="Export the model with its class scores (logits or probabilities) as output.",
        )
    return chosen


def _reaching(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Those of the (sorted) nodes that ``output`` depends on, sub-graphs' outer values included."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_read_by(node))
    return kept[::-1]


def _read_by(node: onnx.NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _read_by(inner)
    return names


def _tail(nodes: list[onnx.NodeProto], output: str) -> tuple[str | None, str]:
    """What the end of the graph shows: the kind of output, and the tensor that holds the logits."""
    makers = {name: node for node in nodes for name in node.output}

    def back(name: str) -> tuple[onnx.NodeProto | None, str]:
        while (node := makers.get(name)) is not None and node.op_type in _PASS_THROUGH:
            name = node.input[0]
        return node, name

    node, _ = back(output)
    if node is None:
        return None, output
    if node.op_type == "LogSoftmax" and _over_classes(node):
        return "log_probabilities", node.input[0]
    if node.op_type == "Softmax" and _over_classes(node):
        return "probabilities", node.input[0]
    if node.op_type == "Log":
        inner, _ = back(node.input[0])
        if inner is not None and inner.op_type == "Softmax" and _over_classes(inner):
            return "log_probabilities", inner.input[0]
    return None, output


def _over_classes(node: onnx.NodeProto) -> bool:
    """Whether a Softmax over [batch, classes] is over the classes; both default axes (1, −1) are."""
    return all(a.i in (1, -1) for a in node.attribute if a.name == "axis")


def _kind(elem_type: int) -> str:
    known = elem_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(elem_type).lower() if known else f"type {elem_type}"


def _size(weight: onnx.TensorProto) -> int:
    size = 1
    for dim in weight.dims:
        size *= dim
    return size
