"""Stop at SIGINT or SIGTERM: keep finished work and exit 130 or 143.

A signal raises `Interrupted` where the program stands. Code that must not be left half-way (a training step
whose state is about to be saved) runs inside `deferred` and asks `requested` between its steps. A second
signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import Interrupted

_signals = (signal.SIGINT, signal.SIGTERM)
_received: int | None = None
_deferred = False


def _on_signal(signum: int, frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        os._exit(128 + signum)
    _received = signum
    if not _deferred:
        raise Interrupted(signum)


@contextmanager
def handled() -> Iterator[None]:
    """Install the signal handlers for the block; for a command's main thread only."""
    global _received
    _received = None
    before = {signum: signal.signal(signum, _on_signal) for signum in _signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _received = None


@contextmanager
def deferred() -> Iterator[None]:
    """Defer a signal inside the block: note it, and raise `Interrupted` at the block's end."""
    global _deferred
    outer, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = outer
    if requested() and not _deferred:
        raise Interrupted(_received or signal.SIGTERM)


def requested() -> bool:
    """Tell whether a signal has come."""
    return _received is not None
