"""Text classifiers by either of torch's exporters: is each extracted as ``onnxcake inspect`` says, and does it agree?

Three teachers (a convolution, a GRU, and a transformer of two layers with an attention mask and three inputs) take
token ids of free length through an embedding and tell four sorts of documents apart: which of scikit-learn's packages
a passage out of its own documentation is of, its words hashed to ids. They are trained for a minute. Each is written
by torch's legacy exporter and by its current one, inspected without options, extracted with the options that come out
of that, and compared with its student by ``onnxcake verify`` on 200 real passages, full ones and padded ones.

Each is done once: started again, it goes on where it was; ``--anew`` does all again.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import logging
import pkgutil
import re
import shlex
import subprocess
import sys
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from results import CACHE, append, commit
from torch import Tensor, nn

FOLDER = CACHE / "text"
FILE = FOLDER / "results.jsonl"
TABLE = "Text classifiers, half their parameters (`benchmarks/text.py`)"
PACKAGES = (
    ("linear_model", "svm"),
    ("cluster", "mixture"),
    ("preprocessing", "impute"),
    ("metrics", "model_selection"),
)
WORDS, WIDTH, LONGEST, LENGTH, CLASSES, REAL = 2000, 64, 64, 32, len(PACKAGES), 200


class Cnn(nn.Module):
    """Ids → embedding → convolution of three words → maximum → classes."""

    names = ("ids",)

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.convolution, self.out = nn.Conv1d(WIDTH, 96, 3, padding=1), nn.Linear(96, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.relu(self.convolution(self.embedding(ids).transpose(1, 2))).amax(-1))


class Gru(nn.Module):
    """Ids → embedding → GRU → mean → classes."""

    names = ("ids",)

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.gru, self.out = nn.GRU(WIDTH, 64, batch_first=True), nn.Linear(64, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.gru(self.embedding(ids))[0].mean(1))


class Layer(nn.Module):
    """A transformer's layer with a mask that is added to the scores."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + bias, -1)
        x = self.first(x + self.joined((weights @ v).transpose(1, 2).reshape(batch, length, width)))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Transformer(nn.Module):
    """Ids, mask and kinds of tokens → embeddings → two layers → mean of what is not masked → classes."""

    names = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (
            nn.Embedding(WORDS, WIDTH),
            nn.Embedding(LONGEST, WIDTH),
            nn.Embedding(2, WIDTH),
        )
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.places(places)[None] + self.kinds(token_type_ids))
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        kept = attention_mask[..., None].float()
        return self.out((x * kept).sum(1) / kept.sum(1))


TEACHERS: dict[str, type[Any]] = {"cnn": Cnn, "gru": Gru, "transformer": Transformer}


def passages() -> tuple[Tensor, Tensor]:
    """Passages of scikit-learn's documentation as ids [n, LENGTH], and of which sort each is, in a drawn order."""
    ids, labels = [], []
    for label, packages in enumerate(PACKAGES):
        words = [word for package in packages for word in re.findall(r"[a-z]{3,}", documentation(package))]
        for first in range(0, len(words) - LENGTH, LENGTH):
            ids.append([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in words[first : first + LENGTH]])
            labels.append(label)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    return torch.tensor(ids)[order], torch.tensor(labels)[order]


def documentation(package: str) -> str:
    """The docstrings of a package's public classes and functions, in small letters."""
    root = importlib.import_module(f"sklearn.{package}")
    modules = [
        root,
        *(importlib.import_module(m.name) for m in pkgutil.iter_modules(root.__path__, f"{root.__name__}.")),
    ]
    texts = {
        inspect.getdoc(one) or ""
        for module in modules
        if not module.__name__.rsplit(".", 1)[-1].startswith("test")
        for _, one in inspect.getmembers(module, lambda one: inspect.isclass(one) or inspect.isfunction(one))
        if getattr(one, "__module__", "").startswith(root.__name__)
    }
    return " ".join(sorted(texts)).lower()


