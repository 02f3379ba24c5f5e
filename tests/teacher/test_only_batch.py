"""Files that run one batch alone: baked into their constants, or because a branch is taken by the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from in_process import command
from onnx_text import whole
from plain_session import plain_session
from torch import Tensor

from onnxcake.core.errors import TeacherError, UnsupportedTeacher
from onnxcake.teacher import sandbox
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.scores import logits_to_output
from onnxcake.teacher.teacher import Teacher

RANDOM = np.random.default_rng(0)
COUNT = 7


def normal(*shape: int, scale: float = 0.4) -> Any:
    return (RANDOM.standard_normal(shape) * scale).astype(np.float32)


@dataclass(frozen=True)
class File:
    """A model in ONNX's text form, its weights, the batch that it runs, and words of what is said of that."""

    text: str
    weights: Mapping[str, Any]
    batch: int = 1
    note: str = ""
    opset: int = 17

    def saved(self, folder: Path) -> Path:
        onnx.save(whole(self.text, self.weights, self.opset), folder / "t.onnx")
        return folder / "t.onnx"

    def answers(self, path: Path, inputs: Tensor) -> Tensor:
        """Ask a plain session, a batch of the file's own at a time."""
        session = plain_session(path.read_bytes())
        name, missing = session.get_inputs()[0].name, -len(inputs) % self.batch
        filled = torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
        parts = [session.run(None, {name: part.numpy()})[0] for part in filled.split(self.batch)]
        return torch.from_numpy(np.concatenate(parts))[: len(inputs)]


MLP = "h = Gemm (x, W) r = Relu (h)"
SIX_TO_FOUR = "(float[N,6] x) => (float[N,4] y)"
IMAGE = "(float[N,1,8,8] x) => (float[N,4] y)"

