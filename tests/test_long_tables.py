"""The scripts that fill RESULTS.md: settings that load, cells that are skipped once they are there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from onnxcake.recipe.recipe import Recipe, names
from onnxcake.report.bench_table import Cell

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = ("results", "teachers", "methods", "across_scales", "across_models", "run")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, ModuleType]:
    """The benchmark's modules, writing to a folder of their own; nothing is trained."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = {name: importlib.import_module(name) for name in SCRIPTS}
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name)
    for name, file in (("FILE", "RESULTS.md"), ("RECORDS", "records.jsonl"), ("NOTES", "notes.md")):
        monkeypatch.setattr(loaded["results"], name, tmp_path / file)
    monkeypatch.setattr(loaded["methods"], "DOCS", tmp_path)
    monkeypatch.setattr(loaded["across_scales"], "PICTURE", tmp_path / "across-scales.png")
    for name in ("methods", "across_scales", "across_models"):
        monkeypatch.setattr(loaded[name], "teacher", lambda data, name="lenet5": tmp_path / f"{name}.onnx")
        monkeypatch.setattr(loaded[name], "images_file", lambda data, part: tmp_path / part)
    monkeypatch.setattr(loaded["methods"], "statistics_file", lambda data: tmp_path / "stats")
    return loaded


class Benches:
    """Stands for `bench`: remembers what it was asked; agreements rise from call to call."""

    def __init__(self, scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int, Any, dict[str, Any]]] = []
        self.fails: set[str] = set()
        for name in ("methods", "across_scales", "across_models"):
            monkeypatch.setattr(scripts[name], "bench", self)

    def __call__(self, request: Any, methods: list[str], *, seeds: list[int], **more: Any) -> Any:
        (method,), (seed,) = methods, seeds
        self.asked.append((method, seed, request, more))
        if method in self.fails:
            raise RuntimeError("a bug")
        cell = Cell(method, seed, agreement=0.5 + len(self.asked) / 100, teacher_passes=12_345)
        return SimpleNamespace(cell=lambda *key: cell, picture=lambda: b"png")


