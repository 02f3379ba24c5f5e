"""The two losses, built from the standard's own function bodies."""

from __future__ import annotations

from harness import Row, data, forward_and_gradient, positive

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

test_forward, test_gradient = forward_and_gradient(ROWS)
