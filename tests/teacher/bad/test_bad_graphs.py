"""M07 to M18: well-formed protobuf that is no teacher, each refused by what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from refusals import HIDDEN, SCORES, Bad, N, W, bad, inner, made, refused, saved, table, tensor, value

from onnxcake import extract
from onnxcake.errors import BadTeacherFile, DeadTeacher, OnnxcakeError, TeacherError, UnsupportedTeacher, UsageError

F16, I64, U8 = TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8

# --- M07: the graph itself ----------------------------------------------------------------------------------

GRAPHS = {
    "a cycle": bad(
        BadTeacherFile,
        "topologically sorted",
        N("Add", ["x", "b"], ["a"], name="first"),
        N("Relu", ["a"], ["b"], name="second"),
        N("MatMul", ["a", "W"], ["y"]),
    ),
    "a node that reads its own output": bad(BadTeacherFile, "'y'", N("Add", ["y", "x"], ["y"])),
    "not sorted": bad(BadTeacherFile, "topologically sorted", N("Relu", ["h"], ["y"]), HIDDEN),
    "an undefined input": bad(BadTeacherFile, "nowhere", N("MatMul", ["x", "nowhere"], ["y"])),
    "an undefined input in a branch": bad(
        BadTeacherFile,
        "nowhere",
        N("If", ["yes"], ["y"], then_branch=inner("t", [N("Relu", ["nowhere"], ["inner"])]), else_branch=inner("e", [N("Relu", ["x"], ["inner"])])),
        weights={"yes": np.array(True)},
    ),
    "an output never made": bad(BadTeacherFile, "'y'", HIDDEN),
    "a value made twice": bad(BadTeacherFile, "'y'", SCORES, SCORES),
    "a node that makes the input": bad(BadTeacherFile, "'x'", N("Relu", ["x"], ["x"]), SCORES),
    "a node that makes a weight": bad(BadTeacherFile, "'W'", N("Relu", ["x"], ["W"]), SCORES),
    "two inputs of one name": bad(
        BadTeacherFile, "'x'", SCORES, inputs=[value("x", "batch", 4), value("x", "batch", 4)]
    ),
    "the input as output": bad(
        UnsupportedTeacher, ("'x'", "the input itself"), SCORES, outputs=[value("x", "batch", 4)]
    ),
    "a weight as output": bad(
        UnsupportedTeacher, ("'W'", "the same for every input"), SCORES, outputs=[value("W", 4, 3)]
    ),
    "an unused weight as output": bad(
        UnsupportedTeacher,
        ("'V'", "the same for every input"),
        SCORES,
        weights={"V": W},
        outputs=[value("V", 4, 3)],
    ),
    "an output that reads a weight alone": bad(
        UnsupportedTeacher,
        ("'y'", "the same for every input"),
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "first"], ["n"]),
        N("Concat", ["n", "three"], ["to"], axis=0),
        N("Expand", ["row", "to"], ["y"]),
        weights={"first": np.array([0]), "three": np.array([3]), "row": W[:1, :3]},
    ),
    "no input": bad(UnsupportedTeacher, "0 inputs", N("Identity", ["W"], ["y"]), inputs=[]),
    "only inputs that are weights": bad(
        UnsupportedTeacher, "0 inputs", N("Identity", ["W"], ["y"]), inputs=[value("W", 4, 3)]
    ),
    "no outputs": bad(BadTeacherFile, "no outputs", SCORES, outputs=[]),
    "no nodes": bad(BadTeacherFile, "no operators"),
    "a node that makes nothing": bad(BadTeacherFile, "checker", N("Relu", ["x"], []), SCORES),
    "a node of too many inputs": bad(BadTeacherFile, "Relu", N("Relu", ["x", "x", "x"], ["y"])),
    "a node of too few inputs": bad(BadTeacherFile, "MatMul", N("MatMul", ["x"], ["y"])),
    "no such attribute": bad(BadTeacherFile, "axis", N("MatMul", ["x", "W"], ["y"], axis=1)),
    "a missing attribute": bad(BadTeacherFile, "to", N("Cast", ["x"], ["c"]), N("MatMul", ["c", "W"], ["y"])),
    "an attribute of another type": bad(
        BadTeacherFile, "axis", HIDDEN, N("Softmax", ["h"], ["y"], axis=1.5)
    ),
    "an attribute twice": bad(
        BadTeacherFile,
        "axis",
        HIDDEN,
        helper.make_node("Softmax", ["h"], ["y"]),
        weights={},
    ),
    "shapes that do not fit": bad(TeacherError, "", SCORES, weights={"W": W[:3]}),
    "an axis that is not there": bad(TeacherError, "", HIDDEN, N("Softmax", ["h"], ["y"], axis=7)),
    "a permutation that is none": bad(
        TeacherError, "", HIDDEN, N("Transpose", ["h"], ["y"], perm=[0, 0])
    ),
    "a reshape that does not fit": bad(
        TeacherError, "", HIDDEN, N("Reshape", ["h", "to"], ["y"]), weights={"to": np.array([-1, 7])}
    ),
}
del GRAPHS["an attribute twice"]


@table(GRAPHS)
def test_the_graph(row: Bad, tmp_path: Path) -> None:
    refused(saved(row.model, tmp_path), row.kind, *row.words)
