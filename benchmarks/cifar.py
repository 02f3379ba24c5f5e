"""CIFAR-10: residual networks and transformers as teachers, and what the recipes make of them in the same time.

    python benchmarks/cifar.py DATA_DIR [--teachers resnet20-folded,resnet20] [--students auto,like-resnet8]
                               [--recipes layercake,cake,deepinversion,kd] [--budget 30m] [--device cpu] [--seeds 1]
                               [--override synthesis.batch=512] [--probe 10000] [--train-only]

DATA_DIR holds ``cifar10-jpeg.npz``. A teacher is trained on first use, on CUDA where there is one; on a processor
for a few epochs; ``resnet34`` and ``vit8`` are others. ``NAME-folded`` has BatchNormalization folded into its
convolutions by the exporter, ``NAME`` keeps it. The student ``like-NAME`` is that network cut out of the teacher,
``NAME`` alone the one that begins from noise. The last iterate is compared on the test images, which no run learns
from; ``kd`` learns from the training images. Each cell is appended to RESULTS.md as it is finished, and skipped if it
is there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch
import torch.nn.functional as F
from PIL import Image
from results import CACHE
from torch import Tensor, nn

import onnxcake
from onnxcake.core.progress import Progress
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.teacher.autotune import threads_given
from onnxcake.teacher.signature import Signature

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIGNATURE = Signature("image", (3, 32, 32), "logits", "logits", 10)
SHOWN = 20_000  # training images for kd
BATCH, EPOCHS = 512, {"resnet20": 60, "resnet34": 40, "vit8": 40}  # on a card
FEW = 8  # epochs on a processor, half an hour of a core for ResNet-20
_VIT = {"patch": 4, "dim": 192, "heads": 3, "mlp": 384}
VITS: dict[str, dict[str, Any]] = {f"vit{depth}": {**_VIT, "depth": depth} for depth in (4, 8)}  # of vit-small


def images(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """The ``train`` or ``test`` images, shuffled and normalised [n, 3, 32, 32], and their labels."""
    with np.load(data / "cifar10-jpeg.npz") as file:
        encoded, ends, labels = file[f"jpeg_{part}"].tobytes(), file[f"end_{part}"], file[f"y_{part}"]
    starts = np.concatenate([[0], ends[:-1]])

    def decoded(where: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(encoded[where[0] : where[1]])).convert("RGB"))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        pixels = np.stack(list(threads.map(decoded, zip(starts, ends, strict=True), chunksize=500)))
    order = np.random.default_rng(0).permutation(len(pixels))
    x = torch.from_numpy(pixels[order]).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std, torch.from_numpy(labels[order].astype(np.int64))


def images_file(data: Path, part: str, amount: int) -> Path:
    """The first of them as a file for ``--probe`` and ``--data``."""
    path = CACHE / f"cifar-{part}-{amount}.npz"
    if not path.exists():
        x, y = images(data, part)
        np.savez(path, x=x[:amount].numpy(), y=y[:amount].numpy())
    return path


def teacher(data: Path, name: str) -> Path:
    """``NAME.onnx`` or ``NAME-folded.onnx``; both are written when one is missing."""
    path, plain = CACHE / f"{name}.onnx", name.removesuffix("-folded")
    if not path.exists():
        net = trained(data, plain).cpu().eval()
        for folded in (False, True):
            (CACHE / f"{plain}{'-folded' if folded else ''}.onnx").write_bytes(exported(net, folded))
    return path


def trained(data: Path, name: str) -> nn.Module:
    """One-cycle SGD, AdamW for transformers, on crops and mirror images, in bfloat16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, y = (tensor.to(device) for tensor in images(data, "train"))
    padded = F.pad(x, (4, 4, 4, 4))
    torch.manual_seed(0)
    network = ARCHITECTURES["vit-small"](SIGNATURE, **VITS[name]) if name in VITS else ARCHITECTURES[name](SIGNATURE)
    net = network.to(device, memory_format=torch.channels_last)
    optimiser = optimiser_of(net, name)
    epochs, steps = EPOCHS[name] if device.type == "cuda" else FEW, -(-len(x) // BATCH)
    highest = optimiser.param_groups[0]["lr"]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, highest, total_steps=epochs * steps, pct_start=0.2)
    started = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        for rows in torch.randperm(len(x), device=device).split(BATCH):
            part = cropped(padded, rows).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                logits = net(part)
            loss = F.cross_entropy(logits.float(), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {float(loss):.3f}", flush=True)
    right = accuracy(net, data, device)
    figures = {"network": name, "epochs": epochs, "accuracy": f"{right:.4f}"}
    figures |= {"seconds": f"{time.perf_counter() - started:.0f}", "device": where(device.type)}
    results.append("CIFAR-10 teachers (images in JPEG)", figures)
    return net


def optimiser_of(net: nn.Module, name: str) -> torch.optim.Optimizer:
    """With weight decay on matrices and filters alone."""
    large = [p for p in net.parameters() if p.dim() > 1]
    small = [p for p in net.parameters() if p.dim() <= 1]
    if name in VITS:
        return torch.optim.AdamW([{"params": large, "weight_decay": 0.05}, {"params": small}], 1e-3, fused=True)
    groups = [{"params": large, "weight_decay": 5e-4}, {"params": small, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, 0.4, momentum=0.9, nesterov=True, fused=True)


def cropped(padded: Tensor, rows: Tensor) -> Tensor:
    """The images of some rows, each moved by up to four pixels and mirrored or not."""
    n, device = len(rows), rows.device
    top, left = torch.randint(0, 9, (2, n, 1), device=device)
    line = torch.arange(32, device=device)
    across = torch.where(torch.rand(n, 1, device=device) < 0.5, line, line.flip(0))
    channels = torch.arange(3, device=device)[None, :, None, None]
    down, across = (top + line)[:, None, :, None], (left + across)[:, None, None, :]
    return padded[rows[:, None, None, None], channels, down, across]


def accuracy(net: nn.Module, data: Path, device: torch.device) -> float:
    """Share of the test images that are classified rightly, in float32."""
    x, y = images(data, "test")
    net.eval()
    with torch.no_grad():
        answers = torch.cat([net(part.to(device)).argmax(1).cpu() for part in x.split(1000)])
    return float((answers == y).float().mean())


def exported(net: nn.Module, folded: bool) -> bytes:
    """The ONNX file's content."""
    buffer, axes = io.BytesIO(), {"image": {0: "batch"}, "logits": {0: "batch"}}
    kept = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        net, (torch.zeros(2, 3, 32, 32),), buffer, input_names=["image"], output_names=["logits"], dynamic_axes=axes,
        opset_version=17, dynamo=False, training=kept, do_constant_folding=folded,
    )  # fmt: skip
    return buffer.getvalue()


def where(device: str) -> str:
    """What a row was measured on."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads_given()} threads"


def title(teacher: str, budget: str | None) -> str:
    """The heading in RESULTS.md."""
    return f"CIFAR-10 {teacher.removesuffix('-folded')}, {budget or 'the recipe’s own time'} each"


def cell(data: Path, name: str, recipe: str, student: str, seed: int, said: argparse.Namespace) -> dict[str, object]:
    """One run."""
    out = CACHE / f"cifar-{name}-{recipe}-{student}-{seed}"
    overrides = list(said.override)
    named = student.removeprefix("like-")
    network = {"vit-small": VITS[named]} if named in VITS else {named: {}}
    if student.startswith("like-"):
        overrides.append(f"student.architecture={json.dumps({'auto': {'like': network}})}")
    elif student in VITS:
        overrides.append(f"student.architecture={json.dumps(network)}")
    elif student != "auto":
        overrides.append(f"student.architecture={student}")
    elif recipe != "layercake":
        overrides.append("student.architecture={auto: {keep: 0.5}}")
    report = onnxcake.extract(
        teacher(data, name),
        recipe=recipe,
        out=out,
        probe=images_file(data, "test", said.probe),
        data=images_file(data, "train", SHOWN) if recipe == "kd" else None,
        overrides=overrides,
        budget=said.budget,
        seed=seed,
        device=said.device,
        range=(0.0, 1.0),
        mean=MEAN,
        std=STD,
        progress=Progress(),
    ).as_dict()
    shutil.rmtree(out)
    probe, spent, share = report["agreement"]["probe"], report["spent"], "{:.4f}".format
    return {
        "teacher": name,
        "recipe": recipe,
        "student": student,
        "parameters": f"{report['student']['parameters']:,} of {report['teacher']['parameters']:,}",
        "seed": seed,
        "overrides": "; ".join(said.override) or "–",
        "agreement": share(probe["agreement"]["value"]),
        "accuracy": share(probe["student_accuracy"]["value"]),
        "teacher's": share(probe["teacher_accuracy"]["value"]),
        "without data": share(report["without_data"]["expected"]),
        "teacher passes": f"{spent['teacher_passes']:,}",
        "seconds": f"{sum(spent['seconds'].values()):.0f}",
        "device": where(said.device),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    several = {"type": lambda text: text.split(",")}
    parser.add_argument("--teachers", default=["resnet20-folded", "resnet20"], **several)
    parser.add_argument("--students", default=["auto", "like-resnet8"], **several)
    parser.add_argument("--recipes", default=["layercake", "cake", "deepinversion", "kd"], **several)
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--probe", type=int, default=10_000, help="test images compared on")
    parser.add_argument("--train-only", action="store_true")
    said = parser.parse_args(arguments)
    CACHE.mkdir(exist_ok=True)
    for name in said.teachers:
        teacher(said.data, name)
        for seed in range(0 if said.train_only else said.seeds):
            heading = title(name, said.budget)
            overrides = "; ".join(said.override) or "–"
            for recipe in said.recipes:
                for student in said.students:
                    asked = {"teacher": name, "recipe": recipe, "student": student, "overrides": overrides}
                    if not results.seen(heading, **asked, seed=seed):
                        results.append(heading, cell(said.data, name, recipe, student, seed, said))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
