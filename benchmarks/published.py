"""The published algorithm at equal work: our `cake` against the paper's own way of computing it.

    python benchmarks/published.py DATA_DIR [--pairs 5]

The reference follows the paper's description and its code's manner, not its text: each set of samples is its own tensor
with a fresh torch.optim.SGD, the contrast is taken over all G² pairs of a row one pair after the other, total variation
by differences under autograd, and every sample is written to a file of its own. Ours is `Synthesizer.make` and
`Store.append`, once in float32 and once at the pace that a run's timing finds (`plan.json`). All make as many
sets of the same size with as many steps from the same LeNet-5, on the same threads, in turn; the ratio of
times within each turn is told with its quartiles.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import results
import torch
import torch.nn.functional as F
from teachers import OPTIONS, teacher

from onnxcake import Recipe, Store, Teacher
from onnxcake.core.rng import Key
from onnxcake.run.method import fit
from onnxcake.run.plan import decide
from onnxcake.run.store_key import layout
from onnxcake.synthesis.spec import Synthesis
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.teacher import autotune
from onnxcake.teacher.autotune import PLAIN, ExecutionMode
from onnxcake.teacher.teacher import load_teacher

SETS, STEPS, TITLE = 2, 32, "The published algorithm, our way against the paper's"


def reference(there: Teacher, synthesis: Synthesis, folder: Path, number: int) -> None:
    """Sets of samples as the paper computes them."""
    generator = torch.Generator().manual_seed(number)
    groups, rows = synthesis.groups, synthesis.batch // synthesis.groups
    weights = {term.name: term.weight for term in synthesis.losses}
    for index in range(SETS):
        labels = torch.stack(
            [torch.randperm(there.signature.classes, generator=generator)[:groups] for _ in range(rows)]
        )
        x = torch.randn(rows * groups, *there.signature.shape, generator=generator).requires_grad_(True)
        optimiser = torch.optim.SGD([x], lr=synthesis.update.step_size(synthesis.position(index)))
        for _ in range(STEPS):
            optimiser.zero_grad()
            logits = there.logits_of_standard(x)
            loss = weights["classification"] * F.cross_entropy(logits, labels.flatten())
            by_row, contrast = logits.reshape(rows, groups, -1), torch.zeros(())
            for i in range(groups):
                for j in range(groups):
                    contrast = contrast + (by_row[:, i] - by_row[:, j]).square().mean()
            loss = loss + weights["contrastive"] * contrast / 2
            across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
            loss = loss + weights["total_variation"] * (across.abs().mean() + down.abs().mean())
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            answers = there.logits_of_standard(x).softmax(1)
        for sample, (values, answer) in enumerate(zip(x.detach(), answers, strict=True)):
            np.savez(folder / f"{number}-{index}-{sample}.npz", x=values.numpy(), y=answer.numpy())


def ours(there: Teacher, recipe: Recipe, synthesis: Synthesis, folder: Path, number: int, found: ExecutionMode) -> None:
    """The same sets as onnxcake makes and keeps them."""
    autotune.apply(found, there.graph)
    plan = decide(recipe, there, synthesis)
    store = Store.create(folder / f"{number}-{found.dtype}", layout(recipe, there, synthesis, plan, number))
    maker = Synthesizer(there, replace(synthesis, chunk=plan.chunk, dtype=found.dtype), Key(number))
    for index in range(SETS):
        store.append(maker.make(index))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    said = parser.parse_args(arguments)
    there = load_teacher(teacher(said.data), OPTIONS)
    recipe = Recipe.load(
        "cake-mnist", [f"synthesis.batches={SETS}", f"synthesis.steps={STEPS}", "synthesis.held_out=0"]
    )
    synthesis = fit(recipe, there)
    found = autotune.fastest_mode(there, decide(recipe, there, synthesis).chunk, 10**7)
    times: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(dir=results.CACHE) as folder:
        for number in range(said.pairs + 1):  # the first warms up
            marks = [time.perf_counter()]
            autotune.apply(PLAIN, there.graph)
            reference(there, synthesis, Path(folder), number)
            marks.append(time.perf_counter())
            for how in (PLAIN, found):
                ours(there, recipe, synthesis, Path(folder) / str(len(marks)), number, how)
                marks.append(time.perf_counter())
            times.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    measured = np.asarray(times[1:])
    for place, how in ((1, PLAIN), (2, found)):
        low, middle, high = np.quantile(measured[:, 0] / measured[:, place], [0.25, 0.5, 0.75])
        row = {
            "teacher": "LeNet-5",
            "batch": synthesis.batch,
            "steps": STEPS,
            "turns": said.pairs,
            "ours": f"{how.dtype}{', channels last' if how.channels_last else ''}",
            "reference / ours, median": f"{middle:.2f}",
            "quartiles": f"{low:.2f}, {high:.2f}",
            "threads": torch.get_num_threads(),
        }
        results.append(TITLE, row)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
