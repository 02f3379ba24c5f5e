"""Students cut out of teachers of many architectures, at three sizes and at their own; writes docs/shrinking.md.

    python -m benchmarks.coverage.shrinking [NAME …] [--again] [--write]

By channels and the like alone, and by low-rank factors alone. Each student must pass ONNX's checker, give the same rows
in onnxruntime in batches of 1 and 3, equal its torch twin, and have the parameters that were asked for, within 10 %; at
keep 1.0 it must equal the teacher. Which channels stay plays no part here, so weights decide. The files of timm are
those of `architectures`; what is missing is exported.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnxcake.core.rng import Key
from onnxcake.pruning.choices import Numbers
from onnxcake.pruning.goal import Goal, Measurements, Pruned
from onnxcake.pruning.pruner import Pruner
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions

from ..results import commit
from .architectures import prepare
from .common import add, from_file, one_line, relative, rows, session, table, versions
from .timm_models import ARCHITECTURES, files
from .zoo_rows import ROWS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "shrinking.md"
SHARES = (1.0, 0.75, 0.5, 0.25)
PARTS = ("channels", "products")
SAME, TWIN, MISSED = 1e-5, 2e-3, 0.1  # relative: to the teacher at keep 1.0, to the torch twin, from the target
_EXPORTER = "legacy17"

_TIMM = """
    resnet18 resnet50 resnext50_32x4d seresnet18 res2net50_26w_4s resnetv2_50 regnetx_002 regnety_002 densenet121 dla34
    hrnet_w18_small vgg11_bn inception_v3 squeezenet1_1 shufflenet_v2_x0_5 mobilenetv2_100 mobilenetv3_large_100
    mobilenetv4_conv_small mobilenetv4_hybrid_medium efficientnet_b0 tf_efficientnetv2_b0 mixnet_s ghostnet_100
    ghostnetv2_100 convnext_atto convnextv2_atto cspdarknet53 vit_tiny_patch16_224 deit_tiny_distilled_patch16_224
    deit3_small_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 pvt_v2_b0 mixer_s16_224 resmlp_12_224
    gmlp_ti16_224 poolformer_s12 caformer_s18 mobilevit_xxs levit_128s
"""
_ZOO = (
    "lstm, legacy17",
    "gru, legacy17",
    "gru, dynamo",
    "audio, 1-D convolutions, legacy17",
    "text encoder on embeddings, legacy17",
    "tabular MLP, legacy17",
    "sklearn MLPClassifier",
)


@contextmanager
def _file(name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A teacher's file, and what must be said of it."""
    if name in _ZOO:
        row = next(row for row in ROWS if row.name == name)
        with tempfile.TemporaryDirectory() as folder:
            yield row.make(Path(folder)).path, row.options
    else:
        size, told = next((size, told) for known, size, told in ARCHITECTURES if known == name)
        prepare(name, size, told, [_EXPORTER])
        yield files(name, _EXPORTER)[0], {}


