"""Convert a quantised model to its float twin: the same model without rounding.

Rounding makes a model piecewise constant, so differences tell nothing of its slope. In the twin, quantised values
are floats that stand between the whole numbers too; they are clipped where rounding would leave the range. So the
twin's slope is what the straight-through gradient of the built graph should be.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import torch
from onnx import TensorProto, helper

from ..onnxfile.tensors import DTYPES
from .ops.quantised import FORMS, Body
from .ops.rounding import FLOAT8, RANGES
from .registry import load
from .values import Obstacle

_ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear"}
_WHOLE = {"MatMulInteger", "ConvInteger"}  # these make int32
_QUANTISED = {*RANGES, *FLOAT8, TensorProto.INT32}  # element types of what floats stand for in the twin
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_FULL_PRECISION = 1  # MatMulNBits' accuracy_level for float32


def is_quantised(model: onnx.ModelProto) -> bool:
    """Tell whether values that depend on the model's input are rounded to grids."""
    load()
    constant = _Constants(model.graph)
    return any(_rounds(node) for node in model.graph.node if not constant.made_by(node))


def holds_rounding(content: bytes) -> bool:
    """Tell whether a model at hand as bytes is quantised (`is_quantised`)."""
    return is_quantised(onnx.ModelProto.FromString(content))


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Build the float twin of a model without functions of its own; inputs of small integers become float32.

    Weights are not read, so their data may lie elsewhere.

    Raises:
        Obstacle: if something quantised lies in a sub-graph, or with scales whose place cannot be worked out.
    """
    twin = _Twin(_expand_quantised(model))
    for node in model.graph.node:
        if node.op_type in _WHOLE and not node.domain:
            twin.stands_for(TensorProto.INT32, node.output[0])
    return twin.made()


def _rounds(node: onnx.NodeProto) -> bool:
    if node.op_type in _ROUNDING or (node.domain, node.op_type) in FORMS:
        return True
    return any(_rounds(inner) for a in node.attribute for graph in (a.g, *a.graphs) for inner in graph.node)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


class _Constants:
    """Track the values that do not depend on the model's input."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.names = {"", *(w.name for w in graph.initializer), *(w.values.name for w in graph.sparse_initializer)}

    def made_by(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node makes constants, and note its outputs; to be called for all nodes in order."""
        inner = any(a.g.node or a.graphs for a in node.attribute)
        if inner or not self.names.issuperset(node.input) or (not node.input and node.op_type != "Constant"):
            return False
        self.names.update(node.output)
        return True


# First: quantised operators spelled out


def _expand_quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Expand each quantised operator into QuantizeLinear, DequantizeLinear and float operators."""
    load()
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:]
    del out.graph.value_info[:]
    opset = next((o.version for o in model.opset_import if not o.domain), 0)
    shapes: dict[str, tuple[int, ...]] = {w.name: tuple(w.dims) for w in model.graph.initializer}
    constant = _Constants(model.graph)
    for node in model.graph.node:
        write = FORMS.get((node.domain, node.op_type))
        if constant.made_by(node) or write is None:
            out.graph.node.append(node)
            continue
        if any(name and name not in shapes for name in node.input):
            shapes.update({name: shape for name, (_, shape) in _inferred(out).items() if shape is not None})
        body = Body(node, [shapes.get(name) for name in node.input], opset, f"{node.output[0]}%")
        last = write(body)
        new = {last: node.output[0], **{f"{last}.{i}": name for i, name in enumerate(node.output) if i}}
        for inner in body.nodes:
            inner.input[:] = [new.get(name, name) for name in inner.input]
            inner.output[:] = [new.get(name, name) for name in inner.output]
        out.graph.node.extend(body.nodes)
    return out


