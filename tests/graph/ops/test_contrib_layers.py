"""Norms, activations and fused layers as onnxruntime's optimisers write them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from contrib_models import MS, ms, proto_of
from harness import Data, built, data, forward_and_gradient, normal
from plain_session import plain_session
from torch import nn

from onnxcake.graph.build import Builder

TOKENS, WIDE = 4, 24
X, SKIP = data("N", TOKENS, WIDE), data("N", TOKENS, WIDE)
GAMMA, BETA, B = normal(WIDE), normal(WIDE, seed=1), normal(WIDE, seed=2)
TABLES = [normal(9, WIDE), normal(8, WIDE, seed=1), normal(2, WIDE, seed=2)]


def words(size: int) -> Data:
    return data("N", TOKENS, dtype="int32", low=0, high=size)


ROWS = [
    ms("SkipLayerNormalization", [X, SKIP, GAMMA, BETA]),
    ms("SkipLayerNormalization", [X, SKIP, GAMMA, BETA, B], "all", ("y", "", "", "sum"), epsilon=1e-3),
    ms("SkipLayerNormalization", [X, normal(1, TOKENS, WIDE), GAMMA], "skip of one", epsilon=1e-3),
    ms("SkipLayerNormalization", [X, SKIP, GAMMA], "mean", ("y", "mean"), refused="for training"),
    ms("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA]),
    ms("SkipSimplifiedLayerNormalization", [X, SKIP, GAMMA, BETA], "all", ("y", "", "", "sum"), epsilon=1e-3),
    *(
        ms(
            "EmbedLayerNormalization",
            [words(9), second, TABLES[0], TABLES[1], third, GAMMA, BETA, mask, places],
            name,
            ("y", "lengths", "sum"),
            types=(1, 6, 1),
            gradient=False,
        )
        for name, second, third, mask, places in (
            ("all", words(2), TABLES[2], words(2), words(8)),
            ("least", None, None, None, None),
        )
    ),
    ms("Gelu", [X]),
    ms("BiasGelu", [X, BETA]),
    ms("FastGelu", [X, BETA]),
    ms("FastGelu", [X], "no bias"),
    ms("QuickGelu", [X]),
    ms("QuickGelu", [X], alpha=1.0),
    ms("BiasAdd", [X, BETA, SKIP], expected=lambda x, b, skip: x + b + skip),
    ms("BiasSplitGelu", [X, BETA], expected=lambda x, b: (x + b)[..., :12] * _gelu((x + b)[..., 12:])),
]


def _gelu(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _group_norm(x: Any, gamma: Any, beta: Any, skip: Any = None, bias: Any = None) -> tuple[Any, ...]:
    """Over two groups of the last axis, with what comes before and a SiLU after."""
    if skip is not None:
        x = x + skip[:, None, None] + bias
    grouped = x.reshape(*x.shape[:3], 2, -1)
    axes = (1, 2, 4)
    grouped = (grouped - grouped.mean(axes, keepdims=True)) / np.sqrt(grouped.var(axes, keepdims=True) + 1e-5)
    y = grouped.reshape(x.shape) * gamma + beta
    return (y / (1 + np.exp(-y)), x)[: 1 + (skip is not None)]


MATRICES = {2: ((4, 5), (5, 3)), 3: (("N", 4, 5), ("N", 5, 3)), 4: (("N", 2, 4, 5), ("N", 2, 5, 3))}
IMAGE = data("N", 3, 6, 6)
ROWS += [  # onnxruntime has kernels for the group norms on GPUs alone
    ms("GroupNorm", [data("N", 3, 3, 6), GAMMA[:6], BETA[:6]], groups=2, activation=1, expected=_group_norm),
    ms(
        "SkipGroupNorm",
        [data("N", 3, 3, 6), GAMMA[:6], BETA[:6], data("N", 6), B[:6]],
        outputs=("y", "sum"),
        groups=2,
        activation=1,
        expected=_group_norm,
    ),
    *(
        ms(
            op,
            [data(*(a[:-2] + a[:-3:-1] if turn else a)), data(*(b[:-2] + b[:-3:-1] if turn else b))],
            f"{rank},{turn}",
            transA=turn,
            transB=turn,
            alpha=0.3,
        )
        for op in ("FusedMatMul", "TransposeMatMul")
        for rank, (a, b) in MATRICES.items()
        for turn in (0, 1)
    ),
    ms("FusedMatMul", [data(4, "N", 5), data(5, "N", 3)], "batches", transBatchA=1, transBatchB=1),
    ms("FusedMatMul", [data(5, "N", 2, 4), data("N", 2, 5, 3)], "batch", transBatchA=1, transA=1),
    *(
        ms("FusedConv", [IMAGE, normal(4, 3, 3, 3), normal(4)], pads=[1] * 4, strides=[2, 2], activation=kind, **more)
        for kind, more in (
            ("Relu", {}),
            ("Sigmoid", {}),
            ("Tanh", {}),
            ("LeakyRelu", {"activation_params": [0.2]}),
            ("HardSigmoid", {"activation_params": [0.3, 0.4]}),
            ("Clip", {"activation_params": [-0.5, 0.6]}),
        )
    ),
    ms("FusedConv", [IMAGE, normal(4, 3, 3, 3), None, data("N", 4, 4, 4)], "sum", activation="Relu"),
    ms("FusedConv", [IMAGE, normal(4, 3, 3, 3)], "unknown", activation="Sine", refused="Sine"),
    *(
        ms("FusedGemm", [data("N", 4), normal(3, 4), normal(3)], transB=1, alpha=0.5, activation=kind, **more)
        for kind, more in (
            ("Relu", {}),
            ("Softplus", {}),
            ("Softsign", {}),
            ("LeakyRelu", {"activation_alpha": 0.2}),
            ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
        )
    ),
]

test_forward, test_gradient = forward_and_gradient(ROWS)


@pytest.mark.parametrize("axis", [1, -1])
def test_simplified_layer_normalization(axis: int) -> None:
    """onnxruntime writes it into ai.onnx's own domain, where the checker does not know it."""
    scale = normal(*(TOKENS, WIDE)[axis % 3 - 1 :])
    node = onnx.helper.make_node("SimplifiedLayerNormalization", ["x", "scale"], ["y", "inverse"], axis=axis)
    proto = proto_of([node], {"x": ["N", TOKENS, WIDE]}, {"scale": scale})
    x = np.random.default_rng(0).normal(size=(5, TOKENS, WIDE)).astype(np.float32)
    want = plain_session(proto.SerializeToString()).run(None, {"x": x})
    both = built(proto)(torch.from_numpy(x))
    del node.output[1], proto.graph.node[0].output[1], proto.graph.output[1]
    alone = built(proto)(torch.from_numpy(x))
    for got, wanted in zip((*both, alone), (*want, want[0]), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_processors_own_layout_is_refused() -> None:
    node = onnx.helper.make_node("ReorderInput", ["x"], ["y"], domain="com.microsoft.nchwc")
    builder = Builder()
    x = builder.input(((3, 8, 4, 4), (7, 8, 4, 4)), torch.float32)
    builder.graph(proto_of([node], {"x": ["N", 8, 4, 4]}, {}).graph, {"": 17, "com.microsoft.nchwc": 1}, {"x": x})
    assert "one kind of processor" in builder.blocked[0].why


class _Net(nn.Module):
    """A convolution, a block of a transformer and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 1)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))).flatten(2).transpose(1, 2)
        q, k, v = (layer(x).view(-1, 16, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        x = self.norm(x + self.o(seen.transpose(1, 2).reshape(-1, 16, 16)))
        x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        return torch.sigmoid(self.last(x.mean(1)))


@pytest.mark.filterwarnings("ignore")  # of torch's exporter
@pytest.mark.parametrize("free", [True, False])
def test_a_model_that_onnxruntime_saved(free: bool, tmp_path: Path) -> None:
    net, given = _Net().eval(), torch.linspace(-1, 1, 5 * 3 * 16 * 16).sin().reshape(5, 3, 16, 16).requires_grad_()
    axes, exported = {"x": {0: "N"}, "y": {0: "N"}}, io.BytesIO()
    options = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes if free else None}
    torch.onnx.export(net, (given[:1],), exported, dynamo=False, opset_version=17, **options)
    session_options = onnxruntime.SessionOptions()
    session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session_options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    session_options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(exported.getvalue(), session_options, ["CPUExecutionProvider"])
    proto = onnx.load(tmp_path / "saved.onnx")
    kinds = {node.op_type for node in proto.graph.node if node.domain == MS}
    assert {"FusedConv", "FusedMatMul"} < kinds
    graph = built(proto, {"x": lambda n: (n, 3, 16, 16)}, fixed_batch=None if free else 1)
    got, want = graph(given), net(given)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(y.square().sum(), given)[0] for y in (got, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
