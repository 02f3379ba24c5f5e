"""Fold everything that is known in a teacher's graph: keep the nodes that depend on data, and constants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from ..graph.convert import Converted
from ..graph.values import Depends, Obstacle, Sizes, Value
from ..onnxfile.walk import reaching, read_by

Array = np.ndarray[Any, Any]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # at the two trial batches


@dataclass(frozen=True)
class FoldedGraph:
    """Hold the part of a graph that makes one output.

    Attributes:
        nodes: those that depend on data, in order; and those that make values (not sizes) out of the batch.
        constants: the values they read that depend on nothing.
        sizes: the values they read that are whole numbers depending on the batch; ``kinds``: their numpy types.
        shapes: of every value that is no constant.
        batches: the two trial batches.
        output: the value at the end.
        names: the file's names of its own constants.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, Array] = field(repr=False)
    sizes: dict[str, Sizes] = field(repr=False)
    kinds: dict[str, Any] = field(repr=False)
    shapes: dict[str, Shapes] = field(repr=False)
    batches: tuple[int, int]
    output: str
    names: dict[str, str] = field(repr=False)
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    ir_version: int
    input_type: int
    input_shape: tuple[int, ...]

    def numbers(self, name: str) -> Sizes | None:
        """Return a constant, or a value that follows the batch, as whole numbers; None if it depends on data."""
        if name in self.sizes:
            return self.sizes[name]
        if name in self.constants:
            flat = tuple(int(i) for i in self.constants[name].reshape(-1))
            return Sizes((0,) * len(flat), flat)
        return None


def fold(graph: Converted, output: str) -> FoldedGraph:
    """Extract the part of a graph that makes ``output``, its constants folded."""
    safe, values = graph.safe, graph.values
    batches = (graph.batch, graph.other_batch)
    nodes = reaching(safe.model.graph.node, output)
    kept = [node for node in nodes if any(_runs(values.get(name), batches) for name in node.output)]
    weights = {w.name: w for w in safe.model.graph.initializer}
    types = _types(safe.model)
    constants: dict[str, Array] = {}
    sizes: dict[str, Sizes] = {}
    shapes: dict[str, Shapes] = {}
    kinds: dict[str, Any] = {}
    for name in sorted({name for node in kept for name in (*read_by(node), *node.output) if name}):
        value = values.get(name)
        if value is None or not isinstance(value.seen[0], Tensor):
            continue  # made inside a node's own graph, or a sequence
        if value.depends == Depends.NOTHING:
            constants[name] = _original(safe.weights, weights, name, value, types)
        elif (numbers := _numbers(value, batches)) is not None:
            sizes[name] = numbers
            kinds[name] = value.seen[0].numpy().dtype
        if value.depends != Depends.NOTHING:
            shapes[name] = tuple(tuple(t.shape) for t in value.seen)  # type: ignore[assignment]
    return FoldedGraph(
        nodes=tuple(kept),
        constants=constants,
        sizes=sizes,
        kinds=kinds,
        shapes=shapes,
        batches=batches,
        output=output,
        names={name: safe.value_names.get(name, name) for name in constants},
        opsets=tuple(safe.model.opset_import),
        ir_version=safe.model.ir_version,
        input_type=safe.input_type,
        input_shape=safe.input_shape,
    )


def _runs(value: Value | None, batches: tuple[int, int]) -> bool:
    """Tell whether nodes of a value's own compute it at run time: all but constants and numbers from the batch."""
    return value is None or (value.depends != Depends.NOTHING and _numbers(value, batches) is None)


def _numbers(value: Value, batches: tuple[int, int]) -> Sizes | None:
    """Return a row of whole numbers that each lie on a line over the batch; None if a value is anything else."""
    first, second = value.seen
    if value.depends != Depends.BATCH or not isinstance(first, Tensor) or first.dtype.is_floating_point:
        return None
    if first.dim() > 1 or first.shape != second.shape:
        return None
    try:
        return Sizes.through(batches, (first.reshape(-1).tolist(), second.reshape(-1).tolist()))
    except Obstacle:
        return None


def _original(
    weights: dict[str, Array], protos: dict[str, onnx.TensorProto], name: str, value: Value, types: dict[str, int]
) -> Array:
    """Return a constant in the file's own type; the builder computes all floats in one."""
    if name in weights:
        return weights[name]
    if name in protos:
        array: Array = numpy_helper.to_array(protos[name])
        return array
    array = value.seen[0].numpy()
    kind = types.get(name) or value.elem_type
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind and kind != 8 else array


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the element types that follow from the operators, where they do."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare)
    except Exception:  # noqa: BLE001 - the types are then as the builder has them
        return {}
    return {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
