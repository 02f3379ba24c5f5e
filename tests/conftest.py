"""What several tests need: one onnxruntime process, and tiny ONNX models out of torch or by hand."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_text import model_of
from torch import nn

from onnxcake.runtime.ort import Runtime

torch.set_num_threads(1)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command and `make test` set it


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    """One onnxruntime process for all tests; a test that ends it starts its own."""
    with Runtime() as own:
        yield own


def _export(module: nn.Module, shape: tuple[int, ...], path: Path, *, opset: int = 17, dynamic: bool = True) -> Path:
    axes = {"x": {0: "batch"}, "y": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *shape),),
            str(path),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    return path


@pytest.fixture(scope="session")
def export() -> Any:
    """``export(module, shape, path, opset=17, dynamic=True)``: a file by torch's legacy exporter; returns its path."""
    return _export


def _handmade(
    nodes: Sequence[str | onnx.NodeProto], weights: Mapping[str, Any] | None = None, **rest: Any
) -> onnx.ModelProto:
    return model_of(*nodes, weights=weights, ir_version=8, **rest)


@pytest.fixture(scope="session")
def handmade() -> Any:
    """``handmade(nodes, weights, …)``: a model of those nodes; by default ``x`` [batch, 4] → ``y`` [batch, 3]."""
    return _handmade


def weights_of(*shape: int, seed: int = 0) -> Any:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="session")
def normal() -> Any:
    """``normal(*shape, seed=0)``: standard normal float32 numbers, always the same."""
    return weights_of
