"""Measures what is converted, and writes docs/coverage.md.

    python -m benchmarks.coverage [PART …] [--again] [--write]

Parts: nodes, gradients, architectures, zoo, speed, inspecting; all if none is named. The architectures are
exported first, which takes an hour or two, once; a stopped run goes on where it was. ``--write`` measures nothing and
writes the document from the results at hand. Needs timm, and skl2onnx for the models of scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..results import commit
from . import architectures, gradients, inspecting, nodes, speed, zoo
from .common import table, versions

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
VENDORS = "## Classifiers out of public packages"
PARTS: dict[str, Any] = {
    "nodes": nodes,
    "gradients": gradients,
    "architectures": architectures,
    "zoo": zoo,
    "speed": speed,
    "inspecting": inspecting,
}


def document() -> str:
    """All results at hand."""
    lines = [line for part in PARTS.values() for line in part.summary()]
    parts = [
        "# Coverage of the conversion",
        f"Written by `python -m benchmarks.coverage`, not by hand; commit {commit()}, {versions()}.",
        table(["what", "bar", "measured"], lines),
        *(part.section() for part in PARTS.values()),
    ]
    whole = "\n\n".join(part for part in parts if part) + "\n"
    _, heading, vendors = DOCUMENT.read_text(encoding="utf-8").partition(VENDORS)  # which benchmarks/vendor.py writes
    return whole + (f"\n{heading}{vendors}" if heading else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--again", action="store_true", help="convert and compare again what was done before")
    parser.add_argument("--write", action="store_true", help="only write the document")
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    for name in [] if options.write else options.parts or PARTS:
        print(f"# {name}", flush=True)
        if name == "architectures":
            architectures.run(again=options.again)
        else:
            PARTS[name].run()
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"written: docs/{DOCUMENT.name}")


if __name__ == "__main__":
    main()
