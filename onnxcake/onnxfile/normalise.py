"""Normalise a checked ModelProto: safe names, functions inlined, one input."""

from __future__ import annotations

from dataclasses import replace

import onnx

from ..core.errors import BadTeacherFile, UsageError
from ..core.text import shown
from .choose_value import choose
from .dequantise_rows import dequantise_rows_early
from .front import Front
from .inline import in_evaluation_mode, inlined
from .input_choice import ChosenInput, GraphChoice, check_known, held_nodes
from .linear_classifiers import write_out_linear
from .load import TeacherFile
from .rename import Renamer, SafeGraph
from .walk import reaching

_SCORES = "Name the value that holds its class scores (logits or probabilities) with --output NAME."
_ALL = GraphChoice()


def normalise(file: TeacherFile, choice: GraphChoice = _ALL) -> SafeGraph:
    """Inline functions, choose the input, cut what lies before it, rename everything. Consumes ``file.proto``.

    Raises:
        UnsupportedTeacher: if there is no single numeric input of known shape, or no output that a node makes.
        BadTeacherFile: if functions call themselves.
        UsageError: for a name or shape in ``choice`` that the file does not have.
    """
    proto = inlined(file)
    write_out_linear(proto)
    dequantise_rows_early(proto)
    graph = proto.graph
    for name in (*choice.constants, *choice.shapes):
        check_known(name, {v.name for v in graph.input} | {choice.input or ""}, "input", file.name)
    if choice.input in choice.constants:
        raise UsageError(
            f"{shown(choice.input or '')} is the input to optimise and is to be held, too",
            where=file.name,
            remedy="Leave it out of --hold, or choose another value with --input.",
        )
    _forget_defaults(file, proto, choice)
    nodes = list(graph.node)
    wanted = [choice.output] if choice.output is not None else [value.name for value in graph.output]
    if not wanted:
        raise BadTeacherFile("it has no outputs", where=file.name, remedy=_SCORES)
    if choice.output is not None:
        made = {name for node in nodes for name in node.output} | {o.name for o in graph.output}
        check_known(choice.output, made, "value", file.name)
    told: tuple[str, ...] = ()
    if choice.input is None:
        chosen, told = choose(proto, choice.constants, wanted, choice.shape or choice.shapes, file.name)
        choice = replace(choice, input=chosen)
    source = ChosenInput.of(proto, choice, file.name)
    notes = (*told, *in_evaluation_mode(proto))
    front = Front.of(file, proto, source, choice)
    ignored = [] if front is None else [shown(one.name) for one in front.inputs if not one.needed]
    if ignored:
        notes = (*notes, f"held, so that a student takes them and does not look at them: {', '.join(ignored[:10])}")
    nodes = reaching(nodes, *wanted, stop=source.name)
    held = held_nodes(proto, nodes, source, choice, file.name)
    return replace(Renamer(file, proto, source).rename([*held, *nodes], wanted, choice, notes), front=front)


def _forget_defaults(file: TeacherFile, proto: onnx.ModelProto, choice: GraphChoice) -> None:
    """Remove the file's own default of an input that the user holds at another value."""
    inputs = {value.name for value in proto.graph.input}
    kept = [w for w in proto.graph.initializer if w.name not in inputs or w.name not in choice.constants]
    if len(kept) < len(proto.graph.initializer):
        for name in choice.constants:
            file.weights.pop(name, None)
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
