"""timm architectures × torch's exporters: forward against onnxruntime, input gradient against the original.

    python -m benchmarks.coverage.architectures [NAME …] [--again] [--export-only] [--no-export]

Each architecture is exported by a process of its own (an hour for all of them, once); a stopped run goes on where
it was. ``--again`` converts and compares anew what was done before, as after a change of the converters.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch

from .common import CACHE, add, cosine, from_file, in_float64, one_line, opsets_of, relative, rows, table, to_tensor
from .timm_models import ARCHITECTURES, EXPORTERS, FOLDER, files

FORWARD, COSINE = 2e-3, 0.999
_PATIENCE = 1800  # seconds for all exports of one architecture


def prepare(name: str, size: int, told: bool, exporters: Sequence[str] = tuple(EXPORTERS)) -> None:
    """Has one architecture exported, unless all of these exports are there or were refused."""
    refused = rows("timm-refused", "name", "exporter")
    if all(files(name, e)[1].exists() or (name, e) in refused for e in exporters):
        return
    command = [sys.executable, "-m", "benchmarks.coverage.timm_models", name, str(size), *exporters]
    why = ""
    try:
        done = subprocess.run(
            command + ["--img-size"] * told, cwd=CACHE.parents[2], capture_output=True, text=True, timeout=_PATIENCE
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        why = f"not done after {_PATIENCE} s"
    if why:
        refused = rows("timm-refused", "name", "exporter")
        for exporter in exporters:
            if not files(name, exporter)[1].exists() and (name, exporter) not in refused:
                add("timm-refused", {"name": name, "exporter": exporter, "why": why})


def check(name: str, exporter: str) -> dict[str, Any]:
    """Converts one file and compares; the row to keep."""
    file, beside = files(name, exporter)
    with np.load(beside) as arrays:
        known = {key: arrays[key] for key in arrays.files}
    model = onnx.load(file)
    row: dict[str, Any] = {"name": name, "exporter": exporter, "opset": opsets_of(model)[""], "ok": False, "why": ""}
    row["export"] = relative(known["out1"], known["original"])
    try:
        start = time.perf_counter()
        graph = from_file(file)
        row["seconds"] = round(time.perf_counter() - start, 2)
        x = to_tensor(known["x1"]).requires_grad_(True)
        out = graph(x)
        with torch.no_grad():
            first = graph(to_tensor(known["x0"]))
        row["forward"] = max(relative(first, known["out0"]), relative(out.detach(), known["out1"]))
        (gradient,) = torch.autograd.grad((out * to_tensor(known["projection"])).sum(), x)
        row["cosine"] = cosine(gradient, to_tensor(known["gradient"]))
        if not row["cosine"] > COSINE and "gradient64" in known:
            # In some networks the last digits of float32 turn the gradient, the original's own as well.
            row["float32"], row["cosine"] = row["cosine"], _in_float64(model, known)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
        return {**row, "why": one_line(error)}
    if not row["forward"] <= FORWARD:
        return {**row, "why": f"forward differs by {row['forward']:.2g}"}
    if not row["cosine"] > COSINE:
        return {**row, "why": f"gradient has cosine {row['cosine']:.4f}"}
    return {**row, "ok": True}


def _in_float64(model: onnx.ModelProto, known: dict[str, Any]) -> float:
    """The gradient's cosine with the original's, all computed in float64."""
    x = to_tensor(known["x1"]).double().requires_grad_(True)
    out = in_float64(model, x.shape[1:])(x)
    (gradient,) = torch.autograd.grad((out * to_tensor(known["projection"])).sum(), x)
    return cosine(gradient, to_tensor(known["gradient64"]))


def run(names: list[str] | None = None, again: bool = False, export: bool = True, compare: bool = True) -> None:
    """Exports, converts and compares what has not been, or everything ``again``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, size, told in ARCHITECTURES:
        if names and name not in names:
            continue
        if export:
            prepare(name, size, told)
        done = rows("architectures", "name", "exporter")
        for exporter in EXPORTERS if compare else ():
            if not files(name, exporter)[1].exists() or ((name, exporter) in done and not again):
                continue
            row = check(name, exporter)
            add("architectures", row)
            print(name, exporter, "ok" if row["ok"] else row["why"], flush=True)
            gc.collect()


def summary() -> list[list[str]]:
    """The row of the summary."""
    done = rows("architectures", "name", "exporter")
    if not done:
        return []
    passed, refused = sum(row["ok"] for row in done.values()), len(rows("timm-refused", "name", "exporter"))
    measured = f"{passed} of {len(done)} that export; {refused} do not"
    return [[f"{len(ARCHITECTURES)} architectures × {len(EXPORTERS)} exporters", "all that export", measured]]


def section() -> str:
    """The part of the document."""
    done = rows("architectures", "name", "exporter")
    if not done:
        return ""
    refused = rows("timm-refused", "name", "exporter")
    names = [name for name, _, _ in ARCHITECTURES]
    lines = []
    for exporter in EXPORTERS:
        cells = [done[name, exporter] for name in names if (name, exporter) in done]
        left = Counter(name in {n for n, e in refused if e == exporter} for name in names)[True]
        opsets = " ".join(sorted({str(cell["opset"]) for cell in cells}))
        good = [cell for cell in cells if cell["ok"]]
        worst = max((cell["forward"] for cell in good), default=0), min((cell["cosine"] for cell in good), default=0)
        lines.append([exporter, opsets, f"**{len(good)} / {len(cells)}**", left, f"{worst[0]:.1e}", f"{worst[1]:.6f}"])
    head = ["exporter", "opset", "pass", "does not export", "largest forward difference", "smallest cosine"]
    text = [
        f"## Architectures ({len(names)}, of timm; two of torchvision)",
        f"Random weights, 10 classes, dynamic batch. Forward within {FORWARD:g} of the largest output of onnxruntime "
        f"at two batch sizes, and the input gradient's cosine with the torch original's above {COSINE}. Attention is "
        "exported fused, where the exporter can.",
        table(head, lines),
    ]
    wide = sorted(f"`{name}` ({exporter})" for (name, exporter), cell in done.items() if "float32" in cell)
    if wide:
        why = "the last digits of float32 turn their gradients, the original's own as well"
        text.append(f"Gradients compared in float64, as {why}: {', '.join(wide)}.")
    bad = [cell for key, cell in sorted(done.items()) if not cell["ok"]]
    if bad:
        told = [[f"`{c['name']}`", c["exporter"], c["why"] + _own(c)] for c in bad]
        text.append(table(["does not pass", "exporter", "why"], told))
    if refused:
        told = [[f"`{name}`", exporter, row["why"]] for (name, exporter), row in sorted(refused.items())]
        text.append(table(["does not export", "exporter", "the exporter's reason"], told))
    text.append("Architectures: " + ", ".join(f"`{name}`" for name in names) + ".")
    return "\n\n".join(text)


def _own(cell: dict[str, Any]) -> str:
    """A note where the file itself is not the original."""
    return f" (the exported file differs from the original by {cell['export']:.1g})" if cell["export"] > FORWARD else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true", help="convert and compare anew what was done before")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--no-export", action="store_true")
    chosen = parser.parse_args()
    run(chosen.names, chosen.again, not chosen.no_export, not chosen.export_only)
    print(section())
