"""Several methods on the same teacher, with the same student, budget and evaluation: one fair table.

::

    bench.json         what was asked, every cell, and the figures over the seeds
    bench.txt          the table
    bench.png          agreement against the samples that went through the teacher, one curve for each method
    METHOD/seed-N/     the run of each cell, as `onnxcake extract` leaves it
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.errors import (
    ConversionMismatch,
    DeadTeacher,
    Diverged,
    RecipeError,
    StoreError,
    UnsupportedTeacher,
    UsageError,
)
from ..core.progress import Progress
from ..onnxfile.reading import read_regular
from ..recipe import method_table
from ..recipe.limits import NO_LIMIT, Budget
from ..recipe.recipe import Recipe
from ..report.bench_table import FILE, Cell, Table
from ..run import folder as runs
from ..run.prepare import Request, open_teacher, teacher_options
from ..teacher.options import TeacherOptions
from ..teacher.teacher import Teacher
from . import extract

# What is wrong with one method on this teacher; a file that is no model is wrong for all.
_PASSED_OVER = (RecipeError, UnsupportedTeacher, ConversionMismatch, DeadTeacher, Diverged)
_ELSEWHERE = "Choose another --out."


def bench(
    teacher: str | Path,
    methods: Sequence[str],
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: TeacherOptions | None = None,
    probe: str | Path | None = None,
    data: str | Path | None = None,
    stats: str | Path | None = None,
    student: str | None = None,
    budget: str | None = None,
    passes: float | None = None,
    seeds: Sequence[int] = (0,),
    only: Mapping[str, Sequence[str]] = {},
    device: str = "cpu",
    progress: Progress | None = None,
) -> Table:
    """Run every method with every seed on one teacher. Run again, it goes on where it stopped.

    Args:
        teacher: the ``.onnx`` file.
        methods: names of recipes, or files.
        out: the folder of the table; TEACHER-bench if None.
        overrides: ``key=value`` pairs that go before every recipe; ``only``: those of single methods, after them.
        options: what the user says of the teacher's file.
        probe, data, stats, device, progress: as for `onnxcake.extract`.
        student: the architecture that learns; by each recipe if None.
        budget, passes: of each run, as for `onnxcake.extract`.
        seeds: those of each method.

    Raises:
        OnnxcakeError: as `onnxcake.extract`, of what concerns all methods.
    """
    request = Request(
        teacher=Path(teacher),
        out=Path(f"{Path(teacher).stem}-bench") if out is None else Path(out),
        overrides=overrides,
        options=options or TeacherOptions(),
        probe=None if probe is None else Path(probe),
        data=None if data is None else Path(data),
        stats=None if stats is None else Path(stats),
        device=device,
    )
    scaled = Budget.of(budget, None if passes is None else str(passes))
    return run(request, methods, student=student, budget=scaled, seeds=seeds, only=only, progress=progress)


def run(
    request: Request,
    methods: Sequence[str],
    *,
    student: str | None = None,
    budget: Budget = NO_LIMIT,
    seeds: Sequence[int] = (0,),
    only: Mapping[str, Sequence[str]] = {},
    progress: Progress | None = None,
) -> Table:
    """Run every method with every seed, one after the other, as the command asks for it; see `bench`.

    Methods and seeds may be added later, to the same table. A method that this teacher gives too little for, or
    that diverges on it, has a row with the reason.

    Args:
        request: teacher, options, probe, device, overrides for all methods; ``out`` is the folder of the table, and
            ``data`` and ``stats`` are for those methods alone that ask for them.
        methods: names of recipes, or files.
        student: the architecture that learns; by each recipe if None.
        budget: of each run; the recipes are scaled to it, once for all seeds.
        only: overrides for single methods, after those for all.

    Raises:
        OnnxcakeError: as `onnxcake.extract`, of what concerns all methods.
    """
    progress, out, teachers = progress or Progress(quiet=True), request.folder, _Teachers()
    requests = _requests(request, methods, student, only)
    asked = _asked(request, student, budget, requests)
    files.make_folder(out)
    with files.sole_writer(out):
        files.sweep(out)
        table = _merged(out, asked)
        files.write_json(out / FILE, table.as_dict())
        for method, template in requests.items():
            for seed in seeds:
                siblings = sorted((out / method).glob("seed-*"))  # all seeds of a method have the same recipe
                one = replace(template, out=out / method / f"seed-{seed}", seed=seed, budget=budget, siblings=siblings)
                cell = _run(one, method, teachers, progress)
                table = table.plus(cell)
                files.write_json(out / FILE, table.as_dict())
        table.write(out)
    return table


def parse_only(pairs: Iterable[str]) -> dict[str, list[str]]:
    """``METHOD:KEY=VALUE`` … → the overrides of each method.

    Raises:
        UsageError: if one is written otherwise.
    """
    only: dict[str, list[str]] = {}
    for pair in pairs:
        method, colon, assignment = pair.partition(":")
        if not (method and colon and "=" in assignment):
            raise UsageError(f"--only {pair!r} is not METHOD:KEY=VALUE", remedy="Write --only dafl:synthesis.batch=64.")
        only.setdefault(method, []).append(assignment)
    return only


def _requests(
    request: Request, methods: Sequence[str], student: str | None, only: Mapping[str, Sequence[str]]
) -> dict[str, Request]:
    """Build each method's request, by the name of its folder, and check its recipe and overrides."""
    names = [Path(method).stem for method in methods]
    if not methods or len(set(names)) < len(names):
        raise UsageError("name at least one method, and none twice", remedy="Write --methods cake,dafl.")
    if strange := [name for name in only if name not in (*methods, *names)]:
        raise UsageError(f"overrides for {strange[0]!r}, which is not among the methods")
    shared = [*([] if student is None else [f"student.architecture={student}"]), *request.overrides]
    requests = {}
    for name, method in zip(names, methods, strict=True):
        overrides = [*shared, *only.get(method, only.get(name, ()))]
        needs = method_table.needs(Recipe.load(method, overrides))
        data = request.data if "data" in needs else None
        stats = request.stats if "statistics" in needs else None
        requests[name] = replace(request, recipe=method, overrides=overrides, data=data, stats=stats)
    return requests


