"""Rows of convolutions and matrix products."""

from __future__ import annotations

import numpy as np
from cut_row import IMAGE, TOKENS, VECTOR, ints, row

CONVOLUTIONS = (
    row("Conv", IMAGE, "c = Conv<pads=[1,1,1,1]>(x, w1, b1) z = Relu(c)",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w9": (8, 4)}, {"w1": (0,), "b1": (0,), "w9": (0,)}),
    row("Conv stride, dilation, 1-D", "g (float[N,3,16] x) => (float[N,M] y)",
        "c = Conv<strides=[2]>(x, w1) d = Conv<dilations=[2]>(c, w2, b2) z = Sigmoid(d)",
        {"w1": (6, 3, 3), "w2": (8, 6, 2), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "b2": (0,), "w9": (0,)}),
    row("depthwise Conv", IMAGE, "c = Conv(x, w1, b1) d = Conv<group=8>(c, w2, b2) z = Relu(d)",
        {"w1": (8, 3, 1, 1), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "b1": (0,), "w2": (0,), "b2": (0,), "w9": (0,)}),
    row("depthwise Conv with a multiplier", IMAGE, "c = Conv(x, w1) d = Conv<group=4>(c, w2, b2) z = Relu(d)",
        {"w1": (4, 3, 1, 1), "w2": (8, 1, 3, 3), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "w2": (0,), "b2": (0,), "w9": (0,)}),
    row("depthwise Conv of the input with a multiplier", IMAGE, "d = Conv<group=3>(x, w1, b1) z = Relu(d)",
        {"w1": (12, 1, 3, 3), "b1": (12,), "w9": (12, 4)}, {"w1": (0,), "b1": (0,), "w9": (0,)}),
    row("grouped Conv", IMAGE, "c = Conv(x, w1, b1) d = Relu(c) z = Conv<group=2>(d, w2, b2)",
        {"w1": (12, 3, 1, 1), "b1": (12,), "w2": (8, 6, 3, 3), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "b1": (0,), "w2": (0, 1), "b2": (0,), "w9": (0,)}),
    row("two grouped Convs, different numbers of groups", IMAGE,
        "c = Conv(x, w1) d = Conv<group=2>(c, w2) z = Conv<group=4>(d, w3)",
        {"w1": (12, 3, 1, 1), "w2": (16, 6, 1, 1), "w3": (8, 4, 1, 1), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "w3": (0, 1), "w9": (0,)}),
    row("ConvTranspose", IMAGE, "c = Conv(x, w1) d = ConvTranspose<strides=[2,2]>(c, w2, b2) z = Relu(d)",
        {"w1": (6, 3, 1, 1), "w2": (6, 8, 2, 2), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "b2": (0,), "w9": (0,)}),
    row("grouped ConvTranspose", IMAGE, "c = Conv(x, w1) z = ConvTranspose<group=2>(c, w2, b2)",
        {"w1": (6, 3, 1, 1), "w2": (6, 4, 2, 2), "b2": (8,), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "b2": (0,), "w9": (0,)}),
    row("depthwise ConvTranspose", IMAGE, "c = Conv(x, w1) z = ConvTranspose<group=8>(c, w2)",
        {"w1": (8, 3, 1, 1), "w2": (8, 1, 2, 2), "w9": (8, 4)}, {"w1": (0,), "w2": (0,), "w9": (0,)}),
    row("residual Add", IMAGE,
        "a = Conv(x, w1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2) d = Relu(c) e1 = Conv(d, w3) z = Add(e1, a)",
        {"w1": (8, 3, 1, 1), "w2": (6, 8, 3, 3), "w3": (8, 6, 1, 1), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "w3": (0, 1), "w9": (0,)}),
    row("residual Add of the input", IMAGE, "c = Conv(x, w2) d = Relu(c) e1 = Conv(d, w3) z = Add(x, e1)",
        {"w2": (6, 3, 1, 1), "w3": (3, 6, 1, 1), "w9": (3, 4)}, {"w2": (0,), "w3": (1,)}),
    row("squeeze-excite", IMAGE,
        "a = Conv(x, w1) s = GlobalAveragePool(a) t = Conv(s, w2, b2) u = Relu(t) v = Conv(u, w3, b3) "
        "h = HardSigmoid(v) z = Mul(a, h)",
        {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1), "b2": (4,), "w3": (8, 4, 1, 1), "b3": (8,), "w9": (8, 4)},
        {"w1": (0,), "w2": (0, 1), "b2": (0,), "w3": (0, 1), "b3": (0,), "w9": (0,)}),
    row("squeeze-excite by ReduceMean and Gemm", IMAGE,
        "a = Conv(x, w1) s = ReduceMean<axes=[2,3], keepdims=0>(a) t = Gemm(s, w2, b2) u = Relu(t) "
        "v = Gemm<transB=1>(u, w3, b3) h = Sigmoid(v) k = Unsqueeze(h, axes) z = Mul(a, k)",
        {"w1": (8, 3, 1, 1), "w2": (8, 4), "b2": (4,), "w3": (8, 4), "b3": (8,), "w9": (8, 4), "axes": ints(2, 3)},
        {"w1": (0,), "w2": (0, 1), "b2": (0,), "w3": (0, 1), "b3": (0,), "w9": (0,)}),
)  # fmt: skip

