"""MNIST: LeNet-5 → LeNet-5-Half by CAKE, the paper's first row.

    python benchmarks/mnist.py DATA_DIR                      20 sets × 500 × 100 steps, about 1 M teacher passes
    python benchmarks/mnist.py DATA_DIR --batches 64 --steps 256   an eighth of the published sets, about 8 M

DATA_DIR holds ``mnist.npz``. The teacher is trained first (six epochs, a minute or two) and kept. A stopped run
goes on when started again. The figure is appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import append
from teachers import CACHE, OPTIONS, images_file, teacher

from onnxcake.commands.extract import run
from onnxcake.core.progress import Progress
from onnxcake.run.prepare import Request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="cake-mnist")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    request = Request(
        teacher=teacher(options.data),
        recipe=options.recipe,
        out=CACHE / f"{options.recipe}-{options.batches}x500x{options.steps}-seed{options.seed}",
        overrides=[
            f"synthesis.batches={options.batches}",
            f"synthesis.steps={options.steps}",
            "student.architecture=lenet5-half",
            *options.overrides,
        ],
        options=OPTIONS,
        probe=images_file(options.data, "test"),
        seed=options.seed,
    )
    report = run(request, Progress())
    report.show()
    probe, spent = report.as_dict()["agreement"]["probe"], report.as_dict()["spent"]
    append(
        "MNIST LeNet-5 → LeNet-5-Half",
        {
            "recipe": f"{options.recipe}, {options.batches} × 500 × {options.steps}",
            "seed": options.seed,
            "teacher accuracy": f"{probe['teacher_accuracy']['value']:.4f}",
            "student accuracy": f"{probe['student_accuracy']['value']:.4f}",
            "agreement": f"{probe['agreement']['value']:.4f}",
            "teacher passes": f"{spent['teacher_passes']:,}",
            "seconds": f"{sum(spent['seconds'].values()):.0f}",
        },
    )


if __name__ == "__main__":
    main()
