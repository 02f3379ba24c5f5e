"""Follow operators that give a value another shape, its order unchanged: axes flattened together, split, or both."""

from __future__ import annotations

from itertools import accumulate, pairwise
from operator import mul

import onnx

from .dependencies import Call, CannotFollow, Writer, rewrite, rule
from .indices import Axes, Indices

_SHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@rule(*_SHAPES)
def reshaped(call: Call) -> list[Axes]:
    """Follow axes that are flattened together, split, or both."""
    source, target = (call.shapes_of(name) for name in (call.proto.input[0], call.proto.output[0]))
    return [_regrouped(call, call.input(0), source, target)]


def _regrouped(
    call: Call, axes: Axes, source: tuple[tuple[int, ...], ...], target: tuple[tuple[int, ...], ...]
) -> Axes:
    """Match runs of axes that hold the same number of indices, at both trial batches, with one another."""
    before, after = (list(zip(*shapes, strict=True)) for shapes in (source, target))
    made: Axes = []
    i = j = 0
    while i < len(before) or j < len(after):
        left = right = (1, 1)
        first = i
        sizes: list[int] = []
        while left != right or (i == first and not sizes):
            if i < len(before) and (left <= right or j == len(after)):
                left, i = (left[0] * before[i][0], left[1] * before[i][1]), i + 1
            elif j < len(after):
                right, j = (right[0] * after[j][0], right[1] * after[j][1]), j + 1
                sizes.append(after[j - 1][0])
            else:
                raise CannotFollow
        made += _split_run(call, axes[first:i], sizes)
    return made


def _split_run(call: Call, axes: Axes, sizes: list[int]) -> Axes:
    """Convert one run of axes to one of other axes."""
    long = [axis for axis in axes if len(axis) > 1]
    wanted = [size for size in sizes if size > 1]
    parts = iter(_regathered(call.indices, long, wanted))
    return [next(parts) if size > 1 else call.indices.kept(size) for size in sizes]


def _regathered(indices: Indices, axes: Axes, wanted: list[int]) -> Axes:
    """Convert axes to others of the same number of indices: split where one of those begins, then joined."""
    before, after = _strides([len(axis) for axis in axes]), _strides(wanted)
    strides = sorted({*before, *after}, reverse=True)
    if any(large % small for large, small in pairwise(strides)):
        return indices.split(indices.merged(axes), wanted)
    steps = {large: large // small for large, small in pairwise(strides)}

    def pieces(bounds: list[int]) -> list[list[int]]:
        return [[steps[s] for s in strides if low < s <= high] for high, low in pairwise(bounds)]

    fine = iter([part for axis, sizes in zip(axes, pieces(before), strict=True) for part in indices.split(axis, sizes)])
    return [indices.merged([next(fine) for _ in sizes]) for sizes in pieces(after)]


def _strides(sizes: list[int]) -> list[int]:
    """Compute how many indices lie in each axis and those behind it; 1 at the end."""
    return [*accumulate(reversed(sizes), mul, initial=1)][::-1]


@rewrite("Reshape")
def reshape_target(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the target to the new shape, its batch free."""
    shape = writer.shape(node.output[0])
    free = [i for i, slope in enumerate(shape.slope) if slope]
    if len(free) > 1:
        node.input[1:] = [writer.sizes(shape)]
    else:
        node.input[1:] = [writer.ints([-1 if i in free else base for i, base in enumerate(shape.base)])]
    for attribute in list(node.attribute):
        if attribute.name in ("allowzero", "shape"):
            node.attribute.remove(attribute)


@rewrite("Squeeze")
def squeezed_axes(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """State which axes of length one are squeezed, as others may have that length now."""
    if call.attr("axes") is None and not call.has(1):
        gone = [i for i, size in enumerate(call.shapes_of(node.input[0])[0]) if size == 1]
        if call.version >= 13:
            node.input.append(writer.ints(gone))
        else:
            node.attribute.append(onnx.helper.make_attribute("axes", gone))
