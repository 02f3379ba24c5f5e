"""Write seconds and bytes with their units."""

from __future__ import annotations

_FINE_S = 10.0  # below, tenths of a second are written


def duration(seconds: float) -> str:
    """Write whole seconds in words: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def fine_duration(seconds: float) -> str:
    """Write seconds as `duration` does, those of less than ten with a tenth: ``1.2 s``."""
    return f"{seconds:.1f} s" if round(seconds, 1) < _FINE_S else duration(seconds)


def size(count: float) -> str:
    """Write bytes in words: ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
