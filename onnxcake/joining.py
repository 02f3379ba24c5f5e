"""Keep the part of a teacher's file before the chosen value in front of a student; check the file in onnxruntime."""

from __future__ import annotations

import numpy as np

from .errors import OnnxcakeError, TeacherError, first_line
from .graph.front import Front, joined
from .ort import Runtime, RuntimeRefused, Session
from .rng import Key

_ROWS = 64
_TOLERANCE = 1e-4  # of the largest answer: the same operators, by other kernels after fusion


class JoinMismatch(OnnxcakeError):
    """A student behind the front answers otherwise than by itself: a bug."""


def behind(front: bytes, student: bytes, session: Session, runtime: Runtime, known: Front | None) -> bytes:
    """Put a student behind the front of its teacher's file.

    Args:
        front: `Front.content`.
        session: the student's own, which takes the chosen value.
        known: the front, for random inputs to compare on; without it, the file is loaded and nothing else.

    Raises:
        TeacherError: if the two cannot be joined, or onnxruntime does not run the file.
        JoinMismatch: if it answers otherwise than the student does to what the front gives.
    """
    content = joined(front, student)
    try:
        whole, before = runtime.load(content), runtime.load(front)
        rows = None if known is None else known.rows(_ROWS, Key(0).at("joined"))
        if rows is not None:
            answers, wanted = whole.run_named(rows), session.run_in_batches(before.run_named(rows))
            difference = float(np.abs(answers - wanted).max()) / max(1.0, float(np.abs(wanted).max()))
            if not difference <= _TOLERANCE:
                raise JoinMismatch(f"the student behind the file's own inputs differs from itself by {difference:.1e}")
        for one in (whole, before):
            one.close()
    except RuntimeRefused as error:
        raise TeacherError(
            f"onnxruntime does not run the student behind the file's own inputs: {first_line(error)}",
            remedy="Choose another value with --input NAME, or other sizes with --shape.",
        ) from error
    return content
