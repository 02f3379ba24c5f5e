"""If, Loop and Scan: against onnxruntime at every version, resolved while building or decided at run time."""

from __future__ import annotations

import pytest
import torch
from harness import data
from text_models import Written, build_text, gradient_matches, is_refused, matches_onnxruntime, written

from onnxcake.graph.ops import control_parts

X = {"x": data("N", 3)}

# If

_BRANCHES = """
    y = If (c) <
        then_branch = a () => (float[N,3] p) { p = Tanh (x) },
        else_branch = b () => (float[N,3] q) { q = Mul (x, w) }
    >
"""
_W = "float[1] w = {3.0}"
IFS = [
    Written("true", f"(float[N,3] x) => (float[N,3] y) <bool c = {{1}}, {_W}> {{ {_BRANCHES} }}", X, "If"),
    Written("false", f"(float[N,3] x) => (float[N,3] y) <bool c = {{0}}, {_W}> {{ {_BRANCHES} }}", X, "If"),
    Written(
        "of-the-batch",
        f"""(float[N,3] x) => (float[N,3] y) <{_W}, int64 zero = {{0}}, int64 four = {{4}}> {{
        shape = Shape (x)
        batch = Gather (shape, zero)
        c = Less (batch, four)
        {_BRANCHES} }}""",
        X,
        "If",
        since=9,
        modules=1,
    ),
    Written(
        "of-the-shape",
        f"""(float[N,3] x) => (float[N,3] y) <{_W}, int64 one = {{1}}, int64 three = {{3}}> {{
        shape = Shape (x)
        columns = Gather (shape, one)
        c = Equal (columns, three)
        {_BRANCHES} }}""",
        X,
        "If",
    ),
    Written(
        "of-the-data",
        f"""(float[N,3] x) => (float[N,3] y) <{_W}, float zero = {{0.0}}, int64[1] minus = {{-1}}, int64[1] at = {{0}}> {{
        flat = Reshape (x, minus)
        first = Gather (flat, at)
        c = Less (first, zero)
        {_BRANCHES} }}""",
        X,
        "If",
        since=9,
        modules=1,
    ),
    Written(
        "nested-of-the-data",
        """(float[N,3] x, bool c, bool d) => (float[N,3] y, float[N] z) <int64[1] zero = {0}, int64 at = {1}> {
        outer = Tanh (x)
        y, z = If (c) <
            then_branch = a () => (float[N,3] p, float[N] r) {
                own = Mul (x, outer)
                p = If (d) <
                    then_branch = e () => (float[N,3] s) { s = Add (own, outer) },
                    else_branch = f () => (float[N,3] t) { t = Sub (own, x) }
                >
                r = Gather <axis = 1> (outer, at)
            },
            else_branch = b () => (float[N,3] q, float[N] u) { q = Identity (x) u = Gather <axis = 1> (x, at) }
        >
        }""",
        {**X, "c": data(dtype="bool"), "d": data(dtype="bool")},
        "If",
        modules=1,
    ),
    Written(
        "branches-of-different-shapes",
        """(float[N,3] x, bool c) => (float[N,M] y) {
        y = If (c) <
            then_branch = a () => (float[N,3] p) { p = Tanh (x) },
            else_branch = b () => (float[N,6] q) { q = Concat <axis = 1> (x, x) }
        > }""",
        {**X, "c": data(dtype="bool")},
        "If",
        refused="the branches give different shapes",
    ),
]

# Loop

_TRIPS = """(float[N,3] x) => (float[N,3] y, float[K,N,3] z)
        <int64 m = {4}, bool go = {1}, float[3] w = {0.5, 1.5, 2.0}> {"""
