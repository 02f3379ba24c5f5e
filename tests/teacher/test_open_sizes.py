"""Sizes that a file leaves open: named, with an example that works when it is followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_text import whole

from onnxcake.core.errors import UnsupportedTeacher
from onnxcake.teacher import sandbox
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

RANDOM = np.random.default_rng(1)


def saved(folder: Path, text: str, **weights: object) -> Path:
    arrays = {
        name: RANDOM.standard_normal(weight).astype(np.float32) * 0.3 if isinstance(weight, tuple) else weight
        for name, weight in weights.items()
    }
    onnx.save(whole(text, arrays), folder / "t.onnx")
    return folder / "t.onnx"


POOLED = "c = Conv <kernel_shape = [3,3]> (x, K) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm (f, V)"
OPEN = {
    "height and width": (
        f"(float[N,3,height,width] x) => (float[N,4] y) {{ {POOLED} }}",
        {"K": (8, 3, 3, 3), "V": (8, 4)},
        "'height', 'width'",
        "1,3,224,224",
    ),
    "channels too": (
        f"(float[N,c,h,w] x) => (float[N,4] y) {{ {POOLED} }}",
        {"K": (8, 1, 3, 3), "V": (8, 4)},
        "'c', 'h', 'w'",
        "1,1,224,224",
    ),
    "a picture that a matrix fixes": (
        "(float[N,1,h,w] x) => (float[N,4] y) { f = Flatten (x) y = Gemm (f, V) }",
        {"V": (28 * 28, 4)},
        "'h', 'w'",
        "1,1,28,28",
    ),
    "channels last": (
        "(float[N,h,w,3] x) => (float[N,4] y) { m = ReduceMean <axes = [1,2], keepdims = 0> (x) y = Gemm (m, V) }",
        {"V": (3, 4)},
        "'h', 'w'",
        "1,224,224,3",
    ),
    "a sequence of features": (
        """(float[N,sequence,5] x) => (float[N,4] y) { t = Transpose <perm = [1,0,2]> (x)
        ys, last = GRU <hidden_size = 6> (t, W, R) f = Squeeze (last, zero) y = Gemm (f, V) }""",
        {"W": (1, 18, 5), "R": (1, 18, 6), "zero": np.array([0]), "V": (6, 4)},
        "'sequence'",
        "1,128,5",
    ),
    "a sequence no longer than the table of positions": (
        """(float[N,sequence,5] x) => (float[N,4] y) { s = Shape (x) n = Gather (s, one) r = Range (zero, n, one)
        p = Gather (P, r) a = Add (x, p) m = ReduceMean <axes = [1], keepdims = 0> (a) y = Gemm (m, V) }""",
        {"P": (50, 5), "V": (5, 4), "zero": np.array(0), "one": np.array(1)},
        "'sequence'",
        "1,16,5",
    ),
    "a row without a name": (
        "(float[N,?] x) => (float[N,4] y) { y = Gemm (x, V) }",
        {"V": (64, 4)},
        "number 2",
        "1,64",
    ),
}


@pytest.mark.parametrize("name", OPEN)
def test_the_example_works(name: str, tmp_path: Path) -> None:
    text, weights, open_ones, example = OPEN[name]
    path = saved(tmp_path, text, **weights)
    error = sandbox.examine(path, TeacherOptions()).error
    assert type(error) is UnsupportedTeacher and f"(open: {open_ones})" in error.what
    (told,) = re.findall(r"--shape ([\d,]+)", error.remedy)
    assert told == example
    shape = tuple(map(int, told.split(",")))
    assert Teacher.load(path, shape=shape).signature.input_shape == shape[1:]


def test_no_sizes_help_where_something_else_is_in_the_way(tmp_path: Path) -> None:
    """A row of scores for each time step; found without trying many sizes."""
    text = """(float[batch,5,time] x) => (float[time,batch,4] y) { t = Transpose <perm = [2,0,1]> (x)
        ys, last = LSTM <hidden_size = 6> (t, W, R) f = Squeeze (ys, one) y = MatMul (f, V) }"""
    path = saved(tmp_path, text, W=(1, 24, 5), R=(1, 24, 6), one=np.array([1]), V=(6, 4))
    error = sandbox.examine(path, TeacherOptions()).error
    assert error is not None and "[128, N, 4] holds one answer for each of many places" in error.what
    assert "--shape 1,5,128" in error.what


def test_sizes_that_fit_nothing_are_not_suggested(tmp_path: Path) -> None:
    text = "(float[N,n] x) => (float[N,4] y) { y = Gemm (x, V) }"
    error = sandbox.examine(saved(tmp_path, text, V=(77, 4)), TeacherOptions()).error
    assert error is not None and not re.search(r"--shape \d", error.remedy)


def test_a_long_recurrent_network_is_built_without_its_steps(tmp_path: Path) -> None:
    text = """(float[N,3000,2] x) => (float[N,4] y) { t = Transpose <perm = [1,0,2]> (x)
        ys, last = GRU <hidden_size = 3> (t, W, R) f = Squeeze (last, zero) y = Gemm (f, V) }"""
    path = saved(tmp_path, text, W=(1, 9, 2), R=(1, 9, 3), zero=np.array([0]), V=(3, 4))
    exam = sandbox.examine(path, TeacherOptions())
    assert exam.error is None and exam.found["outputs"][0]["shape"] == ["N", 4]


def test_what_is_held_at_a_length_that_does_not_fit_is_no_fault_of_the_conversion(tmp_path: Path) -> None:
    text = "(float[N,4] x, float[N,K] side) => (float[N,4] y) { s = MatMul (side, S) a = Add (x, s) y = Gemm (a, V) }"
    path = saved(tmp_path, text, S=(3, 4), V=(4, 4))
    exam = sandbox.examine(path, TeacherOptions(input="x", constants={"side": [1, 2, 3, 4]}))
    assert exam.error is not None and "Check the sizes given with --hold side" in exam.error.remedy
    assert [one["remedy"] for one in exam.found["obstacles"]] == [""]
    assert sandbox.examine(path, TeacherOptions(input="x", constants={"side": [1, 2, 3]})).error is None


@pytest.mark.parametrize("batch", ["N", "1"])
def test_a_batch_that_is_squeezed_away_is_said(batch: str, tmp_path: Path) -> None:
    text = f"(float[{batch},6] x) => (float[4] y) {{ h = Gemm (x, V) y = Squeeze (h) }}"
    path = saved(tmp_path, text, V=(6, 4))
    error = sandbox.examine(path, TeacherOptions()).error
    assert error is not None and "one input gives an output of shape [4]: its batch is squeezed away" in error.what
    assert sandbox.examine(path, TeacherOptions(output="h")).error is None
