"""MNIST, and classifiers trained on it to be teachers. What is made is kept in ``.cache`` and made once.

DATA_DIR, an argument of each benchmark, holds ``mnist.npz`` (x_train, y_train, x_test, y_test; uint8).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import CACHE
from torch import Tensor, nn

from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.teacher import recorded_statistics
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import load_teacher

MEAN, STD = 0.1307, 0.3081
OPTIONS = TeacherOptions(range=(0.0, 1.0), mean=(MEAN,), std=(STD,))
BATCH = 128
RECORDED = 10_000  # training images whose activations are recorded


@dataclass(frozen=True)
class Family:
    """An architecture, as teacher and as student, and how the teacher learns: one-cycle SGD, or Adam at lr < 0.01.

    Small enough for two cores: a pass of the largest, the ResNet, is some 3 M multiplications.
    """

    architecture: str
    hyper: dict[str, Any] = field(default_factory=dict)
    epochs: int = 3
    lr: float = 0.1

    @property
    def as_student(self) -> str:
        """Its recipe text."""
        hyper = ", ".join(f"{key}: {list(v) if isinstance(v, tuple) else v}" for key, v in self.hyper.items())
        return f"{{{self.architecture}: {{{hyper}}}}}"


FAMILIES = {
    "lenet5": Family("lenet5", epochs=6),
    "mlp": Family("mlp", {"hidden": (128, 64)}, epochs=6),
    "cnn": Family("cnn-small", {"width": 8}),
    "resnet": Family("resnet8", {"width": 8}),
    "vit": Family("vit-small", {"dim": 32, "mlp": 64}, epochs=6, lr=2e-3),
}


def images(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """MNIST's ``train`` or ``test`` images, padded to 32×32 and normalised [n, 1, 32, 32], and their labels."""
    with np.load(data / "mnist.npz") as file:
        pixels, labels = file[f"x_{part}"], file[f"y_{part}"]
    padded = F.pad(torch.from_numpy(pixels).float().div(255).unsqueeze(1), (2, 2, 2, 2))
    return (padded - MEAN) / STD, torch.from_numpy(labels.astype(np.int64))


def images_file(data: Path, part: str) -> Path:
    """The same as a file for ``--probe`` and ``--data``."""
    path = CACHE / f"mnist-{part}.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        x, y = images(data, part)
        np.savez(path, x=x.numpy(), y=y.numpy())
    return path


def teacher(data: Path, name: str = "lenet5") -> Path:
    """``NAME.onnx``, trained on first use; minutes on two cores."""
    path = CACHE / f"{name}.onnx"
    if path.exists():
        return path
    CACHE.mkdir(exist_ok=True)
    family = FAMILIES[name]
    x, y = images(data, "train")
    torch.manual_seed(0)
    net = ARCHITECTURES[family.architecture](Signature("image", (1, 32, 32), "logits", "logits", 10), **family.hyper)
    optimiser: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), family.lr, momentum=0.9, weight_decay=5e-4)
    if family.lr < 0.01:
        optimiser = torch.optim.Adam(net.parameters(), family.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, family.lr, total_steps=family.epochs * -(-len(x) // BATCH))
    for epoch in range(family.epochs):
        net.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        print(f"{name}: epoch {epoch + 1} of {family.epochs}, accuracy {accuracy(net, data):.4f}", flush=True)
    _export(net.eval(), x[:2], path)
    return path


def statistics_file(data: Path, name: str = "lenet5") -> Path:
    """What the teacher's owner would hand over for ``--stats``: its activations' statistics on training images."""
    path = CACHE / f"{name}-stats.safetensors"
    if not path.exists():
        x, _ = images(data, "train")
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:RECORDED]
        recorded_statistics.record(load_teacher(teacher(data, name), OPTIONS), x[some], path)
    return path


def accuracy(net: nn.Module, data: Path) -> float:
    """Share of the test images that are classified rightly."""
    x, y = images(data, "test")
    net.eval()
    with torch.no_grad():
        return float((torch.cat([net(part) for part in x.split(1000)]).argmax(1) == y).float().mean())


def _export(net: nn.Module, example: Tensor, path: Path) -> None:
    buffer = io.BytesIO()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        net, (example,), buffer, input_names=["image"], output_names=["logits"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    path.write_bytes(buffer.getvalue())
