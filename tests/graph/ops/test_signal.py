"""Fourier transforms, windows and the mel scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from harness import Row, compile_test, data, forward_and_gradient, normal


def dft(parts: int, length: int | None, axis: int, name: str = "", **attrs: Any) -> list[Row]:
    """A transform as version 17 writes it, with the axis an attribute, and as version 20 does."""
    x, name = data("N", 6, 5, parts), f"{name},{parts},{length},{axis}"
    return [
        Row("DFT", [x, length], {"axis": axis, **attrs}, until=19, name=name),
        Row("DFT", [x, length, axis], attrs, since=20, name=name),
    ]


ROWS = [
    *(r for parts in (1, 2) for length in (None, 4, 8) for axis in (1, -2) for r in dft(parts, length, axis)),
    *(r for parts in (1, 2) for length in (None, 7) for r in dft(parts, length, 2, "inverse", inverse=1)),
    *(r for length in (None, 4, 8) for r in dft(1, length, 1, "half", onesided=1)),
    *(r for length in (None, 10, 11) for r in dft(2, length, 1, "half,inverse", onesided=1, inverse=1)),
    # With more or fewer frequencies than the length has, onnxruntime is not of the standard's mind.
    *(replace(r, reference=True) for n in (8, 14) for r in dft(2, n, 1, "half,inverse", onesided=1, inverse=1)),
    Row("DFT", [data("N", 6, 1)], since=20, name="no axis"),
    Row("DFT", [data("N", 6, 1), None, 0], since=20, name="over the batch"),
    Row("DFT", [data("N", 6, 2), None, 1], {"onesided": 1}, since=20, refused="half a transform"),
    Row("DFT", [data("N", 6, 2), None, 2], since=20, refused="last one"),
    Row("STFT", [data("N", 20, 1), 3, normal(8)], name="window"),
    Row("STFT", [data("N", 20, 1), 3, normal(8), 8], name="window and length"),
    Row("STFT", [data("N", 20, 1), 4, None, 6], name="length"),
    Row("STFT", [data("N", 20, 1), 3, normal(8)], {"onesided": 0}, name="window,whole"),
    Row("STFT", [data("N", 20, 2), 3, normal(8), 8], {"onesided": 0}, name="complex"),
    Row("STFT", [data("N", 20, 1), 3, data(8)], name="window that is data"),
    Row("STFT", [data("N", 20, 2), 3, normal(8)], refused="half a transform"),
]
CONSTANT = [
    *(
        Row(op, [size], {"periodic": periodic}, gradient=False, name=f"{size},{periodic}")
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow")
        for periodic in (0, 1)
        for size in (2, 10, 11)
    ),
    Row("HannWindow", [8], {"output_datatype": 11}, types=(11,), gradient=False, name="double"),
    *(
        Row("MelWeightMatrix", [*map(np.int64, ints), *map(np.float32, edges)], gradient=False, name=f"{ints}")
        for *ints, edges in ((8, 16, 8192, (0, 4096)), (20, 256, 16000, (20, 8000)), (40, 512, 22050, (0, 11025)))
    ),
]

test_forward, test_gradient = forward_and_gradient([*ROWS, *CONSTANT], gradient=ROWS)


test_compiles = compile_test([ROWS[1], next(row for row in ROWS if row.op == "STFT")], 20)