LOOPS = [
    Written(
        "for",
        _TRIPS
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[N,3] u) {
            d = Identity (c)
            f = Cast <to = 1> (i)
            g = Mul (w, f)
            v = Add (s, g)
            t = Tanh (v)
            u = Mul (t, x)
        }> }""",
        X,
        "Loop",
    ),
    Written(
        "ended-by-its-condition",
        _TRIPS
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[N,3] u)
        <int64 one = {1}> {
            d = Less (i, one)
            t = Tanh (s)
            u = Mul (t, x)
        }> }""",
        X,
        "Loop",
        since=9,
    ),
    Written(
        "while",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) <int64 five = {5}> {
            d = Less (i, five)
            t = Sin (s)
        }> }""",
        X,
        "Loop",
        since=9,
    ),
    Written(
        "without-condition",
        """(float[N,3] x) => (float[N,3] y) <int64[1] m = {3}> {
        y = Loop (m, , x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Sin (s)
        }> }""",
        X,
        "Loop",
    ),
    Written(
        "never-begun",
        _TRIPS.replace("go = {1}", "go = {0}")
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[2,3] u)
        <float[2,3] k = {1, 2, 3, 4, 5, 6}> {
            d = Identity (c)
            t = Sin (s)
            u = Identity (k)
        }> }""",
        X,
        "Loop",
        since=9,
    ),
    Written(
        "growing",
        """(float[N,3] x) => (float[N,M] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,L] s) => (bool d, float[N,K] t) {
            d = Identity (c)
            e = Gather <axis = 1> (s, i)
            f = Sin (s)
            t = Concat <axis = 1> (f, x)
        }> }""",
        X,
        "Loop",
    ),
    Written(
        "places-by-the-turn",
        """(float[N,3] x) => (float[M,N] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go) <body = b (int64 i, bool c) => (bool d, float[N] t) {
            d = Identity (c)
            e = Gather <axis = 1> (x, i)
            t = Exp (e)
        }> }""",
        X,
        "Loop",
        since=13,
    ),
    Written(
        "nested",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Loop (i, c, s) <body = e (int64 j, bool f, float[N,3] u) => (bool g, float[N,3] v) {
                g = Identity (f)
                k = Add (i, j)
                l = Cast <to = 1> (k)
                o = Sin (u)
                v = Mul (o, l)
            }>
        }> }""",
        X,
        "Loop",
    ),
    Written(
        "while-the-data-say-so",
        """(float[N,3] x) => (float[N,3] y, int64 n) <int64 m = {20}, bool go = {1}, int64 zero = {0}> {
        y, n = Loop (m, go, x, zero) <body = b (int64 i, bool c, float[N,3] s, int64 k) =>
            (bool d, float[N,3] t, int64 l) <float much = {9.0}, int64 one = {1}, float[1] w = {1.5}> {
            t = Mul (s, w)
            squares = Mul (t, t)
            largest = ReduceMax <keepdims = 0> (squares)
            d = Less (largest, much)
            l = Add (k, one)
        }> }""",
        X,
        "Loop",
        since=9,
        modules=1,
    ),
    Written(
        "as-often-as-the-data-say",
        """(float[N,3] x, int64 m) => (float[N,3] y, float[N,3] same) <bool go = {1}> {
        tanh = Tanh (x)
        y, same = Loop (m, go, x, tanh) <body = b (int64 i, bool c, float[N,3] s, float[N,3] k) =>
            (bool d, float[N,3] t, float[N,3] l) {
            d = Identity (c)
            r = Cast <to = 1> (i)
            u = Sin (s)
            v = Mul (u, tanh)
            o = Add (v, k)
            t = Add (o, r)
            l = Identity (k)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        modules=1,
    ),
    Written(
        "once-for-each-sample",
        """(float[N,3] x) => (float[3] y, float[K,3] z) <bool go = {1}, int64 zero = {0}, float[3] start = {0, 0, 0}> {
        shape = Shape (x)
        m = Gather (shape, zero)
        y, z = Loop (m, go, start) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] u) {
            d = Identity (c)
            row = Gather (x, i)
            t = Add (row, s)
            u = Sin (t)
        }> }""",
        X,
        "Loop",
        modules=1,
    ),
    Written(
        "a-list-of-all-samples",
        """(float[N,3] x) => (float[K,3] y) <bool go = {1}, int64 zero = {0}> {
        shape = Shape (x)
        m = Gather (shape, zero)
        none = SequenceEmpty ()
        rows = Loop (m, go, none) <body = b (int64 i, bool c, seq(float[3]) s) => (bool d, seq(float[3]) t) {
            d = Identity (c)
            row = Gather (x, i)
            sine = Sin (row)
            t = SequenceInsert (s, sine)
        }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (rows)
        }""",
        X,
        "Loop",
        since=13,
        modules=1,
    ),
    Written(
        "a-list-in-its-state",
        """(float[N,3] x) => (float[N,K] y) <int64 m = {3}, bool go = {1}> {
        first = SequenceConstruct (x)
        all = Loop (m, go, first) <body = b (int64 i, bool c, seq(float[N,3]) s) => (bool d, seq(float[N,3]) t) {
            d = Identity (c)
            last = SequenceAt (s, i)
            sine = Sin (last)
            t = SequenceInsert (s, sine)
        }>
        y = ConcatFromSequence <axis = 1> (all)
        }""",
        X,
        "Loop",
        since=13,
    ),
    Written(
        "endless",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Sin (s)
        }> }""",
        X,
        "Loop",
        refused="never ends",
    ),
    Written(
        "trillion",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {1000000000000}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Sin (s)
        }> }""",
        X,
        "Loop",
        refused="1,000,000,000,000 iterations",
    ),
    Written(
        "too-often-nested",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {90}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Loop (m, c, s) <body = e (int64 j, bool f, float[N,3] u) => (bool g, float[N,3] v) {
                g = Identity (f)
                v = Loop (m, f, u) <body = h (int64 k, bool l, float[N,3] o) => (bool p, float[N,3] q) {
                    p = Identity (l)
                    q = Sin (o)
                }>
            }>
        }> }""",
        X,
        "Loop",
        refused="729,000 iterations",
    ),
    Written(
        "endless-by-its-condition",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) <int64 minus = {-1}> {
            d = Less (minus, i)
            t = Identity (s)
        }> }""",
        X,
        "Loop",
        refused="101 iterations",
    ),
    Written(
        "size-of-the-data",
        """(float[N,3] x, int64 m) => (float[K,N,3] y) <bool go = {1}> {
        y = Loop (m, go) <body = b (int64 i, bool c) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Sin (x)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        refused="so does the size of its output",
    ),
    Written(
        "growing-with-the-data",
        """(float[N,3] x, int64 m) => (float[N,K] y) <bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,L] s) => (bool d, float[N,M] t) {
            d = Identity (c)
            t = Concat <axis = 1> (s, x)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        refused="changes its state 0 in shape",
    ),
]

