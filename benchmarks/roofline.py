"""Teacher passes against what the machine can do: the share of its bfloat16 matrix rate that gradients reach.

    python benchmarks/roofline.py TEACHER.onnx [--batch 512] [--device cuda] [--times 30]

A pass is forward and the gradient at the input. Its multiplications and additions are counted by torch from the
products and convolutions alone; the matrix rate is that of one large product, and the copy rate that of one large copy
(bytes read and written), both measured here. Each way of `teacher/autotune.py` is timed, medians are told, and the
plain one in float32 is what the others are compared with. Rows are appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import results
import torch
from torch.utils.flop_counter import FlopCounterMode

from onnxcake import Teacher
from onnxcake.teacher import autotune
from onnxcake.teacher.autotune import PLAIN


def seconds(work: Callable[[], object], times: int, device: str) -> float:
    """The median of some runs, after three that are not counted."""
    taken = []
    for _ in range(times + 3):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[3:]))


def ceilings(device: str) -> tuple[float, float]:
    """Operations a second of a bfloat16 product, bytes a second of a copy."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    matrix = 2 * size**3 / seconds(lambda: a @ b, 10, device)
    source = torch.randn((1 << 30) if device == "cuda" else (1 << 26), device=device)
    target = torch.empty_like(source)
    return matrix, 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), 10, device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--times", type=int, default=30)
    said = parser.parse_args()
    there = Teacher.load(said.teacher, device=said.device)
    x = torch.randn(said.batch, *there.signature.shape, device=said.device)

    def passed(dtype: autotune.Dtype) -> torch.Tensor:
        leaf = x.clone().requires_grad_(True)
        with autotune.autocast(there.device, dtype):
            logits = there.logits_of_standard(leaf)
        logits.float().logsumexp(1).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    with FlopCounterMode(display=False) as counter:
        passed("float32")
    operations, (matrix, copy) = counter.get_total_flops(), ceilings(said.device)
    plain = 0.0
    for way in (PLAIN, *autotune.alternatives(there)):
        autotune.apply(way, there.graph)
        taken = seconds(lambda dtype=way.dtype: passed(dtype), said.times, said.device)
        plain = plain or taken
        row = {
            "teacher": said.teacher.stem,
            "batch": said.batch,
            "way": f"{way.dtype}{', channels last' if way.channels_last else ''}",
            "ms a pass": f"{1e3 * taken:.2f}",
            "samples / s": f"{said.batch / taken:,.0f}",
            "TFLOP / s": f"{operations / taken / 1e12:.2f}",
            "of the bfloat16 matrix rate": f"{operations / taken / matrix:.3f}",
            "over plain float32": f"{plain / taken:.2f}",
            "matrix rate, TFLOP / s": f"{matrix / 1e12:.1f}",
            "copy, GB / s": f"{copy / 1e9:.0f}",
            "device": torch.cuda.get_device_name() if said.device == "cuda" else f"{torch.get_num_threads()} threads",
        }
        results.append("Roofline of a teacher's gradient", row)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
