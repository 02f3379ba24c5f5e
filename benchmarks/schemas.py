"""Write docs/schemas: the JSON schemas of what ``extract``, ``verify`` and ``shrink`` print with ``--json``."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from onnxcake.report.report import Report, Verification
from onnxcake.report.shrink_report import Shrinkage

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"

if __name__ == "__main__":
    for kind in (Report, Verification, Shrinkage):
        schema = json.dumps(TypeAdapter(kind).json_schema(), indent=2)
        (FOLDER / f"{kind.__name__.lower()}.schema.json").write_text(schema + "\n")
