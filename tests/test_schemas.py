"""The schemas in docs/schemas are those of the dataclasses, and what commands print keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from in_process import command
from pydantic import TypeAdapter

from onnxcake.report.report import Report, Verification
from onnxcake.report.shrink_report import Shrinkage

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits.onnx"
KINDS: dict[str, tuple[Any, tuple[object, ...]]] = {
    "report": (Report, ("extract", DIGITS, "--passes", "5e3", "--out", "run")),
    "verification": (Verification, ("verify", DIGITS, DIGITS)),
    "shrinkage": (Shrinkage, ("shrink", DIGITS, "-o", "small.onnx")),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_schema_is_of_its_dataclass_and_holds_of_what_is_printed(name: str, tmp_path: Path) -> None:
    kind, arguments = KINDS[name]
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text())
    assert schema == TypeAdapter(kind).json_schema(), "write it anew: python -m benchmarks.schemas"
    ended = command(*arguments, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    jsonschema.validate(ended.told, schema)
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError, match=key):
            jsonschema.validate({other: value for other, value in ended.told.items() if other != key}, schema)
