"""Keep measured figures, with the commit they were measured at, in records.jsonl; render RESULTS.md from them.

A record is one line of JSON, the table's title and the row. ``notes.md`` holds what is written by hand: headings, prose
and small comparisons; under a heading ``<!-- records -->`` stands for the table of that title. After an edit of
notes.md ``python benchmarks/results.py`` writes RESULTS.md anew.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
RECORDS = HERE / "records.jsonl"
NOTES = HERE / "notes.md"
FILE = HERE / "RESULTS.md"

_TABLE = "<!-- records -->"
_NONE = "–"  # a cell of a column that a row does not have


def append(title: str, figures: dict[str, object]) -> None:
    """Append a row to the table called ``title``, and write RESULTS.md anew."""
    row = {**figures, "commit": commit()}
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "results.lock"):
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": title, "row": row}, ensure_ascii=False, default=str) + "\n")
        FILE.write_text(render(), encoding="utf-8")
    print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def render() -> str:
    """Return RESULTS.md: the notes with their headings' tables, and after them the tables that notes do not name."""
    tables = _tables()
    text = NOTES.read_text(encoding="utf-8") if NOTES.exists() else "# Results\n"
    lines, heading = list[str](), ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        lines += _markdown(tables.pop(heading, [])) if line == _TABLE else [line]
    for title, rows_ in tables.items():
        lines += ["", f"## {title}", "", *_markdown(rows_)]
    return "\n".join(lines).rstrip() + "\n"


def rows(title: str) -> list[dict[str, str]]:
    """Return the rows of the table called ``title``, by the names of its columns, as RESULTS.md shows them."""
    return _tables().get(title, [])


def seen(title: str, **cell: object) -> bool:
    """Tell whether the table called ``title`` has a row with these values; if so, print that, with the row's commit."""
    wanted = {column: str(value) for column, value in cell.items()}
    commits = [row["commit"] for row in rows(title) if wanted.items() <= row.items()]
    if commits:
        print(f"{title}: {', '.join(wanted.values())}: not run, there is a row of {commits[-1]}", flush=True)
    return bool(commits)


def commit() -> str:
    """Return the commit of the code, with a plus if code that figures depend on was changed since."""
    prose = [":!benchmarks/RESULTS.md", ":!benchmarks/notes.md", ":!benchmarks/*.jsonl"]
    changed = _git("status", "--porcelain", "--", "onnxcake", "recipes", "benchmarks", *prose)
    return (_git("rev-parse", "--short", "HEAD") or "?") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    said = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True)
    return said.stdout.strip()


def _tables() -> dict[str, list[dict[str, str]]]:
    """Read all records: the rows of each table, in the order of appearance."""
    tables = dict[str, list[dict[str, str]]]()
    for line in RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []:
        record = json.loads(line)
        row = {column: str(value).replace("|", "∣") for column, value in record["row"].items()}
        tables.setdefault(record["table"], []).append(row)
    return tables


def _markdown(table: list[dict[str, str]]) -> list[str]:
    if not table:
        return ["No rows yet."]
    columns = [*dict.fromkeys(column for row in table for column in row if column != "commit"), "commit"]
    cells = [[row.get(column, _NONE) for column in columns] for row in table]
    return [_line(columns), _line("---" for _ in columns), *map(_line, cells)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
