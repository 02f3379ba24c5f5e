"""Rows of normalisations."""

from __future__ import annotations

import numpy as np
from cut_row import IMAGE, TOKENS, ints, positive, row

NORMALISATIONS = (
    row("BatchNormalization", IMAGE,
        "a = Conv(x, w1) b = BatchNormalization(a, s, t, m, v) c = Relu(b) z = Conv(c, w2)",
        {"w1": (8, 3, 1, 1), "s": (8,), "t": (8,), "m": (8,), "v": positive(8), "w2": (8, 8, 1, 1), "w9": (8, 4)},
        {"w1": (0,), "s": (0,), "t": (0,), "m": (0,), "v": (0,), "w2": (0, 1), "w9": (0,)}),
    row("InstanceNormalization", IMAGE,
        "a = Conv(x, w1) z = InstanceNormalization(a, s, t) d = Relu(z) e = ReduceMax<axes=[2,3],keepdims=0>(d) "
        "y = Gemm(e, w2)",
        {"w1": (8, 3, 1, 1), "s": (8,), "t": (8,), "w2": (8, 4)}, {"w1": (0,), "s": (0,), "t": (0,), "w2": (0,)}),
    row("LayerNormalization", TOKENS,
        "a = MatMul(x, w1) b = LayerNormalization(a, s, t) c = MatMul(b, w2) e = ReduceMean<axes=[1],keepdims=0>(c) "
        "y = Gemm(e, w3)",
        {"w1": (6, 8), "s": (8,), "t": (8,), "w2": (8, 10), "w3": (10, 4)},
        {"w1": (1,), "s": (0,), "t": (0,), "w2": (0, 1), "w3": (0,)}, masked=False),
    row("LayerNormalization over two axes", "g (float[N,4,6] x) => (float[N,M] y)",
        "a = MatMul(x, w1) b = LayerNormalization<axis=1>(a, s) f = Flatten(b) y = Gemm(f, w2)",
        {"w1": (6, 8), "s": (4, 8), "w2": (32, 4)}, {"w1": (1,), "s": (1,), "w2": (0,)}, masked=False),
    row("LayerNormalization spelt out", TOKENS,
        "a = MatMul(x, w1) m = ReduceMean<axes=[-1]>(a) d = Sub(a, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) "
        "p = Add(v, eps) r = Sqrt(p) n = Div(d, r) g1 = Mul(n, s) b = Add(g1, t) c = MatMul(b, w2) "
        "e = ReduceMean<axes=[1], keepdims=0>(c) y = Gemm(e, w3)",
        {"w1": (6, 8), "s": (8,), "t": (8,), "w2": (8, 10), "w3": (10, 4), "two": np.float32(2),
         "eps": np.float32(1e-5)}, {"w1": (1,), "s": (0,), "t": (0,), "w2": (0, 1), "w3": (0,)}, masked=False),
    row("GroupNormalization, scale of a group", IMAGE,
        "a = Conv(x, w1) z = GroupNormalization<num_groups=4>(a, s, t) f = Flatten(z) y = Gemm(f, w9)",
        {"w1": (12, 3, 1, 1), "s": (4,), "t": (4,), "w9": (432, 4)},
        {"w1": (0,), "s": (0,), "t": (0,), "w9": (0,)}, opset=18, masked=False, known=False),
    row("GroupNormalization, scale of a channel", IMAGE,
        "a = Conv(x, w1) z = GroupNormalization<num_groups=4>(a, s, t) f = Flatten(z) y = Gemm(f, w9)",
        {"w1": (12, 3, 1, 1), "s": (12,), "t": (12,), "w9": (432, 4)},
        {"w1": (0,), "s": (0,), "t": (0,), "w9": (0,)}, opset=21, masked=False),
    row("group normalisation as torch exports it", IMAGE,
        "a = Conv(x, w1) g0 = Reshape(a, groups) g1 = InstanceNormalization(g0, ones, zeros) h = Shape(a) "
        "b = Reshape(g1, h) c = Mul(b, s) z = Add(c, t)",
        {"w1": (12, 3, 1, 1), "groups": ints(0, 4, -1), "ones": np.ones(4, "f"), "zeros": np.zeros(4, "f"),
         "s": (12, 1, 1), "t": (12, 1, 1), "w9": (12, 4)},
        {"w1": (0,), "ones": (0,), "zeros": (0,), "s": (0,), "t": (0,), "w9": (0,)}, masked=False),
    row("LRN and LpNormalization", IMAGE,
        "a = Conv(x, w1) b = LRN<size=3>(a) c = Conv(b, w2) d = LpNormalization<axis=-1>(c) z = Relu(d)",
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4)}, {"w2": (0,), "w9": (0,)}),
)  # fmt: skip
