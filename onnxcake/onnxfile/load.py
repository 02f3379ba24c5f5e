"""Load a teacher's file as a checked ModelProto, its weights beside it, and its digest."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from ..core.errors import BadTeacherFile, TeacherError, UnsupportedTeacher
from ..core.files import canonical, sha256
from ..core.remedies import SMALLER, SOUND
from ..core.text import first_line, shown
from .check import check
from .constants import has_nan, lift_constants
from .external import MOST_DIMENSIONS, read_external, size_outside
from .reading import not_onnx, read_regular
from .topological_order import sort_nodes
from .walk import graphs, nodes, tensors

LIMIT_WEIGHTS = 16 << 30
LIMIT_NODES = 200_000
LIMIT_METADATA = 1000  # entries; nobody reads further ones
_LIMIT_SPARSE = 1 << 30  # numbers
_LARGE = 1024  # bytes from which an initialiser is kept beside the proto

_NATIVE = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
    TensorProto.INT64,
}


@dataclass(frozen=True)
class TeacherFile:
    """Hold what was read of a teacher's file.

    Attributes:
        proto: the model; the data of its large weights taken out (see `weights`).
        weights: those, by the name of the initialiser, which stays in the proto without its data.
        digest: sha256 of the file, and of its external files if it has any.
        size_bytes: all of them together.
        name: the file's, for messages.
    """

    proto: onnx.ModelProto
    weights: dict[str, np.ndarray[Any, Any]]
    digest: str
    size_bytes: int
    name: str


def load(path: Path) -> TeacherFile:
    """Read and check a ``.onnx`` file and the external files that it keeps weights in.

    Raises:
        BadTeacherFile: if it is missing, unreadable, not a regular file, not ONNX, truncated, not well-formed, or has
            external data outside its folder.
        UnsupportedTeacher: if it is too new, or too large.
    """
    return _checked(read_regular(path), path.name, path)


def load_bytes(content: bytes, name: str) -> TeacherFile:
    """Check a model that is at hand as bytes.

    Args:
        name: for messages.

    Raises:
        as `load`, and BadTeacherFile if it keeps weights elsewhere.
    """
    return _checked(content, name, None)


def _checked(content: bytes, name: str, path: Path | None) -> TeacherFile:
    size, digest = len(content), sha256(content)
    proto = _parsed(content, name)
    del content
    for model_part in (*proto.opset_import, *nodes(proto)):
        if model_part.domain == "ai.onnx":  # the default domain spelled out, which the checker does not know
            model_part.domain = ""
    if not any(not o.domain for o in proto.opset_import) and proto.ir_version < 3:
        proto.opset_import.append(onnx.helper.make_opsetid("", 1))
    if path is None and any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors(proto)):
        raise BadTeacherFile("it keeps weights in other files", where=name, remedy="Save it as one file.")
    outside = {} if path is None else read_external(tensors(proto), path, LIMIT_WEIGHTS)
    if outside:
        size += sum(part.bytes for part in outside.values())
        digest = sha256(canonical([digest, {location: part.digest for location, part in sorted(outside.items())}]))
    _check_sparse(proto, name)
    sort_nodes(proto, name)
    weights = _take_weights(proto, name)
    check(proto, weights, name)
    lift_constants(proto, name)
    weights |= _take_weights(proto, name, but=weights)
    return TeacherFile(proto, weights, digest, size, name)


def measure(path: Path) -> tuple[int, int, bool]:
    """Count the bytes that a model keeps in external files and its nodes, and tell whether there are loops among them.

    Counts are 0 where the file cannot be read; `load` says why.

    As far as can be read; what is wrong, `load` says.
    """
    try:
        proto = _parsed(read_regular(path), path.name)
        kinds = [node.op_type for node in nodes(proto)]
        return size_outside(tensors(proto), path), len(kinds), bool({"Loop", "Scan"} & set(kinds))
    except TeacherError:
        return 0, 0, False


def _parsed(content: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise BadTeacherFile(
                "its sub-graphs lie deeper in one another than protobuf reads", where=name, remedy=SMALLER
            ) from error
        raise not_onnx(name, content) from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise not_onnx(name, content)
    if not proto.graph.node:
        raise BadTeacherFile("the model holds no operators", where=name, remedy=SOUND)
    _check_size(proto, name)
    _check_text(proto, name)
    return proto


def _check_size(proto: onnx.ModelProto, name: str) -> None:
    count = sum(1 for _ in islice(nodes(proto), LIMIT_NODES + 1))
    if count > LIMIT_NODES:
        raise UnsupportedTeacher(
            f"it holds more than {LIMIT_NODES:,} operators", where=name, remedy="Give a smaller teacher."
        )


def _check_text(proto: onnx.ModelProto, name: str) -> None:
    """Refuse strings that are not UTF-8: protobuf returns such fields as bytes, which no caller expects."""
    if any(isinstance(text, bytes) for text in _texts(proto)):
        raise BadTeacherFile(
            "it holds a name that is not text (UTF-8)",
            where=name,
            remedy=SOUND,
        )


def _texts(proto: onnx.ModelProto) -> Iterator[str]:
    yield from (proto.producer_name, proto.producer_version)
    yield from (opset.domain for opset in proto.opset_import)
    yield from (text for entry in proto.metadata_props[:LIMIT_METADATA] for text in (entry.key, entry.value))
    for function in proto.functions:
        yield from (function.domain, function.name, *function.input, *function.output, *function.attribute)
        yield from (attribute.name for attribute in function.attribute_proto)
    for graph in graphs(proto):
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
        yield from (dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim)
    for node in nodes(proto):
        yield from (node.domain, node.op_type, node.name, *node.input, *node.output)
        yield from (text for attribute in node.attribute for text in (attribute.name, attribute.ref_attr_name))
    for tensor in tensors(proto):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _check_sparse(proto: onnx.ModelProto, name: str) -> None:
    """Refuse sparse tensors that are too large when dense: few numbers in a file may stand for any number of zeros."""
    stored = ((sparse, sparse.values.name) for graph in graphs(proto) for sparse in graph.sparse_initializer)
    given = (
        (sparse, node.name)
        for node in nodes(proto)
        for attribute in node.attribute
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors)
    )
    for sparse, of in chain(stored, given):
        # Their number first: multiplying a million large sizes takes minutes.
        if len(sparse.dims) > MOST_DIMENSIONS or math.prod(sparse.dims) > _LIMIT_SPARSE:
            raise UnsupportedTeacher(
                f"the sparse tensor of {shown(of)}, written out, is more than {_LIMIT_SPARSE >> 28} GiB",
                where=name,
                remedy="Give a smaller teacher, or check the shapes in the file.",
            )


def _take_weights(proto: onnx.ModelProto, name: str, but: Container[str] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Move the data of large initialisers out of the proto; refuse NaN in any of them.

    Args:
        but: names of the initialisers that were checked before.
    """
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in proto.graph.initializer:
        if tensor.name in but:
            continue
        try:
            array = numpy_helper.to_array(tensor) if tensor.data_type != TensorProto.STRING else None
        except Exception as error:
            raise BadTeacherFile(
                f"the weight {shown(tensor.name)} does not hold what its shape says ({first_line(error)})",
                where=name,
                remedy=SOUND,
            ) from error
        if array is None:
            continue
        if has_nan(array):
            raise BadTeacherFile(
                f"the weight {shown(tensor.name)} holds NaN", where=name, remedy="Ask its vendor for a sound file."
            )
        if array.nbytes >= _LARGE and tensor.data_type in _NATIVE:
            weights[tensor.name] = array
            for part in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(part)
    return weights
