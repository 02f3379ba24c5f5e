"""Rewrite a classifier as one self-contained model: a student's initial model and its file's form."""

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
    """Rewrite a file as one model: functions inlined, no training mode, no texts of the host. Consumes ``file``.

    Weights that were kept outside are inside, and initialisers of equal ones or zeros that an exporter has merged are
    separate again. A file that is self-contained stays as it is, to the bit.

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
    """Give each reader of an initialiser of equal numbers, such as a fresh normalisation's scale, a copy of its own."""
    taken = {tensor.name for tensor in proto.graph.initializer} | {
        name for node in nodes(proto) for name in node.output
    }
    even = {tensor.name: tensor for tensor in proto.graph.initializer if _is_constant_fill(tensor)}
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


def _is_constant_fill(tensor: TensorProto) -> bool:
    """Tell whether a tensor holds one float many times."""
    if tensor.data_type not in FLOATS or math.prod(tensor.dims) < 2:
        return False
    array = numpy_helper.to_array(tensor)
    return bool((array == array.flat[0]).all())


def ending_in(content: bytes, output: str) -> bytes:
    """Cut a model to one output, which may be an inner value, and keep all of its inputs."""
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
    """Describe the input and output of a student's file.

    Attributes:
        source, scores: the model's names of its input and of the value to output.
        input_name, output_name: their names in the student's file.
        squash: the operator that computes answers from the scores, such as Softmax; None if the scores are answers.
        shape: of one answer, without the batch; None to keep that of the scores.
    """

    source: str
    scores: str
    input_name: str
    output_name: str
    squash: str | None = None
    shape: tuple[int, ...] | None = None


def written(content: bytes, values: Mapping[str, Array], ends: Ends) -> bytes:
    """Replace the numbers in a model's initialisers, and its input and output.

    Args:
        values: by initialiser; each is stored in the initialiser's own type.
    """
    proto = onnx.ModelProto.FromString(content)
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(dtype), tensor.name))
    _replace_ends(proto, ends)
    result: bytes = named(proto, ends.input_name, ends.output_name).SerializeToString(deterministic=True)
    return result


def has_low_precision(content: bytes) -> bool:
    """Tell whether weights are stored in sixteen bits."""
    return any(tensor.data_type in _LOW for tensor in onnx.ModelProto.FromString(content).graph.initializer)


def _replace_ends(proto: onnx.ModelProto, ends: Ends) -> None:
    """Keep one input, one output and what lies between; add the nodes that compute answers from the scores."""
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
    """Build the nodes that compute answers of the requested shape from scores of any shape."""
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
    """Describe the output: as the model declares it, else as inferred."""
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
