"""Read the processor's features."""

from __future__ import annotations

import platform
from pathlib import Path

_TOLD = Path("/proc/cpuinfo")
_WIDE = {"avx512_vnni", "avx_vnni"}  # x86: products of bytes are added in 32 bits
_SHOWN = ("avx2", "avx512f", "avx512_bf16", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def features() -> frozenset[str]:
    """Read the processor's feature flags, such as ``avx512_vnni``; empty where the system does not tell them."""
    for line in _lines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            return frozenset(words.split())
    return frozenset()


def saturates() -> bool:
    """Tell whether onnxruntime's products of unsigned with signed bytes may saturate at 16 bits here.

    They do on x86 without VNNI. Arm's kernels widen, with or without dot products. Where nothing is known, they may.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return False
    return not features() & _WIDE


def describe() -> str:
    """Name the processor, and of its features those that timings and integer arithmetic depend on, in one line."""
    name = next((line.partition(":")[2].strip() for line in _lines() if line.startswith("model name")), "")
    told = " ".join(flag for flag in _SHOWN if flag in features()) or "no feature known"
    return f"{name or platform.processor() or platform.machine() or 'a processor of unknown kind'} ({told})"


def _lines() -> list[str]:
    try:
        return _TOLD.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    print(describe())
