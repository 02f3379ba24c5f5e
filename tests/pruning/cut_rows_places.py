"""Rows of what works place by place, and of what has no rule."""

from __future__ import annotations

import numpy as np
from cut_row import HEAD, IMAGE, TOKENS, VECTOR, Row, ints, positive, row

PLACES = (
    row("PRelu and Where", IMAGE,
        "a = Conv(x, w1) b = PRelu(a, slope) c = Greater(b, zero) d = Where(c, b, other) z = Conv(d, w2)",
        {"w1": (8, 3, 1, 1), "slope": (8, 1, 1), "other": (8, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4),
         "zero": np.float32(0)}, {"w1": (0,), "slope": (0,), "other": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Max, Min, Sum, Mean of several", IMAGE,
        "a = Conv(x, w1) b = Conv(x, w2) c = Max(a, b, w3) d = Min(c, a) e1 = Sum(d, a, b) z = Mean(e1, b)",
        {"w1": (8, 3, 1, 1), "w2": (8, 3, 1, 1), "w3": (8, 1, 1), "w9": (8, 4)},
        {"w1": (0,), "w2": (0,), "w3": (0,), "w9": (0,)}),
    row("a gate of one channel, a mask of places", IMAGE,
        "a = Conv(x, w1) g1 = Conv(x, w2) s = Sigmoid(g1) b = Mul(a, s) z = Mul(b, mask)",
        {"w1": (8, 3, 1, 1), "w2": (1, 3, 1, 1), "mask": (6, 6), "w9": (8, 4)}, {"w1": (0,), "w9": (0,)}),
    row("Clip, Pow, CumSum, Dropout", TOKENS,
        "a = MatMul(x, w1) b = Clip(a, low, high) c = Pow(b, two) d = CumSum(c, one) e = Dropout(d) "
        "f = MatMul(e, w2) h = ReduceMean<axes=[1], keepdims=0>(f) y = Gemm(h, w9)",
        {"w1": (6, 8), "w2": (8, 10), "w9": (10, 4), "low": np.float32(-1), "high": np.float32(1),
         "two": np.float32(2), "one": np.array(1)}, {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
    row("Softmax over what is cut", VECTOR, "a = Gemm(x, w1) s = Softmax<axis=1>(a) y = Gemm(s, w9)",
        {"w1": (6, 8), "w9": (8, 4)}, {"w1": (1,), "w9": (0,)}, masked=False),
    row("float16", "g (float16[N,6] x) => (float16[N,M] y)", "a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2)",
        {"w1": positive(6, 8).astype("float16"), "b1": positive(8).astype("float16"),
         "w2": positive(8, 4).astype("float16")}, {"w1": (1,), "b1": (0,), "w2": (0,)}),
    row("a batch fixed in the file", "g (float[4,3,6,6] x) => (float[4,M] y)",
        "a = Conv(x, w1) s = Reshape(a, shape) y = Gemm(s, w9)",
        {"w1": (8, 3, 1, 1), "w9": (288, 4), "shape": ints(4, 288)}, {"w1": (0,), "w9": (0,)}),
    Row(
        "the first opset that broadcasts",
        IMAGE
        + """ { a = Conv(x, w1) n = BatchNormalization(a, s, t, m, v) b = PRelu(n, slope) c = Mul(b, scale)
        d = Slice<axes=[1], starts=[1], ends=[-1]>(c) e1 = Dropout(d) p = Pad<pads=[0,2,0,0,0,0,0,0]>(e1)
        z = Conv(p, w2) """
        + HEAD
        + " }",
        {
            "w1": (8, 3, 1, 1), "s": (8,), "t": (8,), "m": (8,), "v": positive(8), "slope": (8, 1, 1),
            "scale": (8, 1, 1),
            "w2": (6, 8, 1, 1), "w9": (6, 4), "b9": (4,),
        },
        {"w1": (0,), **dict.fromkeys("stmv", (0,)), "slope": (0,), "scale": (0,), "w2": (0, 1), "w9": (0,)},
        opset=7,
    ),
    row("the standard's domain by its name", VECTOR, "a = ai.onnx.Gemm(x, w1) r = ai.onnx.Relu(a) y = Gemm(r, w9)",
        {"w1": (6, 8), "w9": (8, 4)}, {"w1": (1,), "w9": (0,)}, domains=', "ai.onnx" : 17'),
    row("one weight in two places", VECTOR,
        "a = Gemm(x, w1) r = Relu(a) b = Gemm(r, w2) s = Relu(b) c = Gemm(s, w2) y = Gemm(c, w9)",
        {"w1": (6, 8), "w2": (8, 8), "w9": (8, 4)}, {"w1": (1,), "w2": (0, 1), "w9": (0,)}),
    row("weights tied end to end", VECTOR, "a = Gemm(x, w1) r = Relu(a) b = Gemm<transB=1>(r, w1) y = Gemm(b, w9)",
        {"w1": (6, 8), "w9": (6, 4)}, {"w1": (1,)}),
)  # fmt: skip

UNKNOWN = (
    row("TopK has no rule", VECTOR, "a = Gemm(x, w1) v, i = TopK(a, k) b = Gemm(v, w2) r = Relu(b) y = Gemm(r, w9)",
        {"w1": (6, 8), "w2": (3, 8), "w9": (8, 4), "k": ints(3)}, {"w2": (1,), "w9": (0,)}),
    row("another domain", VECTOR,
        "a = Gemm(x, w1) b = com.microsoft.FastGelu(a, b1) c = Gemm(b, w2) r = Relu(c) y = Gemm(r, w9)",
        {"w1": (6, 8), "b1": (8,), "w2": (8, 10), "w9": (10, 4)},
        {"w2": (1,), "w9": (0,)}, domains=', "com.microsoft" : 1'),
    row("whole numbers convolved", IMAGE,
        "q = QuantizeLinear(x, sx, zx) c = ConvInteger(q, w1, zx) d = Cast<to=1>(c) e1 = Mul(d, s1) z1 = Relu(e1) "
        "z = Conv(z1, w2)",
        {"w1": np.arange(-12, 12, dtype="b").reshape(8, 3, 1, 1), "sx": np.float32(0.05), "zx": np.uint8(128),
         "s1": (8, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4)}, {"w2": (0,), "w9": (0,)}),
    *(
        Row(
            f"If that data decides, {branch}, which reads weights and sizes around it",
            VECTOR
            + f""" {{ a = Gemm(x, w1) s0 = Abs(x) s = ReduceMax<keepdims=0>(s0) c = {compare}(s, zero) n = Shape(x)
            m0 = Gather(n, first) m1 = Mul(m0, two) m = Concat<axis=0>(m1, half)
            b = If(c) <
                then_branch = t () => (float[P,Q] u) {{ u0 = Reshape(a, m) u1 = Relu(u0) u = Reshape(u1, back) }},
                else_branch = f () => (float[P,Q] v) {{ v = Gemm(a, w2) }}>
            d = Gemm(b, w3) r = Relu(d) y = Gemm(r, w9) }}""",
            {
                "w1": (6, 8), "w2": (8, 8), "w3": (8, 10), "w9": (10, 4), "zero": np.float32(0), "first": ints(0),
                "two": ints(2), "half": ints(4), "back": ints(-1, 8),
            },
            {"w3": (1,), "w9": (0,)},
        )
        for branch, compare in (("yes", "Greater"), ("no", "Less"))
    ),
)  # fmt: skip
