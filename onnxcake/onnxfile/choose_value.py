"""Choose the value to optimise where a file's own inputs are none: token ids, texts, one input for each column.

Such inputs have no gradient, or only a part of what a classifier looks at. Behind them lies, as a rule, one value of
numbers that everything goes through: the output of an embedding, the columns side by side. That is the value to choose.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ..core.errors import UnsupportedTeacher
from ..core.text import printable, shown
from .held_inputs import Held
from .infer import file_inputs, free_inputs, inferred
from .open_sizes import OpenSizes, examples
from .tensors import type_name
from .walk import reaching, read_by

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NO_GRADIENT = (TensorProto.STRING, TensorProto.BOOL, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_LONGEST = 200  # characters of a name in a message
_LISTED = 10  # options of one kind in a message
_SIZES = {"Shape", "Size"}
_WHOLE = (TensorProto.INT32, TensorProto.INT64)
_UNCHANGED = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Gather"}
# Operators that leave an index an index; a Cast counts if it makes whole numbers.
_PASS = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Concat", "Split"}
_ARITHMETIC = {"Add", "Sub", "Min", "Max", "Clip", "Mod", "Mul", "Where"}
# Operators that look a row up, with the inputs by which they do.
_LOOK_UP = {
    ("", "Gather"): (1,),
    ("", "GatherElements"): (1,),
    ("", "GatherND"): (1,),
    ("", "OneHot"): (0,),
    ("", "TfIdfVectorizer"): (0,),
    ("com.microsoft", "EmbedLayerNormalization"): (0, 1),
    **{("ai.onnx.ml", name): (0,) for name in ("OneHotEncoder", "LabelEncoder", "CategoryMapper", "DictVectorizer")},
}
_SIDE_BY_SIDE = {"Concat", "FeatureVectorizer"}
_SUMMED = {"ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "Scan", "CDist"}  # over features
# What has so much of a classifier's work in it that it must be the student's own.
_HEAVY = {
    *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "MatMul", "Gemm", "FusedMatMul", "FusedGemm"),
    *("MatMulInteger", "QLinearMatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "If"),
    *("Loop", "Scan", "LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor"),
    *("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"),
}


def choose(
    proto: onnx.ModelProto, held: Collection[str], outputs: Sequence[str], said: object, file: str
) -> tuple[str, tuple[str, ...]]:
    """Choose the value to optimise where the user names none: the file's one input, or the value behind its inputs.

    Args:
        held: the inputs that the user holds.
        outputs: the values that the scores are looked for in.
        said: what the user says of sizes, if anything.

    Returns:
        (its name; what to tell the user.)

    Raises:
        UnsupportedTeacher: if there is no such value, or it takes more than its name; with the options to give.
    """
    inputs = file_inputs(proto)
    free = [inputs[name] for name in free_inputs(proto, held, outputs)]
    if not free:
        raise UnsupportedTeacher(
            "0 inputs are left to choose from: all are held" if inputs else "it has 0 inputs",
            where=file,
            remedy="Leave one of them out of --hold: the one that is optimised."
            if inputs
            else "The file computes the same whatever it is asked: it cannot be a teacher.",
        )
    if len(free) == 1 and not (has_no_gradient(free[0]) or (is_id(free[0]) and is_index(proto, free[0].name))):
        return free[0].name, ()
    types = inferred(proto)
    known = compared(proto)
    found = proposal(reaching(proto.graph.node, *outputs), free, outputs, types, known)
    if found is None and len(free) == 1 and not has_no_gradient(free[0]):
        return free[0].name, ()  # what is in the way is for the conversion to say
    names = ", ".join(shown(value.name) for value in free[:10])
    what = f"{len(free)} inputs ({names}) where one is to be chosen"
    if len(free) == 1:
        kind = type_name(free[0].type.tensor_type.elem_type)
        what = f"input {names} is {kind}, which has no gradient"
    if found is None:
        raise UnsupportedTeacher(what, where=file, remedy=_example_options(free, known))
    tensor = types[found.value].type.tensor_type
    sizes = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    if tensor.HasField("shape") and not found.hold and (said or None not in sizes[1:]):
        behind = f"{names} {'is' if len(free) == 1 else 'are'} no numbers with a gradient"
        if any(not is_id(value) and not has_no_gradient(value) for value in free):
            behind = f"the inputs {names} are joined"
        return found.value, (f"{behind}: the value behind, {shown(found.value)}, is optimised",)
    options = "Choose the value behind, which all of it goes through: " + " ".join(
        [f"--input {_quoted(found.value)}", *(hold_option(name, value) for name, value in found.hold.items())]
    )
    if tensor.HasField("shape") and None not in sizes[1:]:
        raise UnsupportedTeacher(what, where=file, remedy=f"{options}.")
    ranks = (sizes,) if tensor.HasField("shape") else ((None,) * 3, (None,) * 2)
    likely = [shape for dims in ranks for shape in examples(dims)]
    raise OpenSizes(what, where=file, examples=likely, value=found.value, hold=found.hold, options=options)


def _example_options(free: Sequence[onnx.ValueInfoProto], known: Mapping[str, Held]) -> str:
    """Word the options that choose the first input of floats, and hold the others."""
    first = next((v for v in free if v.type.tensor_type.elem_type in FLOATS and not is_switch(v)), None)
    if first is None:
        return (
            "Choose a value of floats further inside with --input NAME, and hold with --hold NAME=VALUE what is left."
        )
    held = [hold_option(v.name, suggested(v, known)) for v in free if v is not first]
    more = " and so on" if len(held) > _LISTED else ""
    options = " ".join([f"--input {_quoted(first.name)}", *held[:_LISTED]])
    return f"Choose one of them, and hold the others, for example: {options}{more}."


def hold_option(name: str, value: Held) -> str:
    """Format the option that holds an input, quoted for a shell."""
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, int | float) else "FILE"
    return f"--hold {_quoted(f'{name}={text}')}"


def _quoted(name: str) -> str:
    """Quote a name of the file for a shell; one that nobody could type is cut."""
    return shlex.quote(printable(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"))


@dataclass(frozen=True)
class Proposal:
    """Propose a value to choose as the input.

    Attributes:
        value: its name.
        hold: what the inputs that it does not stand for would have to be held at.
    """

    value: str
    hold: dict[str, Held]


def is_index(proto: onnx.ModelProto, name: str) -> bool:
    """Tell whether an input of whole numbers indexes the rows of a table."""
    return bool(_look_ups(proto.graph.node, [name]))


def _look_ups(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> set[str]:
    """Find the values that are looked up by the given inputs."""
    indices, found = set(names), set()
    for node in nodes:
        places = [place for place, name in enumerate(node.input) if name in indices]
        if not places:
            continue
        if set(places) & set(_LOOK_UP.get((node.domain, node.op_type), ())):
            found.add(node.output[0])
        elif leaves_an_index(node, places):
            indices.update(node.output)
    return found


def leaves_an_index(node: onnx.NodeProto, places: Sequence[int]) -> bool:
    """Tell whether an operator's outputs still are indices if its inputs at ``places`` are."""
    if node.op_type == "Gather" and not node.domain:
        return 0 in places
    if node.op_type == "Cast" and not node.domain:
        return next((a.i for a in node.attribute if a.name == "to"), 0) not in FLOATS
    return not node.domain and node.op_type in _PASS | _ARITHMETIC


