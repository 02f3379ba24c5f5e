"""Sequences and optionals: against onnxruntime at every version, of known length and as long as the batch."""

from __future__ import annotations

import torch
from harness import data
from text_models import Written, build_text, forward_and_gradient, refusal_test

X = {"x": data("N", 3), "k": data("N", 2)}
_HEAD = "(float[N,3] x, float[N,2] k) => (float[N,M] y)"


def joined(name: str, op: str, text: str, consts: str = "", **more: object) -> Written:
    """A model whose last sequence, ``all``, is joined along the columns."""
    weights = f"<{consts}>" if consts else ""
    more = {"since": 11, "inputs": X, **more}
    return Written(name, f"{_HEAD} {weights} {{ {text} y = ConcatFromSequence <axis = 1> (all) }}", op=op, **more)  # type: ignore[arg-type]


def per_sample(name: str, op: str, text: str, consts: str = "", **more: object) -> Written:
    """A model whose sequence ``rows`` has one element for each sample; the last, ``all``, is stacked."""
    weights = f"<int64 one = {{1}}{', ' + consts if consts else ''}>"
    more = {"since": 11, "inputs": {"x": data("N", 3)}, **more}
    head = "(float[N,3] x) => (float[K,L,M] y)"
    body = f"rows = SplitToSequence (x, one) {text} y = ConcatFromSequence <axis = 0, new_axis = 1> (all)"
    return Written(name, f"{head} {weights} {{ {body} }}", op=op, **more)  # type: ignore[arg-type]


