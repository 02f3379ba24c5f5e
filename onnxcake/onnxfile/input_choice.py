"""Hold the user's choices about a model, and find the input to optimise and the inputs to hold constant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from ..core.errors import UnsupportedTeacher, UsageError
from ..core.text import did_you_mean, shown
from .choose_value import compared, hold_option, needed_after, suggested
from .held_inputs import LIMIT_VALUES, Held, free_prefix, held_array, sizes_of
from .held_inputs import held_nodes as nodes_of
from .infer import file_inputs, inferred
from .open_sizes import OpenSizes, described, examples, open_ones, say_shape
from .tensors import type_name
from .walk import read_by

_SIZES = "Say the sizes, batch included, with --shape: as many numbers as the value has sizes."
_LIMIT_INPUT = LIMIT_VALUES  # sixteen of them, with their gradients, are looked at


@dataclass(frozen=True)
class GraphChoice:
    """Hold the user's choices about a model.

    Attributes:
        input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name.
        shapes: the sizes of inputs by name, batch included, where the file leaves sizes open.
    """

    input: str | None = None
    output: str | None = None
    shape: tuple[int, ...] | None = None
    constants: Mapping[str, Held] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ChosenInput:
    """Describe the chosen input: name, element type, shape without the batch, and the batch if the file fixes it.

    Attributes:
        axes: what the file calls its open sizes, batch included: "" where it does not name one, None where it fixes it.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    batch: int | None
    axes: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, proto: onnx.ModelProto, choice: GraphChoice, file: str) -> ChosenInput:
        value = _find_input(proto, choice, file)
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") and value.type.WhichOneof("value"):
            kind = value.type.WhichOneof("value")
            raise UnsupportedTeacher(
                f"input {shown(value.name)} is a {kind}, not a tensor",
                where=file,
                remedy="Choose a tensor further inside with --input NAME; without one, the file cannot be a teacher.",
            )
        kind = tensor.elem_type or TensorProto.FLOAT
        if kind in (TensorProto.STRING, TensorProto.BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            raise UnsupportedTeacher(
                f"input {shown(value.name)} is {type_name(kind)}, which has no gradient",
                where=file,
                remedy="Choose a float tensor further inside with --input NAME.",
            )
        # Some exporters write 0 or -1 for a size that is open.
        dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
        known = dims if tensor.HasField("shape") else None
        names = [d.dim_param for d in tensor.shape.dim]
        if known is not None and any(choice.shapes):
            bound = _bound(proto, choice)
            open_axes = [axis > 0 and d is None for axis, d in enumerate(dims)]
            known = [bound.get(n) if o else d for o, d, n in zip(open_axes, dims, names, strict=True)]
        batch, shape = _shape(value.name, known, choice.shape or choice.shapes.get(value.name), names, file)
        axes = [None if d else n for d, n in zip(dims, names, strict=True)] or [""] * (1 + len(shape))
        _check_size(value.name, (batch or 1, *shape), file)
        return cls(value.name, kind, shape, batch, tuple(axes))


def _bound(proto: onnx.ModelProto, choice: GraphChoice) -> dict[str, int]:
    """Collect the sizes that the user gives for other inputs, by the file's names of the axes."""
    dims = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    said = [pair for name, shape in choice.shapes.items() for pair in zip(dims.get(name, ()), shape, strict=False)]
    return {dim.dim_param: size for dim, size in said if dim.dim_param}


def _check_size(name: str, shape: Iterable[int], file: str) -> None:
    size = math.prod(shape)
    if size > _LIMIT_INPUT:
        raise UnsupportedTeacher(
            f"input {shown(name)} holds {size:,} numbers (allowed: {_LIMIT_INPUT:,})",
            where=file,
            remedy="Give a smaller teacher, or check the shapes in the file.",
        )


def _shape(
    name: str, dims: list[int | None] | None, asked: tuple[int, ...] | None, params: list[str], file: str
) -> tuple[int | None, tuple[int, ...]]:
    """Return the batch that the file fixes, or None, and one input's shape."""
    if asked is not None:
        fits = dims is None or (
            len(asked) == len(dims) and all(d in (None, a) for a, d in zip(asked[1:], dims[1:], strict=True))
        )
        if not fits or len(asked) < 2 or min(asked) < 1:
            said = described(dims, params) if dims else "at least 2 sizes"
            raise UsageError(
                f"--shape {','.join(map(str, asked))} does not fit input {shown(name)} ({said})",
                where=file,
                remedy=say_shape(examples(dims)[0]) if dims else _SIZES,
            )
        return dims[0] if dims else None, tuple(asked[1:])
    if dims is None:
        raise UnsupportedTeacher(f"the shape of input {shown(name)} is not known", where=file, remedy=_SIZES)
    if len(dims) < 2:
        raise UnsupportedTeacher(
            f"input {shown(name)} has {len(dims)} dimension(s), and a batch of inputs needs at least 2",
            where=file,
            remedy="Choose a value with a batch dimension further inside with --input NAME.",
        )
    if None in dims[1:]:
        raise OpenSizes(
            f"input {shown(name)} has the shape {described(dims, params)}; all but the batch must be known "
            f"(open: {open_ones(dims, params)})",
            where=file,
            examples=examples(dims),
        )
    return dims[0], tuple(d for d in dims[1:] if d is not None)


def _find_input(proto: onnx.ModelProto, choice: GraphChoice, file: str) -> onnx.ValueInfoProto:
    inputs = file_inputs(proto)
    name = choice.input or ""
    if name in inputs:
        return inputs[name]
    inner = {name for node in proto.graph.node for name in node.output if name}
    check_known(name, {*inner, *inputs}, "value", file)
    return inferred(proto).get(name) or onnx.ValueInfoProto(name=name)


def check_known(name: str, names: Iterable[str], what: str, file: str) -> None:
    if name not in names:
        raise UsageError(
            f"no {what} is called {shown(name)}{did_you_mean(name, names)}",
            where=file,
            remedy="`onnxcake inspect` lists inputs and outputs.",
        )


def held_nodes(
    proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], source: ChosenInput, choice: GraphChoice, file: str
) -> list[onnx.NodeProto]:
    """Build the nodes that make the other inputs, held at the values of ``choice.constants``."""
    weights = {weight.name for weight in proto.graph.initializer}
    used = {name for node in nodes for name in read_by(node)}
    others = [v for v in proto.graph.input if v.name in used - weights - {source.name}]
    outputs = [choice.output] if choice.output is not None else [value.name for value in proto.graph.output]
    needed = needed_after(nodes, source.name, outputs)
    sized = {value.name: value.name in needed for value in others}  # of the rest the sizes alone are asked for
    missing = [value for value in others if value.name not in choice.constants and sized[value.name]]
    if missing:
        known = compared(proto)
        raise UnsupportedTeacher(
            f"it also needs {', '.join(shown(value.name) for value in missing[:10])}",
            where=file,
            remedy="Hold what else it needs constant, for example "
            + " ".join(hold_option(value.name, suggested(value, known)) for value in missing[:10])
            + ".",
        )
    taken = {name for node in proto.graph.node for name in node.output}
    made: list[onnx.NodeProto] = []
    for value in others:
        held = choice.constants.get(value.name, 0)
        sizes = sizes_of(value, choice.shapes.get(value.name), source.axes, source.shape, held, file)
        array = held_array(value, sizes, held, file)
        made += nodes_of(value, array, sizes, source.name, free_prefix(value.name, taken))
    return made
