"""Describe sliding windows: kernel, strides, dilations and ONNX's ways to declare the padding, as plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core.remedies import BEFORE
from ..node import Node
from ..values import Obstacle


@dataclass(frozen=True)
class Windows:
    """Describe how windows slide over the spatial axes, by one number per axis.

    ``begins`` and ``ends`` are the padding; ``ceil`` says that a last window may reach over the end.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    ceil: bool = False

    @property
    def extents(self) -> tuple[int, ...]:
        """Return the extent of a window on each axis, dilations included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Tell whether the padding is the same on both sides."""
        return self.begins == self.ends and min(self.begins, default=0) >= 0

    @property
    def padding(self) -> list[int]:
        """Return the padding as F.pad takes it: the last axis first."""
        pairs = list(zip(self.begins, self.ends, strict=True))
        return list(itertools.chain(*pairs[::-1]))

    def counts(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Count the windows on axes of these sizes."""
        made = []
        for size, reach, stride, begin, end in zip(
            sizes, self.extents, self.strides, self.begins, self.ends, strict=True
        ):
            room = size + begin + end - reach
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + begin:
                count -= 1  # a window that starts in the padding at the end does not count
            made.append(count)
        return tuple(made)

    def exact(self, sizes: Sequence[int]) -> Windows:
        """Return the same windows, with the padding at the end such that the last one ends there."""
        axes = zip(sizes, self.counts(sizes), self.strides, self.extents, self.begins, strict=True)
        ends = tuple((count - 1) * stride + reach - size - begin for size, count, stride, reach, begin in axes)
        return replace(self, ends=ends, ceil=False)


def windows_of(node: Node, kernel: tuple[int, ...], auto: str | None = None) -> Windows:
    """Read the windows of a convolution or pooling node over its input 0; SAME padding is computed from the sizes.

    ``auto`` stands in for the attribute auto_pad.
    """
    axes = len(kernel)
    if not 1 <= axes <= 3:
        raise Obstacle(f"windows over {axes} spatial axes are not supported", BEFORE)
    strides = tuple(node.attr("strides") or (1,) * axes)
    dilations = tuple(node.attr("dilations") or (1,) * axes)
    pads = tuple(node.attr("pads") or (0,) * 2 * axes)
    auto = auto or node.attr("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0,) * 2 * axes
    windows = Windows(kernel, strides, dilations, pads[:axes], pads[axes:], bool(node.attr("ceil_mode", 0)))
    return _same_padding(node, windows, auto == "SAME_UPPER") if auto.startswith("SAME") else windows


def spatial_sizes(node: Node) -> list[int]:
    """Return the sizes of input 0 behind batch and channels.

    Raises:
        Obstacle: if one depends on the batch.
    """
    return [node.size(0, axis) for axis in range(2, node.rank(0))]


def _same_padding(node: Node, windows: Windows, upper: bool) -> Windows:
    """Pad for one window per stride; the odd element at the end (upper) or beginning.

    Where windows lie so far apart that some of the input is left over, onnxruntime's pooling starts further in,
    and its convolution does not.
    """
    begins, ends = [], []
    least = 0 if node.op == "Conv" else -math.inf
    for size, stride, reach in zip(spatial_sizes(node), windows.strides, windows.extents, strict=True):
        total = (-(-size // stride) - 1) * stride + reach - size
        begins.append(int(max((total if upper else total + 1) / 2, least)))
        ends.append(max(total - begins[-1], 0))
    return replace(windows, begins=tuple(begins), ends=tuple(ends), ceil=False)
