"""Rows of what resizes, pools and reduces."""

from __future__ import annotations

import numpy as np
from cut_row import HEAD, IMAGE, TOKENS, VECTOR, Row, ints, row

SPATIAL = (
    *(
        Row(
            f"DepthToSpace {mode}",
            IMAGE
            + f' {{ a = Conv(x, w1) b = DepthToSpace<blocksize=2, mode="{mode}">(a) z = Conv(b, w2) '
            + HEAD
            + " }",
            {"w1": (16, 3, 1, 1), "w2": (8, 4, 1, 1), "w9": (8, 4), "b9": (4,)},
            {"w1": (0,), "w2": (0, 1), "w9": (0,)},
        )
        for mode in ("DCR", "CRD")
    ),
    row("SpaceToDepth", IMAGE, "a = Conv(x, w1) b = SpaceToDepth<blocksize=2>(a) z = Conv(b, w2)",
        {"w1": (4, 3, 1, 1), "w2": (8, 16, 1, 1), "w9": (8, 4)}, {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("Resize to sizes", IMAGE,
        "a = Conv(x, w1) h = Shape(a) n = Slice(h, zero, two, zero) s = Concat<axis=0>(n, size) "
        'z = Resize<mode="linear">(a, , , s)',
        {"w1": (8, 3, 1, 1), "w9": (8, 4), "zero": ints(0), "two": ints(2), "size": ints(9, 12)},
        {"w1": (0,), "w9": (0,)}),
    *(
        Row(
            f"Resize by scales, roi {'given' if 'roi' in more else 'absent'}",
            IMAGE + f" {{ a = Conv(x, w1) b = {spelt} z = Conv(b, w2) " + HEAD + " }",
            {
                "w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4), "b9": (4,),
                "scales": np.float32([1, 1, 2, 2]), **more,
            },
            {"w1": (0,), "w2": (0, 1), "w9": (0,)},
            opset=opset,
        )
        for spelt, opset, more in (
            ('Resize<mode="nearest">(a, , scales)', 13, {}),
            ('Resize<mode="nearest">(a, roi, scales)', 11, {"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], "f")}),
            ('Resize<mode="nearest">(a, scales)', 10, {}),
            ('Upsample<mode="nearest">(a, scales)', 9, {}),
        )
    ),
    row("pooling", IMAGE,
        "a = Conv(x, w1) b = AveragePool<kernel_shape=[2,2]>(a) c = LpPool<kernel_shape=[2,2]>(b) d = Conv(c, w2) "
        "e = GlobalMaxPool(d) f = Flatten(e) y = Gemm(f, w9)",
        {"w1": (8, 3, 1, 1), "w2": (6, 8, 1, 1), "w9": (6, 4)}, {"w1": (0,), "w2": (0, 1), "w9": (0,)}),
    row("MaxPool that tells its places is held", IMAGE,
        "a = Conv(x, w1) b, i = MaxPool<kernel_shape=[2,2]>(a) j = Cast<to=1>(i) k = Mul(j, zero) l = Add(k, b) "
        "z = Conv(l, w2)",
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w9": (8, 4), "zero": np.float32(0)}, {"w2": (0,), "w9": (0,)}),
    row("GridSample", IMAGE,
        "a = Conv(x, w1) s = Slice(x, zero, two, one) t = Transpose<perm=[0,2,3,1]>(s) u = Tanh(t) "
        "z = GridSample(a, u)",
        {"w1": (8, 3, 1, 1), "w9": (8, 4), "zero": ints(0), "one": ints(1), "two": ints(2)},
        {"w1": (0,), "w9": (0,)}),
)  # fmt: skip


def _reduction(kind: str, opset: int) -> Row:
    given = "<keepdims=0, axes=[2]>(a)" if opset < (13 if kind == "Sum" else 18) else "<keepdims=0>(a, two)"
    return Row(
        f"Reduce{kind}",
        "g (float[N,5,6] x) => (float[N,M] y) { t = Transpose<perm=[0,2,1]>(x) m = MatMul(w1, t) a = Abs(m)"
        f" c = Reduce{kind}{given} y = Gemm(c, w9) }}",
        {"w1": (8, 6), "w9": (8, 4), **({} if "axes" in given else {"two": ints(2)})},
        {"w1": (0,), "w9": (0,)},
        opset=opset,
    )


REDUCTIONS = (
    *(
        _reduction(kind, opset)
        for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "SumSquare")
        for opset in (13, 18)
    ),
    *(_reduction("Sum", opset) for opset in (11, 13)),
    _reduction("LogSumExp", 17),
    row("Reduce over what is cut", TOKENS,
        "a = MatMul(x, w1) r = Relu(a) b = ReduceSum(r, last) c = ReduceMax<axes=[-1]>(r) d = Concat<axis=2>(b, c) "
        "f = Flatten(d) y = Gemm(f, w9)",
        {"w1": (6, 8), "w9": (10, 4), "last": ints(-1)}, {"w1": (1,)}),
    row("ReduceSum with no axes that does nothing", VECTOR,
        "a = Gemm(x, w1) b = ReduceSum<noop_with_empty_axes=1>(a) y = Gemm(b, w9)",
        {"w1": (6, 8), "w9": (8, 4)}, {"w1": (1,), "w9": (0,)}),
    row("ArgMax holds its axis", TOKENS,
        "a = MatMul(x, w1) b = MatMul(a, w2) i = ArgMax<axis=-1, keepdims=0>(b) c = Cast<to=1>(i) y = Gemm(c, w9)",
        {"w1": (6, 8), "w2": (8, 5), "w9": (5, 4)}, {"w1": (1,), "w2": (0,)}),
)  # fmt: skip
