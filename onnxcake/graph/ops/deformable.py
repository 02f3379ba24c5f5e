"""Convert deformable convolution: sampling at the offset positions, then one matrix product."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle


@op("DeformConv")
def deform_conv(node: Node) -> Function:
    kernel = node.shape(1)[2:]
    axes = len(kernel)
    if axes not in (2, 3):
        raise Obstacle(f"a deformable convolution over {axes} axes", "Only two and three are supported.")
    groups, offset_groups = node.attr("group", 1), node.attr("offset_group", 1)
    count = math.prod(kernel)
    if min(node.shape(2)[2:]) < 0:
        raise Obstacle("the size of its output depends on the batch")
    node.extra(_regular(node, kernel))
    node.extra(torch.tensor([node.size(0, -1 - i) for i in range(axes)], dtype=node.dtype(0)))

    def function(x: Tensor, weight: Tensor, offset: Tensor, *rest: Any) -> Tensor:
        *given, regular, scale = rest
        bias, mask = (*given, None, None)[:2]
        batch, channels, *sizes = x.shape
        out = offset.shape[2:]
        # Where each kernel element of each output point reads, as F.grid_sample has it: last axis first, in (−1, 1).
        at = offset.reshape(batch * offset_groups, count, axes, *out) + regular
        at = (2 * at.flip(2).movedim(2, -1) + 1) / scale - 1
        grid = at.reshape(batch * offset_groups, count * out[0], *out[1:], axes)
        image = x.reshape(batch * offset_groups, channels // offset_groups, *sizes)
        read = F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)
        if mask is not None:
            read = read * mask.reshape(batch * offset_groups, 1, *read.shape[2:])
        columns = read.reshape(batch, groups, channels // groups * count, math.prod(out))
        y = (weight.reshape(groups, -1, columns.shape[2]) @ columns).reshape(batch, -1, *out)
        return y if bias is None else y + bias.reshape(-1, *(1,) * axes)

    return function


def _regular(node: Node, kernel: tuple[int, ...]) -> Tensor:
    """Compute the positions that an undeformed convolution reads: kernel elements × axes × output."""
    axes = len(kernel)
    strides, dilations = (node.attr(name, [1] * axes) for name in ("strides", "dilations"))
    pads = node.attr("pads", [0] * (2 * axes))
    out = node.shape(2)[2:]
    places = []
    for axis in range(axes):
        along = torch.arange(out[axis]) * strides[axis] - pads[axis]
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = kernel[axis], out[axis]
        taps = (torch.arange(kernel[axis]) * dilations[axis])[:, None] + along
        places.append(taps.reshape(shape).expand(*kernel, *out))
    return torch.stack(places, axes).reshape(math.prod(kernel), axes, *out).to(node.dtype(0))
