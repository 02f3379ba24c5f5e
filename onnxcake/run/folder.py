"""Describe the folder of a run: the files in it, and what it was started with.

::

    run.json        teacher, recipe and seed, as they were resolved
    plan.json       what was decided for this machine
    spent.json      seconds and teacher passes so far
    store/          the synthetic set
    start.onnx      the model that the student began as, where one was given or cut out of the teacher
    start.json      what it was cut by
    student/        checkpoints of training
    front.onnx      the part of the teacher's file before the value that the student learns of, where there is one
    student.onnx    the result
    samples.png     a picture of the set
    report.json     the figures; report.txt shows them as a table
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import files, json_files
from ..core.errors import OutputError, RecipeError, StoreError
from ..recipe.limits import Scaling
from ..recipe.recipe import Recipe
from ..teacher.facts import Facts
from ..version import __version__

FILE, STORE, CHECKPOINTS = "run.json", "store", "student"
START, CUT, FRONT, STUDENT = "start.onnx", "start.json", "front.onnx", "student.onnx"
PICTURE, REPORT, TABLE = "samples.png", "report.json", "report.txt"


@dataclass(frozen=True)
class Run:
    """Hold what a run was started with; ``scaling`` is what a budget has made of the recipe."""

    teacher: Facts
    recipe: Recipe
    seed: int
    scaling: Scaling | None = None

    def write(self, folder: Path) -> None:
        """Keep it in ``folder``."""
        value = {
            "onnxcake": __version__,
            "seed": self.seed,
            "teacher": self.teacher.as_dict(),
            "recipe": self.recipe.as_dict(),
            "scaling": None if self.scaling is None else self.scaling.as_dict(),
        }
        files.write_json(folder / FILE, value)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read what the run in ``folder`` was started with.

        Raises:
            StoreError: if there is none, or it cannot be read.
        """
        path, remedy = folder / FILE, "Give the folder of a run as `onnxcake extract` left it, or another --out."
        if not files.is_there(path):
            raise StoreError("no run here (run.json is missing)", where=folder, remedy=remedy)
        kept = json_files.read(path, _Kept, remedy)
        try:
            return cls(kept.teacher, Recipe.load(kept.recipe, kept=True), kept.seed, kept.scaling)
        except RecipeError as error:
            what = f"the recipe in it cannot be read back: {error.what}"
            raise StoreError(what, where=path, remedy=remedy) from error


@dataclass(frozen=True)
class _Kept:
    """Hold the content of ``run.json``."""

    __pydantic_config__ = json_files.EXACT
    onnxcake: str
    seed: int
    teacher: Facts
    recipe: dict[str, Any]
    scaling: Scaling | None


def guard(folder: Path) -> None:
    """Make sure that a folder is new, empty, or of an earlier run, so that nobody's files are overwritten.

    Raises:
        OutputError: otherwise, or if a link, a folder or a device has the name of one of the files.
    """
    for name in (FILE, START, CUT, FRONT, STUDENT, PICTURE, REPORT, TABLE):
        files.check_target(folder / name, stream=False)
    ours = [name for name in (STUDENT, REPORT, PICTURE, TABLE) if (folder / name).exists()]
    if ours and not (folder / FILE).exists():
        raise OutputError(
            f"holds a {ours[0]} that no onnxcake run has left there, and it would be overwritten",
            where=folder,
            remedy="Choose another folder with --out.",
        )


def holds_nothing(folder: Path) -> bool:
    """Check that nothing of a run in a folder is finished: no batch, no checkpoint and no student."""
    places = (f"{STORE}/*.safetensors", f"{CHECKPOINTS}/*/*.safetensors")
    parts = (path for place in places for path in folder.glob(place))
    return next(parts, None) is None and not files.is_there(folder / STUDENT)


def is_abandoned(folder: Path, teacher: Facts) -> bool:
    """Check that a folder was begun with another teacher and holds nothing finished, so that it may be begun anew."""
    if not files.is_there(folder / FILE) or not holds_nothing(folder):
        return False
    return Run.read(folder).teacher.digest != teacher.digest
