"""Check sizes for converters: whether one is kept, and whether there is room for it."""

from __future__ import annotations

from ..node import Node
from ..values import TooMuch


def is_kept(node: Node, axis: int, slope: int, base: int) -> bool:
    """Tell whether slope · batch + base is the size that an axis of input 0 has already.

    A batch that the exporter wrote into the file counts as whatever the batch will be.
    """
    dims = node.dims(0)
    if (slope, base) == (dims.slope[axis], dims.base[axis]):
        return True
    baked = node.builder.fixed_batch
    return bool(baked is not None and dims.slope[axis] and slope == 0 and base == dims.at(baked)[axis])


def check_room(node: Node, numbers: int, width: int = 8) -> None:
    """Refuse values that would take more memory than one value may.

    Raises:
        TooMuch: if ``numbers`` of ``width`` bytes exceed the limit.
    """
    allowed = node.builder.limits.value_bytes
    if numbers * width > allowed:
        raise TooMuch(
            f"it asks for {numbers * width / 2**30:,.0f} GiB in one value (allowed: {allowed / 2**30:g})",
            "Give a smaller teacher, or check the shapes in the file.",
        )
