"""A session of onnxruntime as everybody makes one, for what ours and the converted graph are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import onnxruntime

from onnxcake.onnxfile.exact_integers import exact
from onnxcake.runtime.ort import EXACT, Arithmetic, Level

onnxruntime.set_default_logger_severity(4)
LEVELS: tuple[Level, ...] = get_args(Level)
NOTHING: Mapping[str, str] = {}
_NAMES = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL")


def plain_session(
    model: bytes, arithmetic: Arithmetic = "exact", level: Level = "all", entries: Mapping[str, str] = NOTHING
) -> onnxruntime.InferenceSession:
    """Make a session of a file's content, with one thread.

    Args:
        arithmetic: "exact" is what a quantised file means on any processor: see `onnxcake.onnxfile.exact_integers`.
        entries: further entries of its configuration.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = getattr(levels, f"ORT_{_NAMES[LEVELS.index(level)]}")
    for entry in {**(EXACT if arithmetic == "exact" else {}), **entries}.items():
        options.add_session_config_entry(*entry)
    model = exact(model) if arithmetic == "exact" else model
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
