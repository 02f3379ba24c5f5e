"""Ask the processor what it can do."""

from __future__ import annotations

import contextlib
from pathlib import Path

_TOLD = Path("/proc/cpuinfo")


def features() -> frozenset[str]:
    """Read the processor's feature flags, such as ``avx512_vnni``; empty where the system does not tell them."""
    with contextlib.suppress(OSError, ValueError):
        for line in _TOLD.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86, Arm
                return frozenset(words.split())
    return frozenset()
