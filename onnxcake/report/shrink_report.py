"""What `onnxcake shrink` tells: what became of each layer and of the whole, and whether the goal is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import BelowFloor
from ..core.text import printable, shown
from ..core.units import size

_LONGEST = 200  # characters of one text on the terminal
_LISTED = 500  # layers on the terminal; --json has them all
_HOLDING = 5  # layers that are named where the goal is missed
_UNITS = {"keep": "of the parameters", "max_params": "parameters", "max_bytes": "bytes", "max_macs": "multiply-adds"}


@dataclass(frozen=True)
class Shrinkage:
    """What was cut, and what came of it.

    Attributes:
        data: plain data: ``teacher`` and ``student`` (file, sha256, bytes, parameters, multiply_adds), ``goal``
            (asked, limit, reached; missed: whether it is over the limit; short: whether it is far under; held: the
            layers that kept it over), ``latency_ms``, ``layers`` (name, op; shapes, parameters and multiply_adds,
            each before and after; held: what kept some of it), ``score``, ``seed``, ``versions``.
    """

    data: dict[str, Any]

    def check_goal(self) -> None:
        """Holds the student against what was asked for.

        Raises:
            BelowFloor: if it is larger; the layers that held it are named.
        """
        goal = self.data["goal"]
        if not goal["missed"]:
            return
        held = [f"{_called(one)} ({one['parameters']:,} parameters) by {one['held']}" for one in goal["held"]]
        what = f"the smallest that can be cut out of it has {_amount(goal['asked'], goal['reached'])}"
        raise BelowFloor(
            f"{what}, not {_amount(goal['asked'], goal['limit'])}"
            + (f"; held are {', '.join(held[:_HOLDING])}" if held else ""),
            where=self.data["student"]["file"],
            remedy="The file is written. Ask for less of a cut, or name a small student to `onnxcake extract`.",
        )

    def show(self, console: Console | None = None) -> None:
        """Prints it."""
        console = console or Console()
        console.print(self._layers())
        console.print()
        console.print(self._totals())
        goal = self.data["goal"]
        if goal["short"]:
            reached, limit = (_amount(goal["asked"], goal[key]) for key in ("reached", "limit"))
            console.print(f"It has {reached}, where {limit} were asked for: its layers allow nothing in between.")

    def _layers(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("layer", overflow="fold", min_width=12)
        table.add_column("operator")
        for heading in ("shape", "parameters", "multiply-adds"):
            table.add_column(heading, justify="right", min_width=len(heading))
        table.add_column("held by")
        layers = self.data["layers"]
        for one in layers[:_LISTED]:
            before, *after = ("×".join(map(str, shape)) for shape in one["shapes"])
            changes = [iter((before, " · ".join(after)))]
            changes += [(f"{n:,}" for n in one[key]) for key in ("parameters", "multiply_adds")]
            table.add_row(_plain(one["name"]), _plain(one["op"]), *map(_change, changes), _plain(one["held"]))
        if len(layers) > _LISTED:
            table.add_row(f"and {len(layers) - _LISTED} more; --json has them all")
        return table

    def _totals(self) -> Table:
        teacher, student, latency = self.data["teacher"], self.data["student"], self.data["latency_ms"]
        table = Table(title=f"{_plain(teacher['file'])} → {_plain(student['file'])}", title_justify="left")
        table.add_column("", no_wrap=True)
        for heading in ("teacher", "student", "share"):
            table.add_column(heading, justify="right")
        rows = [
            ("parameters", "{:,}".format, teacher["parameters"], student["parameters"]),
            ("multiply-adds", "{:,}".format, teacher["multiply_adds"], student["multiply_adds"]),
            ("file size", size, teacher["bytes"], student["bytes"]),
            (
                f"latency, batch 1, {latency['threads']} thread",
                "{:.3f} ms".format,
                latency["teacher"],
                latency["student"],
            ),
        ]
        for name, written, before, after in rows:
            table.add_row(name, written(before), written(after), f"{after / before:.0%}" if before else "")
        return table


def _called(layer: Mapping[str, Any]) -> str:
    return shown(layer["name"] or layer["op"])


def _amount(asked: str, value: float) -> str:
    if asked == "keep":
        return f"{value:.1%} {_UNITS[asked]}"
    return f"{value:,.3f} ms" if asked == "max_latency_ms" else f"{value:,} {_UNITS[asked]}"


def _change(sides: Iterator[str]) -> str:
    before, after = sides
    return before if before == after else f"{before} → {after}"


def _plain(text: str) -> str:
    """Text out of an untrusted file, as the terminal gets it: no markup, nothing that it obeys, not too long."""
    return escape(printable(text[:_LONGEST]))