PRODUCTS = (
    row("Gemm", VECTOR,
        "a = Gemm(x, w1, b1) b = Relu(a) c = Gemm<transB=1, alpha=0.5>(b, w2, b2) d = Tanh(c) "
        "y = Gemm<beta=2.0>(d, w3, b3)",
        {"w1": (6, 8), "b1": (8,), "w2": (10, 8), "b2": (10,), "w3": (10, 4), "b3": (4,)},
        {"w1": (1,), "b1": (0,), "w2": (0, 1), "b2": (0,), "w3": (0,)}),
    row("Gemm with a transposed", VECTOR,
        "a = Gemm(x, w1) t = Transpose<perm=[1,0]>(a) y = Gemm<transA=1>(t, w2, b2)",
        {"w1": (6, 8), "w2": (8, 4), "b2": (1,)}, {"w1": (1,), "w2": (0,)}),
    row("Gemm with one number, a row, a column as bias", VECTOR,
        "a = Gemm(x, w1, b1) b = Gemm(a, w2, b2) y = Gemm(b, w3)",
        {"w1": (6, 8), "b1": np.float32(0.3), "w2": (8, 8), "b2": (1, 8), "w3": (8, 4)},
        {"w1": (1,), "w2": (0, 1), "b2": (1,), "w3": (0,)}),
    row("MatMul and Add", TOKENS,
        "a = MatMul(x, w1) b = Add(b1, a) c = Relu(b) d = MatMul(c, w2) e = ReduceSum<keepdims=0>(d, one) "
        "y = MatMul(e, w3)",
        {"w1": (6, 8), "b1": (8,), "w2": (8, 10), "w3": (10, 4), "one": ints(1)},
        {"w1": (1,), "b1": (0,), "w2": (0, 1), "w3": (0,)}),
    row("MatMul with a vector, and over tokens", TOKENS,
        "a = MatMul(w1, x) b = Relu(a) c = MatMul(w2, b) y = MatMul(c, w3)",
        {"w1": (8, 5), "w2": (8,), "w3": (6, 4)}, {"w1": (0,), "w2": (0,)}),
    row("batched MatMul of weights", "g (float[N,3,5,6] x) => (float[N,M] y)",
        "a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = ReduceSum<keepdims=0>(c, axes) y = MatMul(d, w3)",
        {"w1": (3, 6, 8), "w2": (3, 8, 10), "w3": (10, 4), "axes": ints(1, 2)},
        {"w1": (2,), "w2": (1, 2), "w3": (0,)}),
    row("Einsum", TOKENS,
        'a = Einsum<equation="bti,io->bto">(x, w1) b = Relu(a) c = Einsum<equation="bto, ok -> bkt">(b, w2) '
        'd = Einsum<equation="bkt->bk">(c) y = Gemm(d, w3)',
        {"w1": (6, 8), "w2": (8, 10), "w3": (10, 4)}, {"w1": (1,), "w2": (0, 1), "w3": (0,)}),
    row("Einsum with an ellipsis is held whole", TOKENS,
        'a = Einsum<equation="...i,io->...o">(x, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c) '
        "e = ReduceSum<keepdims=0>(d, one) y = MatMul(e, w3)",
        {"w1": (6, 8), "w2": (8, 10), "w3": (10, 4), "one": ints(1)}, {"w2": (1,), "w3": (0,)}),
    row("attention, q, k and v in one product", TOKENS,
        "a = MatMul(x, w1) b = Add(a, b1) s = Reshape(b, shape) t = Transpose<perm=[2,0,3,1,4]>(s) "
        "q = Gather<axis=0>(t, i0) k = Gather<axis=0>(t, i1) v = Gather<axis=0>(t, i2) "
        "kt = Transpose<perm=[0,1,3,2]>(k) l = MatMul(q, kt) m = Mul(l, scale) p = Softmax<axis=-1>(m) "
        "o = MatMul(p, v) u = Transpose<perm=[0,2,1,3]>(o) r = Reshape(u, back) c = MatMul(r, w2) d = Add(c, x) "
        "e = ReduceMean<axes=[1], keepdims=0>(d) y = Gemm(e, w9)",
        {"w1": (6, 36), "b1": (36,), "w2": (12, 6), "w9": (6, 4), "shape": ints(-1, 5, 3, 3, 4),
         "back": ints(-1, 5, 12), "i0": np.array(0), "i1": np.array(1), "i2": np.array(2), "scale": np.float32(0.5)},
        {"w1": (1,), "b1": (0,), "w2": (0,)}),
    row("attention, heads of three products, keys and values by Split", TOKENS,
        "a = MatMul(x, w1) b = MatMul(x, w2) q0 = Reshape(a, shape) q = Transpose<perm=[0,2,1,3]>(q0) "
        "k0, v0 = Split<axis=-1>(b, two) k1 = Reshape(k0, shape) k = Transpose<perm=[0,2,3,1]>(k1) "
        "v1 = Reshape(v0, shape) v = Transpose<perm=[0,2,1,3]>(v1) l = MatMul(q, k) p = Softmax(l) o = MatMul(p, v) "
        "u = Transpose<perm=[0,2,1,3]>(o) r = Reshape(u, back) c = MatMul(r, w3) "
        "e = ReduceMean<axes=[1], keepdims=0>(c) y = Gemm(e, w9)",
        {"w1": (6, 12), "w2": (6, 24), "w3": (12, 8), "w9": (8, 4), "two": ints(12, 12), "shape": ints(0, 0, 3, 4),
         "back": ints(0, 0, -1)}, {"w1": (1,), "w2": (1,), "w3": (0, 1), "w9": (0,)}),
)  # fmt: skip
