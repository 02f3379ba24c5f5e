"""Follow normalisations, pooling, and operators that reduce or resize."""

from __future__ import annotations

import onnx

from .dependencies import Call, CannotFollow, Writer, rewrite, rule
from .indices import Axes
from .rules_elementwise import aligned
from .rules_linear import set_attribute


@rule("BatchNormalization", "InstanceNormalization", "SpatialBN")
def by_channel(call: Call) -> list[Axes]:
    """Unite channels of x [n, channels, …] with vectors [channels]."""
    x = call.input(0)
    for place in range(1, len(call.axes)):
        call.indices.unite(x[1], call.input(place)[0])
    return [x]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def by_last_axes(call: Call) -> list[Axes]:
    """Align scale and shift with the last axes of x."""
    x = call.input(0)
    aligned(call.indices, call.given())
    return [x]


@rule("GroupNormalization")
def by_group(call: Call) -> list[Axes]:
    """Follow x [n, groups · inner, …]; scale and shift for each group, from opset 21 for each channel."""
    x, groups = call.input(0), call.attr("num_groups")
    outer, _ = call.indices.split(x[1], [groups, len(x[1]) // groups])
    for place in (1, 2):
        call.indices.unite(call.input(place)[0], outer if call.version < 21 else x[1])
    call.facts["groups"] = outer
    return [x]


@rewrite("GroupNormalization")
def fewer_groups(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Set ``num_groups`` to the number of groups that stay."""
    set_attribute(node, "num_groups", writer.count(call.facts["groups"]))


@rule("LRN")
def across_channels(call: Call) -> list[Axes]:
    """Hold all channels, as each is divided by its neighbours."""
    call.indices.hold(call.input(0)[1])
    return [call.input(0)]


@rule("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
def pooled(call: Call) -> list[Axes]:
    """Follow pooling, channel by channel."""
    return [_other_places(call)]


def _other_places(call: Call) -> Axes:
    x = call.input(0)
    for axis in x[2:]:
        call.indices.hold(axis)
    return [*x[:2], *map(call.indices.kept, call.out_shape()[2:])]


@rule("Resize", "Upsample")
def resized(call: Call) -> list[Axes]:
    """Follow resizing, channel by channel; channels themselves are not resized."""
    if len(call.out_shape()) != len(call.input(0)) or len(call.out_shape()) < 3 or call.attr("axes") is not None:
        raise CannotFollow
    return [_other_places(call)]


@rewrite("Resize", "Upsample")
def resized_sizes(call: Call, node: onnx.NodeProto, writer: Writer) -> None:
    """Rewrite the sizes where all are given, that of the channels too."""
    if call.op == "Resize" and call.version >= 11 and call.has(3):
        node.input[3] = writer.sizes(writer.shape(node.output[0]))


@rule("GridSample")
def sampled(call: Call) -> list[Axes]:
    """Follow x [n, channels, …], sampled at the places that a grid names."""
    for axis in call.input(1):
        call.indices.hold(axis)
    return [_other_places(call)]


_REDUCED = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@rule(*(f"Reduce{kind}" for kind in _REDUCED))
def reduced(call: Call) -> list[Axes]:
    """Remove the reduced axes, or make them one long."""
    x = call.input(0)
    axes = call.ints(1, "axes")
    if not axes and call.attr("noop_with_empty_axes", 0):
        return [x]
    gone = {axis % len(x) for axis in (axes or range(len(x)))}
    if call.attr("keepdims", 1):
        return [[call.indices.kept(1) if i in gone else axis for i, axis in enumerate(x)]]
    return [[axis for i, axis in enumerate(x) if i not in gone]]


@rule("ArgMax", "ArgMin")
def place_of(call: Call) -> list[Axes]:
    """Hold an axis whose positions are searched, as they mean something only if all are there."""
    x = call.input(0)
    axis = call.attr("axis", 0) % len(x)
    call.indices.hold(x[axis])
    kept = [call.indices.kept(1)] if call.attr("keepdims", 1) else []
    return [[*x[:axis], *kept, *x[axis + 1 :]]]


@rule("DepthToSpace")
def to_space(call: Call) -> list[Axes]:
    """Follow x [n, blocks · channels, …] (DCR), or [n, channels · blocks, …] (CRD)."""
    x, blocks = call.input(0), call.attr("blocksize") ** 2
    first = call.attr("mode", b"DCR") == b"DCR"
    rest = len(x[1]) // blocks
    parts = call.indices.split(x[1], [blocks, rest] if first else [rest, blocks])
    place, channels = parts if first else parts[::-1]
    call.indices.hold(place)
    return [[x[0], channels, *_other_places(call)[2:]]]


@rule("SpaceToDepth")
def to_depth(call: Call) -> list[Axes]:
    """Follow [n, channels, …] → [n, blocks · channels, …]."""
    x, blocks = call.input(0), call.attr("blocksize") ** 2
    return [[x[0], call.indices.merged([call.indices.kept(blocks), x[1]]), *_other_places(call)[2:]]]
