"""Losses, sources and architectures of other distributions: named in recipes, known to every command."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from in_process import command

from onnxcake.core.errors import RecipeError
from onnxcake.core.extensions import Registry
from onnxcake.recipe.recipe import Recipe
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.sources import SOURCES

TEACHER = Path(__file__).parent / "kept_runs" / "teacher.onnx"
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
REGISTRIES: tuple[Registry[Any], ...] = (LOSSES, SOURCES, ARCHITECTURES)


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def install(folder: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    """Write the metadata that an installer leaves of a distribution."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in parts.items()) for group, parts in points.items())
    (info / "entry_points.txt").write_text("".join(groups))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder on ``sys.path``; forget afterwards what was imported out of it."""
    known, modules = [set(registry) for registry in REGISTRIES], set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    forget(known, modules)


def forget(known: list[set[str]], modules: set[str]) -> None:
    for registry, names in zip(REGISTRIES, known, strict=True):
        for name in set(registry) - names:
            del registry[name]
    for name in set(sys.modules) - modules:
        if name.startswith("outside"):
            del sys.modules[name]


@pytest.fixture
def parts(site: Path) -> Path:
    """Install the page's distribution; return its recipe."""
    install(site, "outside-parts", tomllib.loads(block("toml"))["project"]["entry-points"])
    (site / "outside_parts.py").write_text(block("python"))
    recipe = site.parent / "outside.yaml"
    recipe.write_text(block("yaml"))
    return recipe


def test_nothing_is_imported_before_a_recipe_names_it(parts: Path) -> None:
    assert command("recipes", "list").code == 0
    Recipe.load("cake")
    assert "outside_parts" not in sys.modules
    recipe = Recipe.load(parts)
    assert "outside_parts" in sys.modules
    assert Recipe.load(recipe.as_dict()).digest == recipe.digest
    assert recipe.as_dict()["synthesis"]["losses"]["ring"] == {"weight": 0.1, "after": 0.0, "radius": 2.0}
    assert [term.loss.radius for term in recipe.synthesis.losses.build() if term.name == "ring"] == [2.0]  # type: ignore[attr-defined]


def test_mistakes_in_the_keys_of_a_part_from_outside_have_their_places(parts: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(parts, ["synthesis.losses.ring.radus=1", "synthesis.source.uniform.width=wide", "student.epoch=1"])
    what = str(caught.value)
    assert "unknown key 'radus' (did you mean 'radius'?)" in what
    assert "synthesis.source.uniform.width: should be a valid number" in what
    assert "unknown key 'epoch'" in what
    with pytest.raises(RecipeError, match="did you mean 'ring'"):
        Recipe.load(parts, ["synthesis.losses.rink=1"])


def test_every_command_knows_them_and_a_finished_set_needs_none(parts: Path, site: Path, tmp_path: Path) -> None:
    known, modules = [set(registry) for registry in REGISTRIES], set(sys.modules)
    out = tmp_path / "run"
    given = ("-r", parts, "--out", out, "--device", "cpu")
    dry = command("extract", TEACHER, *given, "--dry-run")
    assert (dry.code, out.exists()) == (0, False), dry.err
    done = command("extract", TEACHER, *given, "--json")
    assert done.code == 0, done.err
    assert done.told["student"]["architecture"] == "linear"
    assert command("bench", TEACHER, "--methods", parts, "--out", tmp_path / "bench").code == 0
    again = command("train", "--store", out, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    forget(known, modules)
    shutil.rmtree(site)
    sys.path.remove(str(site))
    missing = command("train", "--store", out, "--out", tmp_path / "missing")
    assert (missing.code, "onnxcake.architectures: nothing that is installed offers 'linear'" in missing.err) == (
        3,
        True,
    )
    options = ("-o", "student.architecture=null", "-o", "student.architecture.mlp={}")
    other = command("train", "--store", out, "--out", tmp_path / "other", *options)
    assert other.code == 0, other.err
    assert command("extract", TEACHER, *given).code == 3


BROKEN = {
    "does not import": ({"broken": "outside_absent:Loss"}, "'broken' (outside-one 1.0) cannot be imported"),
    "raises": ({"broken": "outside_raises:Loss"}, "'broken' (outside-one 1.0) cannot be imported: ValueError: 'no'"),
    "another kind": ({"broken": "json:dumps"}, "'broken' (outside-one 1.0) is not a dataclass that inherits"),
    "keys of no kind": ({"broken": "outside_keys:Odd"}, "'broken' (outside-one 1.0) has keys that a recipe cannot"),
    "a built-in name": ({"l2": "outside_keys:Odd"}, "'l2' (outside-one 1.0) has the name of a part that comes with"),
}
ODD = """import dataclasses
from onnxcake.synthesis.step import Loss
@dataclasses.dataclass(frozen=True)
class Odd(Loss):
    key: "Nowhere" = None
"""


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_part_is_one_error_of_those_who_name_it(case: str, site: Path) -> None:
    points, what = BROKEN[case]
    install(site, "outside-one", {"onnxcake.losses": points})
    (site / "outside_raises.py").write_text("raise ValueError('no')")
    (site / "outside_keys.py").write_text(ODD)
    Recipe.load("cake")
    with pytest.raises(RecipeError, match=re.escape(what)) as caught:
        Recipe.load("cake", [f"synthesis.losses.{next(iter(points))}=1"])
    assert caught.value.where == "onnxcake.losses"


def test_two_distributions_with_one_name_are_both_named(site: Path) -> None:
    for name in ("outside-one", "outside-two"):
        install(site, name, {"onnxcake.sources": {"twice": "outside_keys:Odd"}})
    with pytest.raises(RecipeError, match=r"outside-\w+ 1.0 and outside-\w+ 1.0\) is offered more than once"):
        Recipe.load("cake", ["synthesis.source=twice"])


def test_a_part_is_added_in_python(site: Path) -> None:
    site.mkdir()
    (site / "outside_parts.py").write_text(block("python"))
    made = vars(import_module("outside_parts"))
    LOSSES["ring"] = made["Ring"]
    assert "ring" in Recipe.load("cake", ["synthesis.losses.ring=1"]).as_dict()["synthesis"]["losses"]
    with pytest.raises(RecipeError, match="'l2' \\(in Python\\) has the name of a part that comes with onnxcake"):
        LOSSES["l2"] = made["Ring"]
    with pytest.raises(RecipeError, match="'linear' \\(in Python\\) is not a dataclass"):
        LOSSES["linear"] = made["linear"]
