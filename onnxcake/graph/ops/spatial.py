"""Convert spatial operators: blocks to depth and back, sampling at points, and placing columns or maxima."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .sampling import grid_sample
from .sizes import check_room


@op("DepthToSpace")
def depth_to_space(node: Node) -> Function:
    size = node.attr("blocksize")
    if node.attr("mode", "DCR") == "CRD":
        return lambda x: F.pixel_shuffle(x, size)

    def function(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, size, size, channels // size**2, height, width)
        return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // size**2, height * size, width * size)

    return function


@op("SpaceToDepth")
def space_to_depth(node: Node) -> Function:
    size = node.attr("blocksize")
    if node.attr("mode", "DCR") == "CRD":
        return lambda x: F.pixel_unshuffle(x, size)

    def function(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // size, size, width // size, size)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size**2, height // size, width // size)

    return function


@op("GridSample")
def grid_sample_(node: Node) -> Function:
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.attr("mode", "linear"), node.attr("mode", "linear"))
    padding, corners = node.attr("padding_mode", "zeros"), bool(node.attr("align_corners", 0))
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise Obstacle(f"the mode {mode} with {padding} padding is not in the standard")
    axes = node.rank(0) - 2
    if axes == 2 or (axes == 3 and mode != "cubic"):
        name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
        return lambda x, grid: F.grid_sample(x, grid, name, padding, corners)
    if axes not in (1, 3):
        raise Obstacle(f"sampling in {axes} axes", "Only one, two and three are supported.")
    return lambda x, grid: grid_sample(x, grid, mode, padding, corners)


@op("AffineGrid")
def affine_grid(node: Node) -> Function:
    corners, sizes = bool(node.attr("align_corners", 0)), node.numbers(1)
    if any(sizes.slope[1:]):
        raise Obstacle("the size of its grid depends on the batch")
    node.take(1)
    rest = sizes.base[1:]
    return lambda theta: F.affine_grid(theta, [theta.shape[0], *rest], corners)


@op("Col2Im")
def col2im(node: Node) -> Function:
    image, block = node.ints(1), node.ints(2)
    axes = len(image)
    dilations, strides = (tuple(node.attr(name, [1] * axes)) for name in ("dilations", "strides"))
    pads = node.attr("pads", [0] * (2 * axes))
    padded = tuple(size + pads[i] + pads[i + axes] for i, size in enumerate(image))
    crop = [-pads[i + side] for i in reversed(range(axes)) for side in (0, axes)]
    if axes == 2 and pads[:2] == pads[2:]:
        margin = (pads[0], pads[1])
        return lambda x: F.fold(x, image, block, dilations, margin, strides)
    if axes == 2:
        return lambda x: F.pad(F.fold(x, padded, block, dilations, 0, strides), crop)
    blocks = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(padded, dilations, block, strides, strict=True)]
    area = math.prod(padded)
    check_room(node, max(area, math.prod(block) * math.prod(blocks)))
    places = torch.zeros(1, 1, dtype=torch.int64)  # of each element of each block in the padded image
    for size, d, k, s, count in zip(padded, dilations, block, strides, blocks, strict=True):
        here = (torch.arange(k) * d)[:, None, None] + (torch.arange(count) * s)  # k × 1 × count
        places = places[:, None, :, None] * size + here
        places = places.reshape(places.shape[0] * k, -1)
    node.extra(places.reshape(-1))

    def function(x: Tensor, places: Tensor) -> Tensor:
        columns = x.reshape(x.shape[0], -1, places.shape[0])
        summed = columns.new_zeros(*columns.shape[:2], area).index_add(2, places, columns)
        return F.pad(summed.reshape(*columns.shape[:2], *padded), crop)

    return function


@op("MaxUnpool")
def max_unpool(node: Node) -> Function:
    kernel = node.attr("kernel_shape")
    axes = len(kernel)
    strides, pads = node.attr("strides", [1] * axes), node.attr("pads", [0] * (2 * axes))
    if node.has(2):
        # As MaxPool gives them, the indices count in the tensor that was pooled, which has the shape asked for.
        sizes = node.numbers(2)
        if any(sizes.slope[2:]):
            raise Obstacle("the size of its output depends on the batch")
        spatial = list(sizes.base[2:])
    else:
        spatial = [(node.size(0, i + 2) - 1) * strides[i] + kernel[i] - pads[i] - pads[i + axes] for i in range(axes)]
    node.take(2)

    def function(x: Tensor, places: Tensor) -> Tensor:
        shape = (*x.shape[:2], *spatial)
        return x.new_zeros(math.prod(shape)).scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)

    return function
