"""Small torch classifiers of many kinds, with random weights, for the zoo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .timm_models import export, liven, quiet

CLASSES = 5


class Recurrent(nn.Module):
    """[batch, steps, features] → a recurrent layer → its last step → scores."""

    def __init__(self, kind: str, features: int = 6, hidden: int = 8) -> None:
        super().__init__()
        both = kind.startswith("bi")
        layer = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind.removeprefix("bi")]
        self.layer = layer(features, hidden, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(hidden * (2 if both else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Spectrogram(nn.Module):
    """[batch, samples] → short-time Fourier transform → log power → convolutions → scores."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.view_as_real(
            torch.stft(x, 64, 32, window=self.window, center=False, onesided=True, return_complex=True)
        )
        power = parts.square().sum(-1)
        return self.head(self.body((power + 1e-3).log().unsqueeze(1)))


class Encoder(nn.Module):
    """[batch, tokens, width] → transformer encoder → mean → scores; with ``words``, from token numbers."""

    def __init__(self, width: int = 16, words: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width) if words else nn.Identity()
        layer = nn.TransformerEncoderLayer(width, 4, 32, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.places = nn.Parameter(torch.randn(1, 12, width) * 0.1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(x) + self.places).mean(1))


class BakedIn(nn.Module):
    """A convolutional net that writes its batch into a reshape, as many hand-written ones do."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.body, self.head = batch, cnn()[:-2], nn.Linear(16 * 4 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body(x), 4).reshape(self.batch, 256))


class Lowered(nn.Module):
    """A model computed in another floating-point type, casts around it."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(self.dtype)).float()


class Pixels(nn.Module):
    """[batch, height, width, channels] of 0…255 → scaled, channels first → a convolutional net → probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x.float() - 127.5).mul(1 / 64).permute(0, 3, 1, 2)).softmax(1)


def cnn() -> nn.Sequential:
    """[batch, 3, 16, 16] → scores; with BatchNorm, depthwise convolution, pooling and several activations."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(64, CLASSES),
    )  # fmt: skip
    return liven(net.eval(), torch.randn(16, 3, 16, 16))


def plain_cnn() -> nn.Sequential:
    """[batch, 3, 16, 16] → scores; what every quantiser knows."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def audio() -> nn.Sequential:
    """[batch, 1, samples] → scores."""
    return nn.Sequential(
        nn.Conv1d(1, 8, 9, 4, 4), nn.GroupNorm(2, 8), nn.GELU(), nn.AvgPool1d(2), nn.Conv1d(8, 16, 5, padding=4,
        dilation=2), nn.PReLU(16), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def mlp(features: int = 12) -> nn.Sequential:
    """[batch, features] → log-probabilities."""
    net = nn.Sequential(
        nn.BatchNorm1d(features), nn.Linear(features, 24), nn.ELU(), nn.LayerNorm(24), nn.Dropout(0.3),
        nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, CLASSES), nn.LogSoftmax(1),
    )  # fmt: skip
    return liven(net.eval(), torch.randn(16, features))


def smooth() -> nn.Sequential:
    """[batch, 12] → scores; of operators that onnxruntime has in float64."""
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.Sigmoid(), nn.Linear(24, CLASSES))


def saved(
    path: Path,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    exporter: str,
    words: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Tensor]:
    """Makes a model with a seed and exports it, all of it in ``dtype``; the model, and a batch of other inputs.

    With ``words``, inputs are token numbers below that.
    """
    torch.manual_seed(0)
    model = make().eval()
    model = model if isinstance(model, Lowered) else model.to(dtype)
    x = torch.randint(words, (2, *shape)) if words else torch.randn(2, *shape).to(dtype)
    if isinstance(model, Pixels):
        x = torch.randint(256, x.shape, dtype=torch.uint8)
    with quiet():
        onnx.save(export(model, x, exporter), path)
    model = model if dtype == torch.float32 else Lowered(model, dtype)
    return model, torch.randint(words, (5, *shape)) if words else torch.randn(5, *shape)


def saved_fixed(path: Path, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """The same by the older exporter, for the one batch size that is the first of ``shape``."""
    torch.manual_seed(0)
    model = make().eval()
    with quiet():
        torch.onnx.export(model, (torch.randn(shape),), str(path), input_names=["input"], dynamo=False)
    return model, torch.randn(shape)
