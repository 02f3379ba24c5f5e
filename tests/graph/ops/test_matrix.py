"""Products of matrices, with constant weights and as data."""

from __future__ import annotations

from harness import Row, compile_test, data, forward_and_gradient, normal

A, B = data("N", 4), normal(4, 3)
BIASES = {"row": normal(3), "flat row": normal(1, 3), "scalar": normal(), "one": normal(1)}

ROWS = [
    Row("MatMul", [A, B], name="matrix"),
    Row("MatMul", [data("N", 5, 4), B], name="weights"),
    Row("MatMul", [data("N", 2, 5, 4), normal(2, 4, 3)], name="weights of each head"),
    Row("MatMul", [data("N", 2, 5, 4), data("N", 2, 4, 3)], name="both data"),
    Row("MatMul", [normal(3, 5), data("N", 5, 4)], name="weights on the left"),
    Row("MatMul", [A, normal(4)], name="vector"),
    Row("MatMul", [normal(4), data("N", 4, 2)], name="vector on the left"),
    Row("MatMul", [data("N", 4, dtype="int32"), data(4, 3, dtype="int32")], since=9, gradient=False, name="integers"),
    Row("Gemm", [A, B], since=11, name="no bias"),
    Row("Gemm", [A, B], {"alpha": 0.5, "transB": 0}, since=11),
    *[Row("Gemm", [A, B, bias], name=name) for name, bias in BIASES.items()],
    *[Row("Gemm", [A, normal(3, 4), bias], {"transB": 1}, name=f"transposed, {n}") for n, bias in BIASES.items()],
    Row("Gemm", [A, B, data("N", 3)], {"alpha": 0.5, "beta": 2.0}),
    Row("Gemm", [A, data(4, 3), data(3)], name="all data"),
    Row("Gemm", [A, B, data("N", 3)], {"beta": 0.0}),
    *[
        Row("Gemm", [normal(4, 6), data(*(("N", 4) if t else (4, "N"))), normal(6, 1)], {"transA": 1, "transB": t})
        for t in (0, 1)
    ],
    Row("Gemm", [data(4, "N"), normal(3, 4), normal(3)], {"transA": 1, "transB": 1, "alpha": 1.5, "beta": 0.5}),
    *[
        Row(
            "Gemm",
            [data("N", 4, dtype="int32"), data(4, 3, dtype="int32"), c],
            since=11,
            gradient=False,
            name="integers",
        )
        for c in (None, data(3, dtype="int32"))
    ],
    *[
        Row("Einsum", inputs, {"equation": equation})
        for equation, inputs in {
            "bij, bjk -> bik": [data("N", 2, 3), data("N", 3, 4)],
            "bij,jk": [data("N", 2, 3), normal(3, 4)],
            "...ij,...jk->...ik": [data("N", 2, 5, 3), data("N", 2, 3, 4)],
            "bhid,bhjd->bhij": [data("N", 2, 3, 4), data("N", 2, 5, 4)],
            "bii->bi": [data("N", 3, 3)],
            "bij->b": [data("N", 3, 2)],
            "bij->jbi": [data("N", 3, 2)],
            "Bi,Bi": [data("N", 3), data("N", 3)],
            "aB,Bc": [data("N", 3), normal(3, 2)],
            "bi,ij,bj->b": [data("N", 3), normal(3, 2), data("N", 2)],
            "b...,...->b...": [data("N", 3, 2), normal(2)],
        }.items()
    ],
    Row("Det", [data("N", 3, 3)]),
    Row("Det", [data("N", 2, 4, 4)], name="several"),
]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test([*ROWS[:4], *ROWS[10:12], *ROWS[-10:-8]])
