"""Hold the figures of a run, as ``report.json`` has them, and lay them out as a table."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import BelowFloor
from ..core.json_files import EXACT, OPTIONAL, plain
from ..core.quantities import NonNegative
from ..core.text import printable
from ..core.units import duration, size
from ..evaluate.agreement import Comparison, Figure
from ..evaluate.integer_kernels import HostArithmetic
from ..evaluate.probes.parts import ProbeSource
from ..evaluate.without_data import WithoutData
from ..recipe.limits import Budget
from ..recipe.sections import RequireSection
from ..runtime import ort
from ..teacher.signature import Signature
from ..version import __version__

FORMAT = 1
# What may differ between an unbroken run and one that was stopped and went on.
MEASURED = ("spent", "latency_ms", "curve", "alarms")
_SLOWER, _LEAST_MS = 1.1, 0.005  # a student's latency over its teacher's, and the difference that is no jitter
_MOST = 1 << 62  # samples that are counted


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """Describe one of the two files.

    Attributes:
        file: its name; ``sha256``: of its content.
        bytes: its size, external files included.
        parameters: numbers in the weights that its output depends on.
        host: how its int8 kernels on this processor compare with its exact arithmetic; None for a float model.
    """

    file: str
    sha256: str
    bytes: int
    parameters: int
    host: HostArithmetic | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class TeacherFile(ModelFile, Signature):
    """Describe the teacher of a run, with its signature.

    Attributes:
        torch_vs_onnxruntime: the largest difference seen between the two, relative to the largest answer.
    """

    torch_vs_onnxruntime: float


@dataclass(frozen=True, kw_only=True)
class StudentFile(ModelFile):
    """Describe the student of a run.

    Attributes:
        architecture: its name; "auto" for one cut out of the teacher.
        steps: that it learnt; ``learning_rate``: the highest of them.
        torch_vs_onnxruntime: the largest difference seen between the two, relative to the largest answer.
        start: sha256 of the model that it began as; None for a named architecture.
        weight_bits: of its weights, if it is int8.
    """

    architecture: str
    steps: int
    learning_rate: float
    torch_vs_onnxruntime: float
    start: str | None = field(default=None, metadata=OPTIONAL)
    weight_bits: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Latency:
    """Hold milliseconds for one input in onnxruntime, of each side that was timed, on ``threads`` threads."""

    threads: int
    student: float
    teacher: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class SyntheticSet:
    """Describe the set that the student learnt from.

    Attributes:
        store_key: a digest over all that its samples depend on.
        samples, held_out_samples: that were kept to learn from, and not learnt from.
        discarded_starts: that diverged.
    """

    store_key: str
    samples: int
    held_out_samples: int
    discarded_starts: int


@dataclass(frozen=True)
class Cost:
    """Hold what a run has cost over all its starts: seconds by stage, and samples through the teacher.

    Attributes:
        teacher_passes: with gradient; ``teacher_queries``: without.
    """

    __pydantic_config__ = EXACT
    seconds: dict[str, NonNegative]
    teacher_passes: Annotated[int, Ge(0), Le(_MOST)]
    teacher_queries: Annotated[int, Ge(0), Le(_MOST)]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Hold how two classifiers compare in onnxruntime.

    Attributes:
        teacher, student: the two files.
        alarms: what makes the figures doubtful, in words.
        compared: the comparison by source of inputs, "probe", "held_out", "training_set" or "noise"; its key in JSON
            is "agreement".
        probe: the real inputs, if there were any.
        latency_ms: for one input.
        versions: of what computed the figures, by package.
    """

    teacher: ModelFile
    student: ModelFile
    alarms: tuple[str, ...]
    compared: Annotated[dict[str, Comparison], Field(alias="agreement")] = field(metadata={"key": "agreement"})
    probe: ProbeSource | None
    latency_ms: Latency
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, as JSON holds it; docs/schemas describes it."""
        found: dict[str, Any] = plain(self)
        return found

    @property
    def comparison(self) -> Comparison:
        """Return the comparison that counts: the probe's if there was one, else that of the held-out batches."""
        return self.compared.get("probe") or next(iter(self.compared.values()))

    @property
    def agreement(self) -> float:
        """Return the share of inputs on which both name the same class, of the comparison that counts."""
        return self.comparison.agreement.value

    def show(self, console: Console | None = None) -> None:
        """Print the report as a table."""
        (console or Console()).print(self.table())

    def table(self) -> Table:
        """Lay out the report for a reader."""
        title = "\n".join((escape(f"{self.teacher.file} → {self.student.file}"), *_as_lines(self.alarms)))
        table = Table(title=title, title_justify="left", caption_justify="left")
        table.add_column("", no_wrap=True)
        table.add_column("teacher", justify="right")
        table.add_column("student", justify="right")
        sides, latency = (self.teacher, self.student), self.latency_ms
        table.add_row("parameters", *(f"{side.parameters:,}" for side in sides))
        table.add_row("file size", *(size(side.bytes) for side in sides))
        times = ("" if ms is None else f"{ms:.3f} ms" for ms in (latency.teacher, latency.student))
        table.add_row(f"latency, batch 1, {latency.threads} thread", *times)
        if any(side.host for side in sides):
            shown = (f"{side.host.agreement:.2%}" if side.host else "" for side in sides)
            table.add_row("int8 on this processor: agreement with exact", *shown)
        for source, compared in self.compared.items():
            table.add_section()
            _add_rows(table, f"{source.replace('_', '-')} ({compared.samples:,})", compared)
        lines = self._add_more(table)
        if self.probe is not None:
            lines += [escape(printable(f"{self.probe.name}: {note}")) for note in self.probe.notes or ()]
        # Sentences stand below the table: in a column that does not wrap they would take the room of the figures.
        table.caption = "\n".join(lines) or None
        return table

    def _add_more(self, table: Table) -> list[str]:
        """Add what else is known, and return the sentences about it."""
        return []


