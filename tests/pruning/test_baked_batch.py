"""What is cut out of a file with one batch baked into its constants takes any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_text import whole
from plain_session import plain_session

import onnxcake

R = np.random.default_rng(0)
BAKED = {
    "a class token in a Concat": "c = Expand (T, sizes) j = Concat <axis = 1> (c, x) "
    "v = ReduceMean <axes = [1], keepdims = 0> (j)",
    "the end of a Slice": "s = Slice (x, zero, one, zero) v = ReduceMean <axes = [1], keepdims = 0> (s)",
}


@pytest.mark.parametrize("name", BAKED)
def test_any_batch(name: str, tmp_path: Path) -> None:
    head = "h = Gemm (v, A) r = Relu (h) y = Gemm (r, B)"
    random = {"T": (1, 1, 16), "A": (16, 32), "B": (32, 4)}
    weights = {key: R.normal(size=shape).astype(np.float32) for key, shape in random.items()}
    weights |= {"sizes": np.array([1, 1, 16]), "zero": np.array([0]), "one": np.array([1])}
    model = whole(f"(float[N,7,16] x) => (float[N,4] y) {{ {BAKED[name]} {head} }}", weights)
    onnx.save(model, tmp_path / "t.onnx")
    onnxcake.shrink(tmp_path / "t.onnx", out=tmp_path / "s.onnx")
    session = plain_session((tmp_path / "s.onnx").read_bytes())
    x = R.normal(size=(5, 7, 16)).astype(np.float32)
    (together,) = session.run(None, {"x": x})
    alone = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
    assert together.shape == (5, 4)
    np.testing.assert_allclose(together, alone, atol=1e-5)
