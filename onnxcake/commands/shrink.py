"""Make the teacher's own graph smaller: `onnxcake shrink`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from ..core import files
from ..core.errors import OutputError, TeacherError, UsageError
from ..core.rng import Key
from ..onnxfile.export import PRODUCER
from ..onnxfile.load import load
from ..pruning.cut_student import cut_of
from ..pruning.goal import HALF, Goal, LowRank, Pruned, Score
from ..recipe.architecture import Auto
from ..recipe.recipe import Recipe
from ..report.report import Latency, versions
from ..report.shrink_report import CutFile, HeldLayer, ReachedGoal, Shrinkage
from ..run.joining import behind
from ..runtime.latency import THREADS, latency_ms
from ..runtime.ort import Runtime
from ..teacher.options import TeacherOptions
from ..teacher.signature import Task
from ..teacher.teacher import Teacher, load_teacher

_LEEWAY = 0.1
_LENIENT = ("keep", "max_latency_ms")  # a share is no limit, and times differ from one taking to the next


def shrink(
    teacher: str | Path,
    *,
    keep: float | None = None,
    max_params: int | None = None,
    max_bytes: int | None = None,
    max_macs: int | None = None,
    max_latency_ms: float | None = None,
    like: str | None = None,
    out: str | Path | None = None,
    score: Score = "weights",
    drop_blocks: int = 0,
    low_rank: LowRank = "auto",
    seed: int = 0,
    input: str | None = None,
    output: str | None = None,
    shape: Sequence[int] | None = None,
    constants: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    task: Task | None = None,
    range: tuple[float, float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Shrinkage:
    """Cut a smaller model out of an ONNX classifier's own graph, untrained.

    The weights that stay are the classifier's; low-rank factors are fitted to what its layers give.

    The largest that reaches the goal; if none does, the smallest there is. At most one goal; without one, half the
    parameters are kept.

    Args:
        teacher: the ``.onnx`` file.
        keep: a share of its parameters.
        max_params: parameters.
        max_bytes: of the file.
        max_macs: multiply-adds for one input.
        max_latency_ms: in onnxruntime for one input, on this machine with one thread.
        like: a named architecture of its family, of whose channels, units and blocks it keeps as many:
            "lenet5-half", or "{resnet8: {width: 8}}" with keys.
        out: the file to write; ``TEACHER-small.onnx`` in the working folder if None, which must not be
            anyone else's file.
        score: by what is chosen what stays: the size of the teacher's "weights", its "responses" to noise and smooth
            images, or at "random".
        drop_blocks: how many residual blocks are left out first, those that matter least.
        low_rank: "auto" replaces matrices by low-rank factors where these keep much more of them than leaving channels
            out; "tied" only where nothing else can be left out.
        seed: the noise and the random choice depend on it.
        input: an input of the model, or a value inside it, before which all is cut.
        output: the value that holds the class scores: an output of the model, or a value inside it.
        shape: the input's, batch included, where the file leaves sizes open.
        constants: what other inputs are held at, by name: a number, a list of numbers, or an array of the input's
            shape, with the batch or without.
        shapes: the sizes of other inputs by name, batch included, where the file leaves sizes open.
        task: what the scores decide: "multiclass", "binary" or "multilabel".
        range: lowest and highest raw value of an input.
        mean, std: the normalisation done outside the file, one value or one for each channel.

    Returns:
        What became of each layer, and the whole before and after.

    Raises:
        UsageError: if what is said makes no sense, or several goals are given.
        RecipeError: if ``like`` names no architecture, or one that does not fit the inputs.
        TeacherError: if the teacher cannot be used; the subclass says why.
        NothingToCut: if nothing in it can be left out.
        OutputError: if the file cannot be written.
    """
    asked = {"keep": keep, "max_params": max_params, "max_bytes": max_bytes, "max_macs": max_macs}
    options = TeacherOptions.of(
        input=input,
        output=output,
        shape=shape,
        constants=constants or {},
        shapes=shapes or {},
        task=task,
        range=range,
        mean=mean,
        std=std,
    )
    goal = goal_of({**asked, "max_latency_ms": max_latency_ms, "like": like})
    file = None if out is None else Path(out)
    return run(Path(teacher), goal, file, score, drop_blocks, seed, options, low_rank, like)


def run(
    teacher: Path,
    goal: Goal,
    out: Path | None = None,
    score: Score = "weights",
    drop_blocks: int = 0,
    seed: int = 0,
    options: TeacherOptions | None = None,
    low_rank: LowRank = "auto",
    like: str | None = None,
) -> Shrinkage:
    """Cut as the command asks for it; see `shrink`.

    Raises:
        OnnxcakeError: as `shrink`.
    """
    for name, value, known in (("score", score, get_args(Score)), ("low rank", low_rank, get_args(LowRank))):
        if value not in known:
            raise UsageError(f"{name} {value!r} is not known", remedy=f"Choose one of {', '.join(known)}.")
    named = None if like is None else _named(like, drop_blocks)
    path = Path(f"{teacher.stem}-small.onnx") if out is None else out
    _guard(path, teacher, named=out is not None)
    opened = load_teacher(teacher, options or TeacherOptions())
    files.make_parent(path)
    with Runtime() as runtime:
        shapes = None if named is None else named.shapes(opened.signature)
        pruned = cut_of(opened, goal, score, Key(seed), runtime, drop_blocks, low_rank, shapes)
        content = pruned.content
        if opened.front is not None:
            content = behind(opened.front.content(), content, runtime.load(content), runtime, opened.front)
        files.write_atomic(path, content)
        shape = opened.signature.input_shape
        sessions = (
            runtime.load(opened.model, THREADS, opened.weights, arithmetic="host"),
            runtime.load(pruned.content, THREADS, arithmetic="host"),
        )
        before, after = (round(latency_ms(session, shape), 4) for session in sessions)
    of_teacher, of_student = _sides(opened, pruned, path, content)
    if like is None:
        reached = _reached(goal, of_student, after, pruned)
    else:  # which is reached or refused
        reached = ReachedGoal("like", like, of_student.parameters, missed=False, short=False)
    return Shrinkage(
        teacher=of_teacher,
        student=of_student,
        goal=reached,
        latency_ms=Latency(THREADS, after, before),
        layers=pruned.layers,
        score=score,
        drop_blocks=drop_blocks,
        low_rank=low_rank,
        seed=seed,
        versions=versions(),
    )


def goal_of(asked: Mapping[str, float | str | None]) -> Goal:
    """Pick the goal among the possible ones, by the names of its fields; ``like`` stands for one.

    Raises:
        UsageError: if there are several, or it is no goal.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(map(_option, given))} are several goals", remedy="Give one of them.")
    for name, value in given.items():
        if isinstance(value, str):
            continue
        if not 0 < value < math.inf or (name == "keep" and value > 1):
            remedy = "Write --keep 0.5 for half." if name == "keep" else f"Give {_option(name)} a number above zero."
            raise UsageError(f"{_option(name)} {value:g} is no size", remedy=remedy)
    known: dict[str, Any] = {f.name: given.get(f.name) for f in fields(Goal)}
    return Goal(**known) if any(known.values()) else Goal(keep=HALF)


