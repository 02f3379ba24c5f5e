"""Follow operators that give axes another order or length, join them and take parts of them."""

from __future__ import annotations

import numpy as np
import onnx

from .dependencies import Call, CannotFollow, Writer, rewrite, rule
from .indices import Axes
from .rules_linear import for_any_batch

_END = 2**31 - 1  # as exporters write an axis' end


@rule("Transpose")
def transposed(call: Call) -> list[Axes]:
    """Reorder the axes."""
    x = call.input(0)
    return [[x[i] for i in call.attr("perm") or range(len(x))[::-1]]]


@rule("Concat")
def joined(call: Call) -> list[Axes]:
    """Concatenate along an axis."""
    values = [call.input(i) for i in range(len(call.axes))]
    axis = call.attr("axis") % len(values[0])
    made = []
    for place, first in enumerate(values[0]):
        if place == axis:
            made.append(np.concatenate([axes[place] for axes in values]))
            continue
        for axes in values[1:]:
            call.indices.unite(first, axes[place])
        made.append(first)
    return [made]


@rewrite("Concat")
def joined_constants(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Let constants that were stored for one batch, as a class token is, follow any."""
    shape = writer.shape(node.output[0])
    if not shape.slope[0] or call.attr("axis") % len(shape.slope) == 0:
        return
    for place, name in enumerate(call.proto.input):
        if name in call.graph.constants:
            node.input[place] = for_any_batch(call, place, 0, (shape.slope[0], shape.base[0]), writer)


@rule("Split")
def parts(call: Call) -> list[Axes]:
    """Split an axis into pieces; each keeps what stays of it."""
    x = call.input(0)
    axis = call.attr("axis", 0) % len(x)
    lengths = [call.out_shape(i)[axis] for i in range(len(call.proto.output))]
    ends = np.cumsum(lengths)
    call.facts["parts"] = [x[axis][end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return [[*x[:axis], part, *x[axis + 1 :]] for part in call.facts["parts"]]


@rewrite("Split")
def part_lengths(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the lengths to what stays."""
    if all(writer.mask(part).all() for part in call.facts["parts"]):
        return
    lengths = [writer.count(part) for part in call.facts["parts"]]
    for attribute in list(node.attribute):
        if attribute.name in ("split", "num_outputs"):
            node.attribute.remove(attribute)
    if call.version >= 13:
        node.input[1:] = [writer.ints(lengths)]
    else:
        node.attribute.append(onnx.helper.make_attribute("split", lengths))


@rule("Slice")
def sliced(call: Call) -> list[Axes]:
    """Follow a slice of some axes. Where its bounds are not known, or differ by index, the axis must stay."""
    x = list(call.input(0))
    out = call.out_shape()
    starts, ends = call.ints(1, "starts"), call.ints(2, "ends")
    assert starts is not None and ends is not None
    axes = call.ints(3, "axes") or tuple(range(len(starts)))
    steps = call.ints(4) or (1,) * len(starts)
    call.facts["slices"] = []
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = given % len(x)
        stretch = slice(*slice(start, end, step).indices(len(x[axis])))
        if step != 1:
            call.indices.hold(x[axis])
            x[axis] = call.indices.kept(out[axis])
        else:
            call.facts["slices"].append((axis, x[axis], stretch))
            x[axis] = x[axis][stretch.start : stretch.stop]
    call.facts["spelt"] = (starts, ends, axes)
    return [x]


@rewrite("Slice")
def slice_bounds(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the bounds to count what stays."""
    starts, ends, axes = (list(part) for part in call.facts["spelt"])
    rank, changed = len(call.input(0)), False
    for axis, whole, stretch in call.facts["slices"]:
        mask = writer.mask(whole)
        if mask.all():
            continue
        place = [given % rank for given in axes].index(axis)
        starts[place] = int(mask[: stretch.start].sum())
        ends[place] = starts[place] + int(mask[stretch.start : stretch.stop].sum())
        changed = True
    for place, given in enumerate(axes):  # the end was stored for one batch, and follows any
        if given % rank == 0 and starts[place] == 0 and ends[place] > 0 and writer.shape(node.output[0]).slope[0]:
            ends[place], changed = _END, True
    if not changed:
        return
    if call.version < 10:
        for name, value in (("starts", starts), ("ends", ends)):
            for attribute in node.attribute:
                if attribute.name == name:
                    attribute.ints[:] = value
    else:
        node.input[1], node.input[2] = (writer.ints(part, call.constant(1)) for part in (starts, ends))


@rule("Gather")
def picked(call: Call) -> list[Axes]:
    """Follow indices into an axis: those of a list fall with what they pick; single or computed ones hold it."""
    x = call.input(0)
    axis = call.attr("axis", 0) % len(x)
    places = call.constant(1)
    if places is None:
        call.indices.hold(x[axis])
        chosen: Axes = call.input(1)
        for one in chosen:
            call.indices.hold(one)
    elif places.ndim == 1:
        chosen = [x[axis][places]]
        call.facts["picked"] = (x[axis], places % len(x[axis]))
    else:
        # A single place, or a table of them: the axis keeps its order, so all of it stays.
        call.indices.hold(x[axis])
        chosen = [call.indices.kept(size) for size in places.shape]
    return [[*x[:axis], *chosen, *x[axis + 1 :]]]


@rewrite("Gather")
def picked_places(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the indices to count what stays."""
    if "picked" in call.facts:
        axis, places = call.facts["picked"]
        mask = writer.mask(axis)
        if not mask.all():
            now = np.cumsum(mask) - 1
            node.input[1] = writer.ints([int(now[place]) for place in places if mask[place]], call.constant(1))


@rule("Expand")
def expanded(call: Call) -> list[Axes]:
    """Lengthen axes of one index; their readers decide how much of them stays."""
    x, out = call.input(0), call.out_shape()
    longer = [_lengthened(call, size, place) for place, size in enumerate(out)]
    for place in range(-len(x), 0):
        if len(x[place]) == out[place]:
            longer[place] = x[place]
    return [longer]


def _lengthened(call: Call, size: int, place: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    first, second = call.shapes_of(call.proto.output[0])
    return call.indices.fresh(size) if first[place] == second[place] else call.indices.kept(size)


@rule("ConstantOfShape")
def filled(call: Call) -> list[Axes]:
    """Make an axis as long as its readers ask for."""
    return [[_lengthened(call, size, place) for place, size in enumerate(call.out_shape())]]


@rewrite("Expand", "ConstantOfShape")
def wanted_shape(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the shape to the new one."""
    place = 1 if call.op == "Expand" else 0
    node.input[place] = writer.sizes(writer.shape(node.output[0]))


@rule("Tile")
def tiled(call: Call) -> list[Axes]:
    """Repeat each index."""
    repeats = call.numbers(1)
    if repeats is None:
        raise CannotFollow
    return [[np.tile(axis, n) for axis, n in zip(call.input(0), repeats.at(call.graph.batches[0]), strict=True)]]


@rule("Pad")
def padded(call: Call) -> list[Axes]:
    """Add indices at the ends of axes; zeros where a constant is put, else copies, which need all that is there."""
    x = call.input(0)
    pads, axes = call.ints(1, "pads"), call.ints(3)
    if pads is None:
        raise CannotFollow
    places = [axis % len(x) for axis in axes] if axes else list(range(len(x)))
    made, ends = list(x), {}
    for i, place in enumerate(places):
        before, after = pads[i], pads[i + len(places)]
        if not before and not after:
            continue
        if before < 0 or after < 0 or call.attr("mode", b"constant") != b"constant":
            call.indices.hold(x[place])
            made[place] = call.indices.kept(call.out_shape()[place])
            continue
        new = [call.indices.fresh(before), call.indices.fresh(after)]
        made[place] = np.concatenate([new[0], x[place], new[1]])
        ends[i] = new
    call.facts["ends"] = (pads, len(places), ends)
    return [made]


@rewrite("Pad")
def pad_lengths(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the lengths to as many new indices as the readers still want."""
    pads, count, ends = call.facts["ends"]
    now = list(pads)
    for i, (before, after) in ends.items():
        now[i], now[i + count] = writer.count(before), writer.count(after)
    if now == list(pads):
        return
    if call.version < 11:
        for attribute in node.attribute:
            if attribute.name == "pads":
                attribute.ints[:] = now
    else:
        node.input[1] = writer.ints(now)


@rule("Trilu")
def triangle(call: Call) -> list[Axes]:
    """Hold the last two axes, along which positions matter."""
    for axis in call.input(0)[-2:]:
        call.indices.hold(axis)
    return [call.input(0)]
