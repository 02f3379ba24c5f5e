"""Element-wise arithmetic, against onnxruntime and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from harness import Row, build, compile_test, data, forward_and_gradient, normal

HUGE = np.array([2**64 - 1, 2**63 + 5, 2**63 - 1, 7], np.uint64)
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
UNSIGNED = INTEGERS[4:]
EXTREMES = ("Max", "Min")
VARIADIC = ("Sum", "Mean", *EXTREMES)
ARITHMETIC = ("Add", "Sub", "Mul")
SMOOTH = ("Abs", "Neg", "Exp", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Sigmoid", "Erf")


def whole(*shape: int | str, dtype: str = "int32", low: int = -9, high: int = 9) -> Any:
    return data(*shape, dtype=dtype, low=low, high=high)


UNARY = [
    *(Row(op, [data("N", 3, 4)]) for op in SMOOTH),
    *(Row(op, [data("N", 4, low=0.1, high=3)]) for op in ("Sqrt", "Log", "Reciprocal")),
    *(Row(op, [data("N", 4, low=-0.9, high=0.9)]) for op in ("Asin", "Acos", "Atanh")),
    Row("Acosh", [data("N", 4, low=1.1, high=3)]),
    Row("Tan", [data("N", 4, low=-1.2, high=1.2)]),
    *(Row(op, [data("N", 5, low=-3, high=3)], gradient=False) for op in ("Ceil", "Floor", "Round", "Sign")),
    Row("Round", [np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])], gradient=False, name="halves"),
    *(Row(op, [whole("N", 4, dtype=t)], gradient=False, name=t) for op in ("Abs", "Sign") for t in INTEGERS),
    *(Row("Neg", [whole("N", 4, dtype=t)], gradient=False, name=t) for t in INTEGERS[:4]),
    Row("Erf", [whole("N", 4, low=-1, high=2)], until=12, gradient=False, name="integers"),
]
SUMS = [
    *(Row(op, [data("N", 3, 4), data("N", 1, 4)], name="broadcast") for op in ARITHMETIC),
    *(Row(op, [normal(4), data("N", 3, 4)], name="constant first") for op in ARITHMETIC),
    *(
        Row(op, [whole("N", 4, dtype=t, low=1), whole("N", 4, dtype=t, low=1)], since=14, gradient=False, name=t)
        for op in (*ARITHMETIC, "Div")
        for t in INTEGERS
    ),
    Row("Sub", [np.uint32([1, 2]), whole("N", 2, dtype="uint32")], gradient=False, name="wraps"),
    *(Row(op, [data("N", 3)], name="one") for op in VARIADIC),
    *(Row(op, [data("N", 3), data("N", 1)], since=8, name="two") for op in VARIADIC),
    *(Row(op, [data("N", 3), data("N", 3), normal(2, 1, 3)], since=8, name="three") for op in VARIADIC),
]
QUOTIENTS = [
    Row("Div", [data("N", 4), data("N", 4, low=0.5, high=2)]),
    Row("Div", [whole("N", 6), np.int32([-4, -3, -2, 2, 3, 5])], gradient=False, name="toward zero"),
    Row("Mod", [whole("N", 6), np.int32([-4, -3, -2, 2, 3, 5])], gradient=False, name="sign of divisor"),
    Row("Mod", [whole("N", 6), np.int32([-4, -3, -2, 2, 3, 5])], {"fmod": 1}, gradient=False),
    *(Row("Mod", [whole("N", 2, dtype=t), np.array([3, 5], t)], gradient=False, name=t) for t in UNSIGNED),
    Row("Mod", [data("N", 4, low=-5, high=5), np.float32([-2, -0.7, 1.3, 3])], {"fmod": 1}, name="floats"),
    Row("Mod", [data("N", 4, low=-5, high=5), np.float32([-2, -0.7, 1.3, 3])], since=28, expected=np.mod, name="new"),
    *(
        Row(op, [*pair], gradient=False, expected=function, name=f"huge{place}")
        for op, function in (("Div", np.floor_divide), ("Mod", np.mod))
        for place, pair in enumerate(
            [
                (HUGE, whole("N", 4, dtype="uint64", low=1)),
                (whole("N", 4, dtype="uint64"), HUGE),
                (HUGE, HUGE[[1, 0, 1, 2]]),
            ]
        )
    ),
]
POWERS = [
    Row("Pow", [data("N", 4, low=0.1, high=2), data("N", 4)]),
    *(Row("Pow", [data("N", 4, low=0.1), np.float32(e)], name=f"number{e}") for e in (2, 0.5, 1, -1, 3, 1.7)),
    Row("Pow", [data("N", 4), np.int64(3)], since=12, name="whole exponent"),
    Row("Pow", [data("N", 4, low=0.1), np.int32([[1, 2, 3, -2]])], since=12, name="whole exponents"),
    Row("Pow", [whole("N", 4), np.int32([0, 1, 2, 3])], since=12, gradient=False, name="integers"),
    Row("Pow", [whole("N", 2, low=1), np.float32([0.5, 1.5])], since=12, gradient=False, name="integer base"),
    Row("Pow", [whole("N", 2, dtype="int64"), np.int32([3, 2])], since=12, gradient=False, name="two widths"),
    Row("Pow", [data("N"), np.float32([[2.0]])], name="exponent with more dimensions"),
]
BOUNDS = [
    *(Row(op, [data("N", 3), np.float32(b)], since=8, name=f"bound{b}") for op in EXTREMES for b in (0, 0.3)),
    Row("Max", [np.float32([[0]]), data("N", 3)], since=8, name="bound first"),
    Row("Max", [np.float32([[[0.1]]]), data("N", 3)], since=8, name="bound with more dimensions"),
    *(
        Row(op, [whole("N", 4, dtype=t), np.array([1, 2, 3, 4], t)], since=12, gradient=False, name=t)
        for op in EXTREMES
        for t in INTEGERS
    ),
    *(Row(op, [whole("N", 2, dtype="int8"), np.int8(3)], since=12, gradient=False, name="number") for op in EXTREMES),
    *(
        Row(op, [whole("N", 4, dtype="uint64"), HUGE], since=12, gradient=False, expected=function, name="huge")
        for op, function in (("Max", np.maximum), ("Min", np.minimum))
    ),
    Row("Clip", [data("N", 5)], {"min": -1.0, "max": 0.5}, until=10),
    Row("Clip", [data("N", 5)], {"max": 0.5}, until=10),
    Row("Clip", [data("N", 5)], name="none"),
    Row("Clip", [data("N", 5), np.float32(-0.5)], since=11, name="low"),
    Row("Clip", [data("N", 5), np.float32(0)], since=11, name="zero"),
    Row("Clip", [data("N", 5), None, np.float32(0.5)], since=11, name="high"),
    Row("Clip", [data("N", 5, low=-9, high=9), np.float32(0), np.float32(6)], since=11, name="six"),
    Row("Clip", [data("N", 5), np.float32(1), np.float32(-1)], since=13, gradient=False, name="crossed"),
    Row("Clip", [data("N", 5), data(low=-0.9, high=-0.8), np.float32(1)], since=11, name="data"),
    Row("Clip", [data("N", 5), None, data(low=0.8, high=0.9)], since=11, name="only high, data"),
    *(
        Row("Clip", [whole("N", 5, dtype=t), np.array(1, t), np.array(4, t)], since=12, gradient=False, name=t)
        for t in INTEGERS
    ),
]
ROWS = [*UNARY, *SUMS, *QUOTIENTS, *POWERS, *BOUNDS]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test(
    (next(row for row in ROWS if row.op == op) for op in ("Tanh", "Neg", "Sqrt", "Pow", "Mod")), 17
)


def test_the_gradient_at_a_bound_is_not_lost() -> None:
    """A pixel on the bound of its range may come back."""
    graph, _ = build(Row("Clip", [data("N", 2), np.float32(0), np.float32(1)]), 17)
    x = torch.zeros(5, 2, requires_grad=True)
    graph(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 1).all())


def test_what_onnx2torch_converts_is_recorded() -> None:
    _, builder = build(Row("Tanh", [data("N", 2)]), 22)
    assert [record.by for record in builder.records] == ["onnx2torch"]
    _, builder = build(Row("Abs", [data("N", 2)]), 22)
    assert [record.by for record in builder.records] == ["onnxcake"]
