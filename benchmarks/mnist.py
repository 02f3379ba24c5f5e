"""MNIST: LeNet-5 → LeNet-5-Half by CAKE, the paper's first row.

    python benchmarks/mnist.py DATA_DIR                      20 sets × 500 × 100 steps, about 1 M teacher passes
    python benchmarks/mnist.py DATA_DIR --batches 64 --steps 256   an eighth of the published sets, about 8 M

DATA_DIR holds ``mnist.npz`` (x_train, y_train, x_test, y_test; uint8). The teacher is trained first (six epochs,
a minute or two) and kept. A stopped run goes on when started again. The figure is appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results import append
from torch import Tensor, nn

from onnxcake.extraction import run
from onnxcake.job import Request
from onnxcake.progress import Progress
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.teacher import Signature

CACHE = Path(__file__).resolve().parent / ".cache"
MEAN, STD = 0.1307, 0.3081
EPOCHS, BATCH, LR = 6, 128, 0.1


def images(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """MNIST padded to 32×32 and normalised [n, 1, 32, 32], and its labels."""
    with np.load(data / "mnist.npz") as file:
        pixels, labels = file[f"x_{part}"], file[f"y_{part}"]
    padded = F.pad(torch.from_numpy(pixels).float().div(255).unsqueeze(1), (2, 2, 2, 2))
    return (padded - MEAN) / STD, torch.from_numpy(labels.astype(np.int64))


def teacher(data: Path) -> Path:
    """``lenet5.onnx``, trained on first use."""
    path = CACHE / "lenet5.onnx"
    if path.exists():
        return path
    x, y = images(data, "train")
    torch.manual_seed(0)
    net = ARCHITECTURES["lenet5"](Signature("image", (1, 32, 32), "logits", "logits", 10))
    optimiser = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * -(-len(x) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        print(f"teacher: epoch {epoch + 1} of {EPOCHS}, accuracy {accuracy(net, data):.4f}", flush=True)
    buffer = io.BytesIO()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        net.eval(), (x[:2],), buffer, input_names=["image"], output_names=["logits"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    path.write_bytes(buffer.getvalue())
    return path


def accuracy(net: nn.Module, data: Path) -> float:
    x, y = images(data, "test")
    with torch.no_grad():
        return float((torch.cat([net(part) for part in x.split(1000)]).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="cake-mnist")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    file = teacher(options.data)
    x, y = images(options.data, "test")
    np.savez(CACHE / "mnist-test.npz", x=x.numpy(), y=y.numpy())
    name = f"{options.recipe}-{options.batches}x500x{options.steps}-seed{options.seed}"
    request = Request(
        teacher=file,
        recipe=options.recipe,
        out=CACHE / name,
        overrides=[
            f"synthesis.batches={options.batches}",
            f"synthesis.steps={options.steps}",
            "student.architecture=lenet5-half",
            *options.overrides,
        ],
        range=(0.0, 1.0),
        mean=(MEAN,),
        std=(STD,),
        probe=CACHE / "mnist-test.npz",
        seed=options.seed,
    )
    report = run(request, Progress())
    report.show()
    probe, spent = report.data["agreement"]["probe"], report.data["spent"]
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
