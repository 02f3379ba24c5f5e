"""Rewrite quantised operators so that no processor's integer kernels saturate.

On x86 without VNNI (AVX2 or AVX-512 alone) onnxruntime multiplies unsigned with signed bytes by `vpmaddubsw`, which
adds two products in 16 bits and saturates: 2·255·127 > 2¹⁵ − 1. That is so at each optimisation level, wherever the
model holds such an operator itself (MatMulInteger, QLinearConv and the like). Its kernels for unsigned with unsigned
bytes widen first, and are exact. w − z = (w + 128) − (z + 128), so signed weights can be written as unsigned ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"
_SIGNED: int = TensorProto.INT8
_UNSIGNED: int = TensorProto.UINT8
_OFFSET, _ZERO = "offset%", "zero%"


@dataclass(frozen=True)
class _Product:
    """Hold the places of a product's inputs: values a and weights b, each with its zero point; None for floats."""

    a: int | None
    a_zero: int | None
    b: int
    b_zero: int


_PRODUCTS: dict[tuple[str, str], tuple[_Product, ...]] = {
    ("", "MatMulInteger"): (_Product(0, 2, 1, 3),),
    ("", "ConvInteger"): (_Product(0, 2, 1, 3),),
    ("", "QLinearMatMul"): (_Product(0, 2, 3, 5),),
    ("", "QLinearConv"): (_Product(0, 2, 3, 5),),
    (MICROSOFT, "QLinearConv"): (_Product(0, 2, 3, 5),),
    (MICROSOFT, "QGemm"): (_Product(0, 2, 3, 5),),
    (MICROSOFT, "MatMulIntegerToFloat"): (_Product(0, 4, 1, 5),),
    (MICROSOFT, "DynamicQuantizeMatMul"): (_Product(None, None, 1, 3),),
    (MICROSOFT, "DynamicQuantizeLSTM"): (_Product(None, None, 1, 9), _Product(None, None, 2, 11)),
    (MICROSOFT, "QAttention"): (_Product(0, 6, 1, 7),),
}
_NAMES = {name.encode() for _, name in _PRODUCTS}


def exact(content: bytes) -> bytes:
    """Rewrite a model's products of unsigned with signed bytes as products of unsigned ones.

    Bytes that hold none of these operators are returned unchanged, whether they are a model or not.
    """
    if not any(name in content for name in _NAMES):
        return content
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return content
    _Writer(model).graph(model.graph)
    written: bytes = model.SerializeToString()
    return written


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.types: dict[str, int] = {}
        self.count = 0

    def graph(self, graph: onnx.GraphProto) -> None:
        """Rewrite a graph and its sub-graphs in place."""
        self.types.update((weight.name, weight.data_type) for weight in graph.initializer)
        self.types.update((value.name, value.type.tensor_type.elem_type) for value in graph.input)
        nodes, made = list(graph.node), dict[str, str]()
        del graph.node[:]
        for node in nodes:
            for inner in (each for a in node.attribute for each in (a.g, *a.graphs) if each.node):
                self.graph(inner)
            for product in _PRODUCTS.get((node.domain, node.op_type), ()):
                self._product(graph, node, product, made)
            graph.node.append(node)
            self.types.update((name, self._output_type(node)) for name in node.output)

    def _product(self, graph: onnx.GraphProto, node: onnx.NodeProto, product: _Product, made: dict[str, str]) -> None:
        if self._type(node, product.b, product.b_zero) != _SIGNED:
            return
        if product.a is not None and self._type(node, product.a, product.a_zero) == _SIGNED:
            return  # both signed: there is no kernel for signed with unsigned bytes everywhere, nor need for it
        if not self.count:
            self.model.graph.initializer.append(helper.make_tensor(_OFFSET, TensorProto.INT32, [], [128]))
            self.model.graph.initializer.append(helper.make_tensor(_ZERO, _UNSIGNED, [], [128]))
        node.input[product.b] = self._to_unsigned(graph, node.input[product.b], made)
        if _has_input(node, product.b_zero):
            node.input[product.b_zero] = self._to_unsigned(graph, node.input[product.b_zero], made)
        else:
            node.input.extend([""] * (product.b_zero + 1 - len(node.input)))
            node.input[product.b_zero] = _ZERO

    def _to_unsigned(self, graph: onnx.GraphProto, name: str, made: dict[str, str]) -> str:
        """Add 128 to signed bytes, which makes them unsigned; onnxruntime folds the sum where they are constant."""
        if name not in made:
            self.count += 1
            wide, moved, made[name] = (f"{part}%{self.count}" for part in ("wide", "moved", "unsigned"))
            graph.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.INT32))
            graph.node.append(helper.make_node("Add", [wide, _OFFSET], [moved]))
            graph.node.append(helper.make_node("Cast", [moved], [made[name]], to=_UNSIGNED))
        return made[name]

    def _type(self, node: onnx.NodeProto, place: int, zero: int | None) -> int:
        """Return an input's element type; its zero point, if it has one, is of the same type."""
        names = [node.input[at] for at in (zero, place) if at is not None and _has_input(node, at)]
        return next((self.types[name] for name in names if self.types.get(name, 0)), _UNSIGNED)

    def _output_type(self, node: onnx.NodeProto) -> int:
        """Return the element type of a node's output if it is bytes, of its last zero point or its input; else 0."""
        if node.op_type in ("Constant", "Cast"):
            told = [int(a.i or a.t.data_type) for a in node.attribute if a.name in ("value", "to")]
            return told[0] if told else 0
        if node.op_type == "DynamicQuantizeLinear" or (node.op_type == "QuantizeLinear" and not _has_input(node, 2)):
            return _UNSIGNED
        if "QLinear" in node.op_type or node.op_type in ("QuantizeLinear", "QGemm"):
            kinds = [self.types.get(name, 0) for name in reversed(node.input)]
            return next((kind for kind in kinds if kind in (_SIGNED, _UNSIGNED)), 0)
        return self.types.get(node.input[0], 0) if node.input else 0


def _has_input(node: onnx.NodeProto, place: int) -> bool:
    return place < len(node.input) and bool(node.input[place])
