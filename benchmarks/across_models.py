"""Across models: MLP, CNN, ResNet and ViT as teacher × the same as student. Does the method care what they are?

    python benchmarks/across_models.py DATA_DIR [--budget 3m] [--seeds 1] [--method cake-mnist]

The question of the CAKE paper, on MNIST. The teachers are trained first and kept. Students learn by AdamW, which suits
them all. Each cell is appended to RESULTS.md as it is finished, and skipped if it is there. Writes
docs/across-models-METHOD.png: agreement, teachers in rows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import methods
import results
from teachers import CACHE, FAMILIES, OPTIONS, images_file, teacher

from onnxcake.commands.bench import bench
from onnxcake.core import files
from onnxcake.core.progress import Progress
from onnxcake.recipe.limits import Budget
from onnxcake.report.curves import grid_png
from onnxcake.run.prepare import Request

NAMES = ("mlp", "cnn", "resnet", "vit")
LEARNING = "student.optimiser={adamw: {lr: 3e-3}}"


def title(method: str, budget: str) -> str:
    """The heading in RESULTS.md."""
    return f"Across models: MNIST, {method}, {budget} each"


def run(data: Path, method: str, budget: str, seeds: int) -> None:
    """Fills the table."""
    heading = title(method, budget)
    for seed, name, learner in [(seed, name, learner) for seed in range(seeds) for name in NAMES for learner in NAMES]:
        if results.seen(heading, teacher=name, student=learner, seed=seed):
            continue
        request = Request(
            teacher=teacher(data, name),
            out=CACHE / f"across-models-{budget}" / f"{name}-{learner}",
            options=OPTIONS,
            probe=images_file(data, "test"),
            data=images_file(data, "train"),
        )
        table = bench(
            request,
            [method],
            student=FAMILIES[learner].as_student,
            budget=Budget.of(budget),
            seeds=[seed],
            only={method: (*methods.METHODS[method].overrides, LEARNING)},
            progress=Progress(),
        )
        cell = table.cell(method, seed)
        figures = methods.row(cell)
        del figures["published accuracy, %"], figures["method"]
        accuracy = "–" if cell.teacher_accuracy is None else f"{cell.teacher_accuracy:.4f}"
        results.append(heading, {"teacher": name, "student": learner, "teacher accuracy": accuracy, **figures})
        files.write_atomic(methods.DOCS / f"across-models-{method}.png", picture(method, budget))


def picture(method: str, budget: str) -> bytes:
    """Mean agreement over seeds, out of RESULTS.md."""
    done = [row for row in results.rows(title(method, budget)) if row["agreement"] != "–"]

    def mean(name: str, learner: str) -> float | None:
        found = [float(row["agreement"]) for row in done if (row["teacher"], row["student"]) == (name, learner)]
        return statistics.fmean(found) if found else None

    values = [[mean(name, learner) for learner in NAMES] for name in NAMES]
    return grid_png(NAMES, NAMES, values, f"MNIST, {method}: agreement of student (column)\nwith teacher (row)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--method", default="cake-mnist")
    options = parser.parse_args(arguments)
    run(options.data, options.method, options.budget, options.seeds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
