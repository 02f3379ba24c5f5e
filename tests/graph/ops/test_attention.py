"""Attention, LinearAttention and RotaryEmbedding of the standard."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import Row, compile_test, data, forward_and_gradient, normal

HEADS, QUERIES, KEYS, SIZE, PAST = 4, 3, 5, 6, 2


def qkv(packed: bool = False, kv_heads: int = HEADS, queries: int = QUERIES) -> list[Any]:
    """Queries, keys and values."""
    if packed:
        shapes = [(queries, HEADS * SIZE), (KEYS, kv_heads * SIZE), (KEYS, kv_heads * 2)]
    else:
        shapes = [(HEADS, queries, SIZE), (kv_heads, KEYS, SIZE), (kv_heads, KEYS, 2)]
    return [data("N", *shape) for shape in shapes]


def attention(name: str, inputs: list[Any], outputs: tuple[str, ...] = ("y",), **attrs: Any) -> Row:
    return Row("Attention", inputs, attrs, since=23, outputs=outputs, name=name)


def allowed(*shape: int) -> np.ndarray[Any, Any]:
    """A mask in which each query may look at something."""
    made = np.random.default_rng(0).random(shape) > 0.5
    made[..., 0] = True
    return made


BLIND = np.concatenate([np.zeros((1, KEYS), bool), allowed(QUERIES - 1, KEYS)])
CACHE = [data("N", HEADS, PAST, SIZE), data("N", HEADS, PAST, 2)]
SPLIT = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
ALL = ("y", "k", "v", "scores")

ROWS = [
    attention("plain", qkv()),
    attention("packed", qkv(packed=True), **SPLIT),
    attention("scaled", qkv(), scale=0.3),
    attention("grouped", qkv(kv_heads=2)),
    attention("grouped,packed", qkv(packed=True, kv_heads=2), q_num_heads=HEADS, kv_num_heads=2),
    attention("causal", qkv(), is_causal=1),
    attention("causal,square", qkv(queries=KEYS), is_causal=1),
    attention("causal,softcap", qkv(), is_causal=1, softcap=0.8),
    attention("bool mask", [*qkv(), allowed(QUERIES, KEYS)]),
    attention("float mask", [*qkv(), normal(QUERIES, KEYS)]),
    attention("mask of heads", [*qkv(), normal(HEADS, QUERIES, KEYS)]),
    attention("mask of the batch", [*qkv(), data("N", 1, QUERIES, KEYS, dtype="bool"), *CACHE][:4]),
    attention("mask that is data", [*qkv(), data("N", HEADS, QUERIES, KEYS)]),
    attention("bool mask,causal", [*qkv(), allowed(QUERIES, KEYS)], is_causal=1),
    attention("float mask,causal,softcap", [*qkv(), normal(QUERIES, KEYS)], is_causal=1, softcap=1.5),
    attention("nothing to see", [*qkv(), BLIND]),
    attention("nothing to see,softcap", [*qkv(), BLIND], softcap=2.0),
    attention("past", [*qkv(), None, *CACHE], ("y", "k", "v")),
    attention("past,causal", [*qkv(), None, *CACHE], ("y", "k", "v"), is_causal=1),
    attention("past,packed,mask", [*qkv(packed=True), normal(QUERIES, KEYS + PAST), *CACHE], ("y", "k", "v"), **SPLIT),
    attention("scores,softcap", qkv(), ALL, softcap=1.5),
    attention("scores,capped", [*qkv(), allowed(QUERIES, KEYS)], ALL, softcap=1.5, qk_matmul_output_mode=1),
    attention("scores,masked", [*qkv(), normal(QUERIES, KEYS)], ALL, softcap=1.5, qk_matmul_output_mode=2),
    attention("probabilities", [*qkv(), BLIND], ALL, qk_matmul_output_mode=3, softmax_precision=1),
    attention("scores,causal", [*qkv(), None, *CACHE], ALL, is_causal=1, qk_matmul_output_mode=3),
    Row("Attention", qkv(packed=True), since=23, refused="how many heads"),
]
LENGTHS = data("N", dtype="int64", low=QUERIES, high=KEYS + 1)
ROWS += [
    Row("Attention", [*qkv(), mask, None, None, LENGTHS], attrs, since=24, until=24, name=name)
    for name, mask, attrs in (
        ("lengths", None, {}),
        ("lengths,causal", None, {"is_causal": 1}),
        ("lengths,mask", normal(QUERIES, KEYS), {}),
    )
]
ROWS += [
    Row("Attention", [*qkv(), *more], attrs, since=25, name=name)  # with windows, which onnxruntime does not know yet
    for name, more, attrs in (
        ("left", [], {"left_window_size": 1}),
        ("right", [], {"right_window_size": 1}),
        ("both,mask", [normal(QUERIES, KEYS)], {"left_window_size": 1, "right_window_size": 0}),
        ("left,causal", [], {"left_window_size": 2, "is_causal": 1}),
        ("left,past", [None, *CACHE], {"left_window_size": 2}),
        ("left,lengths", [None, None, None, LENGTHS], {"left_window_size": 1, "is_causal": 1}),
    )
]

COS, SIN = normal(9, SIZE // 2), normal(9, SIZE // 2, seed=1)
PLACES = data("N", QUERIES, dtype="int64", low=0, high=9)
ROWS += [
    Row("RotaryEmbedding", [x, *more], attrs, name=f"{name},{neighbours}")
    for neighbours in (0, 1)
    for name, x, more, attrs in (
        ("places", data("N", HEADS, QUERIES, SIZE), [COS, SIN, PLACES], {"interleaved": neighbours}),
        (
            "packed",
            data("N", QUERIES, HEADS * SIZE),
            [COS, SIN, PLACES],
            {"interleaved": neighbours, "num_heads": HEADS},
        ),
        (
            "no places",
            data("N", HEADS, QUERIES, SIZE),
            [data("N", QUERIES, 3), data("N", QUERIES, 3)],
            {"interleaved": neighbours},
        ),
        (
            "in part",
            data("N", QUERIES, HEADS * SIZE),
            [COS[:, :2], SIN[:, :2], PLACES],
            {"interleaved": neighbours, "num_heads": HEADS, "rotary_embedding_dim": 4},
        ),
    )
]

# These are built from the standard's own function bodies.
STATES = [data("N", 4, 2 * 3), data("N", 4, 2 * 3), data("N", 4, 2 * 5), None]
ROWS += [
    Row(
        "LinearAttention",
        [*STATES, *more],
        {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": rule},
        outputs=("y", "state"),
    )
    for rule, more in (
        ("linear", []),
        ("gated", [data("N", 4, 2)]),
        ("gated_delta", [data("N", 4, 2), data("N", 4, 2)]),
    )
]
ROWS += [Row("FlexAttention", qkv(), {"scale": 0.5}, domain="ai.onnx.preview")]

test_forward, test_gradient = forward_and_gradient(ROWS)


COMPILED = ("plain", "nothing to see", "scores,softcap", "past,causal", "packed,0")
test_compiles = compile_test((row for row in ROWS if row.name in COMPILED), 23)
