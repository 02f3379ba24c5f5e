"""If: against onnxruntime at every version, resolved while building or decided at run time."""

from __future__ import annotations

from functools import partial

from harness import data
from text_models import Written, forward_and_gradient, refusal_test

X = {"x": data("N", 3)}
_BRANCHES = """
    y = If (c) <
        then_branch = a () => (float[N,3] p) { p = Tanh (x) },
        else_branch = b () => (float[N,3] q) { q = Mul (x, w) }
    >
"""
_W = "float[1] w = {3.0}"
of_if = partial(Written, inputs=X, op="If")
MODELS = [
    of_if("true", f"(float[N,3] x) => (float[N,3] y) <bool c = {{1}}, {_W}> {{ {_BRANCHES} }}"),
    of_if("false", f"(float[N,3] x) => (float[N,3] y) <bool c = {{0}}, {_W}> {{ {_BRANCHES} }}"),
    of_if(
        "of-the-batch",
        f"""(float[N,3] x) => (float[N,3] y) <{_W}, int64 zero = {{0}}, int64 four = {{4}}> {{
        shape = Shape (x) batch = Gather (shape, zero) c = Less (batch, four)
        {_BRANCHES} }}""",
        since=9,
        modules=1,
    ),
    of_if(
        "of-the-shape",
        f"""(float[N,3] x) => (float[N,3] y) <{_W}, int64 one = {{1}}, int64 three = {{3}}> {{
        shape = Shape (x) columns = Gather (shape, one) c = Equal (columns, three)
        {_BRANCHES} }}""",
    ),
    of_if(
        "of-the-data",
        f"""(float[N,3] x) => (float[N,3] y)
        <{_W}, float zero = {{0.0}}, int64[1] minus = {{-1}}, int64[1] at = {{0}}> {{
        flat = Reshape (x, minus) first = Gather (flat, at) c = Less (first, zero)
        {_BRANCHES} }}""",
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


test_forward, test_gradient = forward_and_gradient(MODELS)
test_refusals = refusal_test(MODELS)
