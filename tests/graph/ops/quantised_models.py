"""Small models, quantised by onnxruntime in each of its ways, for the tests of quantised operators."""

from __future__ import annotations

import functools
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from plain_session import plain_session
from torch import Tensor, nn

WAYS = {
    "qdq": {"quant_format": QuantFormat.QDQ},
    "qdq per channel": {"quant_format": QuantFormat.QDQ, "per_channel": True},
    "qdq int8": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8, "per_channel": True},
    "qdq int16": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt16},
    "qoperator": {"quant_format": QuantFormat.QOperator},
    "qoperator per channel": {"quant_format": QuantFormat.QOperator, "per_channel": True},
    "qoperator int8": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8},
    "dynamic": {"dynamic": True},
    "dynamic per channel": {"dynamic": True, "per_channel": True, "weight_type": QuantType.QInt8},
}


class Cnn(nn.Module):
    """Conv-Relu-MaxPool-Conv-Add-GlobalAveragePool-Gemm."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.first(x).relu(), 2)
        x = (self.second(x) + x).relu()
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Mlp(nn.Module):
    """Three layers, one of them a plain matrix product, with a sigmoid between them."""

    shape = (12,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32, bias=False), nn.Sigmoid())
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


class Swish(nn.Module):
    """Conv-HardSwish-Gemm-Relu-MatMul."""

    shape = (1, 10, 10)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.second, self.last = nn.Linear(512, 24), nn.Linear(24, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.first(x)).flatten(1)
        return self.last(self.second(x).relu())


NETWORKS = {"cnn": Cnn, "mlp": Mlp, "swish": Swish}


@functools.cache
def network(name: str) -> nn.Module:
    """The float network, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name]().eval()


def inputs(name: str, count: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """Standard normal inputs."""
    return np.random.default_rng(seed).normal(size=(count, *NETWORKS[name].shape)).astype(np.float32)


@functools.cache
def exported(name: str, opset: int = 17) -> onnx.ModelProto:
    """The float network as ONNX."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network(name),
            (torch.zeros(2, *NETWORKS[name].shape),),
            buffer,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


class _Calibration(CalibrationDataReader):
    def __init__(self, name: str) -> None:
        self._left: Iterator[Any] = iter([{"x": inputs(name, 64, seed=0)}])

    def get_next(self) -> Any:
        return next(self._left, None)


@functools.cache
def quantised(name: str, way: str, opset: int = 17) -> onnx.ModelProto:
    """The network quantised in one of `WAYS`."""
    options = dict(WAYS[way])
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "float.onnx"), Path(folder, "quantised.onnx")
            onnx.save(exported(name, opset), source)
            if options.pop("dynamic", False):
                quantize_dynamic(source, target, **options)
            else:
                options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **options}
                quantize_static(source, target, _Calibration(name), **options)
            return onnx.load(target)
    finally:
        logging.disable(logging.NOTSET)


def answer(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ask onnxruntime, in exact arithmetic."""
    return np.asarray(plain_session(model.SerializeToString()).run(None, {model.graph.input[0].name: x})[0])
