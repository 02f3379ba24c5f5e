"""Inputs that are held: at numbers, lists, arrays and files, of any type, whatever sizes the file leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_text import N, parsed, value

from onnxcake.cli.options import options_of
from onnxcake.core.errors import UnsupportedTeacher, UsageError
from onnxcake.onnxfile.input_choice import GraphChoice
from onnxcake.onnxfile.load import TeacherFile
from onnxcake.onnxfile.normalise import normalise
from onnxcake.teacher.options import TeacherOptions

X = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)


def answer(
    handmade: Any, held: onnx.ValueInfoProto, choice: GraphChoice, shape: tuple[Any, ...] = ("batch", 3, 4)
) -> np.ndarray[Any, Any]:
    """Return what an input is held at, as the file's own graph gets it when ``x`` is five rows."""
    name = held.name
    nodes = [N("Identity", [name], ["seen"]), N("Identity", ["x"], ["y"])]
    model = handmade(nodes, inputs=[value("x", *shape), held], outputs=[value("seen"), value("y", *shape)])
    file = TeacherFile(onnx.ModelProto.FromString(model.SerializeToString()), {}, "", 0, "t.onnx")
    safe = normalise(file, choice)
    (output,) = [new for new, old in safe.outputs.items() if old == "seen"]
    part = safe.cut(output)
    part.graph.output[0].type.CopyFrom(held.type)
    del part.graph.output[0].type.tensor_type.shape.dim[:]
    part.graph.output[0].type.tensor_type.ClearField("shape")
    found: np.ndarray[Any, Any] = ReferenceEvaluator(part).run(None, {"input": X})[0]
    return found


def held_at(given: Any, name: str = "side", **more: Any) -> GraphChoice:
    return TeacherOptions(input="x", constants={name: given}, **more).choice


ROW = np.float32([1, 2, 3])
GRID = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("held", "choice", "wanted"),
    [
        (value("side", "batch", 3), held_at(2), np.full((5, 3), 2.0)),
        (value("side", "batch", 3), held_at([1, 2, 3]), np.tile(ROW, (5, 1))),
        (value("side", "batch", 3), held_at(ROW[None]), np.tile(ROW, (5, 1))),
        (value("side", "another", 3), held_at(ROW), np.tile(ROW, (5, 1))),
        (value("side", None, 3), held_at((1, 2, 3)), np.tile(ROW, (5, 1))),
        (value("side", 3), held_at(ROW), ROW),
        (value("side", 2, 3), held_at(GRID), GRID),
        (value("side", 2, 3), held_at(range(6)), GRID),
        (value("side", 1, 2, 3), held_at(GRID), GRID[None]),
        (value("side", "batch", 2, 3), held_at(list(range(6))), np.tile(GRID, (5, 1, 1))),
        (value("side"), held_at(7.5), np.float32(7.5)),
        (value("side"), held_at([7.5]), np.float32(7.5)),
        (value("side", kind=TensorProto.BOOL), held_at(False), np.False_),
        (value("side", kind=TensorProto.BOOL), held_at(1), np.True_),
        (value("side", "batch", 2, kind=TensorProto.BOOL), held_at([True, False]), np.tile([True, False], (5, 1))),
        (value("side", "batch", 2, kind=TensorProto.INT64), held_at([2**53 + 1, 1]), np.tile([2**53 + 1, 1], (5, 1))),
        # hidden states: the batch is their second axis, by its name or by its place
        (value("side", 1, "batch", 6), held_at(0), np.zeros((1, 5, 6))),
        (value("side", 2, "other", 3), held_at(0.5), np.full((2, 5, 3), 0.5)),
        (value("side", 2, None, 3), held_at(GRID), np.repeat(GRID[:, None], 5, axis=1)),
        (value("side", 2, None, 3), held_at(GRID[:, None]), np.repeat(GRID[:, None], 5, axis=1)),
        # open sizes: by name, from the held array, said, or the input's at the same place
        (value("side", None, None), held_at(1, shape=(1, 3, 4)), np.ones((5, 3))),
        (value("side", "batch", "length"), held_at([4, 5]), np.tile([4.0, 5.0], (5, 1))),
        (value("side", "batch", "length"), held_at(1, shapes={"side": (1, 7)}), np.ones((5, 7))),
        (value("side", 2, "length"), held_at(1, shapes={"side": (2, 7)}), np.ones((2, 7))),
        (value("side", None, None, None), held_at(1), np.ones((5, 3, 4))),
        (value("side", "features", "batch"), held_at([1, 2]), np.tile([[1.0], [2.0]], (1, 5))),
    ],
    ids=lambda given: None,
)
def test_what_an_input_is_held_at(held: onnx.ValueInfoProto, choice: GraphChoice, wanted: Any, handmade: Any) -> None:
    got = answer(handmade, held, choice, ("batch", "time", 4) if choice.shape else ("batch", 3, 4))
    assert got.dtype == helper.tensor_dtype_to_np_dtype(held.type.tensor_type.elem_type)
    np.testing.assert_array_equal(got, np.asarray(wanted).astype(got.dtype))


