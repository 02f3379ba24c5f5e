"""The numbers of a run: ``report.json``, and the table that shows them."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import BelowFloor
from ..core.text import printable
from ..core.units import duration, size
from ..recipe.limits import Budget
from ..recipe.sections import RequireSection
from ..runtime import ort
from ..version import __version__

FORMAT = 1
# What may differ between an unbroken run and one that was stopped and went on.
MEASURED = ("spent", "latency_ms", "curve", "alarms")
_SLOWER, _LEAST_MS = 1.1, 0.005  # a student's latency over its teacher's, and the difference that is no jitter


@dataclass(frozen=True)
class Report:
    """What a run came to. ``data`` is what ``report.json`` holds."""

    data: dict[str, Any]

    @classmethod
    def of(cls, data: dict[str, Any]) -> Report:
        """A report as it reads back from its file: lists for tuples."""
        return cls(json.loads(json.dumps(data, allow_nan=False)))

    @property
    def agreement(self) -> float:
        """Top-1 agreement of teacher and student: on the probe if there was one, else on held-out batches."""
        return float(self.comparison["agreement"]["value"])

    @property
    def comparison(self) -> dict[str, Any]:
        """The comparison that counts: the probe's if there was one, else that of the held-out batches."""
        compared: dict[str, Any] = self.data["agreement"]
        chosen: dict[str, Any] = compared.get("probe") or next(iter(compared.values()))
        return chosen

    def check_floor(self) -> None:
        """Holds the report against the floor that its recipe requires.

        Raises:
            BelowFloor: with everything that is missed.
        """
        require, missed = RequireSection(**self.data["recipe"].get("require", {})), []
        if require.agreement is not None and self.agreement < require.agreement:
            missed.append(f"agreement {self.agreement:.4f} is under {require.agreement:g}")
        if require.max_bytes is not None and self.data["student"]["bytes"] > require.max_bytes:
            missed.append(f"{self.data['student']['bytes']:,} bytes are over {require.max_bytes:,}")
        latency = self.data["latency_ms"]["student"]
        if require.max_latency_ms is not None and latency > require.max_latency_ms:
            missed.append(f"latency {latency:.3f} ms is over {require.max_latency_ms:g} ms")
        if missed:
            raise BelowFloor(
                "the student is done but misses the recipe's floor: " + "; ".join(missed),
                where=self.data["student"]["file"],
                remedy="Make a larger set or choose a larger student, in another --out; or lower `require`.",
            )

    def try_out(self) -> None:
        """Show it to nobody, and hold it against its floor: what lacks a figure, or has another in its place, fails.

        Raises:
            LookupError, ValueError, TypeError, AttributeError, ArithmeticError: if it does.
        """
        self.show(Console(file=io.StringIO()))
        with suppress(BelowFloor):
            self.check_floor()

    def show(self, console: Console | None = None) -> None:
        """Prints the report as a table."""
        (console or Console()).print(self.table())

    def table(self) -> Table:
        """The report for a reader."""
        teacher, student, latency = self.data["teacher"], self.data["student"], self.data["latency_ms"]
        probe: dict[str, Any] = self.data.get("probe") or {}
        title = "\n".join((escape(f"{teacher['file']} → {student['file']}"), *_alarms(self.data)))
        table = Table(title=title, title_justify="left", caption_justify="left")
        table.add_column("", no_wrap=True)
        table.add_column("teacher", justify="right")
        table.add_column("student", justify="right")
        if "parameters" in student:
            table.add_row("parameters", f"{teacher['parameters']:,}", f"{student['parameters']:,}")
        table.add_row("file size", size(teacher["bytes"]), size(student["bytes"]))
        times = (f"{latency[side]:.3f} ms" if side in latency else "" for side in ("teacher", "student"))
        table.add_row(f"latency, batch 1, {latency['threads']} thread", *times)
        here = [side.get("host") for side in (teacher, student)]
        if any(here):
            shown = (f"{one['agreement']:.2%}" if one else "" for one in here)
            table.add_row("int8 on this processor: agreement with exact", *shown)
        for source, compared in self.data["agreement"].items():
            table.add_section()
            _add_rows(table, f"{source.replace('_', '-')} ({compared['samples']:,})", compared)
        if (without := self.data.get("without_data")) is not None:
            table.add_section()
            families = ", ".join(f"{name} {value:.1%}" for name, value in without["agreement"].items())
            table.add_row("agreement without data, mean", "", f"{without['expected']:.2%}")
            table.add_row(f"  of {families}", "", "")
        lines = [printable(f"{probe['name']}: {note}") for note in probe.get("notes", ())]
        if "spent" in self.data:
            seconds = ", ".join(f"{stage} {duration(s)}" for stage, s in self.data["spent"]["seconds"].items())
            spent = self.data["spent"]
            asked = f" and {n:,} without gradient" if (n := spent.get("teacher_queries", 0)) else ""
            lines.append(f"cost: {spent['teacher_passes']:,} teacher passes with gradient{asked}; {seconds}")
            if over := Budget(**(self.data.get("budget") or {})).exceeded(sum(spent["seconds"].values())):
                lines.insert(0, f"budget {over}")
        # Sentences stand below the table: in a column that does not wrap they would take the room of the figures.
        table.caption = "\n".join((*_alarms(without or {}), *map(escape, lines))) or None
        return table


def costlier(teacher: Mapping[str, Any], student: Mapping[str, Any], latency_ms: Mapping[str, Any]) -> list[str]:
    """Say in what a student is larger or slower than its teacher, in words.

    Args:
        teacher, student: with "bytes" and, where known, "parameters".
        latency_ms: of each by name, for one input, where measured.
    """
    told = []
    for what in ("bytes", "parameters"):
        ours, theirs = student.get(what), teacher.get(what)
        if ours is not None and theirs is not None and ours > theirs:
            told.append(f"the student is larger than its teacher: {ours:,} {what}, the teacher {theirs:,}")
    slow, fast = latency_ms.get("student"), latency_ms.get("teacher")
    if slow is not None and fast is not None and slow > _SLOWER * fast and slow - fast > _LEAST_MS:
        told.append(f"the student is slower than its teacher: {slow:.3f} ms for one input, the teacher {fast:.3f} ms")
    return told


def _add_rows(table: Table, source: str, compared: dict[str, Any]) -> None:
    table.add_row(f"{source}: agreement", "", _percent(compared["agreement"]))
    if "teacher_accuracy" in compared:
        accuracies = (_percent(compared[f"{side}_accuracy"]) for side in ("teacher", "student"))
        table.add_row(f"{source}: accuracy", *accuracies)
    kl = compared["kl"]
    table.add_row(f"{source}: KL in nats", "", f"{kl['value']:z.4f} [{kl['low']:z.4f}, {kl['high']:z.4f}]")


def _alarms(told: Mapping[str, Any]) -> list[str]:
    """List alarms as lines around the table."""
    return [f"[yellow]alarm: {escape(alarm)}[/]" for alarm in told.get("alarms", ())]


def _percent(figure: dict[str, float]) -> str:
    return f"{figure['value']:.2%} [{figure['low']:.1%}, {figure['high']:.1%}]"


def versions() -> dict[str, str]:
    """What computed the figures."""
    return {
        "onnxcake": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": metadata.version("onnx"),
        "onnx2torch": metadata.version("onnx2torch"),
        "onnxruntime": ort.version(),
    }
