"""Loop: against onnxruntime at every version, its turns in a row or taken at run time."""

from __future__ import annotations

from functools import partial

from harness import data
from text_models import Written, forward_and_gradient

X = {"x": data("N", 3)}
_TRIPS = """(float[N,3] x) => (float[N,3] y, float[K,N,3] z)
        <int64 m = {4}, bool go = {1}, float[3] w = {0.5, 1.5, 2.0}> {"""
of_loop = partial(Written, inputs=X, op="Loop")
MODELS = [
    of_loop(
        "for",
        _TRIPS
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[N,3] u) {
            d = Identity (c) f = Cast <to = 1> (i) g = Mul (w, f) v = Add (s, g) t = Tanh (v) u = Mul (t, x)
        }> }""",
    ),
    of_loop(
        "ended-by-its-condition",
        _TRIPS
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[N,3] u)
        <int64 one = {1}> {
            d = Less (i, one) t = Tanh (s) u = Mul (t, x)
        }> }""",
        since=9,
    ),
    of_loop(
        "while",
        """(float[N,3] x) => (float[N,3] y) <bool go = {1}> {
        y = Loop (, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) <int64 five = {5}> {
            d = Less (i, five) t = Sin (s)
        }> }""",
        since=9,
    ),
    of_loop(
        "without-condition",
        """(float[N,3] x) => (float[N,3] y) <int64[1] m = {3}> {
        y = Loop (m, , x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c) t = Sin (s)
        }> }""",
    ),
    of_loop(
        "never-begun",
        _TRIPS.replace("go = {1}", "go = {0}")
        + """ y, z = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t, float[2,3] u)
        <float[2,3] k = {1, 2, 3, 4, 5, 6}> {
            d = Identity (c) t = Sin (s) u = Identity (k)
        }> }""",
        since=9,
    ),
    of_loop(
        "growing",
        """(float[N,3] x) => (float[N,M] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,L] s) => (bool d, float[N,K] t) {
            d = Identity (c) e = Gather <axis = 1> (s, i) f = Sin (s) t = Concat <axis = 1> (f, x)
        }> }""",
    ),
    of_loop(
        "places-by-the-turn",
        """(float[N,3] x) => (float[M,N] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go) <body = b (int64 i, bool c) => (bool d, float[N] t) {
            d = Identity (c) e = Gather <axis = 1> (x, i) t = Exp (e)
        }> }""",
        since=13,
    ),
    of_loop(
        "nested",
        """(float[N,3] x) => (float[N,3] y) <int64 m = {3}, bool go = {1}> {
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[N,3] s) => (bool d, float[N,3] t) {
            d = Identity (c)
            t = Loop (i, c, s) <body = e (int64 j, bool f, float[N,3] u) => (bool g, float[N,3] v) {
                g = Identity (f) k = Add (i, j) l = Cast <to = 1> (k) o = Sin (u) v = Mul (o, l)
            }>
        }> }""",
    ),
    of_loop(
        "while-the-data-say-so",
        """(float[N,3] x) => (float[N,3] y, int64 n) <int64 m = {20}, bool go = {1}, int64 zero = {0}> {
        y, n = Loop (m, go, x, zero) <body = b (int64 i, bool c, float[N,3] s, int64 k) =>
            (bool d, float[N,3] t, int64 l) <float much = {9.0}, int64 one = {1}, float[1] w = {1.5}> {
            t = Mul (s, w) squares = Mul (t, t) largest = ReduceMax <keepdims = 0> (squares)
            d = Less (largest, much) l = Add (k, one)
        }> }""",
        since=9,
        modules=1,
    ),
    Written(
        "as-often-as-the-data-say",
        """(float[N,3] x, int64 m) => (float[N,3] y, float[N,3] same) <bool go = {1}> {
        tanh = Tanh (x)
        y, same = Loop (m, go, x, tanh) <body = b (int64 i, bool c, float[N,3] s, float[N,3] k) =>
            (bool d, float[N,3] t, float[N,3] l) {
            d = Identity (c) r = Cast <to = 1> (i) u = Sin (s) v = Mul (u, tanh) o = Add (v, k) t = Add (o, r)
            l = Identity (k)
        }> }""",
        {**X, "m": data(dtype="int64", low=2, high=5)},
        "Loop",
        modules=1,
    ),
    of_loop(
        "once-for-each-sample",
        """(float[N,3] x) => (float[3] y, float[K,3] z) <bool go = {1}, int64 zero = {0}, float[3] start = {0, 0, 0}> {
        shape = Shape (x) m = Gather (shape, zero)
        y, z = Loop (m, go, start) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] u) {
            d = Identity (c) row = Gather (x, i) t = Add (row, s) u = Sin (t)
        }> }""",
        modules=1,
    ),
    of_loop(
        "a-list-of-all-samples",
        """(float[N,3] x) => (float[K,3] y) <bool go = {1}, int64 zero = {0}> {
        shape = Shape (x) m = Gather (shape, zero) none = SequenceEmpty ()
        rows = Loop (m, go, none) <body = b (int64 i, bool c, seq(float[3]) s) => (bool d, seq(float[3]) t) {
            d = Identity (c) row = Gather (x, i) sine = Sin (row) t = SequenceInsert (s, sine)
        }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (rows)
        }""",
        since=13,
        modules=1,
    ),
    of_loop(
        "a-list-in-its-state",
        """(float[N,3] x) => (float[N,K] y) <int64 m = {3}, bool go = {1}> {
        first = SequenceConstruct (x)
        all = Loop (m, go, first) <body = b (int64 i, bool c, seq(float[N,3]) s) => (bool d, seq(float[N,3]) t) {
            d = Identity (c) last = SequenceAt (s, i) sine = Sin (last) t = SequenceInsert (s, sine)
        }>
        y = ConcatFromSequence <axis = 1> (all)
        }""",
        since=13,
    ),
]


test_forward, test_gradient = forward_and_gradient(MODELS)
