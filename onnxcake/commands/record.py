"""Record statistics of a teacher's activations on real data: `onnxcake record`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..evaluate import probes
from ..run import joining
from ..teacher.options import TeacherOptions
from ..teacher.recorded_statistics import record
from ..teacher.teacher import Teacher


def record_files(
    teacher: Path,
    data: Path,
    path: Path,
    options: TeacherOptions | None = None,
    device: str = "cpu",
    say: Callable[[str], object] = lambda note: None,
) -> tuple[str, ...]:
    """`record` of a teacher's file and a file or folder of real inputs, read like a probe.

    Args:
        say: is told what was taken for what in the data.

    Raises:
        OnnxcakeError: as `record`, or if one of them cannot be read.
    """
    opened = Teacher.open(teacher, options or TeacherOptions(), device)
    given = joining.given(data, opened.signature, opened.facts.class_names, opened.front)
    for note in probes.told(given):
        say(note)
    return record(opened, torch.from_numpy(given.inputs), path)