BAKED = {
    "Reshape, its rest left open": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Reshape (r, to) t = Transpose <perm = [0,2,1]> (s) q = Reshape (t, back) "
        "y = Gemm (q, V) }",
        {"W": normal(6, 24), "to": np.array([1, 3, 8]), "back": np.array([1, -1]), "V": normal(24, 4)},
        note="has it baked in",
    ),
    "Reshape of four": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Reshape (r, to) m = ReduceMean <axes = [1], keepdims = 0> (s) y = Gemm (m, V) }}",
        {"W": normal(6, 24), "to": np.array([4, 3, 8]), "V": normal(8, 4)},
        batch=4,
        note="batches of 4",
    ),
    "Reshape that makes the batch features": File(
        "(float[N,6] x) => (float[1,4] y) { q = Reshape (x, row) y = Gemm (q, V) }",
        {"row": np.array([1, -1]), "V": normal(6, 4)},
        note="batches of 1",
    ),
    "sizes of Resize": File(
        f'{IMAGE} {{ c = Conv <kernel_shape = [3,3]> (x, K) u = Resize <mode = "nearest"> (c, , , to) '
        "a = Concat <axis = 1> (u, u) p = GlobalAveragePool (a) f = Flatten (p) y = Gemm (f, V) }",
        {"K": normal(8, 1, 3, 3), "to": np.array([2, 8, 12, 12]), "V": normal(16, 4)},
        batch=2,
        note="Resize",
    ),
    "Expand of a token": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Unsqueeze (r, one) t = Expand (token, to) j = Concat <axis = 1> (t, s) "
        "m = ReduceMax <axes = [1], keepdims = 0> (j) y = Gemm (m, V) }",
        {
            "W": normal(6, 8),
            "one": np.array([1]),
            "token": normal(1, 1, 8),
            "to": np.array([1, 1, 8]),
            "V": normal(8, 4),
        },
        note="batches of 1",
    ),
    "a Slice to the first two": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Slice (r, zero, two, zero) y = Gemm (s, V) }}",
        {"W": normal(6, 8), "zero": np.array([0]), "two": np.array([2]), "V": normal(8, 4)},
        note="batches of 1",
    ),
    "a Slice to the first one": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Slice (r, zero, one, zero) y = Gemm (s, V) }}",
        {"W": normal(6, 8), "zero": np.array([0]), "one": np.array([1]), "V": normal(8, 4)},
        note="answers only the first 1",
    ),
    "Expand to two": File(
        f"{SIX_TO_FOUR} {{ {MLP} q = Gemm (r, V) y = Expand (q, to) }}",
        {"W": normal(6, 8), "to": np.array([2, 4]), "V": normal(8, 4)},
        batch=2,
        note="batches of 2",
    ),
    "the state of a Loop, which all inputs share": File(
        f"""{SIX_TO_FOUR} {{ {MLP} zeros = ConstantOfShape (state)
        last = Loop (three, , zeros) <body = b (int64 i, bool c, float[1,8] s) => (bool k, float[1,8] t)
            {{ k = Identity (c) half = Mul (s, point) t = Add (half, r) }}>
        y = Gemm (last, V) }}""",
        {
            "W": normal(6, 8),
            "state": np.array([1, 8]),
            "three": np.array(3),
            "point": np.float32(0.5),
            "V": normal(8, 4),
        },
    ),
    "the first state of an LSTM": File(
        """(float[N,5,3] x) => (float[N,4] y) { t = Transpose <perm = [1,0,2]> (x)
        ys, last = LSTM <hidden_size = 8> (t, W, R, , , h, c) f = Squeeze (last, zero) y = Gemm (f, V) }""",
        {
            "W": normal(1, 32, 3),
            "R": normal(1, 32, 8),
            "h": normal(1, 1, 8),
            "c": normal(1, 1, 8),
            "zero": np.array([0]),
            "V": normal(8, 4),
        },
        note="batches of 1",
    ),
    "the first state of a GRU, for two": File(
        """(float[N,5,3] x) => (float[N,4] y) { t = Transpose <perm = [1,0,2]> (x)
        ys, last = GRU <hidden_size = 8> (t, W, R, , , h) f = Squeeze (last, zero) y = Gemm (f, V) }""",
        {
            "W": normal(1, 24, 3),
            "R": normal(1, 24, 8),
            "h": np.zeros((1, 2, 8), np.float32),
            "zero": np.array([0]),
            "V": normal(8, 4),
        },
        batch=2,
        note="batches of 2",
    ),
    "a constant of one row for each": File(
        f"{SIX_TO_FOUR} {{ {MLP} s = Add (r, rows) y = Gemm (s, V) }}",
        {"W": normal(6, 8), "rows": np.repeat(normal(1, 8), 3, 0), "V": normal(8, 4)},
        batch=3,
        note="batches of 3",
    ),
    "nothing: a batch of one is declared": File(
        f"(float[1,6] x) => (float[1,4] y) {{ {MLP} y = Gemm (r, V) }}", {"W": normal(6, 8), "V": normal(8, 4)}
    ),
    "a size written as -1": File(
        f"(float[N,6] x) => (float[N,4] y) {{ {MLP} s = Shape (r) q = Reshape (r, s) y = Gemm (q, V) }}",
        {"W": normal(6, 8), "V": normal(8, 4)},
    ),
}


@pytest.mark.parametrize("name", BAKED)
def test_it_answers_as_its_file(name: str, tmp_path: Path) -> None:
    file = BAKED[name]
    path = file.saved(tmp_path)
    teacher = Teacher.load(path)
    inputs = torch.randn(COUNT, *teacher.signature.input_shape, generator=torch.Generator().manual_seed(3))
    expected = file.answers(path, inputs)
    torch.testing.assert_close(
        logits_to_output(teacher.signature)(teacher.logits(inputs)), expected, atol=1e-4, rtol=1e-3
    )
    assert file.note in " ".join(teacher.signature.assumptions)
    if file.note:
        assert teacher.facts.baked_batch == file.batch


