"""What the two ends of a graph show: the logits before the tail, and the values that go in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_text import N, parsed, value

from onnxcake.graph.convert import Converted, convert
from onnxcake.graph.head_and_tail import Head, head, tail
from onnxcake.onnxfile.load import TeacherFile
from onnxcake.onnxfile.normalise import normalise


def converted(model: onnx.ModelProto) -> Converted:
    return convert(normalise(TeacherFile(model, {}, "", 0, "t.onnx")))


def before(graph: Converted, name: str) -> list[str]:
    """The operators that make a value."""
    return [node.op_type for node in graph.safe.cut(name).graph.node if node.op_type not in ("Identity", "Dropout")]


class Tail(NamedTuple):
    """Hold nodes, the tail that is found, and the operators before it."""

    nodes: list[str]
    kind: str | None
    kept: list[str]


TAILS: dict[str, Tail] = {
    "none (an Identity is only another name)": Tail(["h = MatMul(x, W) y = Identity(h)"], None, ["MatMul"]),
    "Softmax": Tail(["h = MatMul(x, W) y = Softmax(h)"], "softmax", ["MatMul"]),
    "Softmax, axis 1": Tail(["h = MatMul(x, W) y = Softmax<axis=1>(h)"], "softmax", ["MatMul"]),
    "Softmax, axis -1": Tail(["h = MatMul(x, W) y = Softmax<axis=-1>(h)"], "softmax", ["MatMul"]),
    "Softmax over the batch": Tail(["h = MatMul(x, W) y = Softmax<axis=0>(h)"], None, ["MatMul", "Softmax"]),
    "LogSoftmax": Tail(["h = MatMul(x, W) y = LogSoftmax<axis=1>(h)"], "log_softmax", ["MatMul"]),
    "LogSoftmax over the batch": Tail(["h = MatMul(x, W) y = LogSoftmax<axis=0>(h)"], None, ["MatMul", "LogSoftmax"]),
    "Log of Softmax": Tail(["h = MatMul(x, W) s = Softmax(h) y = Log(s)"], "log_softmax", ["MatMul"]),
    "Log of something else": Tail(["h = MatMul(x, W) s = Exp(h) y = Log(s)"], None, ["MatMul", "Exp", "Log"]),
    "Log of the input": Tail(["y = Log(x)"], None, ["Log"]),
    "Softmax, then Identity and Dropout": Tail(
        ["h = MatMul(x, W) s = Softmax(h) i = Identity(s) y = Dropout(i)"], "softmax", ["MatMul"]
    ),
    "Identity between Log and Softmax": Tail(
        ["h = MatMul(x, W) s = Softmax(h) i = Identity(s) y = Log(i)"], "log_softmax", ["MatMul"]
    ),
    "Softmax, then scaled": Tail(["h = MatMul(x, W) s = Softmax(h) y = Mul(s, s)"], None, ["MatMul", "Softmax", "Mul"]),
    "two Softmaxes": Tail(["h = MatMul(x, W) s = Softmax(h) y = Softmax(s)"], "softmax", ["MatMul", "Softmax"]),
    "Softmax of the input": Tail(["y = Softmax(x)"], "softmax", ["Identity"]),
}


@pytest.mark.parametrize("name", TAILS)
def test_the_logits_are_found(name: str, handmade: Any, normal: Any) -> None:
    nodes, kind, kept = TAILS[name]
    graph = converted(handmade(nodes, {"W": normal(4, 3)}))
    (output,) = graph.safe.outputs
    found = tail(graph, output)
    assert found.kind == kind
    assert before(graph, found.logits) == [op for op in kept if op != "Identity"]


def f(*numbers: float, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers in float32: one as a scalar, several as a row, unless they have a shape."""
    return np.float32(numbers).reshape((() if len(numbers) == 1 else -1) if shape is None else shape)