def fed(kind: type[Any], ids: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """A teacher's inputs: ids, a mask of the first ``kept`` of each, and all of one kind of token."""
    mask = (torch.arange(ids.shape[1])[None] < kept[:, None]).long()
    return (ids * mask, mask, torch.zeros_like(ids))[: len(kind.names)]


def trained(name: str, ids: Tensor, labels: Tensor) -> nn.Module:
    """A teacher, trained on all passages but the last ones."""
    torch.manual_seed(0)
    model = TEACHERS[name]()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    draw = torch.Generator().manual_seed(1)
    for _ in range(500):
        rows = torch.randint(0, len(ids) - REAL, (128,), generator=draw)
        kept = torch.randint(LENGTH // 2, LENGTH + 1, (128,), generator=draw)
        kept = torch.where(torch.rand(128, generator=draw) < 0.5, LENGTH, kept)
        loss = nn.functional.cross_entropy(model(*fed(TEACHERS[name], ids[rows], kept)), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def exported(model: nn.Module, name: str, exporter: str) -> str:
    """Write a teacher with free batch and length; return the path."""
    path, names = str(FOLDER / f"{name}-{exporter}.onnx"), TEACHERS[name].names
    inputs = tuple(torch.ones(2, LENGTH, dtype=torch.int64) for _ in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            axes = {**{one: {0: "batch", 1: "length"} for one in names}, "logits": {0: "batch"}}
            torch.onnx.export(
                model, inputs, path, input_names=list(names), output_names=["logits"], dynamic_axes=axes,
                opset_version=17, dynamo=False,
            )  # fmt: skip
        else:
            batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=LONGEST)
            program = torch.onnx.export(
                model, inputs, input_names=list(names), output_names=["logits"], opset_version=18, dynamo=True,
                dynamic_shapes=tuple({0: batch, 1: length} for _ in names),
            )  # fmt: skip
            program.save(path)  # type: ignore[union-attr]
    return path


def onnxcake(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; its exit code, the object on stdout, and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "onnxcake", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def measure(name: str, exporter: str, budget: Sequence[str], ids: Tensor, labels: Tensor) -> dict[str, object]:
    """Train, write, inspect, extract and verify one teacher; what came out."""
    model = trained(name, ids, labels)
    path, real = exported(model, name, exporter), ids[-REAL:]
    full = torch.full((REAL,), LENGTH)
    short = torch.randint(LENGTH // 2, LENGTH + 1, (REAL,), generator=torch.Generator().manual_seed(2))
    probes = {"full": fed(TEACHERS[name], real, full), "padded": fed(TEACHERS[name], real, short)}
    with torch.no_grad():
        accuracy = float((model(*probes["full"]).argmax(1) == labels[-REAL:]).float().mean())
    _, found, _ = onnxcake("inspect", path)
    error = found.get("error") or {}
    options = shlex.split((re.findall(r"--input .*(?=\.)", error.get("remedy", "")) or [""])[0])
    options = [*options[:-1], re.sub(r",\d+,", f",{LENGTH},", options[-1])] if "--shape" in options else options
    out = FOLDER / f"{name}-{exporter}-{commit()}"
    code, report, message = onnxcake("extract", path, *options, *budget, "--out", str(out))
    row: dict[str, object] = {
        "teacher": name,
        "exporter": exporter,
        "options": shlex.join(options),
        "accuracy": f"{accuracy:.3f}",
    }
    if code:
        return {**row, "extract": f"{code}: {message.strip()[-200:]}"}
    agreed = {}
    for kind, inputs in probes.items():
        probe = FOLDER / f"{name}-{kind}.npz"
        arrays = {one: array.numpy() for one, array in zip(TEACHERS[name].names, inputs, strict=True)}
        np.savez(probe, **arrays, labels=labels[-REAL:].numpy())
        verified, told, said = onnxcake("verify", path, str(out / "student.onnx"), *options, "--probe", str(probe))
        agreed[kind] = (
            f"{told['agreement']['probe']['agreement']['value']:.3f}" if not verified else said.strip()[-200:]
        )
    synthetic = next(iter(report["agreement"].values()))["agreement"]["value"]
    sizes = f"{report['teacher']['bytes']:,} → {report['student']['bytes']:,}"
    return {**row, "extract": code, "held out": f"{synthetic:.3f}", **agreed, "bytes": sizes}


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="", help="as of onnxcake extract, such as 2m; else --passes")
    parser.add_argument("--passes", default="1e5", help="as of onnxcake extract")
    parser.add_argument("--anew", action="store_true", help="do again what was done")
    asked = parser.parse_args()
    budget = ["--budget", asked.budget] if asked.budget else ["--passes", asked.passes]
    logging.disable(logging.WARNING)
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = [] if asked.anew or not FILE.exists() else [json.loads(line) for line in FILE.read_text().splitlines()]
    known = {(row["teacher"], row["exporter"], row["budget"]) for row in done}
    ids, labels = passages()
    print(f"{len(ids)} passages, of the sorts {torch.bincount(labels).tolist()}", flush=True)
    for name in TEACHERS:
        for exporter in ("legacy", "current"):
            if (name, exporter, " ".join(budget)) in known:
                continue
            row = {**measure(name, exporter, budget, ids, labels), "budget": " ".join(budget)}
            with FILE.open("a") as file:
                file.write(json.dumps(row) + "\n")
            append(TABLE, row)


if __name__ == "__main__":
    main()