def test_sizes_follow_the_names_of_the_chosen_input(handmade: Any) -> None:
    choice = TeacherOptions(input="x", shape=(1, 3, 4), constants={"mask": 1}).choice
    mask = value("mask", "batch", "time", kind=TensorProto.INT64)
    np.testing.assert_array_equal(answer(handmade, mask, choice, ("batch", "time", 4)), np.ones((5, 3)))


@pytest.mark.parametrize(
    ("held", "choice", "words"),
    [
        (value("side", "batch", 3), held_at([1, 2]), "side' is batch×3 and cannot be held at values of shape 2"),
        (value("side", "batch", 3), held_at(np.ones((4, 3))), "cannot be held at values of shape 4×3"),
        (value("side", "batch", 2, 3), held_at([1, 2]), "6 numbers"),
        (value("side"), held_at([1, 2]), "a single number"),
        (value("side", "batch", 2, kind=TensorProto.BOOL), held_at(3), "is bool and cannot be held at 3"),
        (value("side", "batch", 2, kind=TensorProto.INT64), held_at([1, 0.5]), "int64 and cannot be held at 0.5"),
        (value("side", "batch", 2, kind=TensorProto.UINT8), held_at(256), "uint8 and cannot be held at 256"),
        (value("side", "batch", 3), held_at(1, shapes={"side": (1, 4)}), r"--shape side=1,4 does not fit"),
        (value("side", "batch", 3), held_at(1, "sid"), "did you mean 'side'"),
        (value("side", "batch", 3), held_at(1, shapes={"sidee": (1, 3)}), "no input is called 'sidee'"),
        (value("side", "batch", 3), held_at(1, "x"), "'x' is the input to optimise and is to be held, too"),
    ],
)
def test_what_no_input_can_be_held_at(
    held: onnx.ValueInfoProto, choice: GraphChoice, words: str, handmade: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        answer(handmade, held, choice)
    assert words in caught.value.what + caught.value.remedy and caught.value.remedy


def test_a_size_that_stays_open_is_asked_for_and_the_remedy_works(handmade: Any) -> None:
    held = value("side", 2, "length")
    with pytest.raises(UnsupportedTeacher, match="2×length") as caught:
        answer(handmade, held, held_at(1))
    assert "--shape side=2,128" in caught.value.remedy
    assert answer(handmade, held, held_at(1, shapes={"side": (2, 128)})).shape == (2, 128)


def test_a_value_that_the_file_gives_by_itself_may_be_held_at_another(handmade: Any) -> None:
    inputs = "float[batch,4] x, float[4] bias"
    model = handmade(parsed("y = Add(x, bias)"), {"bias": np.zeros(4, np.float32)}, inputs=inputs)
    file = TeacherFile(model, {}, "", 0, "t.onnx")
    safe = normalise(file, TeacherOptions(constants={"bias": [1, 2, 3, 4]}).choice)
    part = safe.cut(next(iter(safe.outputs)))
    got = ReferenceEvaluator(part).run(None, {"input": np.zeros((2, 4), np.float32)})[0]
    np.testing.assert_array_equal(got, np.tile([1.0, 2, 3, 4], (2, 1)))


@pytest.mark.parametrize("given", ["three", "", "1,,2", [[1, 2], [3]], None, {"a": 1}, []])
def test_what_is_no_value(given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        TeacherOptions(constants={"side": given})
    assert "'side'" in caught.value.what


def test_options_travel_as_json() -> None:
    options = TeacherOptions(constants={"a": np.eye(2), "b": True, "c": 2}, shapes={"a": [1, 2]})  # type: ignore[dict-item]
    assert TeacherOptions.of(**json.loads(json.dumps(options.as_dict()))) == options
    assert options.constants == {"a": ((1.0, 0.0), (0.0, 1.0)), "b": True, "c": 2}


# --- on the command line -----------------------------------------------------------------------------------


def said(hold: list[str] | None = None, shape: list[str] | None = None) -> TeacherOptions:
    options: TeacherOptions = options_of(None, None, shape, None, None, None, None, hold)
    return options


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("False", False), ("1,2.5,-3", (1, 2.5, -3)), ("1e-3", 0.001)],
)
def test_values_as_text(text: str, wanted: Any) -> None:
    held = said([f"a:0={text}"]).constants["a:0"]
    assert held == wanted and type(held) is type(wanted)


