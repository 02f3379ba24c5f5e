"""Build residual networks.

He, Zhang, Ren, Sun 2016, *Deep residual learning for image recognition*; and, with the activation first,
Zagoruyko and Komodakis 2016, *Wide residual networks*.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import RecipeError
from ...core.quantities import Count
from ...teacher.signature import Signature
from . import fit

_LEAST_SIDE = 8
_SMALL_SIDE = 64  # up to here the first convolution keeps the resolution


def resnet8(signature: Signature, *, width: Count = 16) -> nn.Module:
    """Build `resnet20` with one block in each stage.

    Raises:
        RecipeError: if inputs are not images of 8×8 or more.
    """
    return _small("resnet8", signature, width, blocks=1)


def resnet20(signature: Signature, *, width: Count = 16) -> nn.Module:
    """Build the paper's network for CIFAR: three stages of three blocks (section 4.2; 0.27 M parameters).

    Shortcuts that change the shape are 1×1 convolutions (option B). Above 64 pixels the first layers halve
    the resolution until at most 64 are left.

    Args:
        width: channels of the first stage; the others have two and four times as many.

    Raises:
        RecipeError: if inputs are not images of 8×8 or more.
    """
    return _small("resnet20", signature, width, blocks=3)


def resnet18(signature: Signature, *, width: Count = 64) -> nn.Module:
    """Build the paper's network for ImageNet: four stages of two blocks (table 1; 11.7 M parameters).

    Up to 64 pixels it starts with a 3×3 convolution at full resolution (11.2 M parameters for CIFAR), above
    with the paper's 7×7 convolution and max pooling, each of stride 2.

    Args:
        width: channels of the first stage; the others have two, four and eight times as many.

    Raises:
        RecipeError: if inputs are not images of 8×8 or more.
    """
    return _large("resnet18", signature, width, blocks=(2, 2, 2, 2))


def resnet34(signature: Signature, *, width: Count = 64) -> nn.Module:
    """Build `resnet18` with three, four, six and three blocks.

    Raises:
        RecipeError: if inputs are not images of 8×8 or more.
    """
    return _large("resnet34", signature, width, blocks=(3, 4, 6, 3))


def wrn_16_1(signature: Signature, *, depth: Count = 16, widen: Count = 1) -> nn.Module:
    """Build a wide residual network for CIFAR: three stages of (depth − 4) / 6 blocks (table 1; 0.17 M parameters).

    Above 64 pixels the first layers halve the resolution until at most 64 are left.

    Args:
        depth: convolutions: 10, 16, 22, 28, 40 …
        widen: the paper's k; the stages have 16, 32 and 64 times as many channels.

    Raises:
        RecipeError: if inputs are not images of 8×8 or more, or there is no such depth.
    """
    return _wide("wrn-16-1", signature, depth, widen)


def wrn_16_2(signature: Signature, *, depth: Count = 16, widen: Count = 2) -> nn.Module:
    """Build `wrn_16_1`, twice as wide (0.69 M parameters)."""
    return _wide("wrn-16-2", signature, depth, widen)


def wrn_40_1(signature: Signature, *, depth: Count = 40, widen: Count = 1) -> nn.Module:
    """Build `wrn_16_1` with six blocks in each stage (0.56 M parameters)."""
    return _wide("wrn-40-1", signature, depth, widen)


def wrn_40_2(signature: Signature, *, depth: Count = 40, widen: Count = 2) -> nn.Module:
    """Build `wrn_40_1`, twice as wide (2.24 M parameters): the usual teacher of data-free distillation on CIFAR."""
    return _wide("wrn-40-2", signature, depth, widen)


def _wide(name: str, signature: Signature, depth: int, widen: int) -> nn.Module:
    if depth < 10 or (depth - 4) % 6:
        what = f"{name} cannot have depth {depth}: depths are 4 and a multiple of 6"
        raise RecipeError(what, remedy="Set `depth` to 10, 16, 22, 28, 34 or 40.")
    fit.positive(name, widen=widen)
    channels, height, width = fit.image_shape(name, signature, least_side=_LEAST_SIDE)
    stem = _stem(channels, 16, _halvings(min(height, width)), norm=False)  # the first block normalises
    widths = [16 * widen, 32 * widen, 64 * widen]
    stages = _stages(PreActivationBlock, 16, widths, [(depth - 4) // 6] * 3)
    top = [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
    return _assemble([*stem, *stages, *top], widths[-1], signature.classes)


def _small(name: str, signature: Signature, width: int, blocks: int) -> nn.Module:
    fit.positive(name, width=width)
    channels, *sides = fit.image_shape(name, signature, least_side=_LEAST_SIDE)
    stem = _stem(channels, width, _halvings(min(sides)))
    stages = _stages(BasicBlock, width, [width, 2 * width, 4 * width], [blocks] * 3)
    return _assemble([*stem, *stages], 4 * width, signature.classes)


def _large(name: str, signature: Signature, width: int, blocks: tuple[int, ...]) -> nn.Module:
    fit.positive(name, width=width)
    channels, *sides = fit.image_shape(name, signature, least_side=_LEAST_SIDE)
    stem = _stem(channels, width, halvings=0 if min(sides) <= _SMALL_SIDE else 2)
    widths = [width * 2**stage for stage in range(len(blocks))]
    stages = _stages(BasicBlock, width, widths, list(blocks))
    return _assemble([*stem, *stages], widths[-1], signature.classes)


def _halvings(side: int) -> int:
    """Compute how often to halve so that at most 64 pixels are left."""
    return max(0, math.ceil(math.log2(side / _SMALL_SIDE)))


def _stem(channels: int, width: int, halvings: int, *, norm: bool = True) -> list[nn.Module]:
    """Build 3×3 at full resolution, or 7×7 with stride 2 and then max pooling for the rest of the halvings."""
    first = _conv(channels, width, 7, 2) if halvings else _conv(channels, width, 3)
    activation = [nn.BatchNorm2d(width), nn.ReLU()] if norm else []
    return [first, *activation, *(nn.MaxPool2d(3, 2, padding=1) for _ in range(halvings - 1))]


def _stages(
    block: type[BasicBlock] | type[PreActivationBlock], inputs: int, widths: list[int], blocks: list[int]
) -> list[nn.Module]:
    """Build one sequence of blocks for each width; every stage but the first begins with stride 2."""
    stages: list[nn.Module] = []
    for width, count in zip(widths, blocks, strict=True):
        first = block(inputs, width, stride=2 if stages else 1)
        stages.append(nn.Sequential(first, *(block(width, width) for _ in range(count - 1))))
        inputs = width
    return stages


def _assemble(layers: list[nn.Module], features: int, classes: int) -> nn.Module:
    """Append global average pooling and a linear layer, and initialise as He et al. (2015, equation 14)."""
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Compute relu(x' + norm(conv(relu(norm(conv(x)))))); the shortcut x' is x or norm(1×1 conv(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        y = self.conv2(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(y) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Compute x' + conv(relu(norm(conv(a)))), a = relu(norm(x)); the shortcut x' is x, or a 1×1 convolution of a."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        active = F.relu(self.norm1(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        change: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return shortcut + change
