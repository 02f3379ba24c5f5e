"""The two losses, built from the standard's own function bodies."""

from __future__ import annotations

import pytest
from harness import Row, cases, data, forward_matches_onnxruntime, gradient_matches_differences, positive

CLASSES = data("N", 4, dtype="int64", low=0, high=3)
ROWS = [
    Row(op, [data("N", 3, 4), CLASSES, weights], {"reduction": reduction, **ignored}, name=f"{reduction},{name}")
    for op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
    for reduction in ("none", "mean", "sum")
    for name, weights, ignored in (
        ("plain", None, {}),
        ("weights", positive(3), {}),
        ("ignored", None, {"ignore_index": 1}),
        ("weights,ignored", positive(3), {"ignore_index": 1}),
    )
]
ROWS += [
    Row(
        "SoftmaxCrossEntropyLoss",
        [data("N", 3), data("N", dtype="int64", low=0, high=3)],
        outputs=("y", "log"),
        name="log",
    )
]


@pytest.mark.parametrize(("row", "opset"), cases(ROWS))
def test_forward(row: Row, opset: int) -> None:
    forward_matches_onnxruntime(row, opset)


@pytest.mark.parametrize(("row", "opset"), cases(ROWS, gradient=True))
def test_gradient(row: Row, opset: int) -> None:
    gradient_matches_differences(row, opset)
