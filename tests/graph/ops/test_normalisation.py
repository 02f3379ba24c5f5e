"""Normalisation at each version: statistics constant and as data, all ranks, all outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import Row, build, compile_test, data, forward_and_gradient, normal, positive, values

from onnxcake.graph.module import Graph

IMAGE = data("N", 4, 3, 5)
SCALE, BIAS, MEAN, VAR = normal(4), normal(4, seed=1), normal(4, seed=2), positive(4)
FOUR = [SCALE, BIAS, MEAN, VAR]
TOKENS = data("N", 3, 4)


def group_norm(groups: int) -> Any:
    """GroupNormalization in numpy, scale and bias by group or by channel."""

    def expected(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), groups, -1)
        flat = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + 1e-5)
        by_channel = (np.repeat(v, x.shape[1] // len(v)).reshape(-1, 1, 1) for v in (scale, bias))
        return flat.reshape(x.shape) * next(by_channel) + next(by_channel)

    return expected


def lrn(size: int) -> Any:
    """LRN in numpy; onnxruntime refuses even sizes."""

    def expected(x: np.ndarray) -> np.ndarray:
        first, last = -((size - 1) // 2), size // 2
        near = [x[:, max(c + first, 0) : c + last + 1] for c in range(x.shape[1])]
        squares = np.stack([(part**2).sum(1) for part in near], 1)
        return x / (1 + 0.5 / size * squares) ** 0.75

    return expected


ROWS = [
    *[
        Row("BatchNormalization", [data("N", 4, *sizes), *FOUR], name=f"{2 + len(sizes)} axes")
        for sizes in ((), (5,), (3, 5), (2, 3, 2))
    ],
    Row("BatchNormalization", [IMAGE, *FOUR], {"epsilon": 0.1, "momentum": 0.5}),
    Row("BatchNormalization", [IMAGE, data(4), data(4), MEAN, VAR], name="scale and bias are data"),
    Row("BatchNormalization", [IMAGE, *[data(4)] * 3, data(4, low=0.5)], name="all data"),
    Row(
        "BatchNormalization",
        [IMAGE, *[normal(4, 3, 5, seed=s) for s in range(3)], positive(4, 3, 5)],
        {"spatial": 0},
        until=7,
        expected=lambda x, s, b, m, v: (x - m) / np.sqrt(v + 1e-5) * s + b,  # onnxruntime takes one per channel only
    ),
    *[
        Row("InstanceNormalization", [data("N", 4, *sizes), SCALE, BIAS], {"epsilon": 1e-3}, name=f"{len(sizes)} axes")
        for sizes in ((7,), (3, 5), (2, 3, 2))
    ],
    Row("InstanceNormalization", [IMAGE, data(4), data(4)], name="scale and bias are data"),
    Row("LayerNormalization", [TOKENS, SCALE, BIAS]),
    Row("LayerNormalization", [TOKENS, SCALE], {"axis": -1, "epsilon": 0.1}),
    Row("LayerNormalization", [IMAGE, normal(4, 3, 5), normal(4, 3, 5, seed=1)], {"axis": 1}),
    Row("LayerNormalization", [IMAGE, normal(3, 5), normal(3, 5)], {"axis": -2}),
    Row("LayerNormalization", [TOKENS, data(4), data(4)], name="scale and bias are data"),
    Row("LayerNormalization", [TOKENS, normal(1, 4), normal(1, 1, 4)], name="scale to be broadcast"),
    Row("LayerNormalization", [TOKENS, SCALE, BIAS], outputs=("y", "mean", "inverse"), name="statistics"),
    Row("LayerNormalization", [IMAGE, normal(3, 5)], {"axis": 2}, outputs=("y", "", "inverse"), name="one statistic"),
    Row("LayerNormalization", [TOKENS, normal(1, 3, 4), normal(4)], {"axis": 0}),
    *[
        Row("GroupNormalization", [IMAGE, *inputs], {"num_groups": 2}, opsets=[18], expected=group_norm(2), name=name)
        for name, inputs in {"constant": [normal(2), normal(2, seed=1)], "data": [data(2), data(2)]}.items()
    ],
    *[
        Row("GroupNormalization", [IMAGE, *inputs], {"num_groups": 2}, since=21, expected=group_norm(2), name=name)
        for name, inputs in {"constant": [SCALE, BIAS], "data": [data(4), data(4)]}.items()
    ],
    Row("RMSNormalization", [TOKENS, SCALE]),
    Row("RMSNormalization", [TOKENS, data(4)], {"epsilon": 0.1}),
    Row("RMSNormalization", [IMAGE, normal(3, 5)], {"axis": 2}),
    Row("RMSNormalization", [IMAGE, normal(5)], {"axis": 2}, name="scale to be broadcast", reference=True),
    Row("RMSNormalization", [TOKENS, normal(3, 4)], {"axis": 0}, reference=True),
    *[Row("LRN", [data("N", 6, 3, 3)], {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 1.5}) for size in (1, 3, 5)],
    *[Row("LRN", [data("N", 6, 3, 3)], {"size": size, "alpha": 0.5}, expected=lrn(size)) for size in (2, 4)],
    Row("LRN", [data("N", 6, 4)], {"size": 3, "alpha": 0.5}, name="one axis", expected=lrn(3)),
    *[Row("LpNormalization", [IMAGE], {"p": p, "axis": axis}) for p, axis in ((2, -1), (1, 1), (2, 2))],
    Row("LpNormalization", [IMAGE]),
    Row("MeanVarianceNormalization", [IMAGE]),
    Row("MeanVarianceNormalization", [IMAGE], {"axes": [2, 3]}, reference=True),
    Row("MeanVarianceNormalization", [TOKENS], {"axes": [1]}, reference=True),
]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test(r for r in ROWS if not r.name and r.gradient)


TRAINING = Row(
    "BatchNormalization", [IMAGE, *FOUR], {"training_mode": 1, "momentum": 0.8}, since=14, outputs=("y", "mean", "var")
)


def outputs_are(graph: Graph, x: np.ndarray, expected: list[np.ndarray]) -> None:
    for got, want in zip(graph(torch.from_numpy(x)), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [14, 15])
def test_training_as_the_standard_has_it(opset: int) -> None:
    graph, _ = build(TRAINING, opset, precision=None)
    x = values(TRAINING, 5)["x0"]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale, bias, now_mean, now_var = (v.reshape(-1, 1, 1) for v in (SCALE, BIAS, mean, var))
    y = (x - now_mean) / np.sqrt(now_var + 1e-5) * scale + bias
    outputs_are(graph, x, [y, 0.8 * MEAN + 0.2 * mean, 0.8 * VAR + 0.2 * var])


@pytest.mark.parametrize("opset", [14, 15])
def test_a_teacher_left_in_training_mode_is_used_as_at_inference(opset: int) -> None:
    graph, _ = build(TRAINING, opset)
    x = values(TRAINING, 5)["x0"]
    scale, bias, mean, var = (v.reshape(-1, 1, 1) for v in FOUR)
    outputs_are(graph, x, [(x - mean) / np.sqrt(var + 1e-5) * scale + bias, MEAN, VAR])
