"""The student cut out of the teacher against named ones, and by what it is cut.

    python benchmarks/students.py TEACHERS_DIR DATA_DIR [--budget 5m] [--seeds 3] [--teachers vit] [--students auto]
    python benchmarks/students.py TEACHERS_DIR DATA_DIR --passes 150e3 --students 'channels, by responses;…'

TEACHERS_DIR holds the hard teachers: a small CNN on MNIST with BatchNormalization folded into its convolutions, the
same unfolded, and a ViT. All students of a teacher learn by the same recipe for the same time, or from as many teacher
passes for as many steps: DeepInversion, or, as a ViT offers no statistics, the same without them, DeepDream. The named
ones have no fewer parameters than the one that is cut. ``before`` is the agreement of a cut student on the test images
before it learns anything. Each cell is appended to RESULTS.md as it is finished, and skipped if it is there; two
processes may fill one table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import results
from teachers import CACHE

from onnxcake import verify
from onnxcake.commands.bench import bench
from onnxcake.core.progress import Progress
from onnxcake.recipe.limits import Budget
from onnxcake.run.folder import REPORT, START
from onnxcake.run.prepare import Request
from onnxcake.teacher.autotune import threads_given
from onnxcake.teacher.options import TeacherOptions

# Shifts in place of mirror images: digits have a left and a right. Adam, as weights are inherited.
OVERRIDES = (
    "synthesis.augment={jitter: {pixels: 2}}",
    "synthesis.steps=200",
    "student.augment={crop: {}}",
    "student.optimiser={adam: {lr: 1e-3}}",
    "student.learning_rate={cosine: {final: 0.01}}",
)


@dataclass(frozen=True)
class Hard:
    """A teacher's file, the recipe for it, and named students of no fewer parameters than half of it."""

    file: str
    recipe: str
    named: tuple[str, ...]


TEACHERS = {
    "folded": Hard("mnist-cnn-batchnorm-folded.onnx", "deepinversion", ("lenet5-half", "{cnn-small: {width: 10}}")),
    "unfolded": Hard("mnist-cnn-batchnorm.onnx", "deepinversion", ("lenet5-half", "{cnn-small: {width: 10}}")),
    "vit": Hard("mnist-vit.onnx", "deepdream", ("lenet5", "{vit-small: {dim: 32, mlp: 64, depth: 4}}")),
}
_PASSES = " passes"
CUT = {
    "auto": "{auto: {keep: 0.5}}",
    "channels, by responses": "{auto: {keep: 0.5, low_rank: tied}}",
    "channels, by weights": "{auto: {keep: 0.5, low_rank: tied, score: weights}}",
    "channels, at random": "{auto: {keep: 0.5, low_rank: tied, score: random}}",
}


def title(budget: str) -> str:
    """The heading in RESULTS.md."""
    return f"Students of the hard teachers at half the parameters, {budget} each"


def budget_of(text: str) -> Budget:
    """A time, as ``5m``, or a number of teacher passes, as ``150e3 passes``."""
    passes = text.removesuffix(_PASSES)
    return Budget.of(text) if passes == text else Budget.of(None, passes)


def test_images(data: Path) -> Path:
    """MNIST's test images as these teachers take them, for ``--probe``."""
    path = CACHE / "mnist-28-test.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        with np.load(data / "mnist.npz") as file:
            np.savez(path, x=(file["x_test"][:, None] / 255).astype(np.float32), y=file["y_test"])
    return path


def run(teachers: Path, data: Path, budget: str, seeds: int, names: Sequence[str], students: Sequence[str]) -> None:
    """Fills the table."""
    for seed in range(seeds):
        for name in names:
            for student in students or (*CUT, *TEACHERS[name].named):
                if not results.seen(title(budget), teacher=name, student=student, seed=seed):
                    results.append(title(budget), _cell(teachers, data, budget, seed, name, student))


def _cell(teachers: Path, data: Path, budget: str, seed: int, name: str, student: str) -> dict[str, object]:
    hard, probe = TEACHERS[name], test_images(data)
    file = teachers / hard.file
    request = Request(
        teacher=file,
        out=CACHE / f"students-{budget.replace(' ', '-')}" / name / "".join(filter(str.isalnum, student)),
        options=TeacherOptions(range=(0.0, 1.0)),
        probe=probe,
        overrides=OVERRIDES,
    )
    architecture = CUT.get(student, student)
    table = bench(
        request, [hard.recipe], student=architecture, budget=budget_of(budget), seeds=[seed], progress=Progress()
    )
    cell, folder = table.cell(hard.recipe, seed), request.folder / hard.recipe / f"seed-{seed}"
    start, report = folder / START, _report(folder / REPORT)
    before = verify(file, start, probe=probe).as_dict()["agreement"]["probe"] if start.exists() else None
    share = "{:.4f}".format
    return {
        "teacher": name,
        "recipe": hard.recipe,
        "student": student,
        "parameters": "–" if report is None else report["student"]["parameters"],
        "seed": seed,
        "before": "–" if before is None else share(before["agreement"]["value"]),
        "agreement": "–" if cell.agreement is None else share(cell.agreement),
        "teacher passes": f"{cell.teacher_passes:,}",
        "student steps": f"{cell.student_steps:,}",
        "seconds": f"{cell.seconds:.0f}",
        "threads": threads_given(),
        "note": cell.reason or "–",
    }


def _report(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--passes", help="in place of a time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teachers", dest="names", type=lambda text: text.split(","), default=list(TEACHERS))
    parser.add_argument("--students", type=lambda text: text.split(";"), default=[], help="with semicolons between")
    options = parser.parse_args(arguments)
    budget = options.budget if options.passes is None else f"{options.passes}{_PASSES}"
    run(options.teachers, options.data, budget, options.seeds, options.names, options.students)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
