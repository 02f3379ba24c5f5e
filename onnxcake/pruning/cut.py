"""Write a smaller model from the indices that stay: constants sliced, sizes and positions recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..graph.values import Sizes
from ..onnxfile.export import PRODUCER, named
from ..onnxfile.rename import INPUT
from ..onnxfile.walk import reaching, read_by
from .dependencies import REWRITES, Call, Followed, Writer
from .folded_graph import Array, FoldedGraph
from .indices import Axis

_NONE: Mapping[str, str] = {}
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def cut(followed: Followed, dropped: Sequence[int], input_name: str, output_name: str) -> onnx.ModelProto:
    """Write the model without the indices that hold one of the ``dropped`` atoms; weights that stay are unchanged.

    Its batch is free, its input and output have the given names.
    """
    return Cutter(followed, np.array(list(dropped), np.int64)).model(input_name, output_name)


class Cutter(Writer):
    """Write one cut model."""

    def __init__(self, followed: Followed, dropped: Axis) -> None:
        self.followed, self.graph = followed, followed.graph
        self._stays = followed.stays(dropped)
        self._new: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[Any, str] = {}

    # What a rewrite may use

    def mask(self, axis: Axis) -> Mask:
        """Return the mask of the indices of an axis that stay."""
        found: Mask = self._stays[axis]
        return found

    def shape(self, name: str) -> Sizes:
        """Return a value's new shape, as a function of the batch."""
        batches = self.graph.batches
        was = Sizes.through(batches, self.graph.shapes[name])
        slopes, bases = list(was.slope), list(was.base)
        for place, axis in enumerate(self.followed.axes[name]):
            mask = self.mask(axis)
            if mask.all():
                continue
            if slopes[place]:  # so many for each input, all alike
                slopes[place] = int(mask.sum()) // batches[0]
            else:
                bases[place] = int(mask.sum())
        return Sizes(tuple(slopes), tuple(bases))

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return a value's new shape at the first trial batch; None for values that hold sizes."""
        axes = self.followed.axes.get(name)
        return None if axes is None else tuple(self.count(axis) for axis in axes)

    def size(self, name: str) -> int:
        """Count the numbers that are left of a constant."""
        return math.prod(self.count(axis) for axis in self.followed.axes[name])

    def ints(self, values: Sequence[int], like: Array | None = None) -> str:
        """Add a constant of whole numbers; return its name."""
        return self._constant(np.array(values, np.int64 if like is None else like.dtype))

    def sizes(self, sizes: Sizes, scalar: bool = False, kind: Any = np.int64) -> str:
        """Add a value that holds these numbers for each batch; return its name."""
        if sizes.fixed:
            return self._constant(np.array(sizes.base[0] if scalar else sizes.base, kind))
        key = (sizes, scalar, np.dtype(kind))
        if key not in self._made:
            parts = [
                self._from_batch(slope, base, scalar) if slope else self.ints([base])
                for slope, base in zip(sizes.slope, sizes.base, strict=True)
            ]
            name = parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)
            self._made[key] = name if kind == np.int64 else self.node("Cast", [name], to=_element(kind))
        return self._made[key]

    def _from_batch(self, slope: int, base: int, scalar: bool) -> str:
        batch = self.node("Gather", [self._shape_of_input(), self._constant(np.array(0 if scalar else [0]))])
        if slope != 1:
            batch = self.node("Mul", [batch, self.ints([slope] if not scalar else slope)])  # type: ignore[arg-type]
        return batch if not base else self.node("Add", [batch, self.ints([base] if not scalar else base)])  # type: ignore[arg-type]

    def _shape_of_input(self) -> str:
        if "input" not in self._made:
            self._made["input"] = self.node("Shape", [INPUT])
        return self._made["input"]

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node of one output, and return the output's name."""
        name = f"s{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, array: Array) -> str:
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._made:
            name = self._made[key] = f"k{len(self._new)}"
            self._new[name] = array
        return self._made[key]

    # The whole

    def model(self, input_name: str, output_name: str, names: Mapping[str, str] = _NONE) -> onnx.ModelProto:
        """Write the whole model.

        Args:
            input_name, output_name: the model's names of its input and output.
            names: the model's names of values and nodes, by their names in the graph; others keep these.
        """
        for call in self.followed.calls:
            self._add_rewritten(call)
        graph = self.graph
        nodes = reaching(self._nodes, graph.output)
        read = {name for node in nodes for name in read_by(node)} | {graph.output}
        constants = {**{n: self._sliced(n) for n in graph.constants if n in read}, **self._new}
        model = onnx.ModelProto(ir_version=graph.ir_version, producer_name=PRODUCER)
        model.opset_import.extend(graph.opsets)
        model.graph.name = "student"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items() if n in read)
        batch = ["batch", *graph.input_shape]
        model.graph.input.append(helper.make_tensor_value_info(INPUT, graph.input_type, batch))
        model.graph.output.append(_output_of(model, graph))
        for node in model.graph.node:
            node.name = names.get(node.name, node.name)
        return named(model, input_name, output_name, names)

    def _add_rewritten(self, call: Call) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(call.proto)
        change = REWRITES.get(call.op) if not call.proto.domain else None
        if change is not None:
            change(call, node, self)
        for place, name in enumerate(node.input):
            if name in self.graph.sizes:
                node.input[place] = self._sizes_called(name)
        for name in sorted((read_by(node) - set(node.input)) & self.graph.sizes.keys()):
            self._for_inner(name)
        self._nodes.append(node)

    def _for_inner(self, name: str) -> None:
        """Add sizes that a node's own sub-graphs read, under the name that they read."""
        if ("inner", name) not in self._made:
            self._made["inner", name] = name
            source = self._sizes_called(name)
            self._nodes.append(helper.make_node("Identity", [source], [name], name=f"s{len(self._nodes)}"))

    def _sizes_called(self, name: str) -> str:
        scalar = not self.graph.shapes[name][0]
        return self.sizes(self.graph.sizes[name], scalar, self.graph.kinds[name])

    def _sliced(self, name: str) -> Array:
        array = self.graph.constants[name]
        for place, axis in enumerate(self.followed.axes[name]):
            mask = self.mask(axis)
            if not mask.all():
                array = array.compress(mask, place)
        return array


def _output_of(model: onnx.ModelProto, graph: FoldedGraph) -> onnx.ValueInfoProto:
    """Describe the output's type and shape, its batch free."""
    shapes = graph.shapes[graph.output]
    shape = ["batch" if len(set(sizes)) > 1 else sizes[0] for sizes in zip(*shapes, strict=True)]
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.graph.output.add().name = graph.output
    inferred = onnx.shape_inference.infer_shapes(bare)
    kind = inferred.graph.output[0].type.tensor_type.elem_type or TensorProto.FLOAT
    return helper.make_tensor_value_info(graph.output, kind, shape)


def _element(kind: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
