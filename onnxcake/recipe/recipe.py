"""Validate YAML as a recipe. A recipe is data: it names parts that exist, nothing else.

Every mistake is reported at once, each with file:line:column.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from ..core.errors import RecipeError
from ..core.files import canonical, is_there, sha256
from ..core.text import did_you_mean, shown
from ..teacher.options import TeacherOptions
from . import schema, yaml_reader
from .overrides import override
from .schema import Section
from .sections import InputSection, RequireSection, StudentSection, SynthesisSection
from .yaml_reader import Mistake, Tree

VERSION = 1


class Recipe(Section):
    """Hold a method and a student, as one file of data. Make one with `load`."""

    recipe: int
    title: str = ""
    input: InputSection = InputSection()
    synthesis: SynthesisSection
    student: StudentSection
    require: RequireSection = RequireSection()

    @field_validator("recipe")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != VERSION:
            raise ValueError(f"version {value} is not known; this onnxcake reads version {VERSION}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        synthesis, student = self.synthesis, self.student
        if synthesis.rounds == 1 and student.learn_from != "kept":
            raise ValueError(f"learn_from: {student.learn_from} needs synthesis.rounds above 1")
        if synthesis.rounds > 1 and student.epochs is not None:
            raise ValueError("epochs are passes over a finished set; give student.steps, those of each round")
        if student.learn_from != "kept" and synthesis.held_out == 0:
            raise ValueError("where nothing is kept, held-out samples are all that there is to compare on")
        targets = getattr(synthesis.losses, "classification", None)
        soft = synthesis.labels.name in ("dirichlet", "features")
        if targets is not None and targets.toward == "targets" and not soft:
            raise ValueError("classification toward targets needs a label policy with soft labels")
        return self

    @classmethod
    def load(cls, source: str | Path | dict[str, Any], overrides: Sequence[str] = (), *, kept: bool = False) -> Recipe:
        """Load the recipe of a name (see `names`), of a file, or of a plain dict.

        Args:
            overrides: ``key=value`` pairs that go before the source, as ``-o`` on the command line.
            kept: the recipe is that of a finished run: let parts stand that are not installed.

        Raises:
            RecipeError: with every mistake, each with its place.
        """
        tree, mistakes = _read_tree(source)
        for assignment in overrides:
            mistake = override(tree, assignment) if tree.data is not None else None
            mistakes += [mistake] if mistake else []
        recipe = None
        if tree.data is not None:
            recipe, more = schema.check(cls, tree, kept)
            named = {mistake.where for mistake in mistakes}
            mistakes += [mistake for mistake in more if mistake.where not in named]
        if mistakes or recipe is None:
            raise _mistakes_error(tree.source, mistakes)
        return recipe  # type: ignore[no-any-return]

    @property
    def teacher_options(self) -> TeacherOptions:
        """Return the recipe's options about the teacher's file."""
        said = self.input
        return TeacherOptions(
            input=said.name,
            output=said.output,
            shape=said.shape,
            shapes=said.shapes or {},
            constants=said.constants,
            task=said.task,
            range=said.range,
            mean=said.mean,
            std=said.std,
        )

    @property
    def digest(self) -> str:
        """Return the sha256 digest of the recipe's data, which does not depend on the file's format."""
        return sha256(canonical(self.as_dict()))

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe with all defaults filled in, as plain data that `load` takes."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, serialize_as_any=True)


def names() -> list[str]:
    """List the recipes that come with onnxcake."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def text_of(name: str) -> str:
    """Return the YAML of a recipe that comes with onnxcake, comments included.

    Raises:
        RecipeError: if none is called so.
    """
    if name not in names():
        raise _unknown_name_error(name)
    text: str = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    return text


def _folder() -> Any:
    """Find the recipes' folder: ``onnxcake/_recipes`` in a wheel, the checkout's ``recipes`` in an editable install."""
    packaged = resources.files("onnxcake") / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "recipes"


def _read_tree(source: str | Path | dict[str, Any]) -> tuple[Tree, list[Mistake]]:
    if isinstance(source, dict):
        return yaml_reader.tree_from(source, "recipe"), []
    if isinstance(source, str) and source in names():
        return yaml_reader.parse(text_of(source), f"{source}.yaml")
    path = Path(source)
    if not is_there(path) and os.sep not in str(source) and path.suffix not in (".yaml", ".yml"):
        raise _unknown_name_error(str(source), "Give a name or a YAML file.")
    try:
        with path.open("rb") as file:
            content = file.read(yaml_reader.LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(
            f"cannot be read ({reason})", where=path, remedy="Give a recipe's name or a YAML file."
        ) from error
    return yaml_reader.parse(content, path.name)


def _unknown_name_error(name: str, remedy: str = "`onnxcake recipes list` names them.") -> RecipeError:
    known = names()
    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    return RecipeError(f"no recipe is called {shown(name)}{hint}", remedy=remedy)


def _mistakes_error(source: str, mistakes: list[Mistake]) -> RecipeError:
    if len(mistakes) == 1:
        return RecipeError(mistakes[0].what, where=mistakes[0].where, remedy=_REMEDY)
    lines = "".join(f"\n  {mistake.where}: {mistake.what}" for mistake in mistakes)
    return RecipeError(f"{len(mistakes)} mistakes{lines}", where=source, remedy=_REMEDY)


_REMEDY = "Mend the recipe; `onnxcake recipes show cake` prints one that works."
