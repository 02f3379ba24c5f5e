"""Loop: what asks for too much, or for sizes that the data decide, is refused before it is built."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from harness import data
from text_models import Written, build_text, is_refused, written

from onnxcake.graph.ops import control_parts

X = {"x": data("N", 3)}
of_loop = partial(Written, inputs=X, op="Loop")
MODELS = [
    of_loop(
        "endless",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c) t = Sin (s)
        }> }""",
        refused="never ends",
    ),
    of_loop(
        "trillion",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {1000000000000}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c) t = Sin (s)
        }> }""",
        refused="1,000,000,000,000 iterations",
    ),
    of_loop(
        "too-often-nested",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {90}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Loop (m, c, s) <body = e (int64 j, bool f, float[N,3] u) => (bool g, float[N,3] v) {
                g = Identity (f)
                v = Loop (m, f, u) <body = h (int64 k, bool l, float[N,3] o) => (bool p, float[N,3] q) {
                    p = Identity (l) q = Sin (o)
                }>
            }>
        }> }""",
        refused="729,000 iterations",
    ),
    of_loop(
        "endless-by-its-condition",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) <int64 minus = {-1}> {
            d = Less (minus, i) t = Identity (s)
        }> }""",
        refused="101 iterations",
    ),
    Written(
        "size-of-the-data",
        """(float[N,3] x, int64 m) => (float[K,N,3] y) <bool go = {1}> {
        y = Loop (m, go) <body = b (int64 i, bool c) => (bool d, float[N,3] t) {
            d = Identity (c) t = Sin (x)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        refused="so does the size of its output",
    ),
    Written(
        "growing-with-the-data",
        """(float[N,3] x, int64 m) => (float[N,K] y) <bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,L] s) => (bool d, float[N,M] t) {
            d = Identity (c) t = Concat <axis = 1> (s, x)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        refused="changes its state 0 in shape",
    ),
]


@pytest.mark.parametrize(("model", "opset"), written(MODELS, refused=True))
def test_refusals(model: Written, opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_parts, "MOST_TURNS", 100)
    is_refused(model, opset)


def test_turns_at_run_time_have_an_end() -> None:
    model = Written(
        "endless-with-the-data",
        """(float[N,3] x, bool go) => (float[N,3] y) {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (go) t = Identity (s)
        }> }""",
        {**X, "go": data(dtype="bool")},
        "Loop",
    )
    graph, builder = build_text(model, 25)
    assert not builder.blocked
    (loop,) = (step.function for step in graph.steps if isinstance(step.function, torch.nn.Module))
    loop.most = 50
    with pytest.raises(RuntimeError, match="more than 50 iterations"):
        graph.run(5, torch.zeros(5, 3), torch.tensor(True))
