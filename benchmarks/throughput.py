"""Synthesis against a bare loop of forward + input gradient on the same graph, batch and threads.

    python benchmarks/throughput.py [--pairs 30] [--steps 20] [--chunk 500]

LeNet-5 (random weights) at 32×32, batch 500, recipe cake-mnist. Each pair times both, one after the other, the
order alternating; the figure is the ratio of their speeds in samples × steps / s. Quartiles are appended to
RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it

import numpy as np
import torch
from results import append

from onnxcake import Recipe, Teacher
from onnxcake.graph.export import export
from onnxcake.plan import decide, fit
from onnxcake.rng import Key
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.synthesis import Maker
from onnxcake.teacher import Signature


def bare(teacher: Teacher, batch: int, steps: int) -> None:
    x = torch.randn(batch, *teacher.signature.input_shape)
    for _ in range(steps):
        x.requires_grad_(True)
        (_gradient,) = torch.autograd.grad(teacher.logits(x).sum(), x)
        x = x.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, help="samples at once through the teacher; the plan's if not given")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        net = ARCHITECTURES["lenet5"](Signature("image", (1, 32, 32), "logits", "logits", 10))
        path = Path(folder) / "lenet5.onnx"
        path.write_bytes(export(net, (1, 32, 32), input_name="image", output_name="logits", opset=17))
        teacher = Teacher.load(path, range=(0, 1), mean=[0.1307], std=[0.3081])
    recipe = Recipe.load("cake-mnist")
    synthesis = fit(recipe, teacher)
    plan = decide(recipe, teacher, synthesis)
    synthesis = replace(synthesis, chunk=options.chunk or plan.chunk, steps=options.steps)

    maker = Maker(teacher, synthesis, Key(0))

    def ours(number: int) -> float:
        start = time.perf_counter()
        maker.make(number)
        return time.perf_counter() - start

    def theirs() -> float:
        start = time.perf_counter()
        bare(teacher, synthesis.batch, options.steps)
        return time.perf_counter() - start

    ours(0), theirs()
    ratios = []
    for number in range(options.pairs):
        if number % 2:
            mine, other = ours(number), theirs()
        else:
            other, mine = theirs(), ours(number)
        ratios.append(other / mine)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    append(
        "Synthesis over a bare loop of forward + input gradient (speed ratio, higher is better)",
        {
            "teacher": "LeNet-5, 32×32, batch 500",
            "threads": plan.threads,
            "chunk": synthesis.chunk,
            "pairs": options.pairs,
            "first quartile": f"{low:.3f}",
            "median": f"{middle:.3f}",
            "third quartile": f"{high:.3f}",
        },
    )


if __name__ == "__main__":
    main()
