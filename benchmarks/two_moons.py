"""Two moons: what naive synthesis and CAKE know of a decision boundary, the paper's Figure 1 in 2-D.

    python benchmarks/two_moons.py

A 2×20 MLP is trained on scikit-learn's two moons; a student learns from each method's samples, and both are
compared on fresh moons. Writes docs/two-moons.png and appends to RESULTS.md. A minute on one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results import append
from sklearn.datasets import make_moons
from torch import nn

import onnxcake
from onnxcake.core import files
from onnxcake.core.arrays import Array
from onnxcake.onnxfile.export import export
from onnxcake.report.plots import Panel, regions_png
from onnxcake.runtime.ort import Runtime

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXTENT = (-3.5, 3.5, -3.5, 3.5)
NAIVE = ["synthesis.losses.contrastive=null", "title=cross-entropy alone"]


def teacher(folder: Path) -> Path:
    x, y = (torch.from_numpy(a) for a in make_moons(2000, noise=0.1, random_state=0))
    x = (x.float() - x.float().mean(0)) / x.float().std(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(1000):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    path = folder / "moons.onnx"
    path.write_bytes(export(net, (2,), input_name="point", output_name="moon", opset=17))
    fresh, labels = make_moons(2000, noise=0.1, random_state=1)
    fresh = (fresh - fresh.mean(0)) / fresh.std(0)
    np.savez(folder / "fresh.npz", x=fresh.astype(np.float32), y=labels)
    return path


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file, panels = teacher(folder), []
        runtime = stack.enter_context(Runtime())
        says = classifier(runtime, file)
        for method, overrides in (("naive", NAIVE), ("CAKE", [])):
            out = folder / method
            report = onnxcake.extract(
                file, recipe="cake-vector", out=out, probe=folder / "fresh.npz", overrides=overrides
            )
            probe, spent = report.as_dict()["agreement"]["probe"], report.as_dict()["spent"]
            append(
                "Two moons, 2×20 MLP → MLP of half its size",
                {
                    "method": method,
                    "seed": report.as_dict()["seed"],
                    "agreement on fresh moons": f"{probe['agreement']['value']:.4f}",
                    "teacher passes": f"{spent['teacher_passes']:,}",
                    "seconds": f"{sum(spent['seconds'].values()):.0f}",
                },
            )
            data = onnxcake.StoreDataset(onnxcake.Store.open(out / "store"))
            points, _, labels = data.take(list(range(0, len(data), 10)))
            for title, classify in (
                (f"{method}: teacher", says),
                ("its student", classifier(runtime, out / "student.onnx")),
            ):
                panels.append(Panel(title, classify, points.numpy(), labels.numpy()))
        files.write_atomic(DOCS / "two-moons.png", regions_png(panels, EXTENT))


def classifier(runtime: Runtime, path: Path) -> Callable[[Array], Array]:
    """[n, 2] → classes [n], by onnxruntime."""
    session = runtime.load(path.read_bytes())
    return lambda points: session.run(points).argmax(1)


if __name__ == "__main__":
    main()
