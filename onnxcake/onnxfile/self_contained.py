"""A classifier as one plain model: what a student begins as, and is written as."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..core.arrays import Array
from ..core.errors import UnsupportedTeacher
from .constants import FLOATS
from .export import clean, named
from .inline import in_evaluation_mode, inlined
from .load import TeacherFile
from .reading import LIMIT_BYTES
from .walk import nodes, reaching, read_by

_LOW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def whole(file: TeacherFile) -> bytes:
    """A file as one model: functions written out, nothing in training mode, no texts of the host. Consumes ``file``.

    Weights that were kept outside are inside, and those that an exporter has made one because they were all ones or
    zeros are several again. What is whole stays as it is, to the bit.

    Raises:
        UnsupportedTeacher: if it is larger than one file can be.
    """
    if sum(weight.nbytes for weight in file.weights.values()) > LIMIT_BYTES:
        what = f"its weights are more than one ONNX file can hold ({LIMIT_BYTES >> 30} GiB)"
        raise UnsupportedTeacher(what, where=file.name, remedy="Give a smaller student.")
    proto = inlined(file)
    in_evaluation_mode(proto)
    for tensor in proto.graph.initializer:
        if tensor.name in file.weights:
            tensor.raw_data = file.weights[tensor.name].tobytes()
    _untie(proto)
    content: bytes = clean(proto).SerializeToString(deterministic=True)
    return content


def _untie(proto: onnx.ModelProto) -> None:
    """Gives each that reads an initialiser of equal numbers, such as a fresh normalisation's scale, one of its own."""
    taken = {tensor.name for tensor in proto.graph.initializer} | {
        name for node in nodes(proto) for name in node.output
    }
    even = {tensor.name: tensor for tensor in proto.graph.initializer if _is_even(tensor)}
    seen: set[str] = set()
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name in seen:
                own = next(free for n in itertools.count(2) if (free := f"{name}_{n}") not in taken)
                taken.add(own)
                copy = proto.graph.initializer.add()
                copy.CopyFrom(even[name])
                copy.name = node.input[place] = own
            elif name in even:
                seen.add(name)


def _is_even(tensor: TensorProto) -> bool:
    """Whether a tensor holds one float many times."""
    if tensor.data_type not in FLOATS or math.prod(tensor.dims) < 2:
        return False
    array = numpy_helper.to_array(tensor)
    return bool((array == array.flat[0]).all())


def ending_in(content: bytes, output: str) -> bytes:
    """A whole model with one output, a value of it, and all of its inputs."""
    proto = onnx.ModelProto.FromString(content)
    known = {value.name: value for value in proto.graph.output}
    kept = reaching(proto.graph.node, output)
    used = {name for node in kept for name in read_by(node)} | {output}
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    for field, items in (("node", kept), ("output", [known.get(output) or onnx.ValueInfoProto(name=output)])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        proto.graph.ClearField(field)
        getattr(proto.graph, field).extend(copies)
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(copies)
    result: bytes = proto.SerializeToString()
    return result


@dataclass(frozen=True)
class Ends:
    """What a student's file is to take and to give.

    Attributes:
        source, scores: what the model calls its input and the value that is to come out.
        input_name, output_name: what the two are to be called.
        squash: the operator that makes answers of the scores, such as Softmax; None if they are answers.
        shape: of one answer, without the batch; None if it is that of the scores, as they are.
    """

    source: str
    scores: str
    input_name: str
    output_name: str
    squash: str | None = None
    shape: tuple[int, ...] | None = None


def written(content: bytes, values: Mapping[str, Array], ends: Ends) -> bytes:
    """A whole model with other numbers in its initialisers, and other ends.

    Args:
        values: by initialiser; each is stored in the initialiser's own type.
    """
    proto = onnx.ModelProto.FromString(content)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(dtype), tensor.name))
    _end(proto, ends)
    result: bytes = named(proto, ends.input_name, ends.output_name).SerializeToString(deterministic=True)
    return result


def has_low_precision(content: bytes) -> bool:
    """Whether weights are stored in sixteen bits."""
    return any(tensor.data_type in _LOW for tensor in onnx.ModelProto.FromString(content).graph.initializer)


def _end(proto: onnx.ModelProto, ends: Ends) -> None:
    """Leaves one input and one output, and what lies between; adds what makes answers of the scores."""
    graph = proto.graph
    made = _answers(proto, ends)
    output = made[-1].output[0] if made else ends.scores
    described = _described(proto, ends, output)
    kept = [*reaching(graph.node, ends.scores, stop=ends.source), *made]
    used = {name for node in kept for name in read_by(node)}
    source = next(value for value in graph.input if value.name == ends.source)
    for field, items in (
        ("node", kept),
        ("input", [source]),
        ("output", [described]),
        ("initializer", [tensor for tensor in graph.initializer if tensor.name in used]),
        ("sparse_initializer", [tensor for tensor in graph.sparse_initializer if tensor.values.name in used]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _answers(proto: onnx.ModelProto, ends: Ends) -> list[onnx.NodeProto]:
    """Scores of any shape → rows → answers, of the shape that is asked for."""
    made: list[onnx.NodeProto] = []
    taken = {name for node in nodes(proto) for name in (*node.input, *node.output)}
    taken.update(tensor.name for tensor in proto.graph.initializer)
    free = (name for number in itertools.count() if (name := f"answer_{number}") not in taken)

    def add(kind: str, *more: str, **attributes: Any) -> None:
        source = made[-1].output[0] if made else ends.scores
        made.append(helper.make_node(kind, [source, *more], [next(free)], **attributes))

    if ends.shape is not None:
        add("Flatten", axis=1)
    if ends.squash is not None:
        add(ends.squash, **({} if ends.squash == "Sigmoid" else {"axis": 1}))
    if ends.shape is not None and len(ends.shape) != 1:
        shape = next(free)
        proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, *ends.shape], np.int64), shape))
        add("Reshape", shape)
    return made


def _described(proto: onnx.ModelProto, ends: Ends, output: str) -> onnx.ValueInfoProto:
    """The output as the file states it: that of the model, where it is one, else as can be inferred."""
    known = {value.name: value for value in proto.graph.output}
    if output in known:
        return known[output]
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    kind = types.get(ends.scores) or TensorProto.FLOAT
    first = proto.graph.input[[value.name for value in proto.graph.input].index(ends.source)].type.tensor_type
    dim = first.shape.dim[0]
    batch = dim.dim_value or None if dim.HasField("dim_value") else "batch"
    return helper.make_tensor_value_info(output, kind, [batch, *ends.shape] if ends.shape is not None else None)
