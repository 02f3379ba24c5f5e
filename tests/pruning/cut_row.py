"""One small model for each operator's rule: which axes of its weights may get shorter, and whether zeros stand for
it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from cutting import model_of

Free = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """A model and what is expected of it.

    Attributes:
        name: for the test's name.
        text, opset, domains, weights: see `model_of`.
        free: of each float weight, the axes that can get shorter.
        known: to onnx's checker, which refuses what the standard withdrew later on though onnxruntime runs it.
        masked: whether the cut model must equal the whole one with zeros; not where a mean runs over what is cut.
    """

    name: str
    text: str
    weights: Mapping[str, Any]
    free: Free
    opset: int = 17
    masked: bool = True
    known: bool = True
    domains: str = ""

    def model(self) -> onnx.ModelProto:
        """The model."""
        return model_of(self.text, self.opset, self.domains, **self.weights)

    def __str__(self) -> str:
        return f"{self.name} opset {self.opset}"


def ints(*numbers: int) -> Any:
    """A constant of whole numbers."""
    return np.int64(numbers)


def positive(*shape: int) -> Any:
    """Random numbers above ½, such as variances and scales."""
    return np.random.default_rng(7).uniform(0.5, 1.5, shape).astype(np.float32)


IMAGE = "g (float[N,3,6,6] x) => (float[N,M] y)"
VECTOR = "g (float[N,6] x) => (float[N,M] y)"
TOKENS = "g (float[N,5,6] x) => (float[N,M] y)"
HEAD = "e = GlobalAveragePool(z) f = Flatten(e) y = Gemm(f, w9, b9)"  # z [n, 8, …] → y


def row(name: str, head: str, body: str, weights: Mapping[str, Any], free: Free, **more: Any) -> Row:
    """Make a row whose text is ``head { body }``; where the body ends in ``z``, ``HEAD`` and its bias follow."""
    if "y = " in body:
        return Row(name, f"{head} {{ {body} }}", weights, free, **more)
    return Row(name, f"{head} {{ {body} {HEAD} }}", {**weights, "b9": (4,)}, free, **more)