_DOUBLED = """all = SequenceMap ({0}) <body = b (float[A,B] e) => (float[A,B] f) {{ g = Sin (e) f = Mul (g, x) }}>"""
MODELS = [
    joined("construct", "SequenceConstruct", "all = SequenceConstruct (x, k, x)"),
    joined("empty", "SequenceEmpty", "e = SequenceEmpty () f = SequenceInsert (e, x) all = SequenceInsert (f, k)"),
    joined(
        "insert-front", "SequenceInsert", "s = SequenceConstruct (x) all = SequenceInsert (s, k, p)", "int64 p = {0}"
    ),
    joined(
        "insert-negative",
        "SequenceInsert",
        "s = SequenceConstruct (x, x) all = SequenceInsert (s, k, p)",
        "int64 p = {-1}",
    ),
    joined(
        "insert-end",
        "SequenceInsert",
        "s = SequenceConstruct (x, x) p = SequenceLength (s) all = SequenceInsert (s, k, p)",
    ),
    joined("erase-last", "SequenceErase", "s = SequenceConstruct (x, k) all = SequenceErase (s)"),
    joined("erase", "SequenceErase", "s = SequenceConstruct (k, x) all = SequenceErase (s, p)", "int64 p = {-2}"),
    joined(
        "at",
        "SequenceAt",
        "s = SequenceConstruct (k, x) a = SequenceAt (s, p) all = SequenceConstruct (a, k)",
        "int64 p = {1}",
    ),
    joined(
        "at-negative",
        "SequenceAt",
        "s = SequenceConstruct (k, x) a = SequenceAt (s, p) all = SequenceConstruct (a)",
        "int64 p = {-2}",
    ),
    joined("split", "SplitToSequence", "s = SplitToSequence <axis = 1> (x) all = SequenceInsert (s, k)"),
    joined("split-uneven", "SplitToSequence", "all = SplitToSequence <axis = -1> (x, p)", "int64 p = {2}"),
    joined(
        "split-listed",
        "SplitToSequence",
        "s = SplitToSequence <axis = 1> (x, p) all = SequenceErase (s, q)",
        "int64[2] p = {1, 2}, int64 q = {0}",
    ),
    joined("map", "SequenceMap", "s = SplitToSequence <axis = 1> (x) " + _DOUBLED.format("s"), since=17),
    Written(
        "length",
        """(float[N,3] x) => (float[N,3] y, int64 n) {
        s = SplitToSequence <axis = 1> (x) n = SequenceLength (s) f = Cast <to = 1> (n) y = Mul (x, f)
        }""",
        {"x": data("N", 3)},
        "SequenceLength",
        since=11,
    ),
    Written(
        "new-axis",
        """(float[N,3] x) => (float[N,M,3] y) {
        s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = -2, new_axis = 1> (s)
        }""",
        {"x": data("N", 3)},
        "ConcatFromSequence",
        since=11,
    ),
    Written(
        "split-without-the-axis",
        "(float[N,3] x) => (seq(float[N]) y) { y = SplitToSequence <axis = 1, keepdims = 0> (x) }",
        {"x": data("N", 3)},
        "SplitToSequence",
        since=11,
    ),
    Written(
        "a-constant-sequence",
        """(float[N,3] x) => (seq(float[3]) y, float[N,3] z) <float[3] w = {1, 2, 3}> {
        y = SequenceConstruct (w, w) z = Sin (x)
        }""",
        {"x": data("N", 3)},
        "SequenceConstruct",
        since=11,
    ),
    per_sample("samples", "SplitToSequence", "all = Identity (rows)", since=14),
    per_sample(
        "samples-by-place",
        "SequenceAt",
        "n = SequenceLength (rows) m = Sub (n, one) last = SequenceAt (rows, m) all = SequenceInsert (rows, last, m)",
    ),
    per_sample(
        "samples-but-one", "SequenceErase", "n = SequenceLength (rows) m = Sub (n, one) all = SequenceErase (rows, m)"
    ),
    per_sample("samples-mapped", "SequenceMap", _DOUBLED.format("rows"), since=17, modules=1),
    Written(
        "at-a-place-of-the-data",
        """(float[N,3] x, int64 p) => (float[N] y) {
        s = SplitToSequence <axis = 1, keepdims = 0> (x) y = SequenceAt (s, p)
        }""",
        {"x": data("N", 3), "p": data(dtype="int64", low=0, high=3)},
        "SequenceAt",
        since=11,
    ),
    Written(
        "optional",
        """(float[N,3] x) => (float[N,3] y) {
        o = Optional (x) there = OptionalHasElement (o)
        y = If (there) <
            then_branch = a () => (float[N,3] p) { q = OptionalGetElement (o) p = Sin (q) },
            else_branch = b () => (float[N,3] r) { r = Identity (x) }
        > }""",
        {"x": data("N", 3)},
        "Optional",
        since=15,
    ),
    Written(
        "optional-of-nothing",
        """(float[N,3] x) => (float[N,3] y) {
        there = OptionalHasElement ()
        y = If (there) <
            then_branch = a () => (float[N,3] p) { p = Sin (x) },
            else_branch = b () => (float[N,3] r) { r = Cos (x) }
        > }""",
        {"x": data("N", 3)},
        "OptionalHasElement",
        since=18,
    ),
    Written(
        "at-a-place-of-the-data-of-many-shapes",
        """(float[N,3] x, int64 p) => (float[N,M] y) {
        z = Concat <axis = 1> (x, x) s = SequenceConstruct (x, z) y = SequenceAt (s, p)
        }""",
        {"x": data("N", 3), "p": data(dtype="int64", low=0, high=2)},
        "SequenceAt",
        since=11,
        refused="different shapes",
    ),
    Written(
        "inserted-at-a-place-of-the-data",
        "(float[N,3] x, int64 p) => (seq(float[N,3]) y) { s = SequenceConstruct (x, x) y = SequenceInsert (s, x, p) }",
        {"x": data("N", 3), "p": data(dtype="int64", low=0, high=2)},
        "SequenceInsert",
        since=11,
        refused="depends on the data",
    ),
]


test_forward, test_gradient = forward_and_gradient(MODELS)
test_refusals = refusal_test(MODELS)


def test_a_constant_sequence_moves_with_the_module() -> None:
    model = next(model for model in MODELS if model.name == "a-constant-sequence")
    graph, _ = build_text(model, 17)
    listed = graph.to("meta").run(5, torch.zeros(5, 3, device="meta"))[0]
    assert all(element.is_meta for element in listed)