def minus_one(path: Path, size: int) -> Path:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("size", [-1, 0])
def test_a_batch_written_as_a_number_below_one_is_free(size: int, tmp_path: Path) -> None:
    file = BAKED["a size written as -1"]
    path = file.saved(tmp_path)
    (tmp_path / "other").mkdir()
    teacher = Teacher.load(minus_one(file.saved(tmp_path / "other"), size))
    assert teacher.facts.fixed_batch is None and teacher.facts.baked_batch is None
    inputs = torch.randn(COUNT, 6)
    torch.testing.assert_close(teacher.logits(inputs), file.answers(path, inputs), atol=1e-4, rtol=1e-3)


MIXING = {
    "rows of two are subtracted": (
        File(
            f"{SIX_TO_FOUR} {{ {MLP} s = Reshape (r, to) m = ReduceMean <axes = [0]> (s) d = Sub (s, m) "
            "q = Reshape (d, back) y = Gemm (q, V) }",
            {"W": normal(6, 24), "to": np.array([2, 3, 8]), "back": np.array([2, 24]), "V": normal(24, 4)},
        ),
        "depends on the others of its batch",
    ),
    "time comes first": (
        File(
            """(float[T,3] x) => (float[1,4] y) { t = Unsqueeze (x, one)
            ys, last = LSTM <hidden_size = 8> (t, W, R) f = Squeeze (last, zero) y = Gemm (f, V) }""",
            {
                "W": normal(1, 32, 3),
                "R": normal(1, 32, 8),
                "one": np.array([1]),
                "zero": np.array([0]),
                "V": normal(8, 4),
            },
        ),
        "mixes the inputs",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_inputs_that_are_mixed_are_refused(name: str, tmp_path: Path) -> None:
    file, words = MIXING[name]
    with pytest.raises(UnsupportedTeacher, match=words):
        Teacher.load(file.saved(tmp_path))


def test_a_batch_that_the_user_says_is_taken(tmp_path: Path) -> None:
    """What the refusal of ``time comes first`` says to do."""
    file = MIXING["time comes first"][0]
    path = file.saved(tmp_path)
    error = sandbox.examine(path, TeacherOptions()).error
    assert error is not None and "--shape 1,3" in error.remedy
    teacher = Teacher.load(path, shape=(1, 3))
    inputs = torch.randn(COUNT, 3)
    torch.testing.assert_close(teacher.logits(inputs), file.answers(path, inputs), atol=1e-4, rtol=1e-3)


def test_a_file_that_no_batch_runs_names_the_node(tmp_path: Path) -> None:
    text = f"{SIX_TO_FOUR} {{ {MLP} s = Reshape (r, to) y = Gemm (s, V) }}"
    path = File(text, {"W": normal(6, 8), "to": np.array([5, 7]), "V": normal(7, 4)}).saved(tmp_path)
    model = onnx.load(path)
    model.graph.node[2].name = "the broken one"
    onnx.save(model, path)
    with pytest.raises(TeacherError, match="the broken one") as caught:
        Teacher.load(path)
    assert "report" not in caught.value.remedy


# --- If -----------------------------------------------------------------------------------------------------

SCORE = "l = MatMul (x, W) s = Sigmoid (l) c = GreaterOrEqual (s, half)"
HALF = {"half": np.float32(0.5)}
IFS = {
    "several outputs and outer values": File(
        f"""(float[1,8] x) => (float[1,4] y) {{ {SCORE} o = MatMul (x, V)
        a, b = If (c) <then_branch = t () => (float[1,4] p, float[1,4] q) {{ p = Tanh (o) q = Mul (o, o) }},
                       else_branch = e () => (float[1,4] u, float[1,4] v) {{ u = Relu (o) v = Neg (o) }}>
        y = Add (a, b) }}""",
        {"W": normal(8, 1), "V": normal(8, 4), **HALF},
    ),
    "nested": File(
        f"""(float[1,8] x) => (float[1,4] y) {{ {SCORE} o = MatMul (x, V) m = ReduceMax <keepdims = 0> (o)
        d = Less (m, half)
        y = If (c) <then_branch = t () => (float[1,4] p)
            {{ k = Mul (o, s) p = If (d) <then_branch = tt () => (float[1,4] pp) {{ pp = Tanh (k) }},
                                        else_branch = te () => (float[1,4] pe) {{ pe = Add (k, o) }}> }},
                    else_branch = e () => (float[1,4] q) {{ q = Sub (o, s) }}> }}""",
        {"W": normal(8, 1), "V": normal(8, 4), **HALF},
    ),
    "a free batch is declared": File(
        f"""(float[N,8] x) => (float[N,1] y) {{ {SCORE}
        y = If (c) <then_branch = t () => (float[N,1] p) {{ q = MatMul (x, V) p = Sigmoid (q) }},
                    else_branch = e () => (float[N,1] u) {{ u = Identity (s) }}> }}""",
        {"W": normal(8, 1), "V": normal(8, 1), **HALF},
        note="batches of 1",
    ),
    "a logarithm in the branch that is not taken": File(
        """(float[1,8] x) => (float[1,4] y) { o = MatMul (x, V) m = ReduceMin <keepdims = 0> (o) c = Greater (m, none)
        y = If (c) <then_branch = t () => (float[1,4] p) { p = Log (o) },
                    else_branch = e () => (float[1,4] q) { q = Tanh (o) }> }""",
        {"V": np.abs(normal(8, 4)), "none": np.float32(0.01)},
    ),
    "and a Loop that the data end": File(
        f"""(float[1,8] x) => (float[1,4] y) {{ {SCORE} o = MatMul (x, V)
        h = If (c) <then_branch = t () => (float[1,4] p) {{ p = Tanh (o) }},
                    else_branch = e () => (float[1,4] q) {{ q = Relu (o) }}>
        y = Loop (five, go, h) <body = b (int64 i, bool k, float[1,4] a) => (bool n, float[1,4] z)
            {{ z = Mul (a, big) w = ReduceMax <keepdims = 0> (z) n = Less (w, two) }}> }}""",
        {
            "W": normal(8, 1),
            "V": normal(8, 4),
            "five": np.array(5),
            "go": np.array(True),
            "big": np.float32(1.5),
            "two": np.float32(2),
            **HALF,
        },
    ),
}


@pytest.mark.parametrize("name", IFS)
def test_a_branch_by_the_data_of_one_input(name: str, tmp_path: Path) -> None:
    """Both branches are taken among the inputs; each input's gradient is that of its own branch."""
    file = IFS[name]
    path = file.saved(tmp_path)
    teacher = Teacher.load(path)
    inputs = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    expected = file.answers(path, inputs)
    back = logits_to_output(teacher.signature)
    torch.testing.assert_close(back(teacher.logits(inputs)), expected, atol=1e-4, rtol=1e-3)
    leaf = inputs.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(back(teacher.logits(leaf)).sum(), leaf)
    assert gradient.isfinite().all()
    step = 1e-2 * torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(4)))
    ends = [file.answers(path, inputs + sign * step).sum(1) for sign in (1, -1)]
    seen, told = (ends[0] - ends[1]) / 2, (gradient * step).sum(1)
    near = (seen - told).abs() < 1e-3
    assert near.float().mean() > 0.8, "differences step over the branch and over kinks now and then"


def test_verify_compares_a_file_with_its_own_batch(tmp_path: Path) -> None:
    """Both sides have a batch of two baked in, and are run in pieces of that."""
    path = BAKED["Expand to two"].saved(tmp_path)
    np.save(tmp_path / "probe.npy", normal(COUNT, 6))
    ended = command("verify", path, path, "--probe", tmp_path / "probe.npy", "--json")
    assert ended.code == 0, ended.err
    assert ended.told["agreement"]["probe"]["agreement"]["value"] == 1.0
