"""Write a student as ONNX, and make sure that onnxruntime answers as torch does."""

from __future__ import annotations

import numpy as np
import torch

from ..core.arrays import Array
from ..core.errors import OnnxcakeError
from ..core.remedies import OURS
from ..graph.dequantise import holds_rounding
from ..onnxfile.export import export
from ..onnxfile.self_contained import has_low_precision
from ..runtime.ort import Runtime, Session
from ..store.dataset import StoreDataset
from ..student.onnx_student import OnnxStudent
from ..student.student import Student
from ..teacher.scores import logits_to_output
from .folder import Run

PARITY = 1e-3  # student.onnx against torch, relative to the largest answer


PARITY_INT8 = 5e-2  # the same where a single rounding to int8 may fall the other way


PARITY_LOW = 2e-2  # the same where weights are stored in sixteen bits
_MOST_ROWS = 0.99  # of the answers, that have to be the same in onnxruntime and torch
_LAST_BITS, _ROUNDINGS = 2.0**-21, 10  # of float32 numbers; as many such changes as a network's roundings amount to
_PARITY_SAMPLES = 1000


class StudentMismatch(OnnxcakeError):
    """student.onnx and the trained network disagree: a bug."""


def same(differences: Array, allowed: float, share: float) -> bool:
    """Judge whether two runtimes run the same model, by the differences of their answers to each input.

    Of the teacher's own operators, which have been compared before they were trained, some answers are quotients of
    numbers that the two round otherwise, such as probabilities that are all near 0 and divided by their sum.

    Args:
        share: of the answers that have to be within what is allowed; the others have to be finite.
    """
    return bool(np.isfinite(differences).all() and np.mean(differences <= allowed) >= share)


def _allowed(content: bytes) -> float:
    """Return the largest difference allowed between student.onnx and torch, by what the file holds."""
    if holds_rounding(content):
        return PARITY_INT8
    return PARITY_LOW if has_low_precision(content) else PARITY


def _export(student: Student, run: Run, data: StoreDataset, runtime: Runtime) -> tuple[bytes, Session, float]:
    """Export student.onnx; return it, its session, and its largest difference to torch over the largest answer."""
    signature = run.teacher.signature
    inputs = data.take(torch.arange(min(len(data), _PARITY_SAMPLES)))[0]
    whole = torch.nn.Sequential(student, logits_to_output(signature)).cpu().eval()
    with torch.no_grad():
        wanted = whole(inputs).numpy()
    passed: list[tuple[Session, float]] = []

    def check(content: bytes) -> None:
        session = runtime.load(content)
        got = session.run_in_batches(inputs.numpy())
        scale = max(1.0, float(np.abs(wanted).max()))
        rows = np.abs(got - wanted).reshape(len(got), -1).max(1) / scale
        if isinstance(student, OnnxStudent) and not rows.max() <= _allowed(content):
            rows = np.maximum(rows - _ROUNDINGS * _unsteadiness(session, inputs.numpy(), got) / scale, 0)
            rows = _answered(rows, got) if student.start.opened.tail.logs else rows
        difference = float(rows.max())
        if not same(rows, _allowed(content), _MOST_ROWS if isinstance(student, OnnxStudent) else 1):
            what = f"onnxruntime differs from the trained network by {difference:.1e}"
            raise StudentMismatch(what, remedy=OURS)
        passed.append((session, difference))

    if isinstance(student, OnnxStudent):
        content = student.content()
        check(content)
        return content, *passed[-1]
    names = {"input_name": signature.input_name, "output_name": signature.output_name}
    content = export(
        whole, signature.input_shape, **names, dtype=signature.input_dtype, opset=run.teacher.opset, check=check
    )
    return content, *passed[-1]


def _answered(differences: Array, answers: Array) -> Array:
    """Leave out the inputs to which a file has no answer: probabilities that all are 0, divided by their sum.

    Their logarithms, of which the network is trained, have one. Where all are such, none is left out.
    """
    told = np.isfinite(answers).reshape(len(answers), -1).all(1)
    return np.asarray(differences[told]) if told.any() else differences


def _unsteadiness(session: Session, inputs: Array, answers: Array) -> Array:
    """Measure how far a file's own answers [n] move with the last bits of its inputs, as quotients of small sums do."""
    signs = np.where(np.arange(inputs.size).reshape(inputs.shape) % 3, 1, -1)
    moved = session.run_in_batches((inputs * (1 + signs * _LAST_BITS)).astype(inputs.dtype))
    return np.asarray(np.abs(moved - answers).reshape(len(answers), -1).max(1))
