"""Parse the command that makes a teacher's own graph smaller: shrink."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.waiting import waited
from .options import (
    JsonOption,
    Parsed,
    SeedOption,
    TeacherArgument,
    begin,
    teacher_options,
    tell,
)


@teacher_options
def shrink(
    teacher: TeacherArgument,
    keep: Annotated[float | None, typer.Option(help="A share of the parameters; 0.5 if no goal is given.")] = None,
    max_params: Annotated[int | None, typer.Option(help="Parameters, at most.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Bytes of the file, at most.")] = None,
    max_macs: Annotated[int | None, typer.Option(help="Multiply-adds for one input, at most.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Milliseconds for one input in onnxruntime, one thread, at most.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="A named architecture of its family, to whose channels and blocks it is cut.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; TEACHER-small.onnx if not given.")
    ] = None,
    score: Annotated[
        str, typer.Option(help="What decides what stays: the teacher's weights, its responses, or random.")
    ] = "weights",
    drop_blocks: Annotated[
        int, typer.Option(min=0, help="Residual blocks to leave out first, those that matter least.")
    ] = 0,
    low_rank: Annotated[
        str, typer.Option(help="Low-rank factors: auto, where they keep much more; tied, as a last resort.")
    ] = "auto",
    seed: SeedOption = 0,
    *,
    options: Parsed,
    as_json: JsonOption = False,
) -> None:
    """Cut a smaller model out of a teacher's own graph, without training it."""
    begin(f"cutting a smaller model out of {teacher.name}")
    with waited("loading libraries"):
        from ..commands.shrink import goal_of, run

    goal = goal_of(
        {
            "keep": keep,
            "max_params": max_params,
            "max_bytes": max_bytes,
            "max_macs": max_macs,
            "max_latency_ms": max_latency_ms,
            "like": like,
        }
    )
    done = run(teacher, goal, out, score, drop_blocks, seed, options(), low_rank, like)  # type: ignore[arg-type] # checked there
    tell(done, as_json, done.check_goal)
