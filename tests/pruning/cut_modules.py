"""Small torch modules whose exports hold what exporters make of layers: attention, recurrence, shuffles, norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Exported:
    """A module, how it is exported and what is expected.

    Attributes:
        half: the share of its parameters that is left where half of each family stays: less than this.
        masked: as in `Row`.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    half: float
    masked: bool = True
    opset: int = 17
    dynamo: bool = False
    slow: bool = False

    def __str__(self) -> str:
        name = " ".join(map(str, self.make.args)) if isinstance(self.make, partial) else self.make.__name__
        return f"{name} {'dynamo' if self.dynamo else 'legacy'}-{self.opset}"


class Groups(nn.Module):
    """Convolutions with group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4)
        self.norms = nn.ModuleList([nn.GroupNorm(4, 16), nn.GroupNorm(1, 16)])
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norms[0](self.first(x)))
        y = F.gelu(self.norms[1](self.second(y)))
        return self.last(y.mean((2, 3)))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """ShuffleNetV2's unit: half of the channels goes by, then groups are mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 8, 1),
        )
        self.last = nn.Linear(16 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(F.max_pool2d(y, 2).flatten(1))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """MobileNetV3's block, with squeeze-excite and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.wide, self.deep = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norm, self.squeeze, self.excite = nn.BatchNorm2d(24), nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.narrow, self.act, self.last = nn.Conv2d(24, 8, 1), nn.PReLU(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = F.hardswish(self.norm(self.deep(F.hardswish(self.wide(x)))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.last(F.adaptive_avg_pool2d(x + self.narrow(y), 1).flatten(1))  # type: ignore[no-any-return]


class Upscaled(nn.Module):
    """Sizes that change: pixel (un)shuffle, transposed convolution, interpolation, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(12, 16, 1), nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.third, self.last = nn.Conv2d(9, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.first(F.pixel_unshuffle(x, 2)), 2)
        y = F.interpolate(self.second(y), size=(10, 10), mode="bilinear", align_corners=False)
        y = F.interpolate(y, scale_factor=2.0)
        y = F.pad(y, (1, 1, 1, 1, 1, 2))
        return self.last(F.leaky_relu(self.third(y)).amax((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A class token, places, two of torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 10, 16))
        self.first = nn.TransformerEncoderLayer(16, 4, 32, norm_first=True, batch_first=True, activation="gelu")
        self.second = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.last = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.places
        y = self.first(y)
        y = y + self.second(y, y, y, need_weights=False)[0]
        return self.last(self.norm(y)[:, 0])  # type: ignore[no-any-return]


class Joined(nn.Module):
    """timm's attention: q, k and v in one product; and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.last = nn.Linear(16, 40), nn.Linear(40, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.proj(y)
        x = x + self.down(F.gelu(self.up(x)))
        return self.last(x.mean(1))  # type: ignore[no-any-return]


class Windows(nn.Module):
    """Swin's windows, shifted, merged, and the bias of relative places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Conv2d(3, 8, 1), nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(1, 2, 9, 9))
        self.merge, self.last = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        y = torch.roll(x, (-1, -1), (1, 2))
        n, h, w, c = y.shape
        y = y.view(n, h // 3, 3, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
        q, k, v = self.qkv(y).reshape(-1, 9, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * 0.3 + self.bias).softmax(-1)
        y = self.proj((a @ v).transpose(1, 2).reshape(-1, 9, c))
        y = y.view(n, h // 3, w // 3, 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.last(self.merge(x).mean((1, 2)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Layers of a kind, in one direction or two."""

    def __init__(self, layer: Callable[..., nn.Module], directions: int, layers: int = 1) -> None:
        super().__init__()
        self.core = layer(6, 8, num_layers=layers, bidirectional=directions == 2, batch_first=True)
        self.norm, self.last = nn.Linear(8 * directions, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.core(x)
        return self.last(torch.relu(self.norm(y[:, -1])))  # type: ignore[no-any-return]


LSTM, LSTM_BOTH_WAYS = partial(Recurrent, nn.LSTM, 1, 2), partial(Recurrent, nn.LSTM, 2, 2)
RECURRENT = (LSTM, LSTM_BOTH_WAYS, *(partial(Recurrent, kind, ways) for kind in (nn.GRU, nn.RNN) for ways in (1, 2)))


class LearnedState(nn.Module):
    """An LSTM that begins with trained states and ends with its last."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.states = nn.ParameterList([nn.Parameter(torch.randn(2, 1, 8)) for _ in range(2)])
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, c = (state.expand(-1, x.shape[0], -1).contiguous() for state in self.states)
        _, (h, _) = self.core(x, (h, c))
        return self.last(h.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]


_IMAGE, _TOKENS = (3, 6, 6), (5, 6)
MODULES = (
    *(Exported(Groups, (3, 8, 8), 0.55, masked=False, opset=opset) for opset in (13, 17)),
    *(Exported(Shuffled, _IMAGE, 0.6, opset=opset) for opset in (11, 13, 17)),
    *(Exported(Inverted, _IMAGE, 0.5, opset=opset) for opset in (10, 13, 17)),
    *(Exported(Upscaled, _IMAGE, 0.6, opset=opset) for opset in (13, 17)),
    *(Exported(Attention, _IMAGE, 0.55, masked=False, opset=opset) for opset in (14, 17)),
    *(Exported(Joined, _TOKENS, 0.5, opset=opset) for opset in (14, 17)),
    *(Exported(Windows, _IMAGE, 0.5, opset=opset) for opset in (13, 17)),
    *(Exported(m, _TOKENS, 0.6) for m in (*RECURRENT, LearnedState)),
    Exported(LSTM, _TOKENS, 0.6, opset=11),
    *(
        Exported(m, shape, half, masked, opset=18, dynamo=True, slow=m is not Attention)
        for m, shape, half, masked in (
            (Groups, (3, 8, 8), 0.55, False), (Shuffled, _IMAGE, 0.6, True), (Inverted, _IMAGE, 0.5, True),
            (Upscaled, _IMAGE, 0.6, True), (Attention, _IMAGE, 0.55, False), (Joined, _TOKENS, 0.5, True),
            (Windows, _IMAGE, 0.5, True), (LSTM_BOTH_WAYS, _TOKENS, 0.6, True),
        )
    ),
    Exported(Groups, (3, 8, 8), 0.55, False, opset=21, dynamo=True, slow=True),
)  # fmt: skip