def proposal(
    nodes: Sequence[onnx.NodeProto],
    free: Sequence[onnx.ValueInfoProto],
    outputs: Collection[str],
    types: dict[str, onnx.ValueInfoProto],
    known: Mapping[str, Held],
) -> Proposal | None:
    """Find the first value of floats that all paths from the inputs go through; None where there is none.

    First the inputs themselves are followed; if nothing but the classifier's own work joins them, what is looked up
    by ids alone (and inputs of floats), so that masks and lengths would be held.

    Args:
        nodes: those that the outputs depend on, in order.
        free: the inputs that are not held.
        types: what is known of each value.
        known: what `compared` gives.
    """
    ids = [value.name for value in free if is_id(value)]
    looked_up = _look_ups(nodes, ids)
    data = {value.name for value in free if not is_switch(value) and not _is_mask(value)}
    floats = {value.name for value in free if value.name in data and value.type.tensor_type.elem_type in FLOATS}
    if len(data) == 1 and floats:
        (only,) = floats
        return Proposal(only, {one.name: suggested(one, known) for one in free if one.name != only})
    attempts = [(data, set[str]()), (floats, looked_up)] if looked_up else [(data, set[str]())]
    for sources, seeds in attempts:
        value = _first_cut(nodes, sources, seeds, outputs, types)
        if value is not None and not (len(floats) > 1 and _is_computed(nodes, value, floats)):
            needed = needed_after(nodes, value, outputs)
            return Proposal(value, {one.name: suggested(one, known) for one in free if one.name in needed})
    return None


