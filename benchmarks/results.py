"""Appends measured figures to RESULTS.md, with the commit they were seen at; knows which are there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
FILE = HERE / "RESULTS.md"


def append(title: str, figures: dict[str, object]) -> None:
    """Adds a row to the table called ``title``, which is made if it is not there."""
    row = {**figures, "commit": commit()}
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "results.lock"):
        _insert(title, row)
    print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def _insert(title: str, row: dict[str, object]) -> None:
    lines = _lines() or ["# Results"]
    heading = f"## {title}"
    if heading not in lines:
        lines += ["", heading, "", _line(row.keys()), _line("---" for _ in row)]
    at = lines.index(heading) + 2
    while at < len(lines) and lines[at].startswith("|"):
        at += 1
    lines.insert(at, _line(row.values()))
    FILE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def rows(title: str) -> list[dict[str, str]]:
    """The rows of the table called ``title``, by the names of its columns; none if it is not there."""
    lines, heading = _lines(), f"## {title}"
    if heading not in lines:
        return []
    table = []
    for line in lines[lines.index(heading) + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [dict(zip(table[0], cells, strict=False)) for cells in table[2:]]


def seen(title: str, **cell: object) -> bool:
    """Whether the table called ``title`` has a row with these values already, which it says, with the row's commit."""
    wanted = {column: str(value) for column, value in cell.items()}
    commits = [row["commit"] for row in rows(title) if wanted.items() <= row.items()]
    if commits:
        print(f"{title}: {', '.join(wanted.values())}: not run, there is a row of {commits[-1]}", flush=True)
    return bool(commits)


def commit() -> str:
    """The commit of the code, with a plus if what computes the figures was changed since."""
    code = ["onnxcake", "recipes", "benchmarks", ":!benchmarks/RESULTS.md", ":!benchmarks/*.jsonl"]
    changed = _git("status", "--porcelain", "--", *code)
    return (_git("rev-parse", "--short", "HEAD") or "?") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    said = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True)
    return said.stdout.strip()


def _lines() -> list[str]:
    return FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "∣") for cell in cells) + " |"
