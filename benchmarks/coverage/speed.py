"""Forward and input gradient of the converted graph over the torch original, one thread.

    python -m benchmarks.coverage.speed [NAME …] [--pairs 30]

Each pair times both, one after the other, the order alternating; the figure is the ratio of their processor times,
so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from .common import from_file, keep, kept, one_line, relative, table
from .timm_models import export, make, quiet

# Name, picture size, whether the size is told when the model is made, batch.
MODELS = [
    ("resnet18", 64, False, 8),
    ("mobilenetv3_small_100", 64, False, 8),
    ("mobilenetv3_large_100", 64, False, 8),
    ("vit_tiny_patch16_224", 64, True, 8),
    ("vit_tiny_patch16_224", 224, False, 8),
    ("swin_tiny_patch4_window7_224", 224, False, 2),
]
EXPORTERS = ("dynamo", "legacy17")
BAR = 1.03
_LEAST = 0.2  # processor seconds for one side of a pair


def measure(name: str, size: int, told: bool, batch: int, exporter: str, pairs: int) -> dict[str, Any]:
    """The quartiles of the ratio for one model from one exporter."""
    with quiet():
        original = make(name, size, told).requires_grad_(False)
        proto = export(make(name, size, told), torch.randn(2, 3, size, size), exporter)
    x = torch.randn(batch, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(proto, path := Path(folder) / "model.onnx")
        graph = from_file(path)
    with torch.no_grad():
        difference = relative(graph(x), original(x))
    repeat = max(1, round(_LEAST / _seconds(original, x, 3) * 3))
    _seconds(graph, x, 3)
    ratios = []
    for pair in range(pairs):
        sides = [original, graph] if pair % 2 else [graph, original]
        taken = {id(side): _seconds(side, x, repeat) for side in sides}
        ratios.append(taken[id(graph)] / taken[id(original)])
    low, middle, high = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
    row = {"name": name, "size": size, "batch": batch, "exporter": exporter, "forward": difference, "pairs": pairs}
    return {**row, "median": middle, "low": low, "high": high}


def _seconds(model: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, repeat: int) -> float:
    """Processor time of some forward and backward passes."""
    start = time.process_time()
    for _ in range(repeat):
        x = inputs.detach().requires_grad_(True)
        torch.autograd.grad(model(x).sum(), x)
    return time.process_time() - start


def run(names: list[str] | None = None, pairs: int = 30) -> None:
    """Measures all, or those named, and keeps the figures."""
    found = [] if not names else [row for row in kept("speed") or [] if row["name"] not in names]
    for name, size, told, batch in MODELS:
        for exporter in EXPORTERS:
            if names and name not in names:
                continue
            try:
                row = measure(name, size, told, batch, exporter, pairs)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
                row = {"name": name, "size": size, "batch": batch, "exporter": exporter, "why": one_line(error)}
            found.append(row)
            print(row, flush=True)
            keep("speed", found)


def summary() -> list[list[str]]:
    """The row of the summary."""
    found = kept("speed")
    if not found:
        return []
    worst = max(row.get("median", float("inf")) for row in found)
    return [["forward and input gradient over the torch original", f"≤ {BAR} each", f"largest median {worst:.2f}"]]


def section() -> str:
    """The part of the document."""
    found = kept("speed")
    if not found:
        return ""
    lines = []
    for row in found:
        figure = row.get("why") or f"**{row['median']:.2f}** ({row['low']:.2f}, {row['high']:.2f})"
        lines.append([f"`{row['name']}`", f"{row['size']}×{row['size']}", row["batch"], row["exporter"], figure])
    within = sum(row.get("median", 9.0) <= BAR for row in found)
    return "\n\n".join(
        [
            "## Speed",
            "Processor time of forward and input gradient over that of the torch original, one thread, "
            f"{min(row.get('pairs', 0) for row in found)} interleaved pairs: median (quartiles). "
            f"{within} of {len(found)} medians are at most {BAR}.",
            table(["model", "input", "batch", "exporter", "ratio"], lines),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pairs", type=int, default=30)
    chosen = parser.parse_args()
    run(chosen.names, chosen.pairs)
    print(section())
