"""Activation functions, against onnxruntime and central differences."""

from __future__ import annotations

import numpy as np
import torch
from harness import Row, build, compile_test, data, forward_and_gradient, normal, positive

WIDE = data("N", 3, 5, low=-4, high=4)
PLAIN = (
    *("Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Softplus", "Softsign"),
    *("ThresholdedRelu", "Shrink", "Swish"),
)
SOFT = ("Softmax", "LogSoftmax")
IMAGE = data("N", 3, 4, 2)
INTEGERS = ["int8", "int16", "int32", "int64"]

ONE = [
    *(Row(op, [WIDE]) for op in PLAIN),
    *(Row("Relu", [data("N", 4, dtype=t, low=-9, high=9)], since=14, gradient=False, name=t) for t in INTEGERS),
    Row("LeakyRelu", [WIDE], {"alpha": 0.3}),
    Row("Elu", [WIDE], {"alpha": 1.7}),
    Row("Celu", [WIDE], {"alpha": 1.7}),
    Row("Selu", [WIDE], {"alpha": 1.5, "gamma": 2.0}),
    Row("Gelu", [WIDE], {"approximate": "tanh"}),
    Row("HardSigmoid", [WIDE], {"alpha": 1 / 6, "beta": 0.5}),
    Row("HardSigmoid", [WIDE], {"alpha": 0.3, "beta": 0.1}),
    Row("ThresholdedRelu", [WIDE], {"alpha": 0.6}),
    Row("Shrink", [WIDE], {"lambd": 1.1}),
    Row("Shrink", [WIDE], {"lambd": 1.1, "bias": 1.1}),
    Row("Shrink", [WIDE], {"lambd": 1.1, "bias": 0.4}),
    Row("Shrink", [WIDE], {"lambd": -0.7, "bias": 0.4}),
    *(
        Row("Shrink", [data("N", 9, dtype=t, low=-9, high=9)], {"lambd": 2.0, "bias": 1.0}, gradient=False, name=t)
        for t in [*INTEGERS, "uint8", "uint16", "uint32", "uint64"]
    ),
    Row("Swish", [WIDE], {"alpha": 1.7}),
    *(Row("SwiGLU", [WIDE, data("N", 3, 5)], {"alpha": a}) for a in (1.0, 1.7)),
]
SLOPES = [
    *(
        Row("PRelu", [IMAGE, positive(*slope)], name="x".join(map(str, slope)) or "scalar")
        for slope in ((3, 1, 1), (1, 3, 1, 1), (1,), (), (1, 1, 1), (2,), (4, 1), (3, 4, 2), (1, 3, 4, 2), (1, 1, 4, 1))
    ),
    Row("PRelu", [data("N", 3, 3), positive(3)], name="last of three"),
    Row("PRelu", [data("N", 3, 3), positive(3, 1)], name="channels of three"),
    Row("PRelu", [data("N", 3), positive(3)], name="features"),
    Row("PRelu", [data("N", 1, 3), positive(1, 3)], name="one channel"),
    Row("PRelu", [data("N"), positive(1)], name="vector"),
    Row("PRelu", [IMAGE, data("N", 3, 1, 1, low=0.1, high=1)], name="data"),
    *(
        Row("PRelu", [data("N", 3, dtype=t, low=-9, high=9), np.array([2, 3, 4], t)], since=9, gradient=False, name=t)
        for t in ("int32", "int64", "uint32", "uint64")
    ),
]
NORMALISED = [
    *(Row(op, [IMAGE], {"axis": axis}) for op in SOFT for axis in (1, 2, 3)),
    *(Row(op, [IMAGE], {"axis": axis}, since=11) for op in SOFT for axis in (-1, -2)),
    *(Row(op, [IMAGE], {"axis": 0}) for op in SOFT),
    *(Row(op, [IMAGE], name="default") for op in SOFT),
    *(Row(op, [data("N", 5, 1, 1)], {"axis": 1}, name="to one") for op in SOFT),
    Row("Hardmax", [IMAGE], gradient=False),
    *(Row("Hardmax", [IMAGE], {"axis": axis}, gradient=False) for axis in (0, 1, 3)),
    Row("Hardmax", [data("N", 9, dtype="float32", low=1, high=1)], gradient=False, name="ties"),
]
ROWS = [*ONE, *SLOPES, *NORMALISED]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test(
    (next(row for row in ROWS if row.op == op) for op in ("PRelu", "Softmax", "Hardmax", "Shrink")), 11
)


def test_slopes_by_channel_take_the_fused_kernel() -> None:
    """The composition keeps three times as much for the gradient."""
    for slope, fused in (((3, 1, 1), True), ((1,), True), ((3, 4, 2), False)):
        graph, _ = build(Row("PRelu", [IMAGE, normal(*slope)]), 17)
        x = torch.zeros(2, 3, 4, 2, requires_grad=True)
        assert (graph(x).grad_fn.name() == "PreluKernelBackward0") is fused
