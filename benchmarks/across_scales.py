"""Across scales: one teacher, students of falling size. How much does the method lose with the student's capacity?

    python benchmarks/across_scales.py DATA_DIR [--budget 3m] [--seeds 1] [--methods cake-mnist,kd]

The question of the CAKE paper, on MNIST: a small convolutional teacher, and students of its own family down to a
fortieth of its parameters. Each cell is appended to RESULTS.md as it is finished, and skipped if it is there. Writes
docs/across-scales.png: agreement against the student's parameters.
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
from onnxcake.report.curves import Curve, curves_png
from onnxcake.run.prepare import Request
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.student import count
from onnxcake.teacher.signature import Signature

TEACHER = "cnn"
WIDTHS = (8, 6, 4, 3, 2, 1)
PICTURE = methods.DOCS / "across-scales.png"


def title(budget: str) -> str:
    """The heading in RESULTS.md."""
    return f"Across scales: MNIST, {FAMILIES[TEACHER].architecture} → narrower ones, {budget} each"


def parameters(width: int) -> int:
    """Of the student of that width."""
    return count(ARCHITECTURES["cnn-small"](Signature("image", (1, 32, 32), "logits", "logits", 10), width=width))


def run(data: Path, budget: str, seeds: int, names: Sequence[str]) -> None:
    """Fills the table."""
    cells = [(seed, name, width) for seed in range(seeds) for name in names for width in WIDTHS]
    for seed, name, width in cells:
        if results.seen(title(budget), method=name, width=width, seed=seed):
            continue
        request = Request(
            teacher=teacher(data, TEACHER),
            out=CACHE / f"across-scales-{budget}" / f"width-{width}",
            options=OPTIONS,
            probe=images_file(data, "test"),
            data=images_file(data, "train"),
        )
        table = bench(
            request,
            [name],
            student=f"{{cnn-small: {{width: {width}}}}}",
            budget=Budget.of(budget),
            seeds=[seed],
            only={name: methods.METHODS[name].overrides},
            progress=Progress(),
        )
        figures = methods.row(table.cell(name, seed))
        del figures["published accuracy, %"]
        results.append(title(budget), {"method": name, "width": width, "parameters": parameters(width), **figures})
        files.write_atomic(PICTURE, picture(budget))


def picture(budget: str) -> bytes:
    """Agreement against the student's parameters, out of RESULTS.md: mean and deviation over seeds."""
    done = [row for row in results.rows(title(budget)) if row["agreement"] != "–"]
    curves = []
    for name in dict.fromkeys(row["method"] for row in done):
        by_size: dict[int, list[float]] = {}
        for row in done:
            if row["method"] == name:
                by_size.setdefault(int(row["parameters"]), []).append(float(row["agreement"]))
        sizes = sorted(by_size)
        means = [statistics.fmean(by_size[size]) for size in sizes]
        spread = [statistics.stdev(by_size[size]) if len(by_size[size]) > 1 else 0.0 for size in sizes]
        curves.append(Curve(name, sizes, means, spread))
    whole = f"a teacher of {parameters(FAMILIES[TEACHER].hyper['width']):,} parameters"
    return curves_png(curves, title=f"MNIST, {whole}", x="parameters of the student", y="agreement")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["cake-mnist", "kd"])
    options = parser.parse_args(arguments)
    run(options.data, options.budget, options.seeds, options.methods)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
