"""Register the converter of each ONNX operator, and find it by name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable

from .node import Node
from .values import Function, Value

Converter = Callable[[Node], Function | list[Value]]
CONVERTERS: dict[tuple[str, str], Converter] = {}


def op(*names: str, domain: str = "") -> Callable[[Converter], Converter]:
    """Register a converter for all versions of the named operators of a domain ("" is ai.onnx)."""

    def register(converter: Converter) -> Converter:
        for name in names:
            if (domain, name) in CONVERTERS:
                raise AssertionError(f"two converters for {domain}.{name}")
            CONVERTERS[domain, name] = converter
        return converter

    return register


def find(domain: str, name: str) -> Converter | None:
    """Return the converter of an operator, or None."""
    load()
    return CONVERTERS.get((domain, name))


@functools.cache
def load() -> None:
    """Import every module of `ops`: each registers its operators."""
    ops = importlib.import_module(f"{__package__}.ops")
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
