"""Parse the commands that examine files: inspect, verify, record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..core.waiting import waited
from .options import (
    DeviceOption,
    JsonOption,
    Parsed,
    ProbeOption,
    TeacherArgument,
    begin,
    print_json,
    teacher_options,
    tell,
)


@teacher_options
def inspect(
    teacher: TeacherArgument,
    *,
    options: Parsed,
    as_json: JsonOption = False,
) -> None:
    """Say what a teacher is, whether it can be used, and what is in the way."""
    begin(f"inspecting {teacher.name}")
    with waited("loading libraries"):
        from ..commands.inspect import inspect as run_inspect

    found = run_inspect(teacher, options())
    if as_json:
        print_json(found.data)
    else:
        found.show()
    if found.error is not None:
        print(f"onnxcake: {found.error}", file=sys.stderr)
        raise typer.Exit(found.error.exit_code)


@teacher_options
def verify(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="An .onnx file.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="Another .onnx file.")],
    probe: ProbeOption = None,
    store: Annotated[Path | None, typer.Option(help="Compare on the held-out batches of this run.")] = None,
    *,
    options: Parsed,
    as_json: JsonOption = False,
) -> None:
    """Compare two classifiers in onnxruntime."""
    begin(f"comparing {student.name} with {teacher.name}")
    with waited("loading libraries"):
        from ..commands.verify import verify as run_verify

    tell(run_verify(teacher, student, probe=probe, store=store, options=options()), as_json)


@teacher_options
def record(
    teacher: TeacherArgument,
    data: Annotated[Path, typer.Option(help="Real inputs: arrays, tables, pictures or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The file to write, .safetensors.")],
    *,
    options: Parsed,
    device: DeviceOption = "cpu",
) -> None:
    """Record what a teacher's layers see on real data, to hand over instead of the data (--stats)."""
    begin(f"recording statistics of {teacher.name}")
    with waited("loading libraries"):
        from ..commands.record import record as run_record

    names = run_record(
        teacher, data, out, options=options(), device=device, say=lambda note: typer.echo(note, err=True)
    )
    typer.echo(f"{out}: means and variances of {len(names)} values")
