"""Build a small vision transformer.

Dosovitskiy et al. 2021, *An image is worth 16x16 words*, with mean pooling in place of the class token, as in
Beyer, Zhai, Kolesnikov 2022, *Better plain ViT baselines for ImageNet-1k*. Attention is written out: plain
products and shapes known in advance export to ONNX at every opset.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...core.errors import RecipeError
from ...core.quantities import Count, CountOrNone
from ...teacher.signature import Signature
from . import fit

_SMALL_SIDE = 64  # of an image that 8×8 patches cover well enough
_LEAST_PATCH = 2  # a single pixel says little, and four times as many tokens cost more
_POSITION_STD = 0.5  # as strong as an embedded patch; with the usual 0.02 short trainings never tell places apart


def vit_small(
    signature: Signature,
    *,
    patch: CountOrNone = 0,
    dim: Count = 64,
    depth: Count = 4,
    heads: Count = 4,
    mlp: Count = 128,
) -> nn.Module:
    """Build a pre-norm vision transformer for images of 4×4 or more.

    Args:
        patch: side of a patch in pixels; 0 chooses one of 2 or more that gives about 8×8 patches up to 64×64
            pixels and 14×14 above. Sides that are no multiple of it are padded with 0, the mean.
        dim: features of a token.
        depth: blocks.
        heads: attention heads; they share ``dim`` equally.
        mlp: hidden units of each block's perceptron.

    Raises:
        RecipeError: if inputs are not such images, a patch is larger than the image, or ``heads`` does not
            divide ``dim``.
    """
    fit.positive("vit-small", dim=dim, depth=depth, heads=heads, mlp=mlp)
    channels, *sides = fit.image_shape("vit-small", signature, least_side=fit.LEAST_IMAGE_SIDE)
    if not 0 <= patch <= min(sides):
        what = f"vit-small cannot cut {sides[0]}×{sides[1]} pixels into patches of side {patch}"
        raise RecipeError(what, remedy=f"Set `patch` between 1 and {min(sides)}, or to 0 to have it chosen.")
    if dim % heads:
        what = f"vit-small cannot share dim {dim} among {heads} heads"
        raise RecipeError(what, remedy="Set `dim` to a multiple of `heads`.")
    patches = Patches(channels, sides, patch or _patch_side(sides), dim)
    blocks = [Block(patches.tokens, dim, heads, mlp) for _ in range(depth)]
    return nn.Sequential(patches, *blocks, nn.LayerNorm(dim), TokenMean(), nn.Linear(dim, signature.classes))


def _patch_side(sides: list[int]) -> int:
    side = math.sqrt(sides[0] * sides[1])
    wanted = side / (8 if side <= _SMALL_SIDE else 14)
    return min(max(_LEAST_PATCH, round(wanted)), *sides)


class Patches(nn.Module):
    """Embed an image as tokens with a learned position: [batch, channels, height, width] → [batch, tokens, dim]."""

    def __init__(self, channels: int, sides: list[int], patch: int, dim: int) -> None:
        super().__init__()
        below, right = (-side % patch for side in sides)
        self.pad = nn.ZeroPad2d((0, right, 0, below)) if below or right else nn.Identity()
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.dim = dim
        self.tokens = math.prod(math.ceil(side / patch) for side in sides)
        self.position = nn.Parameter(_POSITION_STD * torch.randn(self.tokens, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens, row by row."""
        maps: Tensor = self.embed(self.pad(x))
        return maps.reshape(-1, self.dim, self.tokens).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Apply multi-head self-attention (equations 5 to 8): [batch, tokens, dim] → the same."""

    def __init__(self, tokens: int, dim: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.dim, self.heads = tokens, dim, heads
        self.project_in, self.project_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Average over all tokens for each token, weighted by similarity."""
        each = self.dim // self.heads
        joined: Tensor = self.project_in(x)
        split = joined.reshape(-1, self.tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each [batch, heads, tokens, dim / heads]
        weights = (query @ key.transpose(-2, -1) / math.sqrt(each)).softmax(dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(-1, self.tokens, self.dim)
        out: Tensor = self.project_out(mixed)
        return out


class Block(nn.Module):
    """Apply attention, then a perceptron on each token, each normalised first and added (equations 2 and 3)."""

    def __init__(self, tokens: int, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(dim), Attention(tokens, dim, heads))
        self.think = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block: [batch, tokens, dim] → the same."""
        mixed: Tensor = x + self.attend(x)
        out: Tensor = mixed + self.think(mixed)
        return out


class TokenMean(nn.Module):
    """Average over tokens: [batch, tokens, dim] → [batch, dim]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over tokens."""
        return x.mean(dim=1)
