"""Inline a model's functions, and take its operators out of training mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx
import onnx.inliner

from ..core.errors import BadTeacherFile, UnsupportedTeacher
from ..core.remedies import SOUND
from ..core.text import first_line, shown
from .constants import lift_constants
from .load import LIMIT_NODES, TeacherFile
from .walk import graphs, nodes


def inlined(file: TeacherFile) -> onnx.ModelProto:
    """Inline the model's own functions in place of their calls.

    Raises:
        BadTeacherFile: if functions call themselves.
        UnsupportedTeacher: if the model becomes too large.
    """
    proto = file.proto
    if not proto.functions:
        return proto
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(listed: Iterable[onnx.NodeProto], path: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in listed:
            key = (node.domain, node.op_type)
            if key in path or len(path) > 50:
                raise BadTeacherFile(f"its function {shown(key[1])} calls itself", where=file.name, remedy=SOUND)
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, (*path, key))
            total += sizes.get(key, 1)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    total += size(inner.node, path)
        return total

    if (count := size(proto.graph.node, ())) > LIMIT_NODES:
        raise UnsupportedTeacher(
            f"its functions, written out, are {count:,} operators (allowed: {LIMIT_NODES:,})",
            where=file.name,
            remedy="Give a smaller teacher.",
        )
    for node in nodes(proto):  # the inliner forgets the defaults of a function's attributes
        if (function := functions.get((node.domain, node.op_type))) is not None:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
    try:
        proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        raise BadTeacherFile(
            f"its functions cannot be written out: {first_line(error)}", where=file.name, remedy=SOUND
        ) from error
    lift_constants(proto, file.name, shared=True)
    return proto


def in_evaluation_mode(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Take Dropout and BatchNormalization out of training mode, in which some exporters leave them; say which."""
    read = {name for node in nodes(proto) for name in node.input} | {
        value.name for graph in graphs(proto) for value in graph.output
    }
    version = max((o.version for o in proto.opset_import if not o.domain), default=0)
    changed: Counter[str] = Counter()
    for node in nodes(proto):
        if node.domain or node.op_type not in ("Dropout", "BatchNormalization"):
            continue
        dropout = node.op_type == "Dropout"
        modes = [a for a in node.attribute if a.name == "training_mode" and a.i]
        if version < 7 and not any(a.name == "is_test" and a.i for a in node.attribute):
            modes = [*modes, node.attribute.add(name="is_test", type=onnx.AttributeProto.INT)]
            modes[-1].i = 1
        elif dropout and len(node.input) > 2:
            del node.input[2:]
        elif not dropout and (modes or len(node.output) > 1) and not read.intersection(node.output[1:]):
            for mode in modes:
                mode.i = 0
            del node.output[1:]
        else:
            continue
        changed[node.op_type] += 1
    return tuple(f"{count} × {kind} in training mode, used as in evaluation" for kind, count in changed.items())
