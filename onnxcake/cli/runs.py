"""Parse the commands that make something: extract, train, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.progress import Progress
from ..core.waiting import waited
from .options import (
    BudgetOption,
    DataOption,
    DeviceOption,
    JsonOption,
    OutOption,
    Overrides,
    Parsed,
    PassesOption,
    ProbeOption,
    RecipeOption,
    SeedOption,
    StatsOption,
    StudentOption,
    TeacherArgument,
    begin,
    print_json,
    teacher_options,
    tell,
)


@teacher_options
def extract(
    teacher: TeacherArgument,
    recipe: RecipeOption = None,
    out: OutOption = None,
    overrides: Overrides = None,
    *,
    options: Parsed,
    probe: ProbeOption = None,
    data: DataOption = None,
    stats: StatsOption = None,
    student: StudentOption = None,
    budget: BudgetOption = None,
    passes: PassesOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
) -> None:
    """Make a student of a teacher. The same command again goes on where it stopped."""
    begin(f"extracting a student from {teacher.name}")
    with waited("loading libraries"):
        from dataclasses import asdict

        from ..commands.extract import look_ahead, run
        from ..recipe.limits import Budget
        from ..run.prepare import Request

    request = Request(
        teacher=teacher,
        recipe=recipe,
        out=out,
        overrides=overrides or (),
        options=options(),
        probe=probe,
        data=data,
        stats=stats,
        student=student,
        device=device,
        seed=seed,
        budget=Budget.of(budget, passes),
    )
    if dry_run:
        ahead = look_ahead(request, Progress())
        if as_json:
            print_json(asdict(ahead))
        return
    report = run(request, Progress())
    tell(report, as_json, report.check_floor)


def train(
    store: Annotated[Path, typer.Option(help="The folder of a run that has made a set.")],
    recipe: RecipeOption = None,
    out: OutOption = None,
    overrides: Overrides = None,
    student: StudentOption = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Train another student on a set that exists."""
    begin(f"training a student on the set of {store}", sandbox=False)
    with waited("loading libraries"):
        from ..commands.train import train as run_train

    report = run_train(
        store,
        recipe=recipe,
        out=out,
        overrides=overrides or (),
        student=student,
        device=device,
        seed=seed,
        progress=Progress(),
    )
    tell(report, as_json, report.check_floor)


@teacher_options
def bench(
    teacher: TeacherArgument,
    methods: Annotated[str, typer.Option(help="Recipes, as cake,dafl,zskt.")],
    student: Annotated[str | None, typer.Option(help="The architecture that learns, if one for all.")] = None,
    budget: BudgetOption = None,
    passes: PassesOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, … of each method.")] = 1,
    out: OutOption = None,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="METHOD:KEY=VALUE", help="-o for one of the methods.")
    ] = None,
    *,
    options: Parsed,
    probe: ProbeOption = None,
    data: DataOption = None,
    stats: StatsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Compare methods on one teacher: the same student, budget and evaluation for all."""
    begin(f"comparing methods on {teacher.name}")
    with waited("loading libraries"):
        from ..commands.bench import parse_only, run
        from ..recipe.limits import Budget
        from ..run.prepare import Request

    request = Request(
        teacher=teacher,
        out=out or Path(f"{teacher.stem}-bench"),
        overrides=overrides or (),
        options=options(),
        probe=probe,
        data=data,
        stats=stats,
        device=device,
    )
    table = run(
        request,
        [name.strip() for name in methods.split(",") if name.strip()],
        student=student,
        budget=Budget.of(budget, passes),
        seeds=range(seeds),
        only=parse_only(only or ()),
        progress=Progress(),
    )
    tell(table, as_json, table.check)
