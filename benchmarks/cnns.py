"""Ordinary torch CNNs, drawn at random: does ``onnxcake extract FILE`` make a student of each without any option?

Sixty networks of one, two and three dimensions, untrained, their weights drawn: convolutions with groups, dilations,
strides and padding of every mode, depthwise ones with pointwise ones after them, residual blocks; normalisation by
batch, group, instance, layer or none; pooling of every kind, with windows of unlike sizes; eleven activations; written
by either of torch's exporters, with a free batch or a fixed one. What is measured is the exit code, no agreement.

Each is done once: started again, it goes on where it was. ``--again`` repeats those that failed, ``--anew`` those that
were done at another commit, ``--only 3,5`` these.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from results import CACHE, append, commit
from torch import Tensor, nn

COUNT = 60
FOLDER = CACHE / "cnns"
FILE = FOLDER / "results.jsonl"
PASSES = "5e3"
SIDES = {1: (24, 40), 2: (10, 18), 3: (6, 10)}
MODES = ("zeros", "zeros", "reflect", "replicate", "circular")
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Mish,
    nn.PReLU,
    nn.Tanh,
    nn.Softplus,
)


def of(name: str, dims: int) -> Any:
    """A module of torch for so many dimensions."""
    return getattr(nn, f"{name}{dims}d")


@dataclass
class Drawing:
    """A network as it is drawn: its dimensions, its channels and side so far, and its parts in words."""

    pick: random.Random
    dims: int
    channels: int
    side: int
    words: list[str] = field(default_factory=list)

    def convolution(self, out: int, *, depthwise: bool = False, keep: bool = False) -> nn.Module:
        """A convolution; with ``keep`` the side stays."""
        pick, channels = self.pick, self.channels
        kernel = pick.choice([1, 3, 3, 3, 5]) if self.side >= 5 else pick.choice([1, 3])
        dilation = 2 if kernel == 3 and self.side >= 6 and pick.random() < 0.25 else 1
        padding = dilation * (kernel // 2)
        stride = 2 if not keep and self.side >= 6 and pick.random() < 0.3 else 1
        groups = channels if depthwise else pick.choice([n for n in (1, 1, 1, 2, 4) if not (channels % n or out % n)])
        mode = pick.choice(MODES)
        more = [
            f"{kernel}",
            *([f"groups {groups}"] if groups > 1 else []),
            *([f"dilation {dilation}"] * (dilation > 1)),
        ]
        self.words.append(
            " ".join(["conv", *more, *([f"stride {stride}"] * (stride > 1)), *([mode] * (mode != "zeros"))])
        )
        bias = pick.random() < 0.7
        layer = of("Conv", self.dims)(
            channels, out, kernel, stride, padding, dilation, groups, bias=bias, padding_mode=mode
        )
        self.channels, self.side = out, (self.side - 1) // stride + 1
        made: nn.Module = layer
        return made

    def normalisation(self) -> list[nn.Module]:
        name = self.pick.choice(["batch", "batch", "group", "instance", "layer", "none"])
        self.words.append(f"{name} norm")
        channels = self.channels
        if name == "batch":
            return [of("BatchNorm", self.dims)(channels)]
        if name == "group":
            return [nn.GroupNorm(2 if channels % 2 == 0 else 1, channels)]
        if name == "instance":
            return [of("InstanceNorm", self.dims)(channels, affine=self.pick.random() < 0.5)]
        return [nn.LayerNorm([channels, *(self.side,) * self.dims])] if name == "layer" else []

    def activation(self) -> nn.Module:
        made = self.pick.choice(ACTIVATIONS)()
        self.words.append(type(made).__name__)
        return made

    def pooling(self) -> list[nn.Module]:
        """Pooling of any kind; none where the side is short."""
        pick, side, dims = self.pick, self.side, self.dims
        if side < 4:
            return []
        kind = pick.choice(["max", "max", "average", "average", "adaptive average", "adaptive max", "power", "none"])
        if kind == "power" and dims == 3:
            kind = "max"
        if kind == "none":
            return []
        kernel, stride = pick.choice([(2, 2), (3, 2), (3, 1), (2, 1), (3, 3)])
        padding = pick.choice([0, 1]) if kernel == 3 and kind in ("max", "average") else 0
        up, words = pick.random() < 0.4, kind
        if kind.startswith("adaptive"):
            target = pick.randint(2, side - 1)
            made: nn.Module = of("AdaptiveAvgPool" if "average" in kind else "AdaptiveMaxPool", dims)(target)
            words = f"{kind} {side} to {target}"
        elif kind == "max":
            dilation = 2 if kernel == 2 and side >= 6 and pick.random() < 0.3 else 1
            made = of("MaxPool", dims)(kernel, stride, padding, dilation=dilation, ceil_mode=up)
        elif kind == "average":
            made = of("AvgPool", dims)(kernel, stride, padding, ceil_mode=up, count_include_pad=pick.random() < 0.5)
        else:
            made = of("LPPool", dims)(2, kernel, stride, ceil_mode=up)
        self.words.append(words + " pool" + (" up" if up and "adaptive" not in kind else ""))
        with torch.no_grad():
            self.side = made(torch.rand(1, self.channels, *(side,) * dims)).shape[-1]
        return [made]

    def block(self) -> list[nn.Module]:
        """Some layers: plain, depthwise, or residual."""
        kind = self.pick.choice(["plain", "plain", "depthwise", "residual"])
        out = self.pick.choice([6, 8, 12, 16])
        if kind == "depthwise":
            first = self.convolution(self.channels, depthwise=True)
            return [first, *self.normalisation(), self.activation(), of("Conv", self.dims)(self._now(out), out, 1)]
        if kind == "residual":
            self.words.append("residual")
            body = [self.convolution(self.channels, keep=True), *self.normalisation(), self.activation()]
            body.append(self.convolution(self.channels, keep=True))
            return [Residual(nn.Sequential(*body)), self.activation()]
        return [self.convolution(out), *self.normalisation(), self.activation()]

    def _now(self, out: int) -> int:
        before, self.channels = self.channels, out
        return before

    def end(self, classes: int) -> list[nn.Module]:
        """From maps to scores."""
        kind = self.pick.choice(["mean", "max", "adaptive", "flat", "conv"])
        self.words.append(f"{kind} head")
        width, dims = self.channels, self.dims
        if kind == "conv":
            return [of("Conv", dims)(width, classes, 1), of("AdaptiveAvgPool", dims)(1), nn.Flatten()]
        if kind in ("mean", "max"):
            name = "AdaptiveAvgPool" if kind == "mean" else "AdaptiveMaxPool"
            return [of(name, dims)(1), nn.Flatten(), nn.Linear(width, classes)]
        pool, side = [], self.side
        if kind == "adaptive" and side > 2:
            side = self.pick.randint(2, side - 1)
            pool = [of("AdaptiveAvgPool", dims)(side)]
        hidden = self.pick.choice([16, 32])
        layers = [nn.Flatten(), nn.Linear(width * side**dims, hidden), nn.ReLU(), nn.Dropout(0.2)]
        return [*pool, *layers, nn.Linear(hidden, classes)]


class Residual(nn.Module):
    """A body, its input added."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def drawn(number: int, attempt: int) -> tuple[nn.Module, tuple[int, ...], str]:
    """A network, the shape of one input, and what it is made of."""
    pick = random.Random(number * 1000 + attempt)
    torch.manual_seed(number * 1000 + attempt)
    dims = (2, 1, 2, 3)[number % 4]
    side = pick.randint(*SIDES[dims])
    drawing = Drawing(pick, dims, pick.choice([1, 2, 3, 4]), side)
    shape = (drawing.channels, *(side,) * dims)
    layers: list[nn.Module] = [drawing.convolution(pick.choice([6, 8, 12])), drawing.activation()]
    for _ in range(pick.randint(1, 3)):
        layers += [*drawing.block(), *drawing.pooling()]
    layers += drawing.end(pick.choice([2, 3, 5, 10, 12]))
    if pick.random() < 0.3:
        layers.append(nn.Softmax(1))
    net = nn.Sequential(*layers)
    for module in net.modules():  # as training leaves them: no statistics of noise, no scales of one
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return net.eval(), shape, f"{dims}-D, {', '.join(drawing.words)}"


