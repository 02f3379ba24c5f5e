"""Record what a builder converted and what it could not, within limits, and where it looks up names."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from .values import Depends, Value


@dataclass(frozen=True)
class Limits:
    """Limit what a graph may ask for while it is built: bytes in one value, and nodes once loops are unrolled."""

    value_bytes: int = 4 << 30
    steps: int = 200_000


LIMITS = Limits()


@dataclass(frozen=True)
class Blocked:
    """Describe a node that cannot be converted.

    Attributes:
        node: its name in the graph; ``op``: its operator, with domain and version.
        why, remedy: in words.
        missing: whether the operator has no converter at all.
        limit: whether it asks for more than a graph may, whatever the batch.
        unfit: whether its conversion failed, on inputs that do not fit it or by a fault of the converter.
    """

    node: str
    op: str
    why: str
    remedy: str
    missing: bool = False
    limit: bool = False
    unfit: bool = False


@dataclass(frozen=True)
class Record:
    """Describe a converted node: its operator, its converter, and the shapes of its inputs and outputs.

    Shapes are those at the first trial batch; None stands for an absent input or a sequence.
    """

    node: str
    op: str
    domain: str
    version: int
    by: str
    depends: Depends
    inputs: tuple[tuple[int, ...] | None, ...]
    outputs: tuple[tuple[int, ...] | None, ...]
    slots: tuple[int, ...]
    proto: onnx.NodeProto = field(repr=False)


@dataclass
class Frame:
    """Look up names in a graph, a sub-graph (which sees its parent's names), or a function (which does not)."""

    opsets: dict[str, int]
    attributes: dict[str, onnx.AttributeProto]
    values: dict[str, Value]
    parent: Frame | None = None
    depth: int = 0
