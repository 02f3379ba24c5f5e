"""Keep the part of a teacher's file before the chosen value in front of a student; check the file in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.arrays import Array
from ..core.errors import OnnxcakeError, ProbeError, TeacherError, UsageError
from ..core.rng import Key
from ..core.text import first_line, shown
from ..evaluate import probes
from ..evaluate.probes.parts import Probe, Takes
from ..graph.dequantise import holds_rounding
from ..onnxfile.front import FileInput, Front, joined
from ..onnxfile.held_inputs import BATCH
from ..onnxfile.self_contained import has_low_precision
from ..onnxfile.tensors import type_name
from ..runtime.ort import Runtime, RuntimeRefused, Session
from ..teacher.signature import Signature

_ROWS = 64
# Of the largest answer: the same operators, by other kernels after fusion; roundings may fall the other way.
_TOLERANCE, _TOLERANCE_LOW, _TOLERANCE_ROUNDED = 1e-4, 2e-2, 5e-2
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


class JoinMismatch(OnnxcakeError):
    """Signal that a student behind the front answers otherwise than by itself: a bug."""


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
            low = has_low_precision(content)
            if not difference <= (_TOLERANCE_ROUNDED if holds_rounding(student) else (_TOLERANCE, _TOLERANCE_LOW)[low]):
                raise JoinMismatch(f"the student behind the file's own inputs differs from itself by {difference:.1e}")
        for one in (whole, before):
            one.close()
    except RuntimeRefused as error:
        raise TeacherError(
            f"onnxruntime does not run the student behind the file's own inputs: {first_line(error)}",
            remedy="Choose another value with --input NAME, or other sizes with --shape.",
        ) from error
    return content


def takes_of(front: Front, free: bool, held: bool) -> list[Takes]:
    """Say what a probe of a file with a front holds.

    Args:
        free: sizes that the file leaves open may be any.
        held: of the inputs that are held too, as far as they have a row for each sample.
    """
    wanted = [
        one for one in front.inputs if one.needed or (held and one.sizes is not None and one.sizes[:1] == (BATCH,))
    ]
    return [Takes(one.name, _shape(one, free), _dtype(one)) for one in wanted]


def _shape(one: FileInput, free: bool) -> tuple[int | None, ...]:
    if free or one.sizes is None:
        return one.dims[1:]
    return one.sizes[1:]


def _dtype(one: FileInput) -> str:
    name = type_name(one.type)
    return _NUMPY_NAMES.get(name, name)


def given(
    path: Path,
    signature: Signature,
    class_names: Sequence[str],
    front: Front | None,
    runtime: Runtime | None = None,
    free: bool = False,
) -> Probe:
    """Read a probe of the file's own inputs, and what the front makes of them.

    Inputs that are held may be left out of it.

    Args:
        front: of the teacher's file; None where it takes the signature's input alone.
        runtime: to run the front in; a process for this once if None.
        free: sizes that the file leaves open may be any, not those that the value was chosen with.

    Raises:
        ProbeError: if it cannot be read or does not fit.
    """
    if front is None:
        return probes.load(path, signature, class_names=class_names)
    if runtime is None:
        with Runtime() as own:
            return given(path, signature, class_names, front, own, free)
    session = runtime.load(front.content())

    def inner(feeds: Mapping[str, Array]) -> Array:
        try:
            return session.run_named(feeds)
        except RuntimeRefused as error:
            raise ProbeError(
                f"the part of the file before {shown(front.value)} does not run on it: {first_line(error)}",
                where=path,
                remedy="Give the values that the file takes; ids lie below the number of the rows of its tables.",
            ) from error

    refused: ProbeError | None = None
    for held in (True, False):
        try:
            return probes.load(path, signature, takes_of(front, free, held), class_names=class_names, inner=inner)
        except ProbeError as error:
            refused = error
    assert refused is not None
    raise refused


def check_pair(teacher: Session, student: Session, names: Sequence[str]) -> None:
    """Make sure that two files take inputs of the same names and types.

    Raises:
        UsageError: if not.
    """
    known = {name: kind for name, _, kind in teacher.inputs}
    for name, _, kind in student.inputs:
        if known.get(name, kind) != kind or name not in {*known, *names}:
            taken = ", ".join(f"{shown(one)} {known[one]}" for one in known)
            raise UsageError(
                f"{names[0]} takes {taken}; {names[1]} takes {shown(name)} {kind}",
                remedy="Give two classifiers of the same inputs.",
            )