def written(number: int) -> tuple[Path, str]:
    """The network of a number as a file, and what it is.

    Another is drawn where torch's exporter refuses it, or writes a file that onnxruntime does not load.
    """
    path, about = FOLDER / f"cnn{number:02}.onnx", FOLDER / f"cnn{number:02}.txt"
    if path.exists() and about.exists():
        return path, about.read_text(encoding="utf-8")
    dynamo, fixed = number % 3 == 1, number % 5 == 4
    for attempt in range(50):
        net, shape, words = drawn(number, attempt)
        batch = 1 if fixed and number % 2 else 2
        try:
            _export(net, torch.randn(batch, *shape), path, dynamo, fixed)
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - the limits of these two are not what is measured
            print(f"cnn{number:02}, attempt {attempt}: not exported: {str(error).strip().splitlines()[:1]}", flush=True)
            continue
        how = f"{'dynamo' if dynamo else 'legacy'}, {f'batch {batch}' if fixed else 'free batch'}: {words}"
        about.write_text(how, encoding="utf-8")
        return path, how
    raise SystemExit(f"network {number} cannot be exported")


def _export(net: nn.Module, x: Tensor, path: Path, dynamo: bool, fixed: bool) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            sizes = None if fixed else ({0: torch.export.Dim("batch")},)
            torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=sizes, verbose=False, external_data=False)
        else:
            axes = None if fixed else {"x": {0: "batch"}, "y": {0: "batch"}}
            names = {"input_names": ["x"], "output_names": ["y"]}
            torch.onnx.export(net, (x,), path, dynamo=False, dynamic_axes=axes, opset_version=17, **names)


