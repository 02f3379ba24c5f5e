"""Is what our onnxruntime process answers what a plain InferenceSession answers, at each optimisation level?

    python -m benchmarks.reference [--graphs 200] [--files FOLDER] [--only PART OF A NAME] [--again]

Subjects: all files of the zoo (benchmarks/coverage/zoo_rows.py), generated channels-last graphs, and every .onnx file
in a folder given. Each is read as a teacher is, and run through `onnxcake.runtime.ort.Runtime`, its weights handed over
beside it. It is compared with two plain sessions: of the same graph with its weights inside, and, where input and
output are the file's own, of the file itself by path. Figures are the largest difference over the largest answer.
They are kept in benchmarks/.cache/reference.json as they come; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from benchmarks.coverage.timm_models import quiet
from benchmarks.coverage.zoo_rows import ROWS
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise
from onnxcake.onnxfile.rename import SafeGraph
from onnxcake.runtime.ort import Level, Runtime
from onnxcake.teacher.options import TeacherOptions

HERE = Path(__file__).resolve().parent
KEPT = HERE / ".cache" / "reference.json"
BAR = 1e-6
FILLED = (96, 48, 576)  # open sizes: pictures of two kinds, and sound
RATE = 16_000  # of speech, where a file asks for it
LEVELS: tuple[Level, ...] = get_args(Level)
_ORT = dict(zip(LEVELS, ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL"), strict=True))
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """A file to be made in a folder, and what may be said of it: the first that onnxruntime runs."""

    name: str
    make: Callable[[Path], Path]
    options: Sequence[dict[str, Any]] = ({},)


def subjects(graphs: int, files: Path | None) -> Iterator[Subject]:
    """List all subjects."""
    for row in ROWS:
        yield Subject(f"zoo: {row.name}", lambda folder, row=row: row.make(folder).path, [row.options])  # type: ignore[misc]
    sys.path.append(str(HERE.parent / "tests"))
    from nhwc_graphs import random_nhwc

    for seed in range(graphs):

        def generated(folder: Path, seed: int = seed) -> Path:
            onnx.save(random_nhwc(seed), folder / "model.onnx")
            return folder / "model.onnx"

        yield Subject(f"nhwc: {seed}", generated)
    for path in sorted(files.rglob("*.onnx")) if files is not None else ():
        name = f"file: {path.relative_to(files or path)}"
        yield Subject(name, lambda folder, path=path: path, [said_of(path, size) for size in FILLED])  # type: ignore[misc]


def said_of(path: Path, filled: int) -> dict[str, Any]:
    """Say of a file what it leaves open: the first input is the one, further ones are held, open sizes are filled."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # noqa: BLE001 - reading it will say so
        return {}
    weights = {weight.name for weight in graph.initializer}
    first, *others = (value for value in graph.input if value.name not in weights)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in (first, *others)}
    said: dict[str, Any] = {"input": first.name} if others else {}
    if others or 0 in shapes[first.name][1:]:
        said["shape"] = [1, *(size or filled for size in shapes[first.name][1:])]
    said["constants"] = {value.name: RATE if value.name == "sr" else 0 for value in others}
    said["shapes"] = {value.name: [size or 1 for size in shapes[value.name]] for value in others if shapes[value.name]}
    return said


def compare(runtime: Runtime, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Compare one file at each level; the largest differences, or why there are none."""
    said = TeacherOptions.of(**options)
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
    held = _held(path, said)
    x = _inputs(safe, 1 if held else 3)
    found: dict[str, Any] = {"inside": 0.0, "file": None, "levels": 0, "refused": []}
    for level in LEVELS:
        try:
            want = _plain(whole.SerializeToString(), level, None, {"input": x})
        except Exception as error:  # noqa: BLE001 - what onnxruntime refuses itself at this level
            found["refused"].append(f"{level}: {str(error).splitlines()[0][:100]}")
            continue
        session = runtime.load(part.SerializeToString(), 1, weights, arithmetic="host", level=level)
        got = session.run(x)
        session.close()
        found["levels"] += 1
        found["inside"] = max(found["inside"], _relative(got, want))
        own = _own(path, safe, output, level, {safe.input_name: x, **held})
        if own is not None:
            found["file"] = max(found["file"] or 0.0, _relative(got, own))
    return found


def _held(path: Path, said: TeacherOptions) -> dict[str, Array]:
    """The held inputs as a plain session takes them."""
    known = {value.name: value.type.tensor_type for value in onnx.load(path, load_external_data=False).graph.input}
    shapes = dict(said.shapes)
    return {
        name: np.full(shapes.get(name, ()), value, helper.tensor_dtype_to_np_dtype(known[name].elem_type))
        for name, value in said.constants.items()
        if name in known and not isinstance(value, tuple)
    }


def _inputs(safe: SafeGraph, batch: int) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(safe.input_type)
    x = np.random.default_rng(7).normal(size=(safe.batch or batch, *safe.input_shape))
    return np.abs(x * 40).astype(dtype) if dtype.kind in "iu" else x.astype(dtype)


def _plain(model: bytes | str, level: Level, output: str | None, feed: dict[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{_ORT[level]}")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None if output is None else [output], feed)[0])


def _own(path: Path, safe: SafeGraph, output: str, level: Level, feed: dict[str, Array]) -> Array | None:
    """Ask a plain session of the file itself; None where it takes or gives something else than our graph."""
    try:
        answer = _plain(str(path), level, safe.outputs[output], feed)
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
                    for options in subject.options:
                        kept[subject.name] = compare(runtime, path, options)
                        if kept[subject.name]["levels"]:
                            break
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
