"""Convert convolutions over one to three spatial axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..node import Node
from ..registry import op
from ..values import Function, Obstacle
from .windows import Windows, spatial_sizes, windows_of


@op("Conv")
def conv(node: Node) -> Function:
    windows, groups = windows_of(node, node.shape(1)[2:]), node.attr("group", 1)
    strides, dilations, begins = windows.strides, windows.dilations, windows.begins
    convolve: Any = (torch.conv1d, torch.conv2d, torch.conv3d)[len(strides) - 1]
    if windows.symmetric:
        return lambda x, w, b=None: convolve(x, w, b, strides, begins, dilations, groups)
    padding = windows.padding
    return lambda x, w, b=None: convolve(F.pad(x, padding), w, b, strides, 0, dilations, groups)


@op("ConvTranspose")
def conv_transpose(node: Node) -> Function:
    cuts, groups = _cuts(node), node.attr("group", 1)
    strides, dilations = cuts.strides, cuts.dilations
    convolve: Any = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[len(strides) - 1]
    more = [begin - end for begin, end in zip(cuts.begins, cuts.ends, strict=True)]
    if min(cuts.begins) >= 0 and all(0 <= m < max(*sd) for m, *sd in zip(more, strides, dilations, strict=True)):
        # torch cuts the same off both ends, and then can give some back at the end.
        begins = cuts.begins
        return lambda x, w, b=None: convolve(x, w, b, strides, begins, more, groups, dilations)
    both = tuple(max(min(pair), 0) for pair in zip(cuts.begins, cuts.ends, strict=True))
    left = [tuple(p - cut for p, cut in zip(both, side, strict=True)) for side in (cuts.begins, cuts.ends)]
    rest = replace(cuts, begins=left[0], ends=left[1]).padding
    if max(rest) <= 0:
        return lambda x, w, b=None: F.pad(convolve(x, w, b, strides, both, 0, groups, dilations), rest)
    ones = (1,) * len(strides)

    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = F.pad(convolve(x, w, None, strides, both, 0, groups, dilations), rest)
        return y if b is None else y + b.reshape(-1, *ones)  # where no kernel reaches there is the bias alone

    return function


def _cuts(node: Node) -> Windows:
    """Compute how much of the whole result is cut off at both ends of each axis; below zero, how much is added."""
    kernel = node.shape(1)[2:]
    asked = tuple(node.attr("output_shape") or ())[-len(kernel) :]
    auto = node.attr("auto_pad", "NOTSET")
    windows = windows_of(node, kernel, auto if auto == "VALID" else "NOTSET")
    more = tuple(node.attr("output_padding") or (0,) * len(kernel))
    if not asked and not auto.startswith("SAME"):
        return replace(windows, ends=tuple(end - m for end, m in zip(windows.ends, more, strict=True)))
    axes = zip(spatial_sizes(node), windows.strides, windows.extents, strict=True)
    wholes = [(size - 1) * stride + reach for size, stride, reach in axes]
    if not asked:
        most = zip(spatial_sizes(node), windows.strides, wholes, more, strict=True)
        asked = tuple(min(size * stride, whole + m) for size, stride, whole, m in most)  # as onnxruntime has it
    totals = [max(whole + m - out, 0) for whole, m, out in zip(wholes, more, asked, strict=True)]
    begins = tuple(total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in totals)
    ends = tuple(whole - begin - out for whole, begin, out in zip(wholes, begins, asked, strict=True))
    return replace(windows, begins=begins, ends=ends)


@op("CausalConvWithState")
def causal_conv(node: Node) -> Function:
    """Convert a depthwise convolution that looks back only; its second output is the state for the next call."""
    channels, _, width = node.shape(1)
    keep, activation = width - 1, node.attr("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise Obstacle(f"the activation {activation!r} is not known")

    def function(x: Tensor, w: Tensor, b: Tensor | None = None, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = F.pad(x, (keep, 0)) if past is None else torch.cat([past, x], 2)
        y = torch.conv1d(seen, w, b, groups=channels)
        return y if activation == "none" else F.silu(y), seen[:, :, seen.shape[2] - keep :]

    return function
