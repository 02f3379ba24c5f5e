"""Rows of quantised operators, tried with integers as the file has them and as the floats that stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from harness import BATCHES, Data, Row, built, model, values
from harness import _answerer as answerer
from torch import Tensor


def integers(*shape: int | str, dtype: str = "uint8") -> Data:
    """An input of all the numbers that its type has."""
    info = np.iinfo(dtype)
    return Data(shape, np.dtype(dtype), info.min, info.max + 1)


def numbers(value: Any) -> np.ndarray[Any, Any]:
    """A tensor or array of any type as float64."""
    return value.detach().double().numpy() if isinstance(value, Tensor) else np.asarray(value).astype(np.float64)


def forward(row: Row, opset: int, steps: int = 0) -> None:
    """Assert that the row gives what onnxruntime gives, each number to within ``steps``, 99 % of them exactly."""
    answer = answerer(row, opset)
    ways = ((None, False), (torch.float32, False), (torch.float32, True))
    graphs = [built(model(row, opset), None, precision, relaxed) for precision, relaxed in ways]
    for batch in BATCHES:
        given = values(row, batch)
        want = answer(given)
        for graph, (precision, relaxed) in zip(graphs, ways, strict=True):
            tensors = [torch.from_numpy(array) for array in given.values()]
            if relaxed:
                tensors = [t if t.dtype == torch.bool else t.to(precision) for t in tensors]
            got = graph.run(batch, *tensors)
            assert len(got) == len(want)
            for ours, theirs in zip(got, want, strict=True):
                same(ours, theirs, steps, declared=precision is None)


def same(ours: Tensor, theirs: np.ndarray[Any, Any], steps: int, declared: bool) -> None:
    """Assert that two outputs agree; ``declared``: in their type too."""
    got, want = numbers(ours), numbers(theirs)
    assert got.shape == want.shape
    if theirs.dtype.kind == "f":
        assert ours.dtype.is_floating_point
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        return
    assert not declared or str(ours.dtype).removeprefix("torch.") == theirs.dtype.name
    away = np.abs(got - want)
    assert away.max(initial=0) <= steps, f"{away.max()} steps away"
    assert (away == 0).mean() >= 0.99