IMAGE = (3, 8, 8)
CHANNELS = (1, 3, 1, 1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BYTES = TensorProto.UINT8
TO_NCHW = N("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
PICTURE = (130 + np.random.default_rng(0).normal(size=(1, 3, 8, 8)) * 5).astype(np.float32)
CONTRAST = np.random.default_rng(1).uniform(20, 235, (1, 3, 8, 8)).astype(np.float32)
SIGNED = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
# nodes from x to h, weights, input shape, input type, what is read
HEADS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...], int, Head]] = {
    "nothing": (["h = Relu(x)"], {}, IMAGE, 1, Head()),
    "ImageNet": (
        ["a = Sub(x, m) h = Div(a, s)"],
        {"m": f(*MEAN, shape=CHANNELS), "s": f(*STD, shape=CHANNELS)}, IMAGE, 1, Head((0.0, 1.0), MEAN, STD),
    ),
    "ImageNet in bytes, by products": (
        ["a = Mul(x, s) h = Add(a, m)"],
        {"s": f(1 / 58.4), "m": f(-123.7 / 58.4)}, IMAGE, 1, Head((0.0, 255.0), (123.7,), (58.4,)),
    ),
    "a scale alone": (["h = Div(x, s)"], {"s": f(255)}, IMAGE, 1, Head((0.0, 255.0))),
    "minus one to one": (
        ["a = Div(x, s) h = Sub(a, m)"],
        {"s": f(127.5), "m": f(1)}, IMAGE, 1, Head((0.0, 255.0), (127.5,), (127.5,)),
    ),
    "bytes, channels last": (
        ["c = Cast<to=1>(x) h = Transpose<perm=[0, 3, 1, 2]>(c)"],
        {}, (8, 8, 3), BYTES, Head((0.0, 255.0), channels_last=True),
    ),
    "normalised after the move": (
        ["t = Transpose<perm=[0, 3, 1, 2]>(x) a = Sub(t, m) h = Div(a, s)"],
        {"m": f(*MEAN, shape=CHANNELS), "s": f(*STD, shape=CHANNELS)}, (8, 8, 3), 1,
        Head((0.0, 1.0), MEAN, STD, channels_last=True),
    ),
    "normalised before the move": (
        ["a = Sub(x, m) b = Div(a, s) h = Transpose<perm=[0, 3, 1, 2]>(b)"],
        {"m": f(*MEAN), "s": f(*STD)}, (8, 8, 3), 1, Head((0.0, 1.0), MEAN, STD, channels_last=True),
    ),
    "batch normalisation of the input": (
        ["h = BatchNormalization<epsilon=0.0>(x, g, b, m, v)"],
        {"g": f(1, 2, 3), "b": f(0, 0, 1), "m": f(10, 20, 30), "v": f(4, 9, 16)}, IMAGE, 1,
        Head((0.0, 255.0), (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)),
    ),
    "quantised": (
        ["q = QuantizeLinear(x, s, z) h = DequantizeLinear(q, s, z)"],
        {"s": f(0.5), "z": np.uint8(3)}, IMAGE, 1, Head((-1.5, 126.0)),
    ),
    "clipped": (["h = Clip(x, l, u)"], {"l": f(0), "u": f(1)}, IMAGE, 1, Head((0.0, 1.0))),
    "a product with what is no number for a channel": (
        ["h = Mul(x, s)"], {"s": f(*range(1, 65), shape=(1, 1, 8, 8))}, IMAGE, 1, Head(),
    ),
    "a quotient the other way round": (["h = Div(s, x)"], {"s": f(2)}, IMAGE, 1, Head()),
    "an inverted picture, put into 0…1": (
        ["i = Sub(m, x) h = Div(i, m)"],
        {"m": f(255)},
        IMAGE,
        1,
        Head((0.0, 255.0)),
    ),
    "an inverted picture": (["h = Sub(m, x)"], {"m": f(255)}, IMAGE, 1, Head((0.0, 255.0))),
    "standardised and turned round": (
        ["a = Sub(m, x) h = Div(a, s)"],
        {"m": f(0.5), "s": f(0.25)}, IMAGE, 1, Head((0.0, 1.0), (0.5,), (0.25,)),
    ),
    "the product's other side": (
        ["a = Mul(s, x) h = Add(m, a)"],
        {"s": f(1 / 58.4), "m": f(-123.7 / 58.4)}, IMAGE, 1, Head((0.0, 255.0), (123.7,), (58.4,)),
    ),
    "a mean for each channel alone, of bytes": (
        ["h = Sub(x, m)"], {"m": f(123, 117, 104, shape=CHANNELS)}, IMAGE, 1,
        Head((0.0, 255.0), (123.0, 117.0, 104.0), (58.65,), guessed=True),
    ),
    "a mean picture that varies little": (
        ["h = Sub(x, m)"], {"m": PICTURE}, IMAGE, 1,
        Head((0.0, 255.0), tuple(PICTURE.mean((0, 2, 3)).tolist()), (58.65,), guessed=True),
    ),
    "a mean picture that varies much": (
        ["h = Sub(x, m)"], {"m": CONTRAST}, IMAGE, 1,
        Head((0.0, 255.0), tuple(CONTRAST.reshape(-1).tolist()), (58.65,), guessed=True),
    ),
    "a mean picture and one deviation": (
        ["a = Sub(x, m) h = Div(a, s)"], {"m": PICTURE, "s": f(60)}, IMAGE, 1,
        Head((0.0, 255.0), tuple(PICTURE.mean((0, 2, 3)).tolist()), (60.0,)),
    ),
    "a positional embedding": (
        ["h = Add(x, p)"], {"p": SIGNED}, (6, 5), 1, Head(),
    ),
    "each feature standardised": (
        ["a = Sub(x, m) h = Mul(a, s)"],
        {"m": f(1, -20, 300), "s": f(1, 0.5, 0.01)}, (3,), 1, Head(None, (1.0, -20.0, 300.0), (1.0, 2.0, 100.0)),
    ),
    "each feature put into 0…1": (
        ["a = Mul(x, s) h = Add(a, m)"],
        {"s": f(1, 0.5, 0.01), "m": f(0, 5, -1)}, (3,), 1,
        Head(((0.0, -10.0, 100.0), (1.0, -8.0, 200.0)), (0.5, -9.0, 150.0), (0.25, 0.5, 25.0)),
    ),
    "each feature put into 0…1 and cut": (
        ["a = Mul(x, s) b = Add(a, m) h = Clip(b, l, u)"],
        {"s": f(1, 0.5, 0.01), "m": f(0, 5, -1), "l": f(0), "u": f(1)}, (3,), 1,
        Head(((0.0, -10.0, 100.0), (1.0, -8.0, 200.0)), (0.5, -9.0, 150.0), (0.25, 0.5, 25.0)),
    ),
    "scaled bytes, then quantised": (
        ["a = Div(x, d) q = QuantizeLinear(a, s, z) h = DequantizeLinear(q, s, z)"],
        {"d": f(255), "s": f(1 / 255), "z": np.uint8(0)}, IMAGE, 1, Head((0.0, 255.0)),
    ),
    "columns taken apart": (
        ["a = Slice(x, zero, two, one) b = Slice(x, two, three, one) c = Sub(a, m)",
         "d = Div(c, s) h = Concat<axis=1>(b, d)"],
        {"m": f(5, 50), "s": f(2, 20), **{n: np.array([i]) for i, n in enumerate(("zero", "one", "two", "three"))}},
        (3,), 1, Head(None, (5.0, 50.0, 0.0), (2.0, 20.0, 1.0)),
    ),
    "a window over a signal": (["h = Mul(x, s)"], {"s": f(0.1, 0.5, 0.1)}, (3,), 1, Head()),
    "features' means alone": (
        ["h = Sub(x, m)"], {"m": f(0.5, -3, 600)}, (3,), 1,
        Head(None, (0.5, -3.0, 600.0), (1.0, 1.0, 200.0), guessed=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_what_the_beginning_shows(name: str, handmade: Any) -> None:
    nodes, weights, shape, kind, wanted = HEADS[name]
    nodes = [*nodes, N("Flatten", ["h"], ["y"])]
    graph = converted(handmade(nodes, weights, inputs=[value("x", "batch", *shape, kind=kind)]))
    assert not graph.blocked
    found = head(graph)
    assert (found.range is None) == (wanted.range is None)
    for end, asked in zip(found.range or (), wanted.range or (), strict=True):
        assert end == pytest.approx(asked, rel=1e-4, abs=1e-6)
    assert found.mean == (None if wanted.mean is None else pytest.approx(wanted.mean, rel=1e-4))
    assert found.deviation == (None if wanted.deviation is None else pytest.approx(wanted.deviation, rel=1e-4))
    assert (found.channels_last, found.guessed) == (wanted.channels_last, wanted.guessed)
    if wanted.range is not None or wanted.mean is not None:
        assert found.seen


@pytest.mark.parametrize(
    ("stated", "bounds"), [("NominalRange_0_255", (0.0, 255.0)), ("Normalized_1_1", (-1.0, 1.0)), ("?", None)]
)
def test_metadata_states_the_range(stated: str, bounds: tuple[float, float] | None, handmade: Any) -> None:
    model = handmade(parsed("y = Flatten(x)"), inputs=[value("x", "batch", *IMAGE)])
    model.metadata_props.add(key="Image.NominalPixelRange", value=stated)
    assert head(converted(model)).range == bounds


def test_a_scaler_shows_each_features_mean_and_deviation(handmade: Any) -> None:
    node = N("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[10.0, 0.5, -3.0], scale=[0.25, 10.0, 1.0])
    found = head(converted(handmade([node], inputs="float[batch,3] x", domains={"ai.onnx.ml": 3})))
    assert found.mean == pytest.approx((10.0, 0.5, -3.0), rel=1e-4)
    assert found.deviation == pytest.approx((4.0, 0.1, 1.0), rel=1e-4)
    assert (found.range, found.seen) == (None, "Scaler")


@pytest.mark.parametrize("curved", ["Log", "Sqrt"])
def test_what_keeps_a_logarithm_defined_is_no_mean(curved: str, handmade: Any) -> None:
    nodes = [N("Add", ["x", "one"], ["a"]), N(curved, ["a"], ["l"]), N("Flatten", ["l"], ["y"])]
    found = head(converted(handmade(nodes, {"one": np.float32([1.0])}, inputs="float[batch,3] x")))
    assert (found.mean, found.deviation, found.range) == (None, None, None)


def test_support_vectors_are_samples_of_the_data(handmade: Any) -> None:
    vectors = (np.random.default_rng(0).normal(size=(40, 3)) * [1, 10, 100] + [5, 50, 500]).astype(np.float32)
    node = N(
        "SVMClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", classlabels_ints=[0, 1], kernel_type="RBF",
        kernel_params=[0.1, 0.0, 3.0], support_vectors=vectors.reshape(-1).tolist(), vectors_per_class=[20, 20],
        coefficients=[1.0] * 20 + [-1.0] * 20, rho=[0.0], post_transform="NONE",
    )  # fmt: skip
    model = handmade([node], inputs="float[batch,3] x", outputs="float[b,2] y", domains={"ai.onnx.ml": 1})
    found = head(converted(model))
    assert found.mean == pytest.approx(vectors.mean(0), rel=1e-3)
    assert found.deviation == pytest.approx(vectors.std(0, ddof=1), rel=1e-3)
