"""Written-out patterns become one call, equal to onnxruntime and to differences; what only looks alike is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from harness import built
from onnx_text import whole
from plain_session import plain_session

RNG = np.random.default_rng(0)


def written(body: str, shape: str, out: str, weights: dict[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    return whole(f"(float[N,{shape}] x) => (float[N,{out}] y) {{ {body} }}", weights, opset)


def f(value: float | list[float]) -> np.ndarray:
    return np.float32(value)


SQRT2 = {"r": f(2**0.5), "one": f(1), "half": f(0.5)}
CUBIC = {"three": f(3), "c": f(0.044715), "s": f((2 / np.pi) ** 0.5), "one": f(1), "half": f(0.5)}
NORM = {"two": f(2), "e": f(1e-5), "g": RNG.normal(size=6).astype("f"), "b": RNG.normal(size=6).astype("f")}
GELU = "a = Div(x, r) b = Erf(a) c = Add(b, one)"
MEAN = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m)"
VAR = "q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) w = Add(v, e) s = Sqrt(w) n = Div(d, s) p = Mul(n, g) y = Add(p, b)"
HEADS = "2,4,6"
QKT = "k = Transpose<perm=[0,1,3,2]>(x)"

CONV = {
    "w": RNG.normal(size=(4, 2, 3, 3)).astype("f"),
    "o": RNG.normal(size=4).astype("f"),
    "s": RNG.normal(size=4).astype("f"),
    "b": RNG.normal(size=4).astype("f"),
    "m": RNG.normal(size=4).astype("f"),
    "v": RNG.uniform(0.1, 2, size=4).astype("f"),
}
WITHOUT_BIAS = {name: array for name, array in CONV.items() if name != "o"}
BATCH_NORM = "BatchNormalization<epsilon=0.01>(a, s, b, m, v)"

ROWS = {
    "batch norm of a convolution": (f"a = Conv(x, w) y = {BATCH_NORM}", "2,5,4", "4,3,2", WITHOUT_BIAS, 1),
    "of one with a bias, in groups": (f"a = Conv<group=2>(x, w, o) y = {BATCH_NORM}", "4,5,4", "4,3,2", CONV, 1),
    "gelu": (f"{GELU} d = Mul(x, c) y = Mul(d, half)", "4,6", "4,6", SQRT2, 1),
    "gelu, half first": (f"{GELU} d = Mul(x, half) y = Mul(d, c)", "4,6", "4,6", SQRT2, 1),
    "gelu, half last": (f"{GELU} d = Mul(c, half) y = Mul(d, x)", "4,6", "4,6", SQRT2, 1),
    "gelu by tanh": (
        "a = Pow(x, three) b = Mul(a, c) d = Add(x, b) e = Mul(d, s) g = Tanh(e) h = Add(g, one) "
        "i = Mul(x, h) y = Mul(i, half)",
        "4,6",
        "4,6",
        CUBIC,
        1,
    ),
    "silu": ("a = Sigmoid(x) y = Mul(x, a)", "4,6", "4,6", {}, 1),
    "sigmoid by its formula": (
        "a = Neg(x) b = Exp(a) c = Add(b, one) y = Reciprocal(c)",
        "4,6",
        "4,6",
        {"one": f(1)},
        1,
    ),
    "sigmoid as scikit-learn's SGDClassifier": (
        "a = Mul(x, m) b = Exp(a) c = Add(one, b) y = Div(one, c)",
        "4,6",
        "4,6",
        {"one": f([1]), "m": f(-1)},
        1,
    ),
    "hard swish": ("a = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, a)", "4,6", "4,6", {}, 1),
    "hard swish of clip": (
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
        "4,6",
        "4,6",
        {"three": f(3), "zero": f(0), "six": f(6)},
        1,
    ),
    "layer norm": (f"{MEAN} {VAR}", "4,6", "4,6", NORM, 1),
    "linear": (
        "a = MatMul(x, w) y = Add(a, b)",
        "4,6",
        "4,5",
        {"w": RNG.normal(size=(6, 5)).astype("f"), "b": RNG.normal(size=5).astype("f")},
        1,
    ),
    "attention": (f"{QKT} a = MatMul(x, k) b = Softmax<axis=-1>(a) y = MatMul(b, x)", HEADS, HEADS, {}, 2),
    "attention, scaled": (
        f"{QKT} l = Mul(x, r) q = Mul(k, r) a = MatMul(l, q) b = Softmax<axis=-1>(a) y = MatMul(b, x)",
        HEADS,
        HEADS,
        {"r": f(0.4)},
        2,
    ),
    "attention, divided and masked": (
        f"{QKT} a = MatMul(x, k) s = Div(a, r) t = Add(s, m) b = Softmax<axis=-1>(t) y = MatMul(b, x)",
        HEADS,
        HEADS,
        {"r": f(2.0), "m": RNG.normal(size=(4, 4)).astype("f")},
        2,
    ),
    "a transpose by way of one axis": (
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1]>(a) y = Reshape(b, t)",
        HEADS,
        "2,6,4",
        {"s": np.array([-1, 4, 6]), "t": np.array([-1, 2, 6, 4])},
        1,
    ),
    "slices that are the whole": (
        "a = Slice(x, zero, two, axis) b = Slice(x, two, end, axis) y = Concat<axis=1>(b, a)",
        "4,6",
        "4,6",
        {"zero": np.array([0]), "two": np.array([2]), "end": np.array([2**62]), "axis": np.array([1])},
        2,
    ),
    "places that are the whole": (
        "a = Gather<axis=1>(x, zero) b = Gather<axis=1>(x, one) c = Sub(a, b) y = Identity(c)",
        "2,6",
        "6",
        {"zero": np.array(0), "one": np.array(-1)},
        2,
    ),
}

# Alike, but not the same: every node stays.
LEFT = {
    "batch norm of what others read": (f"a = Conv(x, w, o) n = {BATCH_NORM} y = Sub(n, a)", "2,5,4", "4,3,2", CONV, 3),
    "batch norm before a convolution": (
        "a = BatchNormalization(x, s, b, m, v) y = Conv(a, w)",
        "2,5,4",
        "4,3,2",
        {**{name: CONV[name][:2] for name in "sbmv"}, "w": CONV["w"]},
        2,
    ),
    "gelu with another root": (f"{GELU} d = Mul(x, c) y = Mul(d, half)", "4,6", "4,6", {**SQRT2, "r": f(1.5)}, 5),
    "sigmoid of another slope": (
        "a = Mul(x, m) b = Exp(a) c = Add(b, one) y = Reciprocal(c)",
        "4,6",
        "4,6",
        {"one": f(1), "m": f(-2)},
        4,
    ),
    "silu of another": ("a = Sigmoid(x) b = Relu(x) y = Mul(b, a)", "4,6", "4,6", {}, 3),
    "layer norm of another axis": (f"{MEAN} {VAR}".replace("[-1]", "[1]"), "6,6", "6,6", NORM, 9),
    "softmax of another axis": (f"{QKT} a = MatMul(x, k) b = Softmax<axis=1>(a) y = MatMul(b, x)", HEADS, HEADS, {}, 4),
    "bias of the whole": (
        "a = MatMul(x, w) y = Add(a, b)",
        "4,6",
        "4,5",
        {"w": RNG.normal(size=(6, 5)).astype("f"), "b": RNG.normal(size=(4, 5)).astype("f")},
        2,
    ),
    "slices that leave a gap": (
        "a = Slice(x, zero, one, axis) b = Slice(x, two, end, axis) y = Concat<axis=1>(b, a)",
        "4,6",
        "3,6",
        {
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "end": np.array([4]),
            "axis": np.array([1]),
        },
        3,
    ),
}


@pytest.mark.parametrize("name", [*ROWS, *LEFT])
def test_a_pattern_becomes_one_step_and_stays_equal(name: str) -> None:
    *row, steps = {**ROWS, **LEFT}[name]
    model = written(*row)
    onnx.checker.check_model(model)
    graph = built(model)
    assert len(graph.steps) == steps, [step.op for step in graph.steps]
    x = RNG.normal(size=(5, *(int(d) for d in row[1].split(",")))).astype("f")
    session = plain_session(model.SerializeToString())
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)
    again = built(model, precision=torch.float64)
    leaf = torch.randn(
        2, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    assert torch.autograd.gradcheck(again, leaf, atol=1e-5)


def test_a_product_that_others_read_is_not_taken_twice() -> None:
    weights = {"w": RNG.normal(size=(6, 6)).astype("f"), "b": RNG.normal(size=6).astype("f")}
    graph = built(written("a = MatMul(x, w) c = Add(a, b) y = Sub(c, a)", "4,6", "4,6", weights))
    assert [step.op for step in graph.steps] == ["MatMul", "Add", "Sub"]


def test_a_batch_norm_by_the_batch_stays() -> None:
    body = f"a = Conv(x, w) y = {BATCH_NORM}".replace("epsilon=0.01", "epsilon=0.01, training_mode=1")
    graph = built(written(body, "2,5,4", "4,3,2", WITHOUT_BIAS), precision=None)
    assert [step.op for step in graph.steps] == ["Conv", "BatchNormalization"]
    x, (w, s, b) = torch.randn(5, 2, 5, 4), (torch.from_numpy(CONV[name]) for name in "wsb")
    wanted = F.batch_norm(F.conv2d(x, w), None, None, s, b, training=True, eps=0.01)
    torch.testing.assert_close(graph(x), wanted, atol=1e-5, rtol=1e-4)
