"""`onnxcake inspect`: what a teacher is, whether it can be used, and what is in the way."""

from __future__ import annotations

from pathlib import Path

from ..report.inspect_report import Inspection
from ..teacher import sandbox
from ..teacher.options import TeacherOptions


def inspect(teacher: str | Path, options: TeacherOptions | None = None) -> Inspection:
    """Examine a file in a process of its own; whatever is wrong with it is in the result.

    Args:
        teacher: the ``.onnx`` file.
        options: what the user says of it; see `onnxcake.Teacher.load`.

    Raises:
        UsageError: if ``options`` make no sense by themselves.
    """
    options = options or TeacherOptions()
    options.check()
    exam = sandbox.examine(Path(teacher), options)
    error = exam.error
    data = {**exam.found, "usable": error is None, "error": None if error is None else error.as_dict()}
    return Inspection(data, error)
