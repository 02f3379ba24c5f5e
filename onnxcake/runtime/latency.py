"""Time a model in onnxruntime."""

from __future__ import annotations

from statistics import median

import numpy as np

from .ort import Session

THREADS = 1  # of onnxruntime, in every latency measurement
# Milliseconds of one timing, most runs in it, and timings that the median is taken of: under a second in all.
_TIMED_MS, _MOST_RUNS, _REPEATS = 250.0, 50, 3


def latency_ms(session: Session, shape: tuple[int, ...]) -> float:
    """Return the milliseconds that a model takes for one input of this shape; for a fixed batch, its share of one run.

    That is the median of several timings, of fewer runs each where runs are long. The session is closed.
    """
    batch = session.batch or 1
    x = np.zeros((batch, *shape), np.float32)
    runs = max(1, min(_MOST_RUNS, int(_TIMED_MS / max(session.latency_ms(x, 1), 1e-3))))
    found = median(session.latency_ms(x, runs) for _ in range(_REPEATS))
    session.close()
    return found / batch
