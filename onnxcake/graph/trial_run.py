"""Run a function before there is data: on real values where they are known, else on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.remedies import around
from .values import Depends, Function, Obstacle, Sizes, TooMuch, Value

Argument = Value | Sizes | None


def run_at(
    function: Function, arguments: Sequence[Argument], trial: int, batch: int, depends: Depends, limit_bytes: int
) -> Any:
    """Run a function at a trial batch: on real values, or on meta tensors if it depends on data.

    Raises:
        Obstacle: if it asks for too much memory (found on the meta device, before it is taken), or for an
            amount that depends on the data.
    """
    given = [_argument_at(a, trial, batch) for a in arguments]
    with torch.no_grad():
        try:
            with torch.device("meta"):
                out = function(*[meta(g) for g in given])
                check_bytes(out, limit_bytes)
        except Obstacle:
            raise
        except Exception:  # noqa: BLE001 - an operation that the meta device does not know
            if depends == Depends.DATA:
                return _run_on_made_up(function, given)
        if depends == Depends.DATA:
            return meta(out)
        return function(*given)


def _run_on_made_up(function: Function, given: list[Any]) -> Any:
    """Run a function on made-up values, where the meta device does not know the operation."""
    draws = [[_made_up_values(g, fill) for g in given] for fill in (0, 1)]
    first, second = (function(*draw) for draw in draws)
    if not _same_shapes(first, second):
        raise Obstacle(
            "the size of its output depends on the data",
            around("without this operator"),
        )
    return meta(first)


def check_bytes(out: Any, limit: int) -> None:
    """Check that a value is not too large.

    Raises:
        TooMuch: if it is.
    """
    asked = sum(t.numel() * t.element_size() for t in _tensors(out))
    if asked > limit:
        raise TooMuch(
            f"it asks for {asked / 2**30:,.0f} GiB in one value (allowed: {limit / 2**30:g})",
            "Give a smaller teacher, or check the shapes in the file.",
        )


def depends_of(argument: Argument) -> Depends:
    """Return what an argument depends on."""
    if isinstance(argument, Value):
        return argument.depends
    return Depends.BATCH if isinstance(argument, Sizes) and not argument.fixed else Depends.NOTHING


def _argument_at(argument: Argument, trial: int, batch: int) -> Any:
    if isinstance(argument, Value):
        return argument.seen[trial]
    return argument.at(batch) if isinstance(argument, Sizes) else None


def meta(value: Any) -> Any:
    """Move a value's tensors to the meta device; leave the rest as it is."""
    if isinstance(value, Tensor):
        return value.to("meta")
    return type(value)(meta(v) for v in value) if isinstance(value, (list, tuple)) else value


def _made_up_values(value: Any, fill: int) -> Any:
    if isinstance(value, Tensor):
        made = torch.full(value.shape, fill, dtype=value.dtype, device="cpu") if value.is_meta else value
        if fill and made.dtype.is_floating_point and value.is_meta:
            return torch.linspace(-1, 1, max(made.numel(), 1), dtype=made.dtype)[: made.numel()].reshape(made.shape)
        return made
    return type(value)(_made_up_values(v, fill) for v in value) if isinstance(value, (list, tuple)) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []


def _same_shapes(first: Any, second: Any) -> bool:
    a, b = _tensors(first), _tensors(second)
    return len(a) == len(b) and all(x.shape == y.shape for x, y in zip(a, b, strict=True))


def same(first: Any, second: Any) -> bool:
    """Tell whether two values hold the same numbers."""
    a, b = _tensors(first), _tensors(second)
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def shape_of(value: Value | None) -> tuple[int, ...] | None:
    """Return a tensor's shape at the first trial batch; None for what is no tensor."""
    return tuple(value.seen[0].shape) if value is not None and isinstance(value.seen[0], Tensor) else None
