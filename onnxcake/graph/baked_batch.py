"""Find the batch sizes that a file may have baked in: exporters write the one that they traced with into constants."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from torch import Tensor

from .convert import Converted

_TRIED = 6  # candidates, each of which costs a conversion
_LARGEST = 1024  # a batch that somebody exports with
# Operators with an input that is a shape, or sizes, or bounds of a slice.
_SHAPED = {"Reshape", "Resize", "Upsample", "Expand", "ConstantOfShape", "Slice", "Tile", "Concat", "View", "Range"}
_STATES = {"LSTM", "GRU", "RNN", "Loop", "Scan"}  # with states that may be stored for a batch


def candidates(converted: Converted) -> list[int]:
    """List the batch sizes that may be baked in, the likeliest first: 1, 2, then what the constants show.

    Nodes that could not be converted come first, then those whose inputs are shapes or stored states.
    """
    graph = converted.safe.model.graph
    failed = {one.node for one in converted.blocked}
    first = [node for node in graph.node if node.name in failed]
    then = [node for node in graph.node if node.op_type in _SHAPED | _STATES and node.name not in failed]
    seen = dict.fromkeys((1, 2))
    for node in (*first, *then):
        seen.update(dict.fromkeys(size for size in _sizes(converted, node) if 1 < size <= _LARGEST))
    return list(seen)[:_TRIED]


def _sizes(converted: Converted, node: onnx.NodeProto) -> Iterator[int]:
    """Iterate over the numbers of a node's constant inputs that may be a batch size."""
    for name in node.input:
        value = converted.constant(name)
        if value is None or not value.numel():
            continue
        if value.dtype.is_floating_point:
            yield from value.shape[:2] if value.dim() > 1 else ()
        elif value.dim() <= 1:
            yield _first_number(value)


def _first_number(value: Tensor) -> int:
    return int(value.reshape(-1)[0])
