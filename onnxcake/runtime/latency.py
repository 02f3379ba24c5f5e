"""Time a model in onnxruntime."""

from __future__ import annotations

from statistics import median

import numpy as np

from .ort import Session

THREADS = 1  # that latency is taken with
_TIMED_MS, _MOST_RUNS, _REPEATS = 250.0, 50, 3


def latency_ms(session: Session, shape: tuple[int, ...]) -> float:
    """Milliseconds that a model takes for one input of this shape; for a fixed batch, its share of one run.

    The median of several timings, of fewer runs each where they are long. The session is closed.
    """
    batch = session.batch or 1
    x = np.zeros((batch, *shape), np.float32)
    runs = max(1, min(_MOST_RUNS, int(_TIMED_MS / max(session.latency_ms(x, 1), 1e-3))))
    found = median(session.latency_ms(x, runs) for _ in range(_REPEATS))
    session.close()
    return found / batch
