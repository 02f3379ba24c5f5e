"""Is what our onnxruntime process answers what a plain InferenceSession answers, at each optimisation level?

    python -m benchmarks.reference [--graphs 200] [--files FOLDER] [--only PART OF A NAME] [--again]

Subjects: all files of the zoo (benchmarks/coverage/zoo_rows.py), generated channels-last graphs, and every .onnx file
in a folder given. Each is read as a teacher is, and run through `onnxcake.ort.Runtime` with the weights handed over
beside it. It is compared with two plain sessions: of the same graph with its weights inside, and, where input and
output are the file's own, of the file itself by path. Figures are the largest difference over the largest answer.
They are kept in benchmarks/.cache/reference.json as they come; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from benchmarks.coverage.timm_models import quiet
from benchmarks.coverage.zoo_rows import ROWS
from onnxcake.graph.load import load
from onnxcake.graph.normalise import normalise
from onnxcake.graph.rename import SafeGraph
from onnxcake.ort import Level, Runtime
from onnxcake.teacher import Options

HERE = Path(__file__).resolve().parent
KEPT = HERE / ".cache" / "reference.json"
BAR = 1e-6
LEVELS: tuple[Level, ...] = get_args(Level)
_ORT = dict(zip(LEVELS, ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL"), strict=True))
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """A file to be made in a folder, and what is said of it."""

    name: str
    make: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)


def subjects(graphs: int, files: Path | None) -> Iterator[Subject]:
    """List all subjects."""
    for row in ROWS:
        yield Subject(f"zoo: {row.name}", lambda folder, row=row: row.make(folder).path, row.options)  # type: ignore[misc]
    sys.path.append(str(HERE.parent / "tests"))
    from nhwc_graphs import random_nhwc

    for seed in range(graphs):

        def generated(folder: Path, seed: int = seed) -> Path:
            onnx.save(random_nhwc(seed), folder / "model.onnx")
            return folder / "model.onnx"

        yield Subject(f"nhwc: {seed}", generated)
    for path in sorted(files.rglob("*.onnx")) if files is not None else ():
        yield Subject(f"file: {path.relative_to(files or path)}", lambda folder, path=path: path)  # type: ignore[misc]


def compare(runtime: Runtime, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Compare one file at each level; the largest differences, or why there are none."""
    said = Options.of(**options)
    safe = normalise(load(path), said.choice)
    output = next(iter(safe.outputs))
    part = safe.cut(output)
    weights = safe.beside(part)
    whole = onnx.ModelProto()
    whole.CopyFrom(part)
    for tensor in whole.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = weights[tensor.name].tobytes()
    x = _inputs(safe)
    found: dict[str, Any] = {"inside": 0.0, "file": None, "levels": 0, "refused": []}
    for level in LEVELS:
        try:
            want = _plain(whole.SerializeToString(), level, None, "input", x)
        except Exception as error:  # noqa: BLE001 - what onnxruntime refuses itself at this level
            found["refused"].append(f"{level}: {str(error).splitlines()[0][:100]}")
            continue
        session = runtime.load(part.SerializeToString(), 1, weights, arithmetic="host", level=level)
        got = session.run(x)
        session.close()
        found["levels"] += 1
        found["inside"] = max(found["inside"], _relative(got, want))
        own = _own(path, safe, output, level, x)
        if own is not None:
            found["file"] = max(found["file"] or 0.0, _relative(got, own))
    return found


def _inputs(safe: SafeGraph) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(safe.input_type)
    x = np.random.default_rng(7).normal(size=(safe.batch or 3, *safe.input_shape))
    return np.abs(x * 40).astype(dtype) if dtype.kind in "iu" else x.astype(dtype)


def _plain(model: bytes | str, level: Level, output: str | None, source: str, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{_ORT[level]}")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None if output is None else [output], {source: x})[0])


def _own(path: Path, safe: SafeGraph, output: str, level: Level, x: Array) -> Array | None:
    """Ask a plain session of the file itself; None where it takes or gives something else than our graph."""
    try:
        answer = _plain(str(path), level, safe.outputs[output], safe.input_name, x)
    except Exception:  # noqa: BLE001 - other inputs are asked for, or the value lies inside
        return None
    return None if answer.dtype.hasobject else answer


def _relative(got: Array, want: Array) -> float:
    if got.shape != want.shape:
        return float("inf")
    got, want = got.astype(np.float64), want.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    finite = np.isfinite(want)
    if not (same | np.isfinite(got) & finite).all():
        return float("inf")
    return float(np.abs(got - want)[finite].max(initial=0)) / max(float(np.abs(want[finite]).max(initial=0)), 1e-30)


def main() -> None:
    """Compare all subjects that are not kept yet, and print the table's last lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true", help="compute what is kept once more")
    asked = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    KEPT.parent.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() and not asked.again else {}
    with Runtime() as runtime:
        for subject in subjects(asked.graphs, asked.files):
            if subject.name in kept or asked.only not in subject.name:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    with quiet():
                        path = subject.make(Path(folder))
                    kept[subject.name] = compare(runtime, path, subject.options)
                except Exception as error:  # noqa: BLE001 - what cannot be read is no subject; it is listed
                    kept[subject.name] = {"unread": str(error).splitlines()[0].replace(folder, "…")[:200]}
            print(subject.name, kept[subject.name], flush=True)
            KEPT.write_text(json.dumps(kept, indent=1))
    summary(kept)


def summary(kept: dict[str, Any]) -> None:
    """Print how many agree, the largest difference of each kind, and what was not compared."""
    for kind in ("zoo", "nhwc", "file"):
        found = {name: one for name, one in kept.items() if name.startswith(kind)}
        read = {name: one for name, one in found.items() if one.get("levels")}
        if not found:
            continue
        worst = {name: max(one["inside"], one["file"] or 0.0) for name, one in read.items()}
        own = sum(one["file"] is not None for one in read.values())
        print(
            f"{kind}: {len(found)} subjects, {len(read)} compared ({own} with the file itself), "
            f"{sum(value <= BAR for value in worst.values())} within {BAR:g}, "
            f"{sum(value == 0 for value in worst.values())} to the bit; largest {max(worst.values(), default=0):.1e}"
        )
        for name, one in found.items():
            if name not in read or worst[name] > BAR or one["refused"]:
                print(f"  {name}: {one}")


if __name__ == "__main__":
    main()
