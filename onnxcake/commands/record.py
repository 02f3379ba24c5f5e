"""Record statistics of a teacher's activations on real data: `onnxcake record`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..evaluate import probes
from ..run import joining
from ..teacher.options import TeacherOptions
from ..teacher.recorded_statistics import record as record_values
from ..teacher.teacher import load_teacher


def record(
    teacher: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    options: TeacherOptions | None = None,
    device: str = "cpu",
    say: Callable[[str], object] = lambda note: None,
) -> tuple[str, ...]:
    """Record means and variances of a teacher's activations on real inputs, for recipes that match them (``stats``).

    Args:
        teacher: the ``.onnx`` file.
        data: a file or folder of real inputs, read like a probe.
        out: the file to write, ``.safetensors``.
        options: what the user says of the teacher's file.
        device: "cpu" or "cuda".
        say: is told how the data were read.

    Returns:
        The names of the values recorded.

    Raises:
        OnnxcakeError: if a file cannot be read or written, or the teacher has nothing to record.
    """
    opened = load_teacher(Path(teacher), options or TeacherOptions(), device)
    given = joining.given(Path(data), opened.signature, opened.facts.class_names, opened.front)
    for note in probes.told(given):
        say(note)
    return record_values(opened, torch.from_numpy(given.inputs), Path(out))
