"""Classifiers of other kinds, made on the spot, through `onnxcake.Teacher.load` as a user would.

    python -m benchmarks.coverage.zoo [PART OF A NAME …]

Each is compared with onnxruntime at a batch that the file was not made with, and its input gradient with central
differences taken through onnxruntime, or with the gradient of the torch original. What has no gradient must be
refused, and the refusal must name the operator.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxcake import Teacher
from onnxcake.core.errors import OnnxcakeError
from onnxcake.teacher.scores import logits_to_output

from .common import cosine, keep, kept, one_line, relative, session, table
from .timm_models import quiet

FORWARD, GRADIENT = 2e-3, 0.02
_STEP = 1e-2  # length of the step of the differences, over the deviation of the inputs
_DIRECTIONS = 4


@dataclass(frozen=True)
class Made:
    """A file, a batch for it, the torch module it came from, and the same file but for floats, where there are such."""

    path: Path
    inputs: Tensor
    original: nn.Module | None = None
    for_floats: Path | None = None


@dataclass(frozen=True)
class Row:
    """One model of the zoo.

    Attributes:
        make: writes the file into a folder.
        options: what `Teacher.load` is told.
        refused: a word of the refusal that is expected; None where the model must convert.
        cosine: the least cosine between the gradient and the torch original's; 0 for central differences instead.
        forward: the largest difference from onnxruntime over the largest output.
    """

    name: str
    make: Callable[[Path], Made]
    options: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None
    cosine: float = 0.0
    forward: float = FORWARD


def answers(teacher: Teacher, x: Tensor) -> Tensor:
    """The file's own kind of output, from the converted graph."""
    out: Tensor = logits_to_output(teacher.signature)(teacher.logits(x))
    return out


class File:
    """The file in onnxruntime, at any batch, whatever its own."""

    def __init__(self, path: Path, output: str) -> None:
        self.session = session(path)
        names = [out.name for out in self.session.get_outputs()]
        self.output = output if output in names else names[-1]  # scores before a ZipMap have no name outside
        (source,) = self.session.get_inputs()
        self.name, batch = source.name, source.shape[0]
        self.batch = batch if isinstance(batch, int) else None
        kinds = {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}
        self.dtype = kinds.get(source.type, np.float32)

    def __call__(self, x: Tensor) -> Tensor:
        array, size = x.numpy().astype(self.dtype), self.batch or len(x)
        parts = [self._run(array[i : i + size]) for i in range(0, len(x), size)]
        return torch.from_numpy(np.concatenate(parts).astype(np.float64))

    def _run(self, array: Any) -> Any:
        (out,) = self.session.run([self.output], {self.name: array})
        if isinstance(out, list):  # ZipMap: a dictionary for each input
            return np.array([[one[key] for key in sorted(one)] for one in out])
        return out


def check(row: Row, folder: Path) -> dict[str, Any]:
    """Makes, loads and compares one model; what came of it."""
    with quiet():
        made = row.make(folder)
    try:
        teacher = Teacher.load(made.path, **row.options)
    except OnnxcakeError as error:
        if row.refused is None:
            raise
        said = str(error)
        return {"ok": row.refused in said, "why": "refused: " + said.splitlines()[0]}
    if row.refused is not None:
        return {"ok": False, "why": "was not refused"}
    x = made.inputs.float().clone().requires_grad_(True)
    out = answers(teacher, x)
    result: dict[str, Any] = {"ok": False, "why": ""}
    file = None
    if "input" not in row.options:
        file = File(made.path, teacher.signature.output_name)
        result["forward"] = relative(out.detach(), file(made.inputs).reshape(out.shape))
    elif made.original is not None:
        result["forward"] = relative(out.detach(), made.original(made.inputs).detach())
    if not result["forward"] <= row.forward:
        return {**result, "why": f"forward differs by {result['forward']:.2g}"}
    projection = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(out.shape)).astype(np.float32))
    (gradient,) = torch.autograd.grad((out * projection).sum(), x)
    if row.cosine and made.original is not None:
        result["cosine"] = _against_original(made, gradient, projection)
        return {**result, "ok": result["cosine"] > row.cosine, "why": "gradient differs from the original's"}
    assert file is not None
    if made.for_floats is not None:
        file = File(made.for_floats, file.output)
    result["gradient"] = _against_differences(file, x.detach(), gradient, projection)
    return {**result, "ok": result["gradient"] <= GRADIENT, "why": "gradient differs from central differences"}


def _against_original(made: Made, gradient: Tensor, projection: Tensor) -> float:
    assert made.original is not None
    x = made.inputs.float().clone().requires_grad_(True)
    (wanted,) = torch.autograd.grad((made.original(x) * projection).sum(), x)
    return cosine(gradient, wanted)


def _against_differences(file: File, x: Tensor, gradient: Tensor, projection: Tensor) -> float:
    """The largest error of the slope along the gradient and random directions, over the gradient's length."""
    random = np.random.default_rng(2)
    draws = [torch.from_numpy(random.standard_normal(tuple(x.shape)).astype(np.float32)) for _ in range(_DIRECTIONS)]
    length = float(gradient.norm())
    if not length:
        raise AssertionError("no gradient")
    worst, step = 0.0, _STEP * max(1.0, float(x.std()))
    for direction in (gradient, *draws):
        direction = direction / direction.norm()
        values = [float((file(x + sign * step * direction) * projection).sum()) for sign in (1, -1)]
        slope = (values[0] - values[1]) / (2 * step)
        worst = max(worst, abs(slope - float((gradient * direction).sum())) / length)
    return worst


def run(parts: list[str] | None = None) -> None:
    """Runs all rows, or those whose names contain one of ``parts``, and keeps the results."""
    from .zoo_rows import ROWS

    found = {row["name"]: row for row in kept("zoo") or []} if parts else {}
    for row in ROWS:
        if parts and not any(part in row.name for part in parts):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = check(row, Path(folder))
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
                result = {"ok": False, "why": one_line(error).replace(folder, "…")}
        result["why"] = result["why"] if not result["ok"] or row.refused else ""
        found[row.name] = {"name": row.name, **result}
        print(row.name, "ok" if result["ok"] else "FAILED", result["why"], flush=True)
    keep("zoo", [found[row.name] for row in ROWS if row.name in found])


def summary() -> list[list[str]]:
    """The row of the summary."""
    found = kept("zoo")
    return [["other models", "all", f"{sum(row['ok'] for row in found)} of {len(found)}"]] if found else []


def section() -> str:
    """The part of the document."""
    found = kept("zoo")
    if not found:
        return ""
    lines = []
    for row in found:
        forward = f"{row['forward']:.1e}" if "forward" in row else ""
        gradient = f"cosine {row['cosine']:.4f}" if "cosine" in row else ""
        gradient = f"{row['gradient']:.1e}" if "gradient" in row else gradient
        lines.append([row["name"], "yes" if row["ok"] else "**no**", forward, gradient, row["why"]])
    return "\n\n".join(
        [
            f"## Other models: {sum(row['ok'] for row in found)} of {len(found)}",
            f"Forward against onnxruntime ({FORWARD:g} of the largest output); gradient against central differences "
            f"through onnxruntime ({GRADIENT:g} of its length), or its cosine with the torch original's.",
            table(["model", "as it should be", "forward", "gradient", "remark"], lines),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*")
    run(parser.parse_args().parts)
    print(section())