def check(name: str, path: Path, options: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Cuts one teacher at each size, by its channels and by low-rank factors; the rows to keep of each."""
    opened = open_graph(path, TeacherOptions.of(**options))
    pruner = Pruner(opened, "input", "output")
    worth = pruner.scores("weights", Key(0), Measurements())
    x = torch.randn(3, *opened.safe.input_shape, generator=Key(0).generator())
    teacher = _answers(path, opened.safe.outputs[opened.output], x)
    made: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for share in SHARES:
        row = _row(name, share, pruner.to(Goal(keep=share), worth, Measurements()), x, teacher if share == 1 else None)
        row["next"] = None if _on_target(row) else _next(pruner, worth, row)
        made["channels"].append(row)
        ranks = None if share == 1 else pruner.ranks(Goal(keep=share), Measurements())
        if ranks is not None:
            made["products"].append(_row(name, share, pruner.factorise(ranks).as_it_is(), x, None))
        elif share < 1:
            made["products"].append({"name": name, "keep": share, "ok": True, "why": "no ranks reach it"})
    return made


def _row(
    name: str, share: float, student: Pruned, x: torch.Tensor, teacher: np.ndarray[Any, Any] | None
) -> dict[str, Any]:
    """What there is to say of a student; ``teacher``: what it has to answer, if that is known."""
    row: dict[str, Any] = {"name": name, "keep": share, "parameters": student.parameters}
    row["share"] = student.parameters[1] / student.parameters[0]
    row["held"] = sorted({f"{layer.name} ({layer.held})" for layer in student.layers if layer.held})
    try:
        row |= _checked(student.content, x, teacher)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
        row["why"] = one_line(error)
    return {**row, "ok": not row["why"]}


def _next(pruner: Pruner, worth: Numbers, row: dict[str, Any]) -> float | None:
    """The next larger share that can be cut, where the target was missed: widths are whole numbers."""
    total, largest = row["parameters"]
    for more in range(1, 51):
        size = pruner.to(Goal(keep=min(row["keep"] + more / 100, 1.0)), worth, Measurements()).parameters[1]
        if size > largest:
            return size / total
    return None


def _answers(model: Path | bytes, output: str, x: torch.Tensor) -> np.ndarray[Any, Any]:
    run = session(model)
    got = run.run([output], {run.get_inputs()[0].name: x.numpy()})[0]
    return np.array([list(row.values()) for row in got] if isinstance(got, list) else got)  # after a ZipMap: dicts


def _checked(content: bytes, x: torch.Tensor, teacher: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    whole, alone = _answers(content, "output", x), _answers(content, "output", x[:1])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "student.onnx"
        path.write_bytes(content)
        twin = from_file(path)(x).numpy()
    found = {"rows": relative(alone, whole[:1]), "twin": relative(twin, whole)}
    if teacher is not None:
        found["same"] = relative(whole, teacher)
    limits = {"rows": TWIN, "twin": TWIN, "same": SAME}
    why = ", ".join(f"{what} differs by {found[what]:.1g}" for what in found if not found[what] <= limits[what])
    return {**found, "why": why}


def run(names: list[str] | None = None, again: bool = False) -> None:
    """Cuts what has not been, or everything ``again``."""
    for name in (*_TIMM.split(), *_ZOO):
        done = rows("products", "name", "keep")
        if (names and name not in names) or ((name, SHARES[-1]) in done and not again):
            continue
        with _file(name) as (path, options):
            try:
                found = check(name, path, options)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is the result
                failed = [{"name": name, "keep": share, "ok": False, "why": one_line(error)} for share in SHARES]
                found = {"channels": failed, "products": failed[1:]}
        for part in PARTS:
            for row in found[part]:
                add(part, row)
            print(name, part, *("ok" if row["ok"] else row["why"] for row in found[part]), sep=" | ", flush=True)
        gc.collect()


def _on_target(row: dict[str, Any]) -> bool:
    return "share" in row and abs(row["share"] / row["keep"] - 1) <= MISSED


def document() -> str:
    """All results at hand."""
    done, products = (rows(part, "name", "keep") for part in PARTS)
    names = list(dict.fromkeys(name for name, _ in done))
    lines, notes = [], []
    for name in names:
        cells = [done[name, share] for share in SHARES]
        shares = [f"{cell['share']:.3f}" if "share" in cell else "–" for cell in cells]
        worst = max((cell.get("twin", 0.0) for cell in cells), default=0.0)
        same = cells[0].get("same")
        lines.append([f"`{name}`", *shares, f"{worst:.1e}", "–" if same is None else f"{same:.1e}", _verdict(cells)])
        notes += [
            [
                f"`{name}`",
                cell["keep"],
                f"{cell['share']:.3f}",
                "–" if cell["next"] is None else f"{cell['next']:.3f}",
                "; ".join(cell["held"][:8]) or "–",
            ]
            for cell in cells
            if "share" in cell and not _on_target(cell)
        ]
    head = [
        "teacher",
        *(f"keep {share}" for share in SHARES),
        "largest difference, torch twin",
        "keep 1.0 – teacher",
        "",
    ]
    good, met = sum(row["ok"] for row in done.values()), sum(map(_on_target, done.values()))
    text = [
        "# Students cut out of a teacher",
        f"Written by `python -m benchmarks.coverage.shrinking`, not by hand; commit {commit()}, {versions()}.",
        f"{len(names)} teachers × keep {', '.join(map(str, SHARES))}: {good} of {len(done)} students are sound, {met} "
        "have the parameters that were asked for within 10 %.",
        "`onnxcake shrink` at four shares: the share of the parameters that was reached. Each file passes ONNX's "
        f"checker, gives the same rows in batches of 1 and 3, and equals its torch twin within {TWIN:g}; at keep 1.0 "
        f"it equals the teacher within {SAME:g}. Differences are over the largest output. Teachers of timm have random "
        "weights.",
        table(head, lines),
    ]
    if notes:
        head = ["target missed", "keep", "reached", "next larger", "what was held, and by which operator"]
        text.append(table(head, notes))
    reached = [row for row in products.values() if "share" in row]
    good, met = sum(row["ok"] for row in reached), sum(map(_on_target, reached))
    text += [
        "## Low-rank factors",
        "Such a student is then fitted to its teacher before it is written "
        "(`onnxcake/pruning/reconstruct.py`): layer by layer, first the second factor, then "
        "the first, by linear least squares on random fields, behind the layers fitted before; where the answers to "
        "images of another kind come at least half as far again. "
        'See "Low-rank factors before training" in [benchmarks/RESULTS.md](../benchmarks/RESULTS.md). Channels are not '
        "fitted so: that gives a far better start (a ViT 0.86 for 0.58) and, after training, no better student.",
        f"The same teachers with all their channels: {good} of {len(reached)} students are sound, {met} have the "
        "parameters that were asked for within 10 %. A dash: no ranks reach the share.",
        table(
            ["teacher", *(f"keep {share}" for share in SHARES[1:]), "largest difference, torch twin", ""],
            [_of_products(name, [products[name, share] for share in SHARES[1:]]) for name in names],
        ),
    ]
    return "\n\n".join(text) + "\n"


def _of_products(name: str, cells: list[dict[str, Any]]) -> list[str]:
    shares = [f"{cell['share']:.3f}" if "share" in cell else "–" for cell in cells]
    return [f"`{name}`", *shares, f"{max(cell.get('twin', 0.0) for cell in cells):.1e}", _verdict(cells)]


def _verdict(cells: list[dict[str, Any]]) -> str:
    return "; ".join(f"keep {cell['keep']}: {cell['why']}" for cell in cells if not cell["ok"]) or "ok"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true", help="cut anew what was cut before")
    parser.add_argument("--write", action="store_true", help="only write the document")
    chosen = parser.parse_args()
    if not chosen.write:
        run(chosen.names, chosen.again)
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"written: docs/{DOCUMENT.name}")
