"""Rows of what gives values another shape, order or length."""

from __future__ import annotations

import numpy as np
from cut_row import HEAD, IMAGE, TOKENS, Row, ints, row

SHAPES = (
    row("Flatten to Gemm", IMAGE,
        "a = Conv(x, w1) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) f = Flatten(b) y = Gemm(f, w9)",
        {"w1": (8, 3, 1, 1), "w9": (72, 4)}, {"w1": (0,), "w9": (0,)}),
    row("Reshape to Gemm, channels last", IMAGE,
        "a = Conv(x, w1) t = Transpose<perm=[0,2,3,1]>(a) f = Reshape(t, s) b = Gemm(f, w2) c = Relu(b) "
        "y = Gemm(c, w9)",
        {"w1": (8, 3, 1, 1), "w2": (288, 10), "w9": (10, 4), "s": ints(-1, 288)},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Reshape with a written batch, one size inferred", IMAGE,
        "a = Conv(x, w1) s = Shape(x) i = Gather(s, zero) u = Unsqueeze(i, zeros) k = Concat<axis=0>(u, minus) "
        "f = Reshape(a, k) y = Gemm(f, w9)",
        {"w1": (8, 3, 1, 1), "w9": (288, 4), "zero": np.array(0), "zeros": ints(0), "minus": ints(-1)},
        {"w1": (0,), "w9": (0,)}),
    row("Reshape of the batch with tokens", TOKENS,
        "a = MatMul(x, w1) b = Reshape(a, flat) c = Gemm(b, w2) d = Relu(c) e = Reshape(d, back) "
        "f = ReduceMax<axes=[1], keepdims=0>(e) y = Gemm(f, w9)",
        {"w1": (6, 8), "w2": (8, 10), "w9": (10, 4), "flat": ints(-1, 8), "back": ints(-1, 5, 10)},
        {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
    row("Reshape whose axes begin elsewhere", "g (float[N,4,6] x) => (float[N,M] y)",
        "a = MatMul(x, w1) b = Reshape(a, shape) c = MatMul(b, w2) r = Relu(c) d = ReduceSum<keepdims=0>(r, one) "
        "y = Gemm(d, w9)",
        {"w1": (6, 6), "w2": (8, 10), "w9": (10, 4), "shape": ints(-1, 3, 8), "one": ints(1)},
        {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
    row("channel shuffle", IMAGE,
        "a = Conv(x, w1) s = Reshape(a, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(t, join) "
        "z = Conv<group=2>(u, w2)",
        {"w1": (12, 3, 1, 1), "w2": (8, 6, 1, 1), "w9": (8, 4), "split": ints(-1, 2, 6, 6, 6),
         "join": ints(-1, 12, 6, 6)}, {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Squeeze and Unsqueeze as attributes, all that is one long", "g (float[N,3,6,1] x) => (float[N,M] y)",
        "a = Conv(x, w1) b = Squeeze(a) c = Conv(b, w2) d = Unsqueeze<axes=[3]>(c) e = Squeeze<axes=[3]>(d) "
        "f = Flatten(e) y = Gemm(f, w9)",
        {"w1": (2, 3, 1, 1), "w2": (4, 2, 1), "w9": (24, 4), "b9": (4,)},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}, opset=11),
    row("Squeeze of all that is one long", "g (float[N,3,6,1] x) => (float[N,M] y)",
        "a = Conv(x, w1) b = Squeeze(a) c = Conv(b, w2) f = Flatten(c) y = Gemm(f, w9)",
        {"w1": (2, 3, 1, 1), "w2": (4, 2, 1), "w9": (24, 4), "b9": (4,)}, {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    *(
        Row(
            f"Split {how} and Concat",
            IMAGE + " { a = Conv(x, w1) p, q = " + spelt + " q2 = Conv(q, w2) r = Relu(q2) z = Concat<axis=1>(r, p, q) "
            + HEAD
            + " }",
            {"w1": (12, 3, 1, 1), "w2": (6, b, 1, 1), "w9": (18, 4), "b9": (4,), **more},
            {"w1": (0,), "w2": (0, 1), "w9": (0,)},
            opset=opset,
        )
        for how, spelt, opset, b, more in (
            ("as an attribute", "Split<axis=1, split=[4,8]>(a)", 11, 8, {}),
            ("as an input", "Split<axis=-3>(a, sizes)", 13, 8, {"sizes": ints(4, 8)}),
            ("in halves", "Split<axis=1>(a)", 13, 6, {}),
            ("counted", "Split<axis=1, num_outputs=2>(a)", 18, 6, {}),
        )
    ),
    row("Slice, bounds as attributes", IMAGE,
        "a = Conv(x, w1) p = Slice<axes=[1], starts=[0], ends=[6]>(a) "
        "q = Slice<axes=[1,2], starts=[6,1], ends=[100,-1]>(a) q1 = Slice<axes=[2], starts=[0], ends=[4]>(p) "
        "q2 = Relu(q) z = Add(q1, q2)",
        {"w1": (12, 3, 1, 1), "w9": (6, 4)}, {"w1": (0,), "w9": (0,)}, opset=9),
    *(
        Row(
            f"Slice, bounds of {kind}",
            IMAGE + " { a = Conv(x, w1) p = Slice(a, s0, e0, axes) q = Slice(a, s1, e1, axes) p1 = Conv(p, w2)"
            " z = Concat<axis=1>(q, p1) " + HEAD + " }",
            {
                "w1": (12, 3, 1, 1), "w2": (3, 5, 1, 1), "w9": (10, 4), "b9": (4,), "axes": np.array([1], kind),
                "s0": np.array([0], kind), "e0": np.array([5], kind), "s1": np.array([-7], kind),
                "e1": np.array([np.iinfo(kind).max], kind),
            },
            {"w1": (0,), "w2": (0, 1), "w9": (0,)},
            opset=opset,
        )
        for kind, opset in (("int64", 13), ("int32", 10))
    ),
    row("Slice with steps is held, that of other axes is not", IMAGE,
        "a = Conv(x, w1) p = Slice(a, s, t, axes, steps) b = Conv(p, w2) z = Slice(b, s2, e2, axes2, steps2)",
        {"w1": (8, 3, 1, 1), "w2": (8, 4, 1, 1), "w9": (8, 4), "axes": ints(1), "s": ints(0), "t": ints(8),
         "steps": ints(2), "axes2": ints(2, 3), "s2": ints(0, -1), "e2": ints(6, -7), "steps2": ints(2, -1)},
        {"w2": (0,), "w9": (0,)}),
    row("Gather of a list", IMAGE, "a = Conv(x, w1) b = Gather<axis=1>(a, order) c = Conv(b, w2) z = Add(b, c)",
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4), "order": np.array([3, -1, 0, 1, 2, 6, 5, 4], "i")},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Gather of a list, some twice, some not at all", IMAGE,
        "a = Conv(x, w1) b = Gather<axis=1>(a, order) z = Conv(b, w2)",
        {"w1": (8, 3, 1, 1), "w2": (8, 6, 1, 1), "w9": (8, 4), "order": ints(3, 7, 0, 1, 1, 6)},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Gather of one place, another axis free", TOKENS,
        "a = MatMul(x, w1) b = Gather<axis=1>(a, i) y = Gemm(b, w9)",
        {"w1": (6, 8), "w9": (8, 4), "i": np.array(-1)}, {"w1": (1,), "w9": (0,)}),
    row("Gather from a table", "g (int64[N,5] x) => (float[N,M] y)",
        "t = Clip(x, low, high) a = Gather(w1, t) b = MatMul(a, w2) c = Relu(b) d = ReduceSum<keepdims=0>(c, one) "
        "y = Gemm(d, w9)",
        {"w1": (9, 6), "w2": (6, 8), "w9": (8, 4), "one": ints(1), "low": np.array(0), "high": np.array(8)},
        {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
    row("Gather of a table of places", TOKENS,
        "a = MatMul(x, w1) b = Gather<axis=2>(a, i) c = MatMul(b, w2) f = Flatten(c) y = Gemm(f, w9)",
        {"w1": (6, 8), "w2": (2, 5), "w9": (75, 4), "i": np.array([[0, 1], [2, 3], [6, 7]])},
        {"w2": (1,), "w9": (0,)}),
    row("Pad of channels", IMAGE, "a = Conv(x, w1) b = Pad(a, pads) c = Conv(x, w2) z = Add(b, c)",
        {"w1": (4, 3, 1, 1), "w2": (8, 3, 1, 1), "w9": (8, 4), "pads": ints(0, 1, 0, 0, 0, 3, 0, 0)},
        {"w1": (0,), "w2": (0,), "w9": (0,)}),
    row("Pad of channels with a number, as an attribute", IMAGE,
        "a = Conv(x, w1) b = Pad<pads=[0,0,1,1,0,4,1,1], value=0.5>(a) z = Conv(b, w2)",
        {"w1": (4, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4)}, {"w1": (0,), "w2": (0, 1), "w9": (0,)}, opset=10),
    row("Pad of named axes; reflection holds", IMAGE,
        'a = Conv(x, w1) b = Pad(a, pads, , axes) c = Conv(b, w2) d = Pad<mode="reflect">(c, two, , axes) '
        "z = Conv(d, w3)",
        {"w1": (4, 3, 1, 1), "w2": (8, 6, 1, 1), "w3": (8, 12, 1, 1), "w9": (8, 4), "axes": ints(1),
         "pads": ints(1, 1), "two": ints(2, 2)}, {"w1": (0,), "w2": (1,), "w3": (0,), "w9": (0,)}, opset=18),
    row("Tile", IMAGE, "a = Conv(x, w1) b = Tile(a, times) z = Conv(b, w2)",
        {"w1": (4, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4), "times": ints(1, 2, 1, 3)},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Expand of a class token", TOKENS,
        "a = MatMul(x, w1) s = Shape(a) n = Gather(s, zero) r = Concat<axis=0>(n, rest) t = Expand(token, r) "
        "b = Concat<axis=1>(t, a) c = Add(b, places) d = MatMul(c, w2) e = Gather<axis=1>(d, i) y = Gemm(e, w9)",
        {"w1": (6, 8), "token": (1, 1, 8), "places": (1, 6, 8), "w2": (8, 10), "w9": (10, 4), "zero": ints(0),
         "rest": ints(1, 8), "i": np.array(0)},
        {"w1": (1,), "token": (2,), "places": (2,), "w2": (0, 1), "w9": (0,)}),
    row("Tile of a class token for each input", TOKENS,
        "a = MatMul(x, w1) s = Shape(a) n = Gather(s, zero) r = Concat<axis=0>(n, rest) t = Tile(token, r) "
        "b = Concat<axis=1>(t, a) d = MatMul(b, w2) e = Gather<axis=1>(d, i) y = Gemm(e, w9)",
        {"w1": (6, 8), "token": (1, 1, 8), "w2": (8, 10), "w9": (10, 4), "zero": ints(0), "rest": ints(1, 1),
         "i": np.array(0)}, {"w1": (1,), "token": (2,), "w2": (0, 1), "w9": (0,)}),
    row("Expand to an axis that is cut", TOKENS,
        "a = ReduceMax<axes=[2]>(x) b = Expand(a, wide) c = Add(b, w1) d = Relu(c) e = MatMul(d, w2) "
        "f = ReduceSum<keepdims=0>(e, one) y = Gemm(f, w9)",
        {"w1": (8,), "w2": (8, 10), "w9": (10, 4), "wide": ints(1, 5, 8), "one": ints(1)},
        {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("ConstantOfShape from the batch", TOKENS,
        "a = MatMul(x, w1) s = Shape(x) n = Gather(s, zero) r = Concat<axis=0>(n, rest) "
        "t = ConstantOfShape<value=float[1]{0.5}>(r) b = Concat<axis=1>(t, a) c = MatMul(b, w2) "
        "e = ReduceSum<keepdims=0>(c, one) y = Gemm(e, w9)",
        {"w1": (6, 8), "w2": (8, 10), "w9": (10, 4), "zero": ints(0), "rest": ints(2, 8), "one": ints(1)},
        {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
)  # fmt: skip
