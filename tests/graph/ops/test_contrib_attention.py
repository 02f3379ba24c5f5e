"""Attention and rotary embeddings as onnxruntime's transformer optimiser writes them."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from contrib_models import MS, ms, proto_of
from harness import built, compile_test, data, forward_and_gradient, normal
from plain_session import plain_session

TOKENS, HEADS, SIZE = 4, 3, 8
WIDE = HEADS * SIZE
X, SKIP = data("N", TOKENS, WIDE), data("N", TOKENS, WIDE)
W, B = normal(WIDE, 3 * WIDE) / 5, normal(3 * WIDE)
ENDS = data("N", dtype="int32", low=1, high=TOKENS + 1)
BIAS = data("N", HEADS, TOKENS, TOKENS)
PAST = [data("N", HEADS, 2, SIZE), data("N", HEADS, 2, SIZE)]
COS, SIN = normal(16, SIZE // 2), normal(16, SIZE // 2, seed=1)
PLACES = data("N", TOKENS, dtype="int64", low=0, high=16)

ROWS = [
    *(
        ms("Attention", [X, W, B, *more], f"{name},{causal}", num_heads=HEADS, unidirectional=causal)
        for causal in (0, 1)
        for name, more in (
            ("plain", []),
            ("ends", [ENDS]),
            ("tokens", [data("N", TOKENS, dtype="int32", low=0, high=4)]),
            ("pairs", [data("N", TOKENS, TOKENS, dtype="int32", low=0, high=4)]),
            ("bias", [None, None, BIAS]),
            ("bias of one", [None, None, normal(1, 1, TOKENS, TOKENS)]),
            ("ends,bias", [ENDS, None, BIAS]),
        )
    ),
    ms(
        "Attention",
        [X, normal(WIDE, 60) / 5, normal(60)],
        "sizes",
        num_heads=3,
        qkv_hidden_sizes=[24, 24, 12],
        scale=0.2,
    ),
    ms("Attention", [X, W, B, None, data(2, "N", HEADS, 2, SIZE)], "past", ("y", "past"), num_heads=HEADS),
    ms(
        "Attention",
        [X, W, B, None, data(2, "N", HEADS, 2, SIZE)],
        "past,causal",
        ("y", "past"),
        num_heads=HEADS,
        unidirectional=1,
    ),
    ms("Attention", [X, W, B], "rotary", num_heads=HEADS, do_rotary=1, refused="rotary"),
    ms("Attention", [X, W, B, np.ones((1, 1, 9, 9), np.int32)], "square", num_heads=HEADS, refused="a form"),
    *(
        ms("MultiHeadAttention", [X, SKIP, X, *more], f"{name},{causal}", num_heads=HEADS, unidirectional=causal)
        for causal in (0, 1)
        for name, more in (
            ("plain", []),
            ("biases", [B]),
            ("ends", [B, ENDS]),
            ("tokens", [B, data("N", TOKENS, dtype="int32", low=0, high=4)]),
            ("bias", [B, None, BIAS]),
            ("ends,bias", [B, ENDS, BIAS]),
        )
    ),
    ms("MultiHeadAttention", [X, data("N", 6, WIDE), data("N", 6, 12)], "across", num_heads=HEADS, scale=0.3),
    ms("MultiHeadAttention", [X, data("N", HEADS, 6, SIZE), data("N", HEADS, 6, SIZE)], "apart", num_heads=HEADS),
    ms("MultiHeadAttention", [X, data("N", HEADS, 6, SIZE), data("N", HEADS, 6, SIZE), B], "apart,b", num_heads=HEADS),
    ms("MultiHeadAttention", [X, SKIP, X, B, None, None, *PAST], "past", ("y", "k", "v"), num_heads=HEADS),
    ms("MultiHeadAttention", [X, SKIP, X], "scores", ("y", "k", "v", "qk"), num_heads=HEADS),
    ms("MultiHeadAttention", [data("N", TOKENS, HEADS, 3, SIZE)], "packed", num_heads=HEADS, refused="packed"),
    *(
        ms("RotaryEmbedding", [x, places, COS, SIN], f"{name},{pairs}", interleaved=pairs)
        for pairs in (0, 1)
        for name, x, places in (
            ("places", X, PLACES),
            ("from one on", X, np.array([3])),
            ("heads apart", data("N", HEADS, TOKENS, SIZE), PLACES),
        )
    ),
    ms("RotaryEmbedding", [X, PLACES, COS[:, :2], SIN[:, :2]], "in part", num_heads=HEADS, rotary_embedding_dim=4),
    ms("RotaryEmbedding", [X, PLACES, COS, SIN], "scaled", scale=0.5, refused="scale"),
]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test(row for row in ROWS if row.name in ("ends,bias,1", "scores"))


def test_ends_and_starts() -> None:
    """Padding on both sides: two numbers for each of the batch, in one vector."""
    node = onnx.helper.make_node("Attention", ["x", "w", "b", "mask"], ["y"], domain=MS, num_heads=HEADS)
    proto = proto_of([node], {"x": ["N", TOKENS, WIDE], "mask": ["M"]}, {"w": W.astype(np.float32), "b": B})
    graph = built(proto, {"mask": lambda n: (2 * n,)})
    x = np.random.default_rng(0).normal(size=(5, TOKENS, WIDE)).astype(np.float32)
    mask = np.int32([4, 2, 3, 3, 4, 0, 1, 1, 0, 2])
    (want,) = plain_session(proto.SerializeToString()).run(None, {"x": x, "mask": mask})
    got = graph(torch.from_numpy(x), torch.from_numpy(mask))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
