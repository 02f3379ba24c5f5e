"""Compare onnxruntime's own kernels on this processor with a quantised model's exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.arrays import Array
from ..graph.dequantise import holds_rounding
from ..runtime import processor
from ..runtime.ort import Runtime, Session
from ..teacher.signature import OutputKind
from .agreement import compare

_SAMPLES = 1000
_DOUBTFUL = 0.99  # of the inputs under one class in both, below which somebody has to know


@dataclass(frozen=True)
class HostArithmetic:
    """Hold how a quantised model's answers on this processor compare with those of its exact arithmetic.

    Attributes:
        agreement: share of inputs on which both name the same class.
        difference: the largest, relative to the largest answer.
        processor: its name and features.
    """

    agreement: float
    difference: float
    processor: str


def arithmetic_here(
    runtime: Runtime,
    model: bytes,
    exact: Session,
    inputs: Array,
    kind: OutputKind,
    weights: Mapping[str, Array] | None = None,
) -> HostArithmetic | None:
    """Compare a quantised model's answers here with those of exact arithmetic; None for a float model.

    Args:
        exact: the model's session in exact arithmetic.
        inputs: to compare on, at most a thousand of them.
        kind: of the answers.
        weights: as for `Runtime.load`.
    """
    if not holds_rounding(model):
        return None
    inputs = inputs[:_SAMPLES]
    session = runtime.load(model, weights=weights, arithmetic="host")
    answers, wanted = session.run_in_batches(inputs), exact.run_in_batches(inputs)
    session.close()
    finite = np.isfinite(wanted)
    scale = max(float(np.abs(wanted[finite]).max(initial=0)), 1e-2)
    return HostArithmetic(
        agreement=compare(wanted, answers, None, (kind, kind)).agreement.value,
        difference=float(np.abs(answers - wanted)[finite].max(initial=0)) / scale,
        processor=processor.describe(),
    )


def saturated(side: str, host: HostArithmetic | None) -> list[str]:
    """Word a warning if a file's answers on this processor differ from its exact arithmetic.

    Args:
        side: name of the file in the message.
        host: the result of `arithmetic_here`.
    """
    if host is None or host.agreement >= _DOUBTFUL:
        return []
    return [
        f"on this processor, {host.processor}, onnxruntime's int8 kernels give the {side} another class than its "
        f"exact arithmetic, which all figures are of, for {1 - host.agreement:.1%} of the inputs; a QDQ file keeps "
        "to the exact one with session.disable_quant_qdq=1 in onnxruntime's session options"
    ]