@dataclass(frozen=True, kw_only=True)
class Report(Verification):
    """Hold what a run came to: the content of ``report.json``.

    Attributes:
        format: of the file.
        key: a digest over all that the report depends on.
        without_data: what is known of the student without real data; None where no teacher was at hand.
        set: that the student learnt from.
        substitutes: what stood in for what the method needs and the teacher does not have.
        curve: points along the training, in order: cost so far, and the agreement on the probe.
        recipe, plan: as they were resolved.
        seed: that all randomness depends on.
        budget: that the recipe was scaled to, if one was given.
        spent: over all starts.
    """

    teacher: TeacherFile
    student: StudentFile
    format: int
    key: str
    without_data: WithoutData | None
    set: SyntheticSet
    substitutes: tuple[str, ...]
    curve: tuple[dict[str, Any], ...]
    recipe: dict[str, Any]
    seed: int
    budget: Budget | None
    plan: dict[str, Any]
    spent: Cost

    def check_floor(self) -> None:
        """Hold the report against the floor that its recipe requires.

        Raises:
            BelowFloor: with everything that is missed.
        """
        require, missed = RequireSection(**self.recipe.get("require", {})), []
        agreement, latency = self.agreement, self.latency_ms.student
        if require.agreement is not None and agreement < require.agreement:
            missed.append(f"agreement {agreement:.4f} is under {require.agreement:g}")
        if require.max_bytes is not None and self.student.bytes > require.max_bytes:
            missed.append(f"{self.student.bytes:,} bytes are over {require.max_bytes:,}")
        if require.max_latency_ms is not None and latency > require.max_latency_ms:
            missed.append(f"latency {latency:.3f} ms is over {require.max_latency_ms:g} ms")
        if missed:
            raise BelowFloor(
                "the student is done but misses the recipe's floor: " + "; ".join(missed),
                where=self.student.file,
                remedy="Make a larger set or choose a larger student, in another --out; or lower `require`.",
            )

    def _add_more(self, table: Table) -> list[str]:
        lines, without, spent = list[str](), self.without_data, self.spent
        if without is not None:
            families = ", ".join(f"{name} {value:.1%}" for name, value in without.agreement.items())
            table.add_section()
            table.add_row("agreement without data, mean", "", f"{without.expected:.2%}")
            table.add_row(f"  of {families}", "", "")
            lines += _as_lines(without.alarms)
        if self.budget is not None and (over := self.budget.exceeded(sum(spent.seconds.values()))):
            lines.append(f"budget {over}")
        seconds = ", ".join(f"{stage} {duration(s)}" for stage, s in spent.seconds.items())
        asked = f" and {spent.teacher_queries:,} without gradient" if spent.teacher_queries else ""
        return [*lines, f"cost: {spent.teacher_passes:,} teacher passes with gradient{asked}; {seconds}"]


def costlier(teacher: ModelFile, student: ModelFile, latency: Latency) -> list[str]:
    """Say in what a student is larger or slower than its teacher, in words."""
    told = []
    for what, ours, theirs in (
        ("bytes", student.bytes, teacher.bytes),
        ("parameters", student.parameters, teacher.parameters),
    ):
        if ours > theirs:
            told.append(f"the student is larger than its teacher: {ours:,} {what}, the teacher {theirs:,}")
    slow, fast = latency.student, latency.teacher
    if fast is not None and slow > _SLOWER * fast and slow - fast > _LEAST_MS:
        told.append(f"the student is slower than its teacher: {slow:.3f} ms for one input, the teacher {fast:.3f} ms")
    return told


def _add_rows(table: Table, source: str, compared: Comparison) -> None:
    table.add_row(f"{source}: agreement", "", _percent(compared.agreement))
    if (accuracies := (compared.teacher_accuracy, compared.student_accuracy)) != (None, None):
        table.add_row(f"{source}: accuracy", *("" if one is None else _percent(one) for one in accuracies))
    kl = compared.kl
    table.add_row(f"{source}: KL in nats", "", f"{kl.value:z.4f} [{kl.low:z.4f}, {kl.high:z.4f}]")


def _as_lines(alarms: Iterable[str]) -> list[str]:
    """Word alarms as lines around the table."""
    return [f"[yellow]alarm: {escape(alarm)}[/]" for alarm in alarms]


def _percent(figure: Figure) -> str:
    return f"{figure.value:.2%} [{figure.low:.1%}, {figure.high:.1%}]"


def versions() -> dict[str, str]:
    """List what computed the figures, by package."""
    return {
        "onnxcake": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": metadata.version("onnx"),
        "onnx2torch": metadata.version("onnx2torch"),
        "onnxruntime": ort.version(),
    }