def _inferred(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...] | None]]:
    """Infer the element type and shape (−1: open) of each value, as far as onnx can."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        known[value.name] = tensor.elem_type, dims if tensor.HasField("shape") else None
    known.update((weight.name, (weight.data_type, tuple(weight.dims))) for weight in graph.initializer)
    return known


# Second: rounding left out


class _Twin:
    """Build the twin of a model whose only quantised operators are QuantizeLinear and DequantizeLinear."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.known = model, _inferred(model)
        self.constant = _Constants(model.graph)
        self.opset = next((o.version for o in model.opset_import if not o.domain), 0)
        self.floats: set[str] = set()  # values that were integers
        self.nodes: list[onnx.NodeProto] = []

    def stands_for(self, kind: int, name: str) -> None:
        """Note that a value is floats in place of another type."""
        self.floats.add(name)
        self.known[name] = kind, self.known.get(name, (0, None))[1]

    def made(self) -> onnx.ModelProto:
        graph = self.model.graph
        for value in _inputs(graph):
            if value.type.tensor_type.elem_type in RANGES:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
                self.floats.add(value.name)
        for node in graph.node:
            self._node(node)
        for value in graph.output:
            if value.name in self.floats and value.type.tensor_type.elem_type:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        del graph.node[:]
        graph.node.extend(self.nodes)
        return self.model

    def _node(self, node: onnx.NodeProto) -> None:
        constant = self.constant.made_by(node)
        written = "%" in node.output[0] and node.op_type == "DequantizeLinear"  # may be of no valid version
        if constant and not written:
            self.nodes.append(node)
        elif node.op_type == "QuantizeLinear":
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node)
        elif node.op_type == "DynamicQuantizeLinear":
            self._dynamic(node)
        elif _rounds(node):
            raise Obstacle(f"something quantised lies in a sub-graph of {node.op_type}")
        else:
            self._other(node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        zero = _has_zero_point(node)
        kind = self._type(node.input[2]) if zero else _attr(node, "output_dtype", TensorProto.UINT8)
        if kind in RANGES:
            low, high = (float(end) for end in RANGES[kind])
            low, high = low - 0.5, high + 0.5  # what rounds to an end of the range
        elif kind in FLOAT8:
            high = torch.finfo(DTYPES[kind]).max
            low = -high
        else:
            raise Obstacle("it is not known to which type it quantises")
        x = self._add("Div", self._as_float(node.input[0]), self._aligned(node, 1))
        if zero:
            x = self._add("Add", x, self._aligned(node, 2))
        if self.opset >= 11:
            self._add("Clip", x, self._number(low), self._number(high), out=node.output[0])
        else:
            self._add("Clip", x, out=node.output[0], min=low, max=high)
        self.floats.add(node.output[0])

    def _dequantize(self, node: onnx.NodeProto) -> None:
        x = self._as_float(node.input[0])
        if _has_zero_point(node):
            x = self._add("Sub", x, self._aligned(node, 2))
        x = self._add("Mul", x, self._aligned(node, 1))
        to = _attr(node, "output_dtype", 0) or self._type(node.input[1])
        self._add("Cast", x, out=node.output[0], to=to if to in _FLOATS else TensorProto.FLOAT)

    def _dynamic(self, node: onnx.NodeProto) -> None:
        """Replace DynamicQuantizeLinear by a scale of 1 and no zero point, so that its scale is no function of x."""
        self._add("Cast", node.input[0], out=node.output[0], to=TensorProto.FLOAT)
        for name, number in zip(node.output[1:], (1.0, 0.0), strict=False):
            self._number(number, out=name)
        self.floats.update(node.output)

    def _other(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "MatMulNBits":
            kept = [a for a in copy.attribute if a.name != "accuracy_level"]
            del copy.attribute[:]
            copy.attribute.extend([*kept, helper.make_attribute("accuracy_level", _FULL_PRECISION)])
        if self.floats.intersection(node.input):
            kinds = {self._type(name) for name in self.floats.intersection(node.input)}
            kinds = {*RANGES} if 0 in kinds else kinds
            copy.input[:] = [self._as_float(name) if self._type(name) in kinds else name for name in node.input]
            if node.op_type == "Cast" and _attr(node, "to", 0) not in _FLOATS:
                copy = helper.make_node("Identity", list(copy.input), list(node.output))
            self.floats.update(name for name in node.output if self._type(name) in {0, *_QUANTISED})
        self.nodes.append(copy)

    # Parts

    def _type(self, name: str) -> int:
        return self.known.get(name, (0, None))[0]

    def _as_float(self, name: str) -> str:
        return name if name in self.floats else self._add("Cast", name, to=TensorProto.FLOAT)

    def _aligned(self, node: onnx.NodeProto, place: int) -> str:
        """Return a scale or zero point as floats, of the shape that broadcasts to x."""
        name = self._as_float(node.input[place])
        shape = self.known.get(node.input[place], (0, None))[1]
        if shape is None or len(shape) != 1 or shape == (1,):
            if _attr(node, "block_size", 0):
                raise Obstacle("values of the model are quantised by blocks")
            return name
        axis, (_, whole) = _attr(node, "axis", 1), self.known.get(node.input[0], (0, None))
        if axis >= 0 and whole is None:
            raise Obstacle("it is quantised along an axis of a value whose number of dimensions is not known")
        after = -axis - 1 if whole is None or axis < 0 else len(whole) - axis - 1
        sizes = [-1, *[1] * after]
        return self._add("Reshape", name, self._add("Constant", value=_list(sizes))) if after else name

    def _number(self, number: float, out: str = "") -> str:
        return self._add("Constant", out=out, value=helper.make_tensor("", TensorProto.FLOAT, [], [number]))

    def _add(self, op_type: str, *inputs: str, out: str = "", **attrs: object) -> str:
        name = out or f"twin%{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attrs))
        return name


def _has_zero_point(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])


def _list(sizes: Iterable[int]) -> onnx.TensorProto:
    sizes = list(sizes)
    return helper.make_tensor("", TensorProto.INT64, [len(sizes)], sizes)


def _attr(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
