"""All methods side by side: MNIST, LeNet-5 → LeNet-5-Half, the same wall time for each.

    python benchmarks/methods.py DATA_DIR [--budget 3m] [--seeds 1] [--methods dafl,dfad] [--best 6]

Each cell is appended to RESULTS.md as it is finished, and skipped if it is there; a stopped cell goes on where it
was. ``--best N`` takes the N methods that agree best in the table of 3 minutes. Writes docs/methods-BUDGET.png.

What is set here differs from the recipes as follows.

==============  ====================================================================================================
published       the authors' settings for MNIST, where there are such (see each recipe's header)
small           generators of width 16 in place of 64, on batches of 64 in place of 128 … 1024 (the student's too where
                it learns from what those made): as published, two cores come to one step in a second, so that three
                minutes would show nothing of the method
short           200 steps on each batch of pixels in place of 1000 … 2000, longer ones to reach as far, and 30 epochs
                in place of 500: for the same reason. CAKE's and LAKE's 256 steps become 100, as in mnist.py;
                CMI's 200 become 100; ADI's, CMI's, Fast-DFKD's and NAYER's student takes 100 steps in a round, not 400;
                ZSDB3KD moves each sample 5 times, 500 queries each, in place of 40 and 5000, and takes distances as
                they are found by bisection
digits          no mirror images: digits have a left and a right
lenet           LeNet-5-Half has no BatchNormalization and does not survive SGD at 0.1 and more: it learns at DFAD's
                0.01, or by Adam at DAFL's 2e-3. The inner step of retain-acquire is a tenth of 0.9 likewise
==============  ====================================================================================================
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import results
from teachers import CACHE, OPTIONS, images_file, statistics_file, teacher

from onnxcake.commands.bench import bench
from onnxcake.core import files
from onnxcake.core.progress import Progress
from onnxcake.recipe.limits import Budget
from onnxcake.report.bench_table import Cell
from onnxcake.run.prepare import Request
from onnxcake.teacher.autotune import threads_given

DOCS = Path(__file__).resolve().parent.parent / "docs"
STUDENT = "lenet5-half"
FIRST = "3m"  # the budget that the best are chosen at
NOT_DATA_FREE = ("kd", "metadata")  # anchors, never among the best

SMALL = ("synthesis.source.generator.width=16", "synthesis.source.generator.latent=100", "synthesis.batch=64")
SHORT = ("synthesis.steps=200",)
DIGITS = ("student.augment={crop: {}}",)
JITTERED, CROPPED = ("synthesis.augment={jitter: {pixels: 4}}",), ("synthesis.augment={crop: {}}",)
SGD_LENET = ("student.optimiser.sgd.lr=0.01",)
ADAM_LENET = ("student.optimiser={adam: {lr: 2e-3}}",)
RETAIN_LENET = (*ADAM_LENET, "student.retain.lr=0.09")
CAKE = ("synthesis.steps=100", "student.optimiser.sgd.lr=0.1")  # the rate is published


@dataclass(frozen=True)
class Method:
    """What is set over the recipe, and the accuracy that its authors have for this pair, in percent."""

    overrides: tuple[str, ...] = ()
    published: str = "–"


METHODS = {
    "kd": Method(SGD_LENET, "98.8 … 99.25"),
    "random-noise": Method(published="74.7 … 88.0 (by others)"),
    "adversarial-noise": Method(published="20.9 (ResNet-12)"),
    "naive": Method(CAKE),
    "deepdream": Method((*SHORT, *DIGITS, *SGD_LENET)),
    "cake-mnist": Method(("synthesis.steps=100",), "98.4 ± 0.18"),
    "lake": Method((*CAKE, "synthesis.losses.contrastive=1e-3", "synthesis.losses.total_variation=1e7")),  # CAKE's
    "metadata": Method(SHORT, "92.47"),
    "deepinversion": Method((*SHORT, *DIGITS, *SGD_LENET)),
    "adi": Method((*SHORT, "student.steps=100", *JITTERED, *DIGITS, *SGD_LENET)),
    "zskd": Method(
        (*SHORT, "synthesis.update.adam.step_size.constant.value=2.4e-2", *DIGITS, "student.epochs=30"),
        "98.77 (repeated: 96.98)",  # with 1500 steps of 3.2e-3
    ),
    "soft-target": Method(
        (
            "synthesis.labels.features.sigma=1.5",  # published
            "synthesis.losses.activation=0.05",  # published
            *SHORT,
            *JITTERED,
            *DIGITS,
            "student.epochs=30",
        ),
        "99.08",
    ),
    "zsdb3kd": Method(
        (
            "synthesis.steps=5",  # as published, 40 moves of 5000 queries and 180,000 for the label are a day a batch
            "synthesis.source.boundary.queries=500",
            "synthesis.source.boundary.probes=50",
            "synthesis.source.boundary.label_queries=0",
        ),
        "96.54",
    ),
    "generative": Method((*SMALL, *ADAM_LENET)),
    "dafl": Method(
        (
            *SMALL,
            "synthesis.losses.classification.weight=1.0",  # published, as all below
            "synthesis.losses.activation=0.1",
            "synthesis.update.adam.step_size.constant.value=0.2",
            *ADAM_LENET,
            "student.learning_rate=constant",
        ),
        "98.20",
    ),
    "dfad": Method(
        (
            *SMALL,
            "synthesis.update.adam.step_size={constant: {value: 1e-3}}",  # published, as all below
            "student.optimiser={sgd: {lr: 0.01, momentum: 0.9, weight_decay: 1e-4}}",
            "student.learning_rate=constant",
        ),
        "98.3 ± 0.2",
    ),
    "zskt": Method(SMALL),
    "dfq": Method((*SMALL, *ADAM_LENET)),
    "cmi": Method(
        (
            "synthesis.source.latent.width=16",
            "synthesis.batch=64",
            "synthesis.steps=100",
            "student.steps=100",
            "student.batch=64",
            *CROPPED,
            *DIGITS,
            *SGD_LENET,
        ),
    ),
    "fast-dfkd": Method(
        (
            "synthesis.source.meta_latent.width=16",
            "synthesis.batch=64",
            "student.steps=100",
            "student.batch=64",
            *CROPPED,
            *DIGITS,
            *SGD_LENET,
        ),
    ),
    "nayer": Method(
        (
            "synthesis.source.noisy_layer.width=16",
            "synthesis.batch=64",
            "student.steps=100",
            "student.batch=64",
            *CROPPED,
            *DIGITS,
            *SGD_LENET,
        ),
    ),
    "mb-dfkd": Method((*SMALL, *ADAM_LENET)),
    "pre-dfkd": Method((*SMALL, "student.memory.replay.width=16", *ADAM_LENET)),
    "retain-acquire": Method((*SMALL, *RETAIN_LENET)),
    "retain-acquire-replay": Method((*SMALL, "student.memory.replay.width=16", *RETAIN_LENET)),
}


def title(budget: str) -> str:
    """The heading in RESULTS.md."""
    return f"Methods on MNIST, LeNet-5 → LeNet-5-Half, {budget} each"


def row(cell: Cell) -> dict[str, object]:
    """A cell for RESULTS.md."""
    share = "{:.4f}".format
    mu, sigma2 = cell.spread or (None, None)
    return {
        "method": cell.method,
        "seed": cell.seed,
        "agreement": "–" if cell.agreement is None else share(cell.agreement),
        "accuracy": "–" if cell.accuracy is None else share(cell.accuracy),
        "published accuracy, %": METHODS[cell.method].published,
        "μ": "–" if mu is None else share(mu),
        "σ²": "–" if sigma2 is None else share(sigma2),
        "teacher passes": f"{cell.teacher_passes:,}",
        "queries": f"{cell.teacher_queries:,}",
        "student steps": f"{cell.student_steps:,}",
        "seconds": f"{cell.seconds:.0f}",
        "threads": threads_given(),
        "note": cell.reason or "–",
    }


def best(number: int) -> list[str]:
    """The methods that agree best at `FIRST`, best first."""
    done = [each for each in results.rows(title(FIRST)) if each["agreement"] != "–"]
    ranked = sorted(done, key=lambda each: -float(each["agreement"]))
    return list(dict.fromkeys(each["method"] for each in ranked if each["method"] not in NOT_DATA_FREE))[:number]


def run(data: Path, budget: str, seeds: int, methods: Sequence[str]) -> int:
    """Fills the table; says how many cells broke."""
    out, broken = CACHE / f"methods-{budget}", 0
    template = Request(
        teacher=teacher(data),
        out=out,
        options=OPTIONS,
        probe=images_file(data, "test"),
        data=images_file(data, "train"),
    )
    for seed in range(seeds):  # all methods first, then the next seed
        for name in methods:
            if results.seen(title(budget), method=name, seed=seed):
                continue
            # Statistics are for the method that is about them; the others make do with what the file holds.
            request = replace(template, stats=statistics_file(data) if name == "metadata" else None)
            try:
                table = bench(
                    request,
                    [name],
                    student=STUDENT,
                    budget=Budget.of(budget),
                    seeds=[seed],
                    only={name: METHODS[name].overrides},
                    progress=Progress(),
                )
            except Exception:  # noqa: BLE001 - one broken cell is no reason to lose a night
                traceback.print_exc()
                broken += 1
                continue
            results.append(title(budget), row(table.cell(name, seed)))
            files.write_atomic(DOCS / f"methods-{budget}.png", table.picture())
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--budget", default=FIRST)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", type=lambda text: text.split(","), help="by name, with commas; all if not given")
    parser.add_argument("--best", type=int, help="so many of the best at 3 minutes")
    options = parser.parse_args(arguments)
    chosen = best(options.best) if options.best else options.methods or list(METHODS)
    return run(options.data, options.budget, options.seeds, chosen)


if __name__ == "__main__":
    raise SystemExit(main())
