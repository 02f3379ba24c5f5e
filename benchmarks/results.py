"""Appends measured figures to RESULTS.md, with the commit they were seen at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE / "RESULTS.md"


def append(title: str, figures: dict[str, object]) -> None:
    """Adds a row to the table called ``title``, which is made if it is not there."""
    row = {**figures, "commit": commit()}
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else ["# Results"]
    heading = f"## {title}"
    if heading not in lines:
        lines += ["", heading, "", _line(row.keys()), _line("---" for _ in row)]
    at = lines.index(heading) + 2
    while at < len(lines) and lines[at].startswith("|"):
        at += 1
    lines.insert(at, _line(row.values()))
    FILE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in row.items()))


def commit() -> str:
    """The commit of the code, with a plus if it was changed since."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=HERE, capture_output=True, text=True
    )
    return said.stdout.strip() or "?"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