@pytest.fixture
def benches(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> Benches:
    return Benches(scripts, monkeypatch)


def test_every_methods_settings_are_a_recipe(scripts: dict[str, ModuleType]) -> None:
    settings = scripts["methods"].METHODS
    for name, method in settings.items():
        recipe = Recipe.load(name, ["student.architecture=lenet5-half", *method.overrides])
        assert recipe.student.architecture.name == "lenet5-half"
    ours = {"cake-image", "cake-vector", "layercake", "layercake-offline"}
    assert set(names()) - set(settings) == {"cake", *ours}  # cake-mnist stands for cake


def test_every_family_can_be_a_student(scripts: dict[str, ModuleType]) -> None:
    for family in scripts["teachers"].FAMILIES.values():
        choice = Recipe.load("cake-mnist", [f"student.architecture={family.as_student}"]).student.architecture
        assert (choice.name, {key: choice.keys()[key] for key in family.hyper}) == (family.architecture, family.hyper)


def test_rows_read_back_as_they_were_appended(scripts: dict[str, ModuleType]) -> None:
    results = scripts["results"]
    assert results.rows("one") == []
    results.append("one", {"a": 1, "b": "x | y"})
    results.append("two", {"a": 7})
    results.append("one", {"a": 2, "b": ""})
    assert [(row["a"], row["b"]) for row in results.rows("one")] == [("1", "x ∣ y"), ("2", "")]
    assert [row["a"] for row in results.rows("two")] == ["7"]
    assert results.FILE.read_text().startswith("# Results\n\n## one\n\n| a | b | commit |\n| --- | --- | --- |\n| 1 | ")


def test_notes_and_tables_stand_where_the_notes_say(scripts: dict[str, ModuleType]) -> None:
    results = scripts["results"]
    results.NOTES.write_text("# Results\n\n## two\n\n<!-- records -->\n\nProse.\n\n## by hand\n\n| b |\n| --- |\n")
    results.append("one", {"a": 1})
    results.append("two", {"a": 7})
    results.append("two", {"c": 8})  # a column that earlier rows do not have
    said = results.commit()
    two = f"| a | c | commit |\n| --- | --- | --- |\n| 7 | – | {said} |\n| – | 8 | {said} |"
    one = f"| a | commit |\n| --- | --- |\n| 1 | {said} |"
    assert results.FILE.read_text() == (
        f"# Results\n\n## two\n\n{two}\n\nProse.\n\n## by hand\n\n| b |\n| --- |\n\n## one\n\n{one}\n"
    )


def test_results_are_rendered_from_the_records() -> None:
    """RESULTS.md is not edited: `python benchmarks/results.py` writes it from records.jsonl and notes.md."""
    file = BENCHMARKS / "results.py"
    spec = importlib.util.spec_from_file_location("results_as_they_are", file)
    assert spec is not None and spec.loader is not None
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    assert results.FILE.read_text(encoding="utf-8") == results.render()


def test_cells_are_appended_once_and_a_broken_one_is_tried_again(
    scripts: dict[str, ModuleType], benches: Benches, capsys: pytest.CaptureFixture[str]
) -> None:
    methods, results, data = scripts["methods"], scripts["results"], Path("data")
    benches.fails = {"naive"}
    assert methods.run(data, "3m", 1, ["cake-mnist", "naive", "metadata"]) == 1
    assert "a bug" in capsys.readouterr().err
    assert [row["method"] for row in results.rows(methods.title("3m"))] == ["cake-mnist", "metadata"]
    benches.fails = set()
    assert methods.run(data, "3m", 2, ["cake-mnist", "naive", "metadata"]) == 0
    cells = [(method, seed) for method, seed, _, _ in benches.asked[3:]]
    assert cells == [("naive", 0), ("cake-mnist", 1), ("naive", 1), ("metadata", 1)]
    first = results.rows(methods.title("3m"))[0]
    assert (first["agreement"], first["teacher passes"], first["published accuracy, %"]) == (
        "0.5100",
        "12,345",
        "98.4 ± 0.18",
    )
    assert methods.run(data, "10m", 1, ["naive"]) == 0  # another budget is another table
    stats = {method: request.stats for method, _, request, _ in benches.asked}
    assert stats["metadata"] is not None and stats["cake-mnist"] is None


def test_the_best_are_chosen_among_those_without_data(scripts: dict[str, ModuleType], benches: Benches) -> None:
    methods = scripts["methods"]
    methods.run(Path("data"), "3m", 1, ["dafl", "dfad", "kd", "zskt", "metadata"])
    assert methods.best(2) == ["zskt", "dfad"]
    assert methods.best(9) == ["zskt", "dfad", "dafl"]


@pytest.mark.parametrize(("table", "cells"), [("across_scales", 2 * 6), ("across_models", 4 * 4)])
def test_the_papers_two_questions(
    table: str, cells: int, scripts: dict[str, ModuleType], benches: Benches, tmp_path: Path
) -> None:
    script = scripts[table]
    assert script.main(["data"]) == 0
    assert len(benches.asked) == cells
    (picture,) = tmp_path.glob("across*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert script.main(["data"]) == 0
    assert len(benches.asked) == cells  # all there
    assert script.main(["data", "--seeds", "2"]) == 0
    assert len(benches.asked) == 2 * cells


def test_a_table_is_called_by_its_name(
    scripts: dict[str, ModuleType],
    benches: Benches,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "methods", "data", "--methods", "dafl", "--seeds", "2"])
    assert scripts["run"].main() == 0
    assert [(method, seed) for method, seed, _, _ in benches.asked] == [("dafl", 0), ("dafl", 1)]
    monkeypatch.setattr(sys, "argv", ["run.py", "nothing", "data"])
    assert scripts["run"].main() == 2
    assert "across-scales" in capsys.readouterr().out