def _is_computed(nodes: Sequence[onnx.NodeProto], value: str, floats: set[str]) -> bool:
    """Tell whether inputs of floats are combined otherwise than by concatenation: each may be the one to choose."""
    made_of = {name: {name} for name in floats}
    for node in reaching(nodes, value):
        parts = [made_of[name] for name in read_by(node) if name in made_of]
        if len(parts) > 1 and len(set().union(*parts)) > 1 and node.op_type not in _SIDE_BY_SIDE:
            return True
        if parts:
            made_of.update((name, set().union(*parts)) for name in node.output)
    return False


def _is_mask(value: onnx.ValueInfoProto) -> bool:
    return "mask" in value.name.lower()


def is_id(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input's values may be ids: whole numbers, or texts."""
    kind = value.type.tensor_type.elem_type
    return kind not in FLOATS and kind not in (TensorProto.UNDEFINED, TensorProto.BOOL)


def is_switch(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input is a single number or truth value for all of a batch."""
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and not len(tensor.shape.dim)


def has_no_gradient(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input is of a type that has no gradient."""
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in _NO_GRADIENT


def suggested(value: onnx.ValueInfoProto, known: Mapping[str, Held]) -> Held:
    """Suggest a value to hold an input at: what it is compared with, 1 for masks and whole numbers, else 0.

    Args:
        known: what `compared` gives.
    """
    kind = value.type.tensor_type.elem_type
    if is_switch(value) and value.name in known:
        return known[value.name]
    if _is_mask(value):
        return True if kind == TensorProto.BOOL else 1
    if kind == TensorProto.BOOL:
        return False
    return 0 if kind in FLOATS or is_switch(value) else 1


def compared(proto: onnx.ModelProto) -> dict[str, Held]:
    """Find the inputs that are compared with a whole number, as a sampling rate is with 16000, and the number."""
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    source = {value.name: value.name for value in graph.input if value.name not in tensors}
    found: dict[str, Held] = {}
    for node in graph.node:
        read = next((name for name in node.input if name in source), None)
        if read is None or node.domain:
            continue
        if node.op_type in _UNCHANGED:
            source.update((name, source[read]) for name in node.output)
        elif node.op_type == "Equal":
            other = tensors.get(next((name for name in node.input if name != read), ""))
            if other is not None and other.data_type in _WHOLE and math.prod(other.dims) == 1:
                found.setdefault(source[read], int(onnx.numpy_helper.to_array(other).item()))
    return found


def needed_after(nodes: Sequence[onnx.NodeProto], value: str, outputs: Collection[str]) -> set[str]:
    """Find the names that ``outputs`` depend on besides ``value``, for more than their sizes."""
    wanted = set(outputs) - {value}
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(read_by(node) - {value} if node.op_type not in _SIZES or node.domain else ())
    return wanted


def _first_cut(
    nodes: Sequence[onnx.NodeProto],
    sources: set[str],
    seeds: set[str],
    outputs: Collection[str],
    types: dict[str, onnx.ValueInfoProto],
) -> str | None:
    """Find the first value of floats that separates ``sources`` and ``seeds`` from the outputs."""
    reads = [set() if node.op_type in _SIZES and not node.domain else read_by(node) for node in nodes]
    readers = Counter(name for names in reads for name in names)
    readers.update(outputs)
    live = {name for name in sources if readers[name]}
    pending = len(seeds)
    for node, names in zip(nodes, reads, strict=True):
        made = set(node.output) & seeds
        pending -= len(made)
        depends = bool(names & live) or bool(made)
        if depends and node.op_type in _HEAVY:
            return None
        readers.subtract(names)
        if depends:
            live.update(name for name in node.output if name)
        live = {name for name in live if readers[name] > 0}
        if depends and not pending and len(live) == 1 and live <= set(node.output) and _is_float(types, *live):
            (value,) = live
            return value if _has_work_behind(nodes, value, outputs) else None
    return None


def _is_float(types: dict[str, onnx.ValueInfoProto], name: str) -> bool:
    value = types.get(name)
    return value is not None and value.type.tensor_type.elem_type in FLOATS


def _has_work_behind(nodes: Sequence[onnx.NodeProto], value: str, outputs: Collection[str]) -> bool:
    """Tell whether some of the classifier's computation lies behind a value.

    Behind concatenated columns, sums over features count, too: naive Bayes has no other.
    """
    joins = any(value in node.output and node.op_type in _SIDE_BY_SIDE for node in nodes)
    works = _HEAVY | _SUMMED if joins else _HEAVY
    return any(node.op_type in works for node in reaching(nodes, *outputs, stop=value))
