"""Exact arithmetic of quantised operators: no processor's saturating kernel is left, and nothing else has changed.

Where this runs on x86 without VNNI, onnxruntime's kernels saturate themselves and the tests see the real thing;
elsewhere the saturation is simulated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_text import model_of, value, whole
from plain_session import plain_session
from saturation import product, saturating

from onnxcake.onnxfile.exact_integers import exact

MS = "com.microsoft"
KINDS = {"u8": np.uint8, "s8": np.int8}
Array = np.ndarray[Any, Any]


def test_full_range_saturates_and_seven_bits_do_not() -> None:
    """255·64·2 ≤ 2¹⁵ − 1, and even all inputs at their ends stay below it."""
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 256, (50, 33)).astype(np.uint8), draw.integers(-128, 128, (33, 40)).astype(np.int8)
    assert (saturating(a, b) != product(a, b)).mean() > 0.3
    ends = np.full((1, 33), 255, np.uint8)
    assert saturating(ends, np.full((33, 1), 127, np.int8)) != product(ends, np.full((33, 1), 127, np.int8))
    for end in (-64, 63, 64):
        seven = np.full((33, 1), end, np.int8)
        assert np.array_equal(saturating(ends, seven), product(ends, seven))
    seven = draw.integers(-64, 64, b.shape).astype(np.int8)
    assert np.array_equal(saturating(a, seven), product(a, seven))


def test_the_simulation_is_what_a_processor_without_vnni_computes() -> None:
    """The host's own kernel gives the one or the other; on a processor with VNNI, the product."""
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 256, (50, 32)).astype(np.uint8), draw.integers(-128, 128, (32, 48)).astype(np.int8)
    (host,) = plain_session(mat_mul(a, b, True, None).SerializeToString(), "host").run(None, {"a": a})
    assert np.array_equal(host, product(a, b)) or np.array_equal(host, saturating(a, b))


def mat_mul(a: Array, b: Array, constant: bool, zeros: tuple[int, int] | None) -> onnx.ModelProto:
    inputs = [
        value(name, *each.shape, kind=helper.np_dtype_to_tensor_dtype(each.dtype))
        for name, each in zip("ab", (a, b), strict=True)
    ]
    weights = {"b": b} if constant else {}
    if zeros is not None:
        weights |= {n: np.array(zero, each.dtype) for n, zero, each in zip(("za", "zb"), zeros, (a, b), strict=True)}
    product = "y = MatMulInteger(a, b)" if zeros is None else "y = MatMulInteger(a, b, za, zb)"
    return model_of(product, weights=weights, inputs=inputs[: 1 if constant else 2], outputs="int32[] y", ir_version=8)


@pytest.mark.parametrize("level", ["none", "basic", "extended", "all"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("zeros", [None, (0, 0), (7, -3), (7, 3)])
@pytest.mark.parametrize("kinds", ["u8 u8", "u8 s8", "s8 u8", "s8 s8"])
def test_whole_numbers_at_their_ends(kinds: str, zeros: Any, constant: bool, level: Any) -> None:
    """Products of the largest numbers of each type are the true ones at each level."""
    kind_a, kind_b = (np.iinfo(KINDS[kind]) for kind in kinds.split())
    if zeros is not None and zeros[1] < kind_b.min:
        pytest.skip("an unsigned zero point is not negative")
    draw = np.random.default_rng(0)
    a = draw.choice([kind_a.min, kind_a.max], (6, 64), p=[0.1, 0.9]).astype(kind_a.dtype)
    b = draw.choice([kind_b.min, kind_b.max], (64, 16), p=[0.1, 0.9]).astype(kind_b.dtype)
    za, zb = zeros or (0, 0)
    model = mat_mul(a, b, constant, zeros).SerializeToString()
    given = {"a": a} if constant else {"a": a, "b": b}
    (got,) = plain_session(model, level=level).run(None, given)
    assert np.array_equal(got, (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb))
    signed = kinds == "u8 s8"
    assert (exact(model) != model) == signed


@pytest.mark.parametrize("content", [b"", b"MatMulInteger", b"no model at all, QGemm"])
def test_what_is_no_model_is_left_to_onnxruntime(content: bytes) -> None:
    assert exact(content) == content


def test_a_float_model_is_left_alone(handmade: Any) -> None:
    content = handmade(["y = MatMul(x, w)"], {"w": np.eye(4, dtype=np.float32)})
    assert exact(content.SerializeToString()) == content.SerializeToString()


def test_both_branches_of_a_condition_and_a_weight_used_twice() -> None:
    """Sub-graphs see the names around them; what is added must not be called as something outside."""
    w = np.full((64, 8), 127, np.int8)
    text = """(uint8[N,64] x, bool c) => (int32[N,8] y) {
        t = If (c) <then_branch = then () => (int32[N,8] p) { p = MatMulInteger(x, w) },
                    else_branch = other () => (int32[N,8] q) { q = MatMulInteger(x, w) }>
        s = MatMulInteger(x, w) r = MatMulInteger(x, w) h = Add(s, r) y = Add(t, h) }"""
    model = whole(text, {"w": w})
    x = np.full((2, 64), 255, np.uint8)
    onnx.checker.check_model(onnx.load_from_string(exact(model.SerializeToString())), full_check=True)
    for way in (True, False):
        (got,) = plain_session(model.SerializeToString()).run(None, {"x": x, "c": np.array(way)})
        assert np.array_equal(got, 3 * product(x, w))


@pytest.mark.parametrize("last", [0, 1])
def test_the_bytes_may_come_from_operators_before(last: int) -> None:
    """The type of a is that of a pooling's input; without zero points nothing at the product tells it."""
    w = np.full((4, 3, 3, 3), [-128, 127][last], np.int8)
    model = model_of(
        "q, s, z = DynamicQuantizeLinear(x) p = MaxPool<kernel_shape=[1, 1]>(q) y = ConvInteger(p, w)",
        weights={"w": w},
        inputs="float[1,3,6,6] x",
        outputs="int32[] y",
        ir_version=8,
    )
    (got,) = plain_session(model.SerializeToString()).run(None, {"x": np.full((1, 3, 6, 6), 1, np.float32)})
    assert (got == 255 * int(w.flat[0]) * 27).all()
