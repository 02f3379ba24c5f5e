"""Pooling: each way to pad and to round, at each version, and where maxima lie."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from harness import Row, build, compile_test, data, forward_and_gradient

LINE, IMAGE, VOLUME = data("N", 2, 9), data("N", 2, 8, 7), data("N", 2, 5, 6, 4)
SQUARE = {"kernel_shape": [3, 3], "strides": [2, 2]}

# What both MaxPool and AveragePool understand.
BOTH = [
    (LINE, {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}, 1),
    (IMAGE, {"kernel_shape": [2, 3]}, 1),
    (IMAGE, {**SQUARE, "pads": [1, 1, 1, 1]}, 1),
    (IMAGE, {**SQUARE, "pads": [0, 1, 2, 0]}, 1),
    (IMAGE, {**SQUARE, "pads": [2, 2, 2, 2]}, 1),  # more than torch takes
    (VOLUME, {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [1, 1, 0, 0, 1, 1]}, 1),
    (IMAGE, {**SQUARE, "auto_pad": "SAME_UPPER"}, 1),
    (IMAGE, {**SQUARE, "auto_pad": "SAME_LOWER"}, 1),
    (IMAGE, {**SQUARE, "auto_pad": "VALID"}, 1),
    (LINE, {"kernel_shape": [1], "strides": [2], "auto_pad": "SAME_UPPER"}, 1),  # less than nothing to pad
    (IMAGE, {**SQUARE, "ceil_mode": 1}, 10),
    (IMAGE, {**SQUARE, "ceil_mode": 1, "pads": [1, 1, 1, 1]}, 10),
    (IMAGE, {**SQUARE, "ceil_mode": 1, "pads": [0, 1, 2, 1]}, 10),
    (VOLUME, {"kernel_shape": [2, 2, 3], "strides": [3, 3, 3], "ceil_mode": 1}, 10),
    (IMAGE, {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}, 10),  # one window lost
]


def global_norm(p: int) -> Any:
    """GlobalLpPool in numpy; onnxruntime has none from opset 22 on."""
    return lambda x: (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)


ROWS = [
    *[Row("MaxPool", [x], attrs, since=since) for x, attrs, since in BOTH],
    *[
        Row("AveragePool", [x], {**attrs, "count_include_pad": include}, since=since)
        for (x, attrs, since), include in itertools.product(BOTH, (0, 1))
    ],
    *[
        Row("MaxPool", [IMAGE], {"kernel_shape": [2, 3], "dilations": [2, 2], "ceil_mode": ceil, **more}, since=10)
        for ceil, more in itertools.product((0, 1), ({}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 2]}))
    ],
    *[
        Row("AveragePool", [IMAGE], {"kernel_shape": [2, 3], "dilations": [2, 2], **more}, since=19)
        for more in ({}, {"pads": [1, 2, 0, 1]}, {"strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1})
    ],
    *[
        Row("MaxPool", [x], {**attrs, "storage_order": order}, since=since, opsets=opsets, outputs=("y", "indices"))
        for (x, attrs, since), (order, opsets) in itertools.product(BOTH, ((0, [22]), (1, [8, 22])))
    ],
    *[
        Row("MaxPool", [data("N", 2, 7, 6, dtype=dtype, low=-99, high=99)], SQUARE, since=12, outputs=outputs)
        for dtype, outputs in itertools.product(("int8", "uint8"), (("y",), ("y", "indices")))
    ],
    *[
        Row("LpPool", [x], {**attrs, "p": p}, since=18 if "ceil_mode" in attrs else 1)
        for (x, attrs, _), p in zip(BOTH, itertools.cycle((1, 2, 3)), strict=False)
    ],
    Row("LpPool", [IMAGE], {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 0, 0, 1]}, since=18),
    *[
        Row(op, [data("N", 2, *sizes)], name=f"{len(sizes)} axes")
        for op in ("GlobalAveragePool", "GlobalMaxPool")
        for sizes in ((7,), (4, 5), (2, 3, 4))
    ],
    *[Row("GlobalLpPool", [x], until=21, name=f"{len(x.shape) - 2} axes") for x in (LINE, IMAGE, VOLUME)],
    *[Row("GlobalLpPool", [IMAGE], {"p": p}, expected=global_norm(p)) for p in (1, 2, 3)],
    Row("MaxPool", [data("N", 1, 2, 2, 2, 2)], {"kernel_shape": [1, 1, 1, 1]}, refused="4 spatial axes"),
    Row("MaxPool", [data(2, 2, 4, "N")], {**SQUARE, "auto_pad": "SAME_UPPER"}, refused="depends on the batch"),
]

test_forward, test_gradient = forward_and_gradient(
    ROWS, gradient=[r for r in ROWS if r.inputs[0].dtype.kind not in "iu"]
)


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
def test_the_norm_of_nothing_but_zeros_has_a_gradient(op: str) -> None:
    attrs = {"kernel_shape": [2, 2]} if op == "LpPool" else {}
    graph, _ = build(Row(op, [data("N", 1, 4, 4)], attrs), 22)
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    graph(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad, 0)


test_compiles = compile_test(
    [
        Row("MaxPool", [IMAGE], {**SQUARE, "auto_pad": "SAME_UPPER", "storage_order": 1}, outputs=("y", "i"), since=8),
        Row("AveragePool", [IMAGE], {**SQUARE, "pads": [0, 1, 2, 0]}),
        Row("LpPool", [IMAGE], SQUARE),
        Row("GlobalMaxPool", [IMAGE]),
    ]
)
