"""The command where methods are told apart, compared, and given data or statistics of data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import Ended, command

from onnxcake.recipe import method_table
from onnxcake.recipe.recipe import Recipe, names, text_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DIGITS, REAL = EXAMPLES / "digits.onnx", EXAMPLES / "digits-test.npz"
STUDENT = "{cnn-small: {width: 4, depth: 1}}"
SMALL = ["synthesis.batches=2", "synthesis.batch=50", "synthesis.steps=2", "synthesis.held_out=1", "student.epochs=1"]
TINY = [part for assignment in [*SMALL, f"student.architecture={STUDENT}"] for part in ("-o", assignment)]


@pytest.fixture
def onnxcake(tmp_path: Path) -> Any:
    """``onnxcake(*arguments)``: the command, in this process, in a folder of its own."""

    def run(*arguments: object) -> Ended:
        ended = command(*arguments, cwd=tmp_path)
        assert "Traceback" not in ended.err
        return ended

    return run


Command = Callable[..., Ended]


@pytest.fixture
def stats(onnxcake: Command, tmp_path: Path) -> Path:
    """Statistics of the digits teacher, recorded by the command."""
    made = onnxcake("record", DIGITS, "--data", REAL, "--out", "stats.safetensors")
    assert (made.code, made.out) == (0, "stats.safetensors: means and variances of 3 values\n"), made.err
    return tmp_path / "stats.safetensors"


# --- recipes -----------------------------------------------------------------------------------------------


def test_the_list_says_what_each_recipe_needs(onnxcake: Command) -> None:
    lines = {line.split()[0]: line for line in onnxcake("recipes", "list").out.splitlines()}
    assert list(lines) == names()
    for name, line in lines.items():
        recipe = Recipe.load(name)
        assert recipe.title in line and line.endswith(
            f"needs: {', '.join(method_table.needs(recipe)) or 'answers alone'}"
        )
    assert lines["deepinversion"].endswith("needs: gradient, statistics")
    assert lines["random-noise"].endswith("needs: answers alone")


@pytest.mark.parametrize("name", names())
def test_each_recipe_is_shown_as_it_is(name: str, onnxcake: Command) -> None:
    assert onnxcake("recipes", "show", name).out == text_of(name)


@pytest.mark.parametrize("name", ["caek", "../README", "cake.yaml", ""])
def test_no_other_file_is_shown(name: str, onnxcake: Command) -> None:
    ended = onnxcake("recipes", "show", name)
    assert (ended.code, ended.out) == (3, "")
    assert f"no recipe is called {name!r}" in ended.err and "`onnxcake recipes list`" in ended.err


def test_the_difference_of_two_recipes_is_that_of_the_matrix(onnxcake: Command) -> None:
    ended = onnxcake("recipes", "diff", "deepinversion", "deepdream")
    rows = [
        tuple(cell.strip() for cell in line.strip("│").split("│")) for line in ended.out.splitlines() if "│" in line
    ]
    assert rows == method_table.difference(Recipe.load("deepinversion"), Recipe.load("deepdream"))
    assert [row[0] for row in rows] == ["BN", "needs"]


def test_recipes_of_the_same_parts_have_no_difference(onnxcake: Command) -> None:
    ended = onnxcake("recipes", "diff", "cake", "cake-mnist")
    assert (ended.code, ended.out) == (0, "The same parts; if they differ, then in their numbers.\n")
    assert onnxcake("recipes", "diff", "cake", "caek").code == 3


# --- data and statistics -----------------------------------------------------------------------------------


def test_recorded_statistics_are_matched(stats: Path, onnxcake: Command) -> None:
    ended = onnxcake("extract", DIGITS, "-r", "metadata", "--stats", stats, "--range", "0,1", "--json", *TINY)
    assert ended.code == 0, ended.err
    assert ended.told["spent"]["teacher_passes"] == 3 * 50 * 2
    assert ended.told["substitutes"] == []
    assert (stats.parent / "digits" / "student.onnx").exists()


def test_statistics_stand_in_where_no_batch_normalisation_is_left(stats: Path, onnxcake: Command) -> None:
    """Without them it is pulled to mean 0 and deviation 1, and says so."""
    small = ["-o", "student.epochs=null", "-o", "student.steps=2"]
    command = ["extract", DIGITS, "-r", "deepinversion", "--range", "0,1", "--json", *TINY, *small]
    without = onnxcake(*command, "--out", "without")
    recorded = onnxcake(*command, "--out", "recorded", "--stats", stats)
    assert "pulled to mean 0 and deviation 1" in without.told["substitutes"][0]
    assert recorded.told["substitutes"] == []
    again = onnxcake(*command, "--out", "recorded")
    assert again.code == 6 and "another --out" in again.err + again.out


def test_statistics_replace_earlier_ones_and_nothing_else(stats: Path, onnxcake: Command, tmp_path: Path) -> None:
    before = stats.read_bytes()
    assert onnxcake("record", DIGITS, "--data", REAL, "--out", stats).code == 0
    assert stats.read_bytes() == before
    (tmp_path / "teacher.onnx").write_bytes(DIGITS.read_bytes())
    ended = onnxcake("record", "teacher.onnx", "--data", REAL, "--out", "teacher.onnx")
    assert ended.code == 7 and "would be overwritten" in ended.err
    assert (tmp_path / "teacher.onnx").read_bytes() == DIGITS.read_bytes()


def test_real_inputs_are_learnt_from(onnxcake: Command, tmp_path: Path) -> None:
    command = ["extract", DIGITS, "-r", "kd", "--data", REAL, "--probe", REAL, "--range", "0,1", "--json"]
    ended = onnxcake(*command, "-o", f"student.architecture={STUDENT}", "-o", "student.epochs=2")
    assert ended.code == 0, ended.err
    report = ended.told
    assert (report["spent"]["teacher_passes"], report["set"]["held_out_samples"]) == (0, 21)
    assert report["student"]["steps"] == 2 * 4  # two epochs of 420 others out of the 450, in batches of 128
    assert report["curve"][-1]["student_steps"] == 8
    for path in (tmp_path / "digits").rglob("*.json"):
        assert str(REAL.parent) not in path.read_text()


UNASKED = {
    "data for cake": (["-r", "cake", "--data", REAL], 2, "--data is for a recipe that learns from real data"),
    "statistics for cake": (["-r", "cake", "--stats", "stats.safetensors"], 2, "--stats is for a recipe that matches"),
    "kd without data": (["-r", "kd"], 3, "needs real inputs: give them with --data PATH"),
    "metadata without statistics": (["-r", "metadata"], 3, "(`onnxcake record digits.onnx --data PATH` makes them)"),
    "no such data": (["-r", "kd", "--data", "none.npz"], 2, "none.npz: cannot be read"),
    "no such statistics": (["-r", "metadata", "--stats", "none"], 2, "none: there is no such file"),
    "statistics that are data": (["-r", "metadata", "--stats", REAL], 2, "it is damaged, or holds something else"),
}


@pytest.mark.parametrize(("arguments", "code", "words"), UNASKED.values(), ids=UNASKED.keys())
def test_what_is_given_and_what_is_asked_for_must_agree(
    arguments: list[object], code: int, words: str, stats: Path, onnxcake: Command
) -> None:
    ended = onnxcake("extract", DIGITS, "--range", "0,1", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
    assert not (stats.parent / "digits").exists()


def test_a_refusal_names_the_nearest_that_runs(onnxcake: Command) -> None:
    ended = onnxcake("extract", DIGITS, "-r", "kd", "--range", "0,1", "--json")
    assert ended.code == 3
    assert ended.told["remedy"].startswith("The nearest that runs on digits.onnx is --recipe random-noise. ")


def test_under_the_floor_one_object_is_told(onnxcake: Command) -> None:
    ended = onnxcake(
        "extract", DIGITS, "-r", "cake-image", "--range", "0,1", "--json", *TINY, "-o", "require.max_bytes=10"
    )
    assert ended.code == 5 and "are over 10" in ended.err
    assert ended.told["student"]["bytes"] > 10


# --- bench -------------------------------------------------------------------------------------------------

BENCH = ["bench", DIGITS, "--range", "0,1", "--student", STUDENT, "--probe", REAL, "--passes", "2000"]
ONLY = [
    *("--only", "cake:synthesis.batch=50", "--only", "cake:synthesis.steps=10"),
    *("--only", "random-noise:synthesis.rounds=20"),
]


def test_a_bench_is_a_table_a_picture_and_one_object(onnxcake: Command, tmp_path: Path) -> None:
    ended = onnxcake(*BENCH, "--methods", "random-noise, cake", "--seeds", 1, *ONLY, "--json")
    assert ended.code == 0, ended.err
    folder = tmp_path / "digits-bench"
    assert ended.told == json.loads((folder / "bench.json").read_text())
    figures = ended.told["methods"]
    assert list(figures) == ["random-noise", "cake"]
    assert figures["random-noise"]["teacher_passes"]["mean"] == 0 < figures["random-noise"]["teacher_queries"]["mean"]
    assert figures["cake"]["teacher_passes"]["mean"] == 2000  # three batches to learn from, one held out, 500 each
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    plain = onnxcake(*BENCH, "--methods", "random-noise,cake", *ONLY)
    assert plain.code == 0
    assert plain.err.count("finished before, nothing to do") == 2
    table = (folder / "bench.txt").read_text().split()
    assert plain.out.split() == table and "digits.onnx (98.9%)" in " ".join(table)


def test_a_bench_without_figures_ends_with_the_reasons(onnxcake: Command, tmp_path: Path) -> None:
    ended = onnxcake(*BENCH, "--methods", "kd", "--json", "--out", "table")
    assert ended.code == 3
    assert "no method ran to its end" in ended.err
    assert "give them with --data PATH" in ended.told["methods"]["kd"]["reasons"]["0"]
    assert (tmp_path / "table" / "bench.json").exists()


def test_data_and_statistics_go_to_the_methods_that_ask_for_them(stats: Path, onnxcake: Command) -> None:
    small = ["synthesis.batch=50", "student.batch=50", "synthesis.held_out=1"]
    overrides = [part for each in small for part in ("-o", each)]
    only = [
        "--only",
        "metadata:synthesis.steps=2",
        "--only",
        "naive:synthesis.steps=2",
        "--only",
        "kd:student.epochs=2",
    ]
    given = ["--data", REAL, "--stats", stats]
    ended = onnxcake(*BENCH, "--methods", "kd,metadata,naive", *given, *overrides, *only, "--passes", "300", "--json")
    assert ended.code == 0, ended.err
    figures = ended.told["methods"]
    assert [figures[name]["reasons"] for name in figures] == [{}, {}, {}]
    assert figures["kd"]["teacher_passes"]["mean"] == 0
    assert figures["metadata"]["teacher_passes"]["mean"] == figures["naive"]["teacher_passes"]["mean"] == 300


MISTAKES = {
    "no methods": (["--methods", ","], 2, "name at least one method"),
    "an unknown one": (["--methods", "cake,caek"], 3, "did you mean 'cake'?"),
    "one twice": (["--methods", "cake,cake"], 2, "none twice"),
    "no passes": (["--methods", "cake", "--passes", "0"], 2, "'0' is no number of teacher passes"),
    "no time": (["--methods", "cake", "--budget", "3"], 2, "Write --budget 90s, 3m or 1.5h."),
    "no seeds": (["--methods", "cake", "--seeds", "0"], 2, "--seeds"),
    "an override of nobody": (["--methods", "cake", "--only", "lake:title=x"], 2, "'lake', which is not among"),
    "no override": (["--methods", "cake", "--only", "title=x"], 2, "METHOD:KEY=VALUE"),
    "no teacher": (["--methods", "cake"], 4, "cannot be read"),
}


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_bench_that_cannot_begin(
    arguments: list[str], code: int, words: str, onnxcake: Command, tmp_path: Path
) -> None:
    teacher = "nowhere.onnx" if code == 4 else DIGITS
    ended = onnxcake("bench", teacher, "--out", tmp_path / "table", *arguments)
    assert ended.code == code, ended.err
    assert words in ended.err and ended.out == ""
    assert list(tmp_path.iterdir()) == []
