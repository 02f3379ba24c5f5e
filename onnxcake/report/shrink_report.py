"""Show how `onnxcake shrink` cut each layer and the whole, and whether the goal is reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import BelowFloor
from ..core.json_files import plain
from ..core.text import printable, shown
from ..core.units import size
from ..pruning.goal import CutLayer
from .report import Latency, ModelFile

_LONGEST = 200  # characters of one text on the terminal
_LISTED = 500  # layers on the terminal; --json has them all
_HOLDING = 5  # layers that are named where the goal is missed
_UNITS = {"keep": "of the parameters", "max_params": "parameters", "max_bytes": "bytes", "max_macs": "multiply-adds"}


@dataclass(frozen=True, kw_only=True)
class CutFile(ModelFile):
    """Describe one of the two files; ``multiply_adds`` are for one input."""

    multiply_adds: int


@dataclass(frozen=True)
class HeldLayer:
    """Describe a layer of which something had to stay: its name, operator, parameters left, and what held it."""

    name: str
    op: str
    parameters: int
    held: str


@dataclass(frozen=True)
class ReachedGoal:
    """Hold what was asked for and what came of it.

    Attributes:
        asked: the goal's name; ``limit``: its value; ``reached``: the student's.
        missed: it is over the limit; ``short``: it is far under.
        held: the layers that kept it over, the largest first.
    """

    asked: str
    limit: float | str
    reached: float
    missed: bool
    short: bool
    held: tuple[HeldLayer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """Hold what was cut out of a teacher's graph.

    Attributes:
        teacher, student: the file before and after.
        goal: what was asked for and what came of it.
        latency_ms: for one input.
        layers: how each node that holds weights was cut.
        score: by what was chosen what stays; ``drop_blocks``, ``low_rank``, ``seed``: as asked.
        versions: of what cut it, by package.
    """

    teacher: CutFile
    student: CutFile
    goal: ReachedGoal
    latency_ms: Latency
    layers: tuple[CutLayer, ...]
    score: str
    drop_blocks: int
    low_rank: str
    seed: int
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, as JSON holds it; docs/schemas describes it."""
        found: dict[str, Any] = plain(self)
        return found

    def check_goal(self) -> None:
        """Hold the student against what was asked for.

        Raises:
            BelowFloor: if it is larger; the layers that held it are named.
        """
        goal = self.goal
        if not goal.missed:
            return
        held = [f"{shown(one.name or one.op)} ({one.parameters:,} parameters) by {one.held}" for one in goal.held]
        what = f"the smallest that can be cut out of it has {_amount(goal.asked, goal.reached)}"
        raise BelowFloor(
            f"{what}, not {_amount(goal.asked, goal.limit)}"
            + (f"; held are {', '.join(held[:_HOLDING])}" if held else ""),
            where=self.student.file,
            remedy="The file is written. Ask for less of a cut, or name a small student to `onnxcake extract`.",
        )

    def show(self, console: Console | None = None) -> None:
        """Print it."""
        console = console or Console()
        console.print(self._layers())
        console.print()
        console.print(self._totals())
        if (goal := self.goal).short:
            reached, limit = (_amount(goal.asked, value) for value in (goal.reached, goal.limit))
            console.print(f"It has {reached}, where {limit} were asked for: its layers allow nothing in between.")

    def _layers(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("layer", overflow="fold", min_width=12)
        table.add_column("operator")
        for heading in ("shape", "parameters", "multiply-adds"):
            table.add_column(heading, justify="right", min_width=len(heading))
        table.add_column("held by")
        for one in self.layers[:_LISTED]:
            before, *after = ("×".join(map(str, shape)) for shape in one.shapes)
            changes = [iter((before, " · ".join(after)))]
            changes += [(f"{n:,}" for n in sides) for sides in (one.parameters, one.multiply_adds)]
            table.add_row(_plain(one.name), _plain(one.op), *map(_change, changes), _plain(one.held))
        if len(self.layers) > _LISTED:
            table.add_row(f"and {len(self.layers) - _LISTED} more; --json has them all")
        return table

    def _totals(self) -> Table:
        teacher, student, latency = self.teacher, self.student, self.latency_ms
        table = Table(title=f"{_plain(teacher.file)} → {_plain(student.file)}", title_justify="left")
        table.add_column("", no_wrap=True)
        for heading in ("teacher", "student", "share"):
            table.add_column(heading, justify="right")
        rows = [
            ("parameters", "{:,}".format, teacher.parameters, student.parameters),
            ("multiply-adds", "{:,}".format, teacher.multiply_adds, student.multiply_adds),
            ("file size", size, teacher.bytes, student.bytes),
            (
                f"latency, batch 1, {latency.threads} thread",
                "{:.3f} ms".format,
                latency.teacher or 0.0,
                latency.student,
            ),
        ]
        for name, written, before, after in rows:
            table.add_row(name, written(before), written(after), f"{after / before:.0%}" if before else "")
        return table


def _amount(asked: str, value: float | str) -> str:
    if asked == "keep":
        return f"{value:.1%} {_UNITS[asked]}"
    return f"{value:,.3f} ms" if asked == "max_latency_ms" else f"{value:,} {_UNITS[asked]}"


def _change(sides: Iterator[str]) -> str:
    before, after = sides
    return before if before == after else f"{before} → {after}"


def _plain(text: str) -> str:
    """Prepare text of an untrusted file for a terminal: no markup, nothing that it obeys, not too long."""
    return escape(printable(text[:_LONGEST]))