def test_values_in_files(tmp_path: Path) -> None:
    numbers = np.float32([[1.5, 2, 3]])
    np.save(tmp_path / "a.npy", numbers)
    np.savez(tmp_path / "a.npz", only=numbers)
    (tmp_path / "a.json").write_text("[[1.5, 2, 3]]")
    (tmp_path / "a=b.json").write_text("[[1.5, 2, 3]]")
    (tmp_path / "a.csv").write_text("left,middle,right\n1.5,2,3\n")
    for name in ("a.npy", "a.npz", "a.json", "a=b.json"):
        assert said([f"side={tmp_path / name}"]).constants == {"side": ((1.5, 2, 3),)}
    assert said([f"side={tmp_path / 'a.csv'}"]).constants == {"side": (1.5, 2, 3)}


def test_values_that_no_file_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.ones(2), b=np.ones(2))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY no")
    (tmp_path / "table.csv").write_text("1,2\n3,four\n")
    for name in ("two.npz", "text.npy", "broken.npy", "table.csv", "missing.npy"):
        with pytest.raises(UsageError) as caught:
            said([f"side={tmp_path / name}"])
        assert name in caught.value.what and ".npy" in caught.value.remedy


def test_sizes_as_text() -> None:
    options = said(shape=["1,3,8,8", "mask=1,8"])
    assert (options.shape, options.shapes) == ((1, 3, 8, 8), {"mask": (1, 8)})


@pytest.mark.parametrize(
    ("hold", "shape", "words"),
    [
        (["side"], None, "is not NAME=VALUE"),
        (["side=one"], None, "is no number, no list of numbers and no file"),
        (["side=1", "side=2"], None, "--hold side= is given twice"),
        (None, ["1,2", "1,3"], "--shape is given twice"),
        (None, ["a=1,2", "a=1,3"], "--shape is given twice for a"),
        (None, ["1,2.5"], "not a list of whole numbers"),
        (None, ["a="], "is not a list of numbers"),
    ],
)
def test_what_is_no_option(hold: list[str] | None, shape: list[str] | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        said(hold, shape)


def test_a_run_of_one_held_value_is_not_taken_for_that_of_another(tmp_path: Path, handmade: Any, normal: Any) -> None:
    nodes = parsed("all = Concat<axis=1>(x, side) h = Gemm(all, W) r = Relu(h) y = Gemm(r, V)")
    inputs = "float[batch,4] x, float[batch,3] side"
    onnx.save(handmade(nodes, {"W": normal(7, 8), "V": normal(8, 3)}, inputs=inputs), tmp_path / "t.onnx")
    asked = ["extract", "t.onnx", "--passes", "1e3", "--out", "run", "-o", "synthesis.pace=plain", "--input", "x"]
    assert in_process.command(*asked, "--hold", "side=1,2,3", cwd=tmp_path).code == 0
    other = in_process.command(*asked, "--hold", "side=3,2,1", cwd=tmp_path)
    assert other.code == 6, other.err
