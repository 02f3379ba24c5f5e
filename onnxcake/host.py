"""What onnxruntime's own kernels make of a quantised model on this processor, beside its exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import processor
from .agreement import compare
from .child import Array
from .graph.float_twin import holds_rounding
from .ort import Runtime, Session
from .teacher import OutputKind

_SAMPLES = 1000


def arithmetic_here(
    runtime: Runtime,
    model: bytes,
    exact: Session,
    inputs: Array,
    kind: OutputKind,
    weights: Mapping[str, Array] | None = None,
) -> dict[str, Any]:
    """Compare a quantised model's answers here with those of exact arithmetic; an empty table for a float model.

    Args:
        exact: the model's session in exact arithmetic.
        inputs: to compare on, at most a thousand of them.
        kind: of the answers.
        weights: as for `Runtime.load`.

    Returns:
        "host": the share of inputs on which both name the same class, the largest difference relative to the largest
        answer, and the processor's name.
    """
    if not holds_rounding(model):
        return {}
    inputs = inputs[:_SAMPLES]
    session = runtime.load(model, weights=weights, arithmetic="host")
    answers, wanted = session.run_in_batches(inputs), exact.run_in_batches(inputs)
    session.close()
    finite = np.isfinite(wanted)
    scale = max(float(np.abs(wanted[finite]).max(initial=0)), 1e-2)
    return {
        "host": {
            "agreement": compare(wanted, answers, None, (kind, kind)).agreement.value,
            "difference": float(np.abs(answers - wanted)[finite].max(initial=0)) / scale,
            "processor": processor.describe(),
        }
    }
