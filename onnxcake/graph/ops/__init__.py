"""ONNX operators as torch functions: one file per family, each operator at every opset version it exists in.

A converter is called once, while the graph is built, and returns the function that runs every time::

    @op("Pad")
    def pad(node: Node) -> Function:
        amounts = node.ints(1) if node.version >= 11 else node.attr("pads")
        ...
        return lambda x, value=None: F.pad(x, order, mode, value)

Everything that is known at build time (attributes, axes, shapes, slice bounds, constants) is worked out in
the converter, as plain Python numbers; the function does tensor arithmetic alone. See `Node` for what a
converter may ask, and for which inputs reach the function.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..node import Node, Value

Function = Callable[..., Any]
Converter = Callable[["Node"], "Function | list[Value]"]

CONVERTERS: dict[tuple[str, str], Converter] = {}


def op(*names: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Registers a converter for all versions of the named operators of a domain ("" is ai.onnx)."""

    def register(converter: Converter) -> Converter:
        for name in names:
            if (domain, name) in CONVERTERS:
                raise AssertionError(f"two converters for {domain}.{name}")
            CONVERTERS[domain, name] = converter
        return converter

    return register


def find(domain: str, name: str) -> Converter | None:
    """The converter of an operator, or None."""
    load()
    return CONVERTERS.get((domain, name))


@functools.cache
def load() -> None:
    """Has every family register its operators."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
