"""Measure agreement before any training where low-rank factors are fitted to the teacher's layers, on real test data.

    python benchmarks/reconstruction.py TEACHERS_DIR DATA_DIR [--rows folded,digits,resnet20] [--keep 0.5,0.25]

Rows are those of fidelity.py, and the networks of cifar.py. Where channels are cut nothing is fitted, and there is no
row. Rows are appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cifar
import fidelity
import results

import onnxcake
from onnxcake.core.rng import Key
from onnxcake.pruning import cut_student
from onnxcake.pruning.goal import Goal
from onnxcake.runtime.ort import Runtime

TITLE = "Low-rank factors before training, by singular values alone and fitted to the teacher's layers"


def files(name: str, teachers: Path, data: Path) -> fidelity.Files:
    """The teacher of a row."""
    if name in fidelity.ROWS:
        return fidelity.ROWS[name](teachers, data)
    said = {"range": (0.0, 1.0), "mean": cifar.MEAN, "std": cifar.STD}
    return fidelity.Files(cifar.teacher(data, name), cifar.images_file(data, "test", 10_000), said)


def row(name: str, keep: float, there: fidelity.Files) -> dict[str, object] | None:
    """Make one cut; None if it was not into low-rank factors."""
    teacher = onnxcake.Teacher.load(there.teacher, **there.said)
    seen: list[tuple[bytes, bytes, float]] = []

    def watched(content: bytes, *rest: object) -> bytes:
        start = time.perf_counter()
        fitted = inner(content, *rest)  # type: ignore[arg-type]
        seen.append((content, fitted, time.perf_counter() - start))
        return fitted

    inner, cut_student.reconstructed = cut_student.reconstructed, watched
    try:
        with Runtime() as runtime:
            pruned = cut_student.cut_of(teacher, Goal(keep=keep), "weights", Key(0), runtime)
    finally:
        cut_student.reconstructed = inner
    if not seen:
        return None
    before, after, seconds = seen[0]
    agreement = []
    for content in (before, after):
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            Path(file.name).write_bytes(content)
            report = onnxcake.verify(there.teacher, file.name, probe=there.probe).as_dict()
        agreement.append(report["agreement"]["probe"]["agreement"]["value"])
    return {
        "teacher": name,
        "parameters": f"{pruned.parameters[1]:,} of {pruned.parameters[0]:,}",
        "singular values": f"{agreement[0]:.4f}",
        "fitted": f"{agreement[1]:.4f}" if after != before else "not taken",
        "seconds": f"{seconds:.1f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=[*fidelity.ROWS, "resnet20-folded"])
    parser.add_argument("--keep", type=lambda text: [float(share) for share in text.split(",")], default=[0.5, 0.25])
    said = parser.parse_args()
    results.CACHE.mkdir(exist_ok=True)
    for name in said.rows:
        there = files(name, said.teachers, said.data)
        for keep in said.keep:
            if (found := row(name, keep, there)) is not None:
                results.append(TITLE, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