def _asked(request: Request, student: str | None, budget: Budget, requests: Mapping[str, Request]) -> dict[str, Any]:
    asked = {
        "teacher": {"name": request.teacher.name, "sha256": files.sha256(read_regular(request.teacher))},
        "options": asdict(request.options),
        "student": student,
        "budget": budget.as_dict(),
        "probe": None if request.probe is None else request.probe.name,
        "device": request.device,
        "methods": {name: _digest(each) for name, each in requests.items()},
    }
    same: dict[str, Any] = json.loads(json.dumps(asked))  # as it reads back
    return same


def _digest(request: Request) -> str:
    """Digest the part of a request that concerns one method alone."""
    given = [None if path is None else path.name for path in (request.data, request.stats)]
    return files.sha256(files.canonical([Recipe.load(request.recipe or "", request.overrides).digest, *given]))


def _merged(out: Path, asked: dict[str, Any]) -> Table:
    """Read the table of earlier starts and extend it by the methods asked for now."""
    if not (out / FILE).exists():
        return Table(asked, ())
    earlier = Table.read(out)
    before, methods = earlier.asked, earlier.asked["methods"]
    other = [key for key in asked if key != "methods" and before.get(key) != asked[key]]
    begun = {name: digest for name, digest in methods.items() if any((out / name).glob(f"seed-*/{runs.FILE}"))}
    other += [f"recipe of {name}" for name, digest in asked["methods"].items() if begun.get(name, digest) != digest]
    if other:
        what = f"this table was begun with another {', another '.join(other)}"
        raise StoreError(what, where=out, remedy=_ELSEWHERE)
    return Table({**asked, "methods": {**methods, **asked["methods"]}}, earlier.cells)


class _Teachers:
    """Open a teacher once for all methods that open it with the same options."""

    def __init__(self) -> None:
        self._opened: list[tuple[TeacherOptions, Teacher]] = []

    def of(self, request: Request) -> Teacher:
        """Return the teacher of a request.

        Raises:
            OnnxcakeError: as `open_teacher`.
        """
        asked = teacher_options(request)
        for options, teacher in self._opened:
            if options == asked:
                return teacher
        self._opened.append((asked, open_teacher(request)))
        return self._opened[-1][1]


def _run(request: Request, method: str, teachers: _Teachers, progress: Progress) -> Cell:
    progress.say(f"{method}, seed {request.seed}")
    try:
        report = extract.run(request, progress, teachers.of(request))
    except _PASSED_OVER as error:
        cell = Cell(method, request.seed, reason=". ".join(line.strip(" .") for line in str(error).splitlines()))
        progress.say(f"{method}, seed {request.seed}: {cell.reason}")
        return cell
    return Cell.of(method, request.seed, report)
