"""Keep the part of a file that stands before the chosen value in front of the student.

An application that fed the teacher feeds the student: the file's own inputs, under their names, of their types, in
their order. What was made of them before the chosen value (an embedding, columns side by side) is made again, by the
same nodes and weights; inputs that were held are taken and not looked at, and may be left out.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ..core.errors import OnnxcakeError, UnsupportedTeacher
from ..core.rng import Key
from ..core.text import shown
from .export import clean
from .held_inputs import BATCH, Held, held_array, sizes_of
from .infer import file_inputs
from .input_choice import ChosenInput, GraphChoice
from .load import TeacherFile
from .lookup_tables import Values, values_of_inputs
from .reading import LIMIT_BYTES
from .walk import graphs, nodes, reaching, read_by

Array = np.ndarray[Any, Any]
IR_OF_DEFAULTS = 4  # from which on an input may have a value of its own


class CannotJoin(OnnxcakeError):
    """Student that cannot be joined to a file's front, as their operators are of versions that differ."""


@dataclass(frozen=True)
class FileInput:
    """Describe an input of the file.

    Attributes:
        name, type: as in the file; the type is ONNX's number.
        dims: as the file states them, batch included; None where open.
        sizes: `BATCH` (None) where an axis follows the batch; None as a whole where they are not known.
        held: what it is held at, 1 where an axis follows the batch; None if it is not held.
        needed: whether the front reads it.
        values: which values it takes, as far as the file shows.
    """

    name: str
    type: int
    dims: tuple[int | None, ...]
    sizes: tuple[int | None, ...] | None
    held: Array | None
    needed: bool
    values: Values

    def rows(self, count: int, key: Key, still: bool = False) -> Array:
        """Draw random values for a batch of ``count``; repeat a held input's own values.

        Args:
            still: make floats zeros.
        """
        shape = tuple(count if size is BATCH else size for size in self.sizes or ())
        if self.held is not None:
            return np.broadcast_to(self.held, shape).copy()
        draw = key.at(self.name).generator()
        text = self.type == TensorProto.STRING
        dtype = np.dtype(str) if text else helper.tensor_dtype_to_np_dtype(self.type)
        if not text and dtype.kind not in "iub":
            numbers = torch.zeros(shape) if still else torch.randn(shape, generator=draw)
            return numbers.numpy().astype(dtype)
        choices = np.array(self.values.choices or (["a", "b"] if text else range(self.values.limit or 2)))
        rows: Array = choices[torch.randint(len(choices), shape, generator=draw).numpy()].astype(dtype)
        return rows


@dataclass(frozen=True)
class Front:
    """Hold the part of a file before the chosen value.

    Attributes:
        model: all of the file's inputs, the nodes that make ``value`` (none, if it is an input itself), and their
            weights, without the data of the large ones, which are in ``weights``.
        value: the chosen value, by its name in the file.
        inputs: what the file takes, in its order.
    """

    model: onnx.ModelProto = field(repr=False)
    weights: dict[str, Array] = field(repr=False)
    value: str
    inputs: tuple[FileInput, ...]

    @classmethod
    def of(cls, file: TeacherFile, proto: onnx.ModelProto, source: ChosenInput, choice: GraphChoice) -> Front | None:
        """Cut off a file's front at a chosen value; return None where the file takes that value and nothing else."""
        inputs = file_inputs(proto)
        if list(inputs) == [source.name]:
            return None
        made = reaching(proto.graph.node, source.name) if source.name not in inputs else []
        used = {name for node in made for name in read_by(node)} | {source.name}
        model = onnx.ModelProto(ir_version=max(proto.ir_version, IR_OF_DEFAULTS))
        domains = {node.domain for node in (*made, *(inner for node in made for inner in _inside(node)))} | {""}
        model.opset_import.extend(one for one in proto.opset_import if one.domain in domains)
        graph = model.graph
        graph.name = "student"
        graph.input.extend(inputs.values())
        graph.node.extend(made)
        graph.initializer.extend(w for w in proto.graph.initializer if w.name in used)
        graph.sparse_initializer.extend(w for w in proto.graph.sparse_initializer if w.values.name in used)
        graph.output.append(onnx.ValueInfoProto(name=source.name))
        weights = {name: file.weights[name] for name in used if name in file.weights}
        seen = values_of_inputs(proto, inputs)
        return cls(
            clean(model),
            weights,
            source.name,
            tuple(
                _describe_input(value, source, choice, value.name in used, seen[value.name])
                for value in inputs.values()
            ),
        )

    @property
    def is_part(self) -> bool:
        """Tell whether nodes stand before the chosen value."""
        return bool(self.model.graph.node)

    @property
    def axes(self) -> dict[str, int]:
        """Return the batch axis of each input that has one."""
        return {one.name: one.sizes.index(BATCH) for one in self.inputs if one.sizes and BATCH in one.sizes}

    def content(self) -> bytes:
        """Serialise the front as a model by itself, its weights in it: the file's inputs → the chosen value.

        Inputs that it does not read have the values that they are held at, so that they may be left out.

        Raises:
            UnsupportedTeacher: if it is larger than one file can be.
        """
        if sum(weight.nbytes for weight in self.weights.values()) > LIMIT_BYTES:
            raise UnsupportedTeacher(
                f"the part before {shown(self.value)} is larger than one ONNX file can be ({LIMIT_BYTES >> 30} GiB)",
                remedy="Choose a value before its large weights with --input NAME.",
            )
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in self.weights:
                tensor.raw_data = self.weights[tensor.name].tobytes()
        for one in self.inputs:
            if not one.needed and one.held is not None:
                model.graph.initializer.append(numpy_helper.from_array(one.held, one.name))
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def rows(self, count: int, key: Key, still: bool = False, held: bool = False) -> dict[str, Array] | None:
        """Draw random values for the inputs that the front reads; None where their sizes are not known.

        Args:
            still: make floats zeros.
            held: include the other inputs, at the values that they are held at.
        """
        needed = [one for one in self.inputs if one.needed or (held and one.held is not None)]
        if any(one.sizes is None for one in needed):
            return None
        return {one.name: one.rows(count, key, still) for one in needed}


