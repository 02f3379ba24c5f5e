"""A complete report of a small run, made of plain data with what a test changes."""

from __future__ import annotations

from typing import Any

from onnxcake.core import json_files
from onnxcake.report.report import FORMAT, Report


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def report(**changed: Any) -> Report:
    """Read a report back from plain data, as from its file; ``teacher`` and ``student`` change single entries."""
    sides = {
        "teacher": {
            "file": "t.onnx",
            "sha256": "0" * 64,
            "bytes": 24_167,
            "parameters": 5733,
            "torch_vs_onnxruntime": 1e-6,
            **{"input_name": "x", "input_shape": [4], "output_name": "y", "output_kind": "logits", "classes": 3},
        },
        "student": {
            "file": "student.onnx",
            "sha256": "1" * 64,
            "bytes": 12_700,
            "parameters": 2732,
            "torch_vs_onnxruntime": 1e-6,
            **{"architecture": "auto", "steps": 5, "learning_rate": 1e-3},
        },
    }
    data = {
        "format": FORMAT,
        "key": "2" * 64,
        "alarms": [],
        "agreement": {"held_out": {"samples": 128, "agreement": figure(0.5), "kl": figure(0.1)}},
        "without_data": None,
        "probe": None,
        "set": {"store_key": "3" * 64, "samples": 100, "held_out_samples": 20, "discarded_starts": 0},
        "substitutes": [],
        "curve": [],
        "latency_ms": {"threads": 1, "teacher": 0.01, "student": 0.013},
        **{"recipe": {}, "seed": 0, "budget": None, "plan": {}, "versions": {}},
        "spent": {"seconds": {}, "teacher_passes": 0, "teacher_queries": 0},
    }
    given = {side: {**about, **changed.pop(side, {})} for side, about in sides.items()}
    return json_files.of({**data, **given, **changed}, Report)
