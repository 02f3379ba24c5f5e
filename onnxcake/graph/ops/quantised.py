"""Expand quantised operators into DequantizeLinear, the float operator, and QuantizeLinear.

Convolutions and matrix products are taken of whole numbers less their zero points, which floats hold exactly (as
does TF32), and scaled once, in QuantizeLinear: so they round as onnxruntime's integer kernels do. The same nodes
serve `float_twin`, which leaves the rounding out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from ..node import Node
from ..registry import op
from ..values import Obstacle, Value

Shape = tuple[int, ...] | None


class Body:
    """Collect the nodes that one quantised node stands for.

    Args:
        call: the node.
        shapes: of its inputs, −1 for a size that is open; None where nothing is known.
        opset: of ai.onnx.
        prefix: beginning of the names of new values.
        integers: whether whole numbers must be given an integer type.
    """

    def __init__(
        self, call: onnx.NodeProto, shapes: Sequence[Shape], opset: int, prefix: str, integers: bool = False
    ) -> None:
        self.call, self.opset, self.nodes = call, opset, list[onnx.NodeProto]()
        self._shapes, self._prefix, self._integers = shapes, prefix, integers

    def has(self, place: int) -> bool:
        """Tell whether an input is given."""
        return place < len(self.call.input) and bool(self.call.input[place])

    def __getitem__(self, place: int) -> str:
        """Return an input's name, "" if it is absent."""
        return self.call.input[place] if self.has(place) else ""

    def rank(self, place: int) -> int:
        """Return an input's number of dimensions.

        Raises:
            Obstacle: if it is not known.
        """
        shape = self._shapes[place] if self.has(place) else None
        if shape is None:
            raise Obstacle(f"the number of dimensions of its input {place} is not known")
        return len(shape)

    def many(self, place: int) -> bool:
        """Tell whether an input holds several numbers, as far as is known."""
        shape = self._shapes[place] if self.has(place) else None
        return any(size != 1 for size in shape or ())

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the call."""
        for attribute in self.call.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def add(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", like: str = "", **attrs: Any) -> str:
        """Add a node; return its first output's name. ``like``: attributes to copy from the call."""
        name = f"{self._prefix}{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        node = helper.make_node(op_type, inputs, names, domain=domain, **attrs)
        node.attribute.extend(a for a in self.call.attribute if a.name in like.split())
        self.nodes.append(node)
        return name

    def constant(self, value: float | Sequence[int]) -> str:
        """Add a constant: a float32 scalar, or a list of int64."""
        if isinstance(value, Sequence):
            return self.add("Constant", value=helper.make_tensor("", TensorProto.INT64, [len(value)], list(value)))
        return self.add("Constant", value=helper.make_tensor("", TensorProto.FLOAT, [], [value]))

    def floats(self, name: str) -> str:
        """Cast a value to float32."""
        return self.add("Cast", name, to=TensorProto.FLOAT)

    def centred(self, x: int, zero: int, axis: int = 1) -> str:
        """Subtract its zero point from input ``x``: whole numbers, as floats."""
        return self.add("DequantizeLinear", self[x], self.constant(1.0), self[zero], axis=axis)

    def dequantised(self, x: int, axis: int = 1) -> str:
        """Dequantise input ``x``; its scale and zero point are the two inputs after it."""
        return self.add("DequantizeLinear", self[x], self[x + 1], self[x + 2], axis=axis)

    def quantised(self, x: str, scale: str, zero: str, like: int, axis: int = 1) -> str:
        """Quantise floats; to the type of input ``like`` if there is no zero point."""
        return self.add("QuantizeLinear", x, scale, zero or self._no_zero(like), axis=axis)

    def _no_zero(self, like: int) -> str:
        """Add a zero of the type of a given zero point."""
        if not self.has(like):
            raise Obstacle("it has no zero point that tells its type", "Quantise the model with zero points.")
        return self.add("Sub", self[like], self[like])

    def product(self, *scales: str) -> str:
        """Multiply scales, in float32."""
        out, *others = [self.floats(scale) for scale in scales]
        for scale in others:
            out = self.add("Mul", out, scale)
        return out

    def whole(self, x: str) -> str:
        """Cast floats that are whole numbers to int32 where integers are kept."""
        return self.add("Cast", x, to=TensorProto.INT32) if self._integers else x


Form = Callable[[Body], str]
FORMS: dict[tuple[str, str], Form] = {}


def form(*names: str, domain: str = "") -> Callable[[Form], Form]:
    """Register the expansion of the named operators, for the graph and for its float twin."""

    def register(write: Form) -> Form:
        for name in names:
            FORMS[domain, name] = write
        op(*names, domain=domain)(_by_form)
        return write

    return register


def _by_form(node: Node) -> list[Value]:
    proto, builder = node.proto, node.builder
    shapes = [tuple(v.seen[0].shape) if v is not None else None for v in node.inputs]
    body = Body(proto, shapes, builder.opset(""), "%", integers=builder.precision is None)
    last = FORMS[proto.domain, proto.op_type](body)
    outputs = [last, *(f"{last}.{i}" for i in range(1, node.outputs))]
    graph = onnx.GraphProto(node=body.nodes, output=[onnx.ValueInfoProto(name=name) for name in outputs])
    return node.inline(graph, [])


@form("MatMulInteger")
def mat_mul_integer(body: Body) -> str:
    return body.whole(body.add("MatMul", body.centred(0, 2, axis=-2), body.centred(1, 3, axis=-1)))


@form("ConvInteger")
def conv_integer(body: Body) -> str:
    return body.whole(body.add("Conv", body.centred(0, 2), body.centred(1, 3, axis=0), like=CONV))


CONV = "auto_pad dilations group kernel_shape pads strides"


@form("QLinearMatMul")
def qlinear_mat_mul(body: Body) -> str:
    product = body.add("MatMul", body.centred(0, 2, axis=-2), body.centred(3, 5, axis=-1))
    if any(body.many(place) and body.rank(place) < 2 for place in (1, 6)):
        raise Obstacle("its scales differ from row to row", "Quantise activations with one scale for each tensor.")
    return requantised(body, product, body.product(body[1], body[4]), 6, axis=-1)


def requantised(body: Body, x: str, factor: str, place: int, axis: int = 1) -> str:
    """Multiply floats by a factor, and quantise with the scale and zero point at ``place`` and after it."""
    scale = body.add("Div", body.floats(body[place]), factor)
    return body.quantised(x, scale, body[place + 1], place + 1, axis)


@form("QLinearConv")
@form("QLinearConv", domain="com.microsoft")
def qlinear_conv(body: Body) -> str:
    x, w = body.centred(0, 2), body.centred(3, 5, axis=0)
    last = body.attr("channels_last", 0)
    rank = body.rank(3)
    if last:
        x = to_channels_first(body, x, rank)
    bias = [body.floats(body[8])] if body.has(8) else []
    y = body.add("Conv", x, w, *bias, like=CONV)
    y = requantised(body, y, body.product(body[1], body[4]), 6)
    return to_channels_last(body, y, rank) if last else y


def to_channels_first(body: Body, x: str, rank: int) -> str:
    """Transpose [batch, …, channels] → [batch, channels, …]."""
    return body.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def to_channels_last(body: Body, x: str, rank: int) -> str:
    """Transpose [batch, channels, …] → [batch, …, channels]."""
    return body.add("Transpose", x, perm=[0, *range(2, rank), 1])