def joined(front: bytes, student: bytes) -> bytes:
    """Join a front (`Front.content`) and a student that takes the chosen value to a model that takes the file's inputs.

    Raises:
        CannotJoin: if the two are of opsets between which their operators differ.
    """
    model, rest = onnx.ModelProto.FromString(front), onnx.ModelProto.FromString(student)
    value = model.graph.output[0].name
    _align_opsets(model, rest)
    graph = model.graph
    _rename(rest, value, _names(model))
    model.ir_version = max(model.ir_version, rest.ir_version)
    known = {one.domain for one in model.opset_import}
    model.opset_import.extend(one for one in rest.opset_import if one.domain not in known)
    model.functions.extend(rest.functions)
    graph.node.extend(rest.graph.node)
    graph.initializer.extend(rest.graph.initializer)
    graph.sparse_initializer.extend(rest.graph.sparse_initializer)
    graph.ClearField("output")
    graph.output.extend(rest.graph.output)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _inside(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [
        one
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        for inner in graph.node
        for one in (inner, *_inside(inner))
    ]


def _describe_input(
    value: onnx.ValueInfoProto, source: ChosenInput, choice: GraphChoice, needed: bool, values: Values
) -> FileInput:
    held: Held = choice.constants.get(value.name, 0)
    kind, sizes, array = value.type.tensor_type.elem_type or TensorProto.FLOAT, None, None
    try:
        sizes = tuple(sizes_of(value, choice.shapes.get(value.name), source.axes, source.shape, held, ""))
        if not needed:
            array = held_array(value, sizes, held, "")
    except OnnxcakeError:  # a size that only the front knows of, or an input that nothing reads and no number is for
        pass
    if sizes and source.batch is not None and sizes[0] == source.batch and (needed or source.batch == 1):
        sizes = (BATCH, *sizes[1:])  # as many rows as are asked for, which are run in batches of that size
    dims = tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)
    return FileInput(value.name, kind, dims, sizes, array, needed, values)


def _names(model: onnx.ModelProto) -> set[str]:
    """Collect all names of values in a model."""
    names = {value.name for graph in graphs(model) for value in (*graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in nodes(model) for name in (*node.input, *node.output)}


def _rename(student: onnx.ModelProto, value: str, taken: set[str]) -> None:
    """Rename a student's input to ``value``, and its other values where their names are taken."""
    outputs = {one.name for one in student.graph.output}
    new = {student.graph.input[0].name: value}
    own = _names(student)
    used = taken | own
    for name in sorted(own & taken - set(new) - outputs - {""}):
        new[name] = next(free for n in itertools.count(1) if (free := f"{name}_{n}") not in used)
        used.add(new[name])
    for graph in graphs(student):
        sparse = [one.values for one in graph.sparse_initializer]
        for item in (*graph.input, *graph.output, *graph.initializer, *sparse):
            item.name = new.get(item.name, item.name)
    for node in nodes(student):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


def _align_opsets(front: onnx.ModelProto, student: onnx.ModelProto) -> None:
    """Bring a front and a student to the same opsets, in place.

    Most operators are the same in neighbouring opsets: the lower part is then only declared to be of the higher one.
    """
    of_front = {one.domain: one for one in front.opset_import}
    of_student = {one.domain: one for one in student.opset_import}
    for domain in of_front.keys() & of_student.keys():
        a, b = of_front[domain].version, of_student[domain].version
        for lower, higher in ((front, b), (student, a)) if a < b else ((student, a), (front, b)):
            if _same_operators(lower, domain, *sorted((a, b))):
                of_front[domain].version = of_student[domain].version = higher
                break
        else:
            if domain:
                raise CannotJoin(f"operators of {domain} {a} and {b} differ")
            _convert(front, student, min(a, b), max(a, b))


def _same_operators(part: onnx.ModelProto, domain: str, version: int, other: int) -> bool:
    """Tell whether a part's operators of a domain are the same in two opsets."""
    kinds = {node.op_type for node in nodes(part) if node.domain == domain}
    schemas: dict[str, set[int]] = defaultdict(set)
    for kind, at in itertools.product(kinds, (version, other)):
        try:
            schemas[kind].add(onnx.defs.get_schema(kind, at, domain).since_version)
        except Exception:  # noqa: BLE001 - onnx's own exception type: an operator that there is in neither or one
            schemas[kind].add(-at)
    return all(len(found) == 1 for found in schemas.values())


def _convert(front: onnx.ModelProto, student: onnx.ModelProto, low: int, high: int) -> None:
    """Convert the part of the lower opset to the higher one by onnx's converter."""
    lower = front if next(o.version for o in front.opset_import if not o.domain) == low else student
    try:
        made = onnx.version_converter.convert_version(lower, high)
    except Exception as error:
        raise CannotJoin(f"opset {low} cannot be brought to {high}") from error
    lower.CopyFrom(clean(made))
