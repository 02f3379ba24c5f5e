"""Fills a table of RESULTS.md, from where it was left.

    benchmarks/run TABLE DATA_DIR [options of the table's own script]

A table may be filled over several days and from several commits: each cell is appended when it is done, with the
commit, and skipped from then on. To measure a cell again, remove its line from records.jsonl.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it

import across_models
import across_scales
import methods

TABLES: dict[str, tuple[Callable[[Sequence[str]], int], list[str], str]] = {
    "methods": (methods.main, ["--budget", "3m", "--seeds", "1"], "all methods, 3 minutes each"),
    "methods-best": (
        methods.main,
        ["--budget", "10m", "--seeds", "3", "--best", "6"],
        "the best six of those, 10 minutes each, three seeds",
    ),
    "across-scales": (across_scales.main, [], "one teacher, students of falling size"),
    "across-models": (across_models.main, [], "MLP, CNN, ResNet and ViT, each of each"),
}


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] not in TABLES:
        print(__doc__)
        for name, (_, options, what) in TABLES.items():
            print(f"    {name:14} {what} {' '.join(options)}".rstrip())
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    fill, options, _ = TABLES[arguments[0]]
    return fill([arguments[1], *options, *arguments[2:]])


if __name__ == "__main__":
    raise SystemExit(main())
