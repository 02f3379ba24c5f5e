"""Synthesis against a bare loop of forward + input gradient on the same graph, batch and threads.

    python benchmarks/throughput.py [--pairs 30] [--steps 20] [--chunk 500] [--teacher resnet20] [--workers 2]

LeNet-5 or ResNet-20 (random weights) at 32×32, the batch and losses of cake-mnist. Each pair times both, one after
the other, the order alternating; the figure is the ratio of their speeds in samples × steps / s. With ``--workers`` it
is so many workers of one thread over one such worker, sets kept on disk. Quartiles are appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets it

import numpy as np
import torch
from results import append

from onnxcake import Recipe, Store, Teacher
from onnxcake.core.rng import Key
from onnxcake.engine.threads import synthesize
from onnxcake.onnxfile.export import export
from onnxcake.run.method import fit
from onnxcake.run.plan import decide
from onnxcake.run.store_key import layout
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.teacher.signature import Signature


def bare(teacher: Teacher, batch: int, steps: int) -> None:
    x = torch.randn(batch, *teacher.signature.input_shape)
    for _ in range(steps):
        x.requires_grad_(True)
        (_gradient,) = torch.autograd.grad(teacher.logits(x).sum(), x)
        x = x.detach()


NETS = {"lenet5": (1, 32, 32), "resnet20": (3, 32, 32)}


def ratios(pairs: int, one: Callable[[int], object], other: Callable[[int], object]) -> dict[str, object]:
    """How many times faster ``one`` is than ``other``: quartiles over pairs."""
    found = []
    for number in range(pairs + 1):
        taken = {}
        for act in (one, other) if number % 2 else (other, one):
            start = time.perf_counter()
            act(number)
            taken[act] = time.perf_counter() - start
        found.append(taken[other] / taken[one])
    low, middle, high = np.percentile(found[1:], [25, 50, 75])  # the first warms up
    return {
        "pairs": pairs,
        "first quartile": f"{low:.3f}",
        "median": f"{middle:.3f}",
        "third quartile": f"{high:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, help="samples at once through the teacher; the plan's if not given")
    parser.add_argument("--teacher", choices=NETS, default="lenet5")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        shape = NETS[options.teacher]
        net = ARCHITECTURES[options.teacher](Signature("image", shape, "logits", "logits", 10))
        path = Path(folder) / f"{options.teacher}.onnx"
        path.write_bytes(export(net, shape, input_name="image", output_name="logits", opset=17))
        teacher = Teacher.load(path, range=(0, 1), mean=[0.1307] * shape[0], std=[0.3081] * shape[0])
        overrides = [f"synthesis.batch={options.batch}", f"synthesis.steps={options.steps}"]
        many = (options.workers or 1) * 2
        recipe = Recipe.load("cake-mnist", [*overrides, f"synthesis.batches={many}", "synthesis.held_out=0"])
        synthesis = fit(recipe, teacher)
        plan = decide(recipe, teacher, synthesis)
        synthesis = replace(synthesis, chunk=options.chunk or plan.chunk)
        row = {
            "teacher": f"{options.teacher}, 32×32, batch {options.batch}",
            "threads": plan.threads,
            "chunk": synthesis.chunk,
        }
        if options.workers is None:
            maker = Synthesizer(teacher, synthesis, Key(0))
            found = ratios(
                options.pairs,
                lambda number: maker.make(number % many),
                lambda _: bare(teacher, synthesis.batch, options.steps),
            )
            append(
                "Synthesis over a bare loop of forward + input gradient (speed ratio, higher is better)", row | found
            )
            return
        torch.set_num_threads(1)

        def made(workers: int) -> Callable[[int], object]:
            def act(number: int) -> None:
                own = replace(synthesis, workers=workers)
                kept = layout(recipe, teacher, own, plan, number)
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    synthesize(Synthesizer(teacher, own, Key(number)), Store.create(Path(place), kept))

            return act

        found = ratios(options.pairs, made(options.workers), made(1))
        row |= {"threads": 1, "workers": options.workers, "batches": many}
        append("Workers of one thread over one such worker (speed ratio)", row | found)


if __name__ == "__main__":
    main()
