"""Scan: against onnxruntime at every version, its steps in a row or taken at run time."""

from __future__ import annotations

from harness import data
from text_models import Written, forward_and_gradient

_BODY = """body = b (float[{dims}] s, float[{dims}] e) => (float[{dims}] t, float[{dims}] u) {{
    v = Mul (s, e) w = Sin (v) t = Add (w, s) u = Tanh (t)
}}"""
MODELS = [
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
        """(float[N,4,3] x, float[N,3,4] k, float[N,3] s0) => (float[N,3] y, float[N,3,4] z, float[N,4] o)
        <int64 one = {1}> {
        y, z, o = Scan <num_scan_inputs = 2, scan_input_axes = [1, 2], scan_input_directions = [1, 0],
            scan_output_axes = [2, 1], scan_output_directions = [0, 1],
            body = b (float[N,3] s, float[N,3] e, float[N,3] f) => (float[N,3] t, float[N,3] u, float[N] v) {
                g = Mul (s, e) t = Add (g, f) u = Tanh (t) v = Gather <axis = 1> (u, one)
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
            v = Sub (e, s) o = Sin (v) t = Tanh (o) u = Mul (t, e)
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


test_forward, test_gradient = forward_and_gradient(MODELS)