# Scan

_BODY = """body = b (float[{dims}] s, float[{dims}] e) => (float[{dims}] t, float[{dims}] u) {{
    v = Mul (s, e)
    w = Sin (v)
    t = Add (w, s)
    u = Tanh (t)
}}"""
SCANS = [
    Written(
        "steps",
        "(float[4,N,3] x, float[N,3] s0) => (float[N,3] y, float[4,N,3] z) { y, z = Scan <num_scan_inputs = 1, "
        + _BODY.format(dims="N,3")
        + "> (s0, x) }",
        {"x": data(4, "N", 3), "s0": data("N", 3)},
        "Scan",
        since=9,
    ),
    Written(
        "backward-along-axes",
        """(float[N,4,3] x, float[N,3,4] k, float[N,3] s0) => (float[N,3] y, float[N,3,4] z, float[N,4] o) <int64 one = {1}> {
        y, z, o = Scan <num_scan_inputs = 2, scan_input_axes = [1, 2], scan_input_directions = [1, 0],
            scan_output_axes = [2, 1], scan_output_directions = [0, 1],
            body = b (float[N,3] s, float[N,3] e, float[N,3] f) => (float[N,3] t, float[N,3] u, float[N] v) {
                g = Mul (s, e)
                t = Add (g, f)
                u = Tanh (t)
                v = Gather <axis = 1> (u, one)
            }> (s0, x, k) }""",
        {"x": data("N", 4, 3), "k": data("N", 3, 4), "s0": data("N", 3)},
        "Scan",
        since=9,
    ),
    Written(
        "negative-axes",
        "(float[N,3,4] x, float[N,3] s0) => (float[N,3] y, float[N,3,4] z) { y, z = Scan <num_scan_inputs = 1, "
        "scan_input_axes = [-1], scan_output_axes = [-1], " + _BODY.format(dims="N,3") + "> (s0, x) }",
        {"x": data("N", 3, 4), "s0": data("N", 3)},
        "Scan",
        since=11,
    ),
    Written(
        "over-the-samples",
        "(float[N,3] x, float[3] s0) => (float[3] y, float[3,N] z, float[N,3] o) { q = Tanh (x) y, z = Scan "
        "<num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1], "
        + _BODY.format(dims="3")
        + "> (s0, q) o = Sin (x) }",
        {"x": data("N", 3), "s0": data(3)},
        "Scan",
        since=9,
        modules=1,
    ),
    Written(
        "too-long-to-unroll",
        """(float[6000,N] x, float[N] s0) => (float[N] y, float[6000,N] z) {
        y, z = Scan <num_scan_inputs = 1, body = b (float[N] s, float[N] e) => (float[N] t, float[N] u) {
            v = Sub (e, s)
            o = Sin (v)
            t = Tanh (o)
            u = Mul (t, e)
        }> (s0, x) }""",
        {"x": data(6000, "N"), "s0": data("N")},
        "Scan",
        since=25,
        modules=1,
        gradient=False,
        batches=(2,),
    ),
    Written(
        "each-sample-by-itself",
        "(float[N,4,3] x, float[N,3] s0) => (float[N,3] y, float[N,4,3] z) { y, z = Scan <num_scan_inputs = 1, "
        "directions = [1], " + _BODY.format(dims="3") + "> (, s0, x) }",
        {"x": data("N", 4, 3), "s0": data("N", 3)},
        "Scan",
        until=8,
        modules=1,
    ),
    Written(
        "each-sample-of-its-length",
        "(int64[N] l, float[N,4,3] x, float[N,3] s0) => (float[N,3] y, float[N,4,3] z) { y, z = Scan "
        "<num_scan_inputs = 1, " + _BODY.format(dims="3") + "> (l, s0, x) }",
        {"l": data("N", dtype="int64", low=2, high=5), "x": data("N", 4, 3), "s0": data("N", 3)},
        "Scan",
        until=8,
        modules=1,
    ),
]
MODELS = [*IFS, *LOOPS, *SCANS]


@pytest.mark.parametrize(("model", "opset"), written(MODELS))
def test_forward(model: Written, opset: int) -> None:
    matches_onnxruntime(model, opset)


@pytest.mark.parametrize(("model", "opset"), written(MODELS, gradient=True))
def test_gradient(model: Written, opset: int) -> None:
    gradient_matches(model, opset)


@pytest.mark.parametrize(("model", "opset"), written(MODELS, refused=True))
def test_refusals(model: Written, opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_parts, "MOST_TURNS", 100)
    is_refused(model, opset)


def test_turns_at_run_time_have_an_end() -> None:
    model = Written(
        "endless-with-the-data",
        """(float[N,3] x, bool go) => (float[N,3] y) {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (go)
            t = Identity (s)
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
