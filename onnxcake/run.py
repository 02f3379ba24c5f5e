"""The folder of a run: what lies in it, and what it was started with.

::

    run.json        teacher, recipe and seed, as they were resolved
    plan.json       what was decided for this machine
    spent.json      seconds and teacher passes so far
    store/          the synthetic set
    start.onnx      the model that the student began as, where one was given or cut out of the teacher
    start.json      what it was cut by
    student/        checkpoints of training
    student.onnx    the result
    samples.png     a picture of the set
    report.json     the figures; report.txt shows them as a table
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from . import __version__, files
from .errors import OutputError, StoreError
from .recipe import Recipe
from .teacher import Facts

FILE, STORE, CHECKPOINTS = "run.json", "store", "student"
START, CUT, STUDENT = "start.onnx", "start.json", "student.onnx"
PICTURE, REPORT, TABLE = "samples.png", "report.json", "report.txt"


@dataclass(frozen=True)
class Run:
    """What a run was started with."""

    teacher: Facts
    recipe: Recipe
    seed: int

    def write(self, folder: Path) -> None:
        """Keeps it in ``folder``."""
        value = {
            "onnxcake": __version__,
            "seed": self.seed,
            "teacher": self.teacher.as_dict(),
            "recipe": self.recipe.as_dict(),
        }
        files.write_json(folder / FILE, value)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """What the run in ``folder`` was started with.

        Raises:
            StoreError: if there is none, or it cannot be read.
        """
        try:
            value = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(Facts.from_dict(value["teacher"]), Recipe.load(value["recipe"]), int(value["seed"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                "no run here (run.json is missing or cannot be read)",
                where=folder,
                remedy="Give the folder that `onnxcake extract` wrote.",
            ) from error


def guard(folder: Path) -> None:
    """Makes sure that a folder is new, empty, or of an earlier run, so that nobody's files are overwritten.

    Raises:
        OutputError: otherwise, or if a link, a folder or a device has the name of one of the files.
    """
    for name in (FILE, START, CUT, STUDENT, PICTURE, REPORT, TABLE):
        files.check_target(folder / name, stream=False)
    ours = [name for name in (STUDENT, REPORT, PICTURE, TABLE) if (folder / name).exists()]
    if ours and not (folder / FILE).exists():
        raise OutputError(
            f"holds a {ours[0]} that no onnxcake run has left there, and it would be overwritten",
            where=folder,
            remedy="Choose another folder with --out.",
        )