def extracted(path: Path) -> dict[str, Any]:
    """What the command says of a file: exit code, seconds, and its last words where it failed."""
    out = path.with_suffix("")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "onnxcake", "extract", str(path), "--passes", PASSES, "--out", str(out)]
    started = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"})
    seconds = round(time.monotonic() - started, 1)
    told = {} if ended.returncode else json.loads((out / "report.json").read_text(encoding="utf-8"))
    shutil.rmtree(out, ignore_errors=True)
    return {
        "code": ended.returncode,
        "seconds": seconds,
        "agreement": told.get("agreement", {}).get("held_out", {}).get("agreement", {}).get("value"),
        "said": "" if not ended.returncode else " ".join(ended.stderr.split())[-600:],
    }


def done() -> dict[int, dict[str, Any]]:
    """The latest result of each number."""
    lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
    return {row["number"]: row for row in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: [int(part) for part in text.split(",")], help="these numbers")
    parser.add_argument("--again", action="store_true", help="repeat those that failed")
    parser.add_argument("--anew", action="store_true", help="repeat those of other commits too")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number in asked.only or range(COUNT):
        known = done().get(number)
        repeat = asked.only or known is None or (asked.again and known["code"] != 0)
        if not repeat and not (asked.anew and known is not None and known["commit"] != commit()):
            continue
        path, about = written(number)
        row = {"number": number, "about": about, **extracted(path), "commit": commit()}
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number:2}  exit {row['code']}  {row['seconds']:6.1f} s  {about}  {row['said']}", flush=True)
    rows = done()
    for number, row in sorted(rows.items()):
        print(f"{number:2}  exit {row['code']}  {row['seconds']:6.1f} s  {row['agreement']}  {row['about']}")
    good = sum(row["code"] == 0 for row in rows.values())
    print(f"{good} of {len(rows)} exit 0")
    if len(rows) == COUNT:
        seconds = sorted(row["seconds"] for row in rows.values())
        append(
            "Ordinary torch CNNs, bare extract", {"networks": COUNT, "exit 0": good, "median s": seconds[COUNT // 2]}
        )


if __name__ == "__main__":
    main()
