"""How well the student of a bare `onnxcake extract` agrees with its teacher, over teachers of many kinds.

    python benchmarks/fidelity.py TEACHERS_DIR DATA_DIR [--rows digits,vit] [--seeds 3] [--budget 5m] [--recipe cake]
                                  [--student lenet5-half]

No option is given but what the file cannot say of its inputs. TEACHERS_DIR holds the hard teachers; the others are
trained on first use, in minutes. The last iterate is compared on real test data, which the run does not learn from.
Each cell is appended to RESULTS.md as it is finished, and skipped if it is there; two processes may fill one table.
``--recipe``, ``--budget`` and ``--student`` are for comparisons.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import results
import teachers
import torch
import torch.nn.functional as F
import two_moons
from results import CACHE
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from students import TEACHERS, test_images
from torch import Tensor, nn

import onnxcake
from onnxcake.core.progress import Progress
from onnxcake.onnxfile.export import export
from onnxcake.teacher.autotune import threads_given

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
UNIT = {"range": (0.0, 1.0)}
PADDED = {"range": (0.0, 1.0), "mean": (teachers.MEAN,), "std": (teachers.STD,)}


@dataclass(frozen=True)
class Files:
    """A teacher, real inputs with labels, and what must be said of the teacher's inputs."""

    teacher: Path
    probe: Path
    said: dict[str, Any] = field(default_factory=dict)


Make = Callable[[Path, Path], Files]  # the folders of the hard teachers and of the data


def digits(_: Path, data: Path) -> Files:
    return Files(EXAMPLES / "digits.onnx", EXAMPLES / "digits-test.npz", UNIT)


def trained(name: str) -> Make:
    return lambda _, data: Files(teachers.teacher(data, name), teachers.images_file(data, "test"), PADDED)


def hard(name: str) -> Make:
    return lambda folder, data: Files(folder / TEACHERS[name].file, test_images(data), UNIT)


class Rows(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(28, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x)
        logits: Tensor = self.head(states[:, -1])
        return logits


def gru(_: Path, data: Path) -> Files:
    """Over the rows of MNIST's images, in 0 … 1; four epochs."""
    file, probe = CACHE / "gru.onnx", CACHE / "gru-test.npz"
    if not file.exists():
        with np.load(data / "mnist.npz") as arrays:
            x, y = torch.from_numpy(arrays["x_train"] / np.float32(255)), torch.from_numpy(arrays["y_train"]).long()
            np.savez(probe, x=arrays["x_test"] / np.float32(255), y=arrays["y_test"])
        torch.manual_seed(0)
        net = Rows()
        steps = 4 * -(-len(x) // teachers.BATCH)
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
        for _ in range(4):
            for rows in torch.randperm(len(x)).split(teachers.BATCH):
                optimiser.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimiser.step()
                rate.step()
        file.write_bytes(export(net.eval(), (28, 28), input_name="rows", output_name="digit", opset=17))
    return Files(file, probe, UNIT)


def moons(_: Path, data: Path) -> Files:
    file, probe = CACHE / "moons.onnx", CACHE / "fresh.npz"
    if not file.exists():
        two_moons.teacher(CACHE)
    return Files(file, probe)


def wine(_: Path, data: Path) -> Files:
    """A scikit-learn pipeline of scaling and an MLP; a third of the 178 wines is held out."""
    file, probe = CACHE / "wine.onnx", CACHE / "wine-test.npz"
    if not file.exists():
        from skl2onnx import to_onnx

        x, y = load_wine(return_X_y=True)
        known, held, classes, answers = train_test_split(x.astype(np.float32), y, test_size=1 / 3, random_state=0)
        net = MLPClassifier((32, 16), random_state=0, max_iter=2000)
        pipeline = make_pipeline(StandardScaler(), net).fit(known, classes)
        model = to_onnx(pipeline, known[:1], options={"zipmap": False}, target_opset=17)
        file.write_bytes(model.SerializeToString())
        np.savez(probe, x=held, y=answers)
    return Files(file, probe)


ROWS: dict[str, Make] = {
    "digits": digits,
    "lenet5": trained("lenet5"),
    "mlp": trained("mlp"),
    "folded": hard("folded"),
    "unfolded": hard("unfolded"),
    "vit": hard("vit"),
    "gru": gru,
    "moons": moons,
    "wine": wine,
}


def title(budget: str | None) -> str:
    """The heading in RESULTS.md."""
    bare = "Fidelity of `onnxcake extract` with no option given (layercake)"
    return bare if budget is None else f"Fidelity, {budget} each"


def cell(name: str, files: Files, seed: int, recipe: str | None, student: str | None, budget: str | None) -> None:
    """One run, and its row."""
    overrides = [] if student is None else [f"student.architecture={student}"]
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        out = Path(folder) / name
        report = onnxcake.extract(
            files.teacher,
            recipe=recipe,
            out=out,
            probe=files.probe,
            overrides=overrides,
            budget=budget,
            seed=seed,
            progress=Progress(),
            **files.said,
        ).as_dict()
        start = out / "start.onnx"
        before = onnxcake.verify(files.teacher, start, probe=files.probe).as_dict() if start.exists() else None
        shutil.rmtree(out)
    probe, spent = report["agreement"]["probe"], report["spent"]
    share = "{:.4f}".format
    row = {
        "teacher": name,
        "recipe": recipe or "–",
        "student": student or "–",
        "parameters": f"{report['student']['parameters']:,} of {report['teacher']['parameters']:,}",
        "seed": seed,
        "before": "–" if before is None else share(before["agreement"]["probe"]["agreement"]["value"]),
        "agreement": share(probe["agreement"]["value"]),
        "held-out": share(report["agreement"]["held_out"]["agreement"]["value"]),
        "without data": share(report["without_data"]["expected"]),
        "alarms": "; ".join(report["without_data"]["alarms"]) or "–",
        "teacher passes": f"{spent['teacher_passes']:,}",
        "seconds": f"{sum(spent['seconds'].values()):.0f}",
        "threads": threads_given(),
    }
    results.append(title(budget), row)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe")
    parser.add_argument("--student")
    parser.add_argument("--budget")
    said = parser.parse_args(arguments)
    CACHE.mkdir(exist_ok=True)
    for seed in range(said.seeds):
        for name in said.rows:
            asked = {"teacher": name, "recipe": said.recipe or "–", "student": said.student or "–", "seed": seed}
            if not results.seen(title(said.budget), **asked):
                cell(name, ROWS[name](said.teachers, said.data), seed, said.recipe, said.student, said.budget)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
