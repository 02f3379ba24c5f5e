"""Show what a teacher is, whether it can be used, and what is in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..core.errors import OnnxcakeError
from ..core.text import printable, shown

_LONGEST = 500  # characters of one text on the terminal
_LISTED = 20  # rows of a table on the terminal; --json has them all


@dataclass(frozen=True)
class Inspection:
    """Hold the findings about a file.

    Attributes:
        data: plain data by section: file, input, outputs, signature, operators, parity, host, gradient, batch_norm,
            cost, obstacles; sections that were not reached are missing. ``usable`` sums it up.
        error: why the file cannot be used as a teacher; None if it can.
    """

    data: dict[str, Any]
    error: OnnxcakeError | None

    def check(self) -> None:
        """Raise the error that keeps the file from being a teacher.

        Raises:
            TeacherError, UsageError: if the file cannot be used.
        """
        if self.error is not None:
            raise self.error

    def show(self, console: Console | None = None) -> None:
        """Print the findings as tables."""
        console = console or Console()
        table = Table.grid(padding=(0, 2))
        for name, what in _lines(self.data):
            table.add_row(f"[bold]{name}[/bold]", _plain(what))
        console.print(table)
        _show_operators(console, self.data.get("operators", []))
        _show_obstacles(console, self.data.get("obstacles", []))
        verdict = "[green]can be used[/green]" if self.error is None else "[red]cannot be used[/red]"
        console.print(f"{_plain(self.data['file']['name'])} {verdict}")


def _lines(data: dict[str, Any]) -> list[tuple[str, str]]:
    """List the lines of the summary: name and text of each."""
    lines = []
    file = data["file"]
    if "bytes" in file:
        opsets = ", ".join(f"{domain} {version}" for domain, version in file["opsets"].items())
        by = f", by {shown(file['producer'])}" if file["producer"] else ""
        lines.append(("file", f"{file['bytes']:,} bytes, IR {file['ir_version']}, opset {opsets}{by}"))
    if "input" in data:
        lines.append(("in", _described(data["input"])))
    lines += [("out", _described(output)) for output in data.get("outputs", [])[:_LISTED]]
    if (signature := data.get("signature")) is not None:
        kind = signature["output_kind"].replace("_", "-")
        lines.append(("task", f"{signature['task']}, {signature['classes']} classes, {kind}"))
        lines += [("values", text) for text in signature["assumptions"]]
    if "cost" in data:
        lines.append(
            ("cost", f"{data['cost']['parameters']:,} parameters, {data['cost']['multiply_adds']:,} multiply-adds")
        )
    if "batch_norm" in data:
        norm = data["batch_norm"]
        lines.append(
            (
                "batch norm",
                f"{norm['nodes']} nodes, statistics {norm['statistics']}; {norm['convolutions']} convolutions",
            )
        )
    if "parity" in data:
        seen = ", ".join(f"{p['difference']:.1e} at batch {p['batch']}" for p in data["parity"])
        lines.append(("parity", f"differs from onnxruntime by {seen}"))
    if (host := data.get("host")) is not None:
        seen = f"{host['difference']:.1e} of the largest answer" if host["difference"] else "nothing"
        lines.append(("int8 here", f"differs from the file's exact arithmetic by {seen} on {host['processor']}"))
    if (gradient := data.get("gradient")) is not None:
        error = gradient["slope_error"]
        slopes = "" if error is None else f", differs from differences through {gradient['through']} by {error:.1%}"
        lines.append(
            ("gradient", f"finite, non-zero at {gradient['nonzero']:.0%} of {gradient['points']} points{slopes}")
        )
    return lines


def _plain(text: str) -> str:
    """Make a text of an untrusted file safe for the terminal: no markup, no control characters, limited length."""
    return escape(printable(text[:_LONGEST]))


def _described(value: dict[str, Any]) -> str:
    shape = "?" if value["shape"] is None else f"[{', '.join(map(str, value['shape']))}]"
    return f"{shown(value['name'])} {value['type'] or 'not converted'} {shape}"


def _show_operators(console: Console, operators: list[dict[str, Any]]) -> None:
    if not operators:
        return
    table = Table(title="operators", title_justify="left", box=None, padding=(0, 2))
    for heading in ("operator", "opset", "converted by", "nodes"):
        table.add_column(heading, justify="right" if heading == "nodes" else "left")
    for one in sorted(operators, key=lambda one: -one["count"])[:_LISTED]:
        domain = "" if one["domain"] == "ai.onnx" else f"{one['domain']}."
        table.add_row(_plain(f"{domain}{one['op']}"), str(one["opset"]), one["by"], str(one["count"]))
    if len(operators) > _LISTED:
        table.add_row(f"and {len(operators) - _LISTED} more kinds", "", "", "")
    console.print(table)


def _show_obstacles(console: Console, obstacles: list[dict[str, Any]]) -> None:
    for one in obstacles[:_LISTED]:
        console.print(
            f"[yellow]in the way[/yellow] {_plain(one['op'])} at {_plain(shown(one['node']))}: {_plain(one['why'])}"
        )
        if one["remedy"]:
            console.print(f"  {_plain(one['remedy'])}")
    if len(obstacles) > _LISTED:
        console.print(f"and {len(obstacles) - _LISTED} more; --json has the first thousand")