def _named(like: str, drop_blocks: int) -> Auto:
    """Read the architecture's name, checked as a recipe is."""
    said = f"student.architecture={{auto: {{like: {like}, drop_blocks: {drop_blocks}}}}}"
    return Auto(**Recipe.load("layercake", [said]).student.architecture.keys())


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _guard(path: Path, teacher: Path, named: bool) -> None:
    """Refuse to overwrite the teacher or, unless the user named it, a file that onnxcake has not written.

    Raises:
        UsageError, OutputError: otherwise.
    """
    files.check_target(path)
    if not path.is_file():
        return
    if teacher.exists() and path.samefile(teacher):
        raise UsageError("it would overwrite the teacher", where=path, remedy="Choose another file with --out.")
    if not named and not _is_ours(path):
        what = "is a file that onnxcake has not written, and it would be overwritten"
        raise OutputError(what, where=path, remedy="Choose another file with --out.")


def _is_ours(path: Path) -> bool:
    try:
        return bool(load(path).proto.producer_name == PRODUCER)
    except TeacherError:
        return False


def _sides(teacher: Teacher, pruned: Pruned, path: Path, content: bytes) -> tuple[CutFile, CutFile]:
    """Describe the two files."""
    before, after = zip(pruned.parameters, pruned.multiply_adds, strict=True)
    facts = teacher.facts
    return (
        CutFile(
            file=teacher.name,
            sha256=facts.digest,
            bytes=facts.size_bytes,
            parameters=before[0],
            multiply_adds=before[1],
        ),
        CutFile(
            file=str(path),
            sha256=files.sha256(content),
            bytes=len(content),
            parameters=after[0],
            multiply_adds=after[1],
        ),
    )


def _reached(goal: Goal, student: CutFile, latency: float, pruned: Pruned) -> ReachedGoal:
    """Compare the student with what was asked for; list what held the layers that have the most left."""
    asked, limit = next((name, value) for name, value in asdict(goal).items() if value is not None)
    reached = {
        "keep": student.parameters / pruned.parameters[0],
        "max_params": student.parameters,
        "max_bytes": student.bytes,
        "max_macs": student.multiply_adds,
        "max_latency_ms": latency,
    }[asked]
    missed = reached > limit * (1 + _LEEWAY if asked in _LENIENT else 1)
    short = reached < limit * (1 - _LEEWAY) and pruned.parameters[1] < pruned.parameters[0]
    return ReachedGoal(asked, limit, reached, missed, short, tuple(_held(pruned)) if missed else ())


def _held(pruned: Pruned) -> Iterator[HeldLayer]:
    """Iterate over the layers of which something had to stay, the largest first."""
    for layer in sorted(pruned.layers, key=lambda layer: -layer.parameters[1]):
        if layer.held:
            yield HeldLayer(layer.name, layer.op, layer.parameters[1], layer.held)
