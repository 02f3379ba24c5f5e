"""The table of several methods: its figures, its files, what is refused, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
from PIL import Image
from reports import figure

from onnxcake.commands import bench as benches
from onnxcake.commands.bench import parse_only
from onnxcake.commands.bench import run as bench
from onnxcake.core.errors import Diverged, Interrupted, RecipeError, StoreError, UnsupportedTeacher, UsageError
from onnxcake.core.progress import Progress
from onnxcake.recipe.limits import Budget
from onnxcake.report.bench_table import Cell, Table
from onnxcake.report.curves import Curve, curves_png, grid_png
from onnxcake.report.report import Report
from onnxcake.run.prepare import Request
from onnxcake.teacher.options import TeacherOptions

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
AGREEMENTS = {("cake", 0): [0.5, 0.7, 0.9], ("cake", 1): [0.3, 0.5, 0.8], ("naive", 0): [0.2], ("naive", 1): [0.4]}


def report(agreements: list[float], labels: bool = True) -> Report:
    """A report as a run leaves it, as far as the table looks at it."""
    compared: dict[str, Any] = {"samples": 100, "agreement": figure(agreements[-1]), "kl": figure(0.0)}
    if labels:
        compared |= {"teacher_accuracy": figure(0.99), "student_accuracy": figure(agreements[-1] - 0.01)}
    curve = [
        {"teacher_passes": 1000 * n, "teacher_queries": 10 * n, "seconds": n, "student_steps": 5 * n, "agreement": a}
        for n, a in enumerate(agreements, 1)
    ]
    spent = {"seconds": {"synthesis": 2.5, "training": 1.5}, "teacher_passes": 1000 * len(curve), "teacher_queries": 7}
    agreement = {"held_out": {**compared, "agreement": figure(0.0)}, "probe": compared}
    return reports.report(agreement=agreement, student={"steps": 5 * len(curve)}, curve=curve, spent=spent)


class Runs:
    """Stands for `extraction.run`: the reports above, or what ``fails`` raises; remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Request] = []
        self.fails: dict[tuple[str, int], BaseException] = {}
        monkeypatch.setattr(benches.extract, "run", self)
        monkeypatch.setattr(benches, "open_teacher", lambda request: None)

    def __call__(self, request: Request, progress: Progress, teacher: None) -> Report:
        self.asked.append(request)
        request.folder.mkdir(parents=True, exist_ok=True)
        key = (str(request.recipe), request.seed)
        if key in self.fails:
            raise self.fails[key]
        (request.folder / "run.json").write_text("{}")
        return report(AGREEMENTS.get(key, [0.6]))

    @property
    def cells(self) -> list[tuple[str, int]]:
        return [(str(request.recipe), request.seed) for request in self.asked]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(teacher=EXAMPLES / "digits.onnx", out=tmp_path / "table", probe=EXAMPLES / "digits-test.npz")


# --- the figures -------------------------------------------------------------------------------------------


def test_a_cell_holds_the_figures_of_its_report() -> None:
    cell = Cell.of("cake", 3, report([0.5, 0.7, 0.9]))
    assert (cell.method, cell.seed, cell.agreement, cell.teacher_accuracy) == ("cake", 3, 0.9, 0.99)
    assert cell.accuracy == pytest.approx(0.89)
    assert (cell.teacher_passes, cell.teacher_queries, cell.student_steps, cell.seconds) == (3000, 7, 15, 4.0)
    assert Cell.of("cake", 3, report([0.5], labels=False)).accuracy is None


def test_the_spread_over_training_is_that_of_all_points_of_the_curve() -> None:
    cell = Cell.of("cake", 0, report([0.5, 0.7, 0.9]))
    assert cell.spread == pytest.approx((0.7, 0.08 / 3))
    assert Cell.of("naive", 0, report([0.5])).spread is None


def test_mean_and_deviation_over_seeds(runs: Runs, request_: Request) -> None:
    figures = bench(request_, ["cake", "naive"], seeds=(0, 1)).as_dict()["methods"]
    assert figures["cake"]["seeds"] == [0, 1]
    assert figures["cake"]["agreement"] == {"mean": pytest.approx(0.85), "std": pytest.approx(0.05 * 2**0.5)}
    assert figures["cake"]["teacher_passes"] == {"mean": 3000, "std": 0}
    mu_sigma2 = {"mu": pytest.approx((0.7 + 1.6 / 3) / 2), "sigma2": pytest.approx((0.08 + 0.38 / 3) / 6)}
    assert figures["cake"]["spread_over_training"] == mu_sigma2
    assert figures["naive"]["agreement"] == {"mean": pytest.approx(0.3), "std": pytest.approx(0.2 / 2**0.5)}
    assert figures["naive"]["spread_over_training"] is None


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(None, 500), "Over the budget: cake (1,000 passes)."),
        (Budget(2.0, 500), "Over the budget: cake (4 s), cake (1,000 passes)."),
        (Budget(4.0, 900), ""),
        (Budget(None, None), ""),
    ],
)
def test_what_cost_more_than_it_was_to_is_told(budget: Budget, told: str, runs: Runs, request_: Request) -> None:
    caption = str(bench(request_, ["cake"], budget=budget, seeds=(7,)).table().caption)
    assert told in caption and ("Over" in caption) == bool(told)


def test_a_single_seed_has_no_deviation(runs: Runs, request_: Request) -> None:
    figures = bench(request_, ["cake"]).as_dict()["methods"]["cake"]
    assert figures["agreement"] == {"mean": pytest.approx(0.9), "std": None}
    assert "90.00 " in (request_.folder / "bench.txt").read_text()


def test_the_files(runs: Runs, request_: Request) -> None:
    table = bench(request_, ["cake", "naive"], student="cnn-small", budget=Budget(None, None), seeds=(0, 1))
    kept = json.loads((request_.folder / "bench.json").read_text())
    assert kept == json.loads(json.dumps(table.as_dict()))
    assert [(cell["method"], cell["seed"]) for cell in kept["cells"]] == list(AGREEMENTS)
    assert kept["cells"][1]["curve"][2]["agreement"] == 0.8
    assert Table.read(request_.folder).as_dict() == table.as_dict()
    lines = (request_.folder / "bench.txt").read_text().splitlines()
    assert lines[0].startswith("digits.onnx (99.0%) → cnn-small, no limit each")
    (cake,) = (line.split() for line in lines if line.strip().startswith("cake"))
    assert cake == ["cake", "85.00", "±", "7.07", "84.00", "±", "7.07", "3,000", "7", "15", "4", "61.7", "344.4"]
    assert max(map(len, lines)) <= 120


# --- what is run -------------------------------------------------------------------------------------------


def test_each_cell_gets_the_same_but_for_its_method_and_seed(runs: Runs, request_: Request) -> None:
    from dataclasses import replace

    shared = replace(request_, overrides=["synthesis.steps=9"], options=TeacherOptions(range=(0, 1)))
    only = {"naive": ["synthesis.batch=50"]}
    bench(shared, ["cake", "naive"], student="mlp", seeds=(0, 4), only=only)
    assert runs.cells == [("cake", 0), ("cake", 4), ("naive", 0), ("naive", 4)]
    first, last = runs.asked[0], runs.asked[-1]
    assert first.overrides == ["student.architecture=mlp", "synthesis.steps=9"]
    assert last.overrides == [*first.overrides, "synthesis.batch=50"]
    assert last.out == request_.folder / "naive" / "seed-4"
    assert all((r.teacher, r.options, r.probe) == (shared.teacher, shared.options, shared.probe) for r in runs.asked)


@pytest.mark.parametrize(
    "error",
    [
        RecipeError("needs statistics of BatchNormalization", remedy="Use cake."),
        Diverged("the loss is not finite"),
        UnsupportedTeacher("has no gradient"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_method_that_does_not_work_here_has_a_row_with_the_reason(
    error: Exception, runs: Runs, request_: Request
) -> None:
    runs.fails = {("cake", 1): error}
    table = bench(request_, ["cake", "naive"], seeds=(0, 1))
    assert runs.cells == list(AGREEMENTS)  # the others go on
    assert table.cell("cake", 1).reason == ". ".join(line.strip(" .") for line in str(error).splitlines())
    figures = table.as_dict()["methods"]["cake"]
    assert (figures["seeds"], figures["agreement"]["mean"]) == ([0], pytest.approx(0.9))
    assert list(figures["reasons"]) == ["1"]
    assert f"cake, seed 1: {error.args[0]}" in (request_.folder / "bench.txt").read_text()
    table.check()


def test_a_table_without_any_figure_is_an_error(runs: Runs, request_: Request) -> None:
    runs.fails = {("cake", 0): Diverged("the loss is not finite")}
    table = bench(request_, ["cake"])
    assert "cake" in (request_.folder / "bench.txt").read_text()
    with pytest.raises(RecipeError, match="no method ran to its end\n  cake, seed 0: the loss is not finite"):
        table.check()


@pytest.mark.parametrize("error", [StoreError("another run's"), Interrupted(2), MemoryError()], ids=repr)
def test_what_concerns_all_methods_stops_the_table_and_it_goes_on_later(
    error: BaseException, runs: Runs, request_: Request
) -> None:
    runs.fails = {("naive", 0): error}
    with pytest.raises(type(error)):
        bench(request_, ["cake", "naive"])
    assert Table.read(request_.folder).cell("cake", 0).agreement == 0.9
    runs.fails = {}
    assert bench(request_, ["cake", "naive"]).cell("naive", 0).agreement == 0.2


def test_methods_and_seeds_are_added_to_the_table(runs: Runs, request_: Request) -> None:
    bench(request_, ["naive"], seeds=(1,))
    table = bench(request_, ["cake"], seeds=(1,))
    table = bench(request_, ["naive"], seeds=(0,))
    assert [(cell.method, cell.seed) for cell in table.cells] == [("naive", 0), ("naive", 1), ("cake", 1)]
    assert list(table.asked["methods"]) == ["naive", "cake"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget": Budget(60, None)}, "budget"),
        ({"student": "mlp"}, "student"),
        ({"only": {"cake": ["synthesis.steps=7"]}}, "recipe of cake"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_of_other_conditions_is_refused(
    change: dict[str, Any], named: str, runs: Runs, request_: Request
) -> None:
    bench(request_, ["cake"])
    with pytest.raises(StoreError, match=f"begun with another {named}"):
        bench(request_, ["cake"], **change)
    assert len(runs.asked) == 1


def test_a_method_that_was_refused_may_be_asked_otherwise(runs: Runs, request_: Request) -> None:
    runs.fails = {("cake", 0): RecipeError("total_variation does not fit")}
    bench(request_, ["cake", "naive"])
    runs.fails = {}
    table = bench(request_, ["cake"], only={"cake": ["synthesis.losses.total_variation=null"]})
    assert (table.cell("cake", 0).agreement, table.cell("cake", 0).reason) == (0.9, "")


def test_a_damaged_table_is_refused(runs: Runs, request_: Request) -> None:
    request_.folder.mkdir()
    (request_.folder / "bench.json").write_text('{"cells": 3}')
    with pytest.raises(StoreError, match="cannot be read"):
        bench(request_, ["cake"])
    assert runs.asked == []


@pytest.mark.parametrize(
    ("methods", "only", "error", "what"),
    [
        ([], {}, UsageError, "at least one"),
        (["cake", "cake"], {}, UsageError, "twice"),
        (["cake"], {"naive": ["synthesis.steps=7"]}, UsageError, "'naive', which is not among"),
        (["cake", "caek"], {}, RecipeError, "did you mean 'cake'"),
        (["cake"], {"cake": ["synthesis.stpes=7"]}, RecipeError, "stpes"),
    ],
)
def test_mistakes_are_found_before_any_work(
    methods: list[str], only: dict[str, list[str]], error: type[Exception], what: str, runs: Runs, request_: Request
) -> None:
    with pytest.raises(error, match=what):
        bench(request_, methods, only=only)
    assert runs.asked == [] and not request_.folder.exists()


def test_overrides_for_one_method() -> None:
    pairs = ["dafl:synthesis.batch=64", "cake:title=a: b", "dafl:student.steps=5"]
    assert parse_only(pairs) == {"dafl": ["synthesis.batch=64", "student.steps=5"], "cake": ["title=a: b"]}
    for wrong in ("synthesis.batch=64", "dafl:batch", ":a=b"):
        with pytest.raises(UsageError, match="METHOD:KEY=VALUE"):
            parse_only([wrong])


# --- pictures ----------------------------------------------------------------------------------------------


def pixels(content: bytes) -> Any:
    import io

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def curves(*curves: Curve) -> Any:
    return pixels(curves_png(curves, title="t", x="passes", y="agreement"))


def has(image: Any, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image - colour).sum(-1) < 12).sum() > 5)


BLUE, LIGHT = (31, 119, 180), (174, 199, 232)  # the first two of the twenty colours


def test_every_curve_is_drawn_single_points_too() -> None:
    several, single = Curve("gan", [1, 2, 3], [0.2, 0.5, 0.9], [0.1, 0.1, 0.1]), Curve("cake", [2], [0.4])
    both = curves(single, several)
    assert has(both, BLUE) and has(both, LIGHT)
    assert not has(curves(several), LIGHT)
    assert (curves(single) != curves(Curve("cake", [2], [0.4], [0.1]))).any()


def test_the_axis_is_logarithmic_if_the_points_lie_far_apart() -> None:
    """Points at equal ratios then lie at equal distances."""

    def columns(xs: list[float]) -> list[int]:
        image = curves(*(Curve(f"{x}", [x], [0.5]) for x in xs))
        plot = image[60:, : image.shape[1] * 9 // 10]  # the legend is to the right
        found = [
            np.flatnonzero((np.abs(plot - colour).sum(-1) < 12).any(0)) for colour in (BLUE, LIGHT, (255, 127, 14))
        ]
        return [round(float(at.mean())) for at in found]

    left, middle, right = columns([1, 10, 100])
    assert abs((middle - left) - (right - middle)) <= 2
    left, middle, right = columns([10, 20, 40])
    assert abs(2 * (middle - left) - (right - middle)) <= 3


def test_a_grid_of_shares() -> None:
    full = pixels(grid_png(["mlp", "cnn"], ["mlp", "cnn"], [[0.0, 0.5], [0.9, None]], "agreement"))
    none = pixels(grid_png(["mlp", "cnn"], ["mlp", "cnn"], [[None, None], [None, None]], "agreement"))
    assert has(full, (68, 1, 84)) and not has(none, (68, 1, 84))  # 0 in the map's darkest colour


def test_the_picture_of_a_table_takes_the_mean_over_seeds(
    runs: Runs, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Curve] = []
    monkeypatch.setattr("onnxcake.report.bench_table.curves_png", lambda curves, **_: drawn.extend(curves) or b"")
    bench(request_, ["cake", "naive"], seeds=(0, 1)).picture()
    cake, naive = drawn[-2:]
    assert (cake.title, cake.x, cake.y) == ("cake", [1010, 2020, 3030], pytest.approx([0.4, 0.6, 0.85]))
    assert cake.spread == pytest.approx([0.02**0.5, 0.02**0.5, 0.005**0.5])
    assert (naive.x, naive.y) == ([1010], pytest.approx([0.3]))


def test_points_at_the_same_cost_are_one_and_a_run_without_points_has_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Curve] = []
    monkeypatch.setattr("onnxcake.report.bench_table.curves_png", lambda curves, **_: drawn.extend(curves) or b"")
    offline = [{"teacher_passes": 500, "teacher_queries": 5, "agreement": value} for value in (0.2, 0.6, 0.8)]
    cells = (
        Cell("cake", 0, agreement=0.8, curve=tuple(offline)),
        Cell("dafl", 0, agreement=0.7, teacher_passes=40, teacher_queries=2),
        Cell("zskd", 0, reason="needs more"),
    )
    Table({"budget": {"seconds": None, "passes": None}, "teacher": {"name": "t"}, "student": None}, cells).picture()
    assert [(curve.title, curve.x, curve.y) for curve in drawn] == [("cake", [505], [0.8]), ("dafl", [42], [0.7])]


# --- for real ----------------------------------------------------------------------------------------------

TINY = ["synthesis.batches=2", "synthesis.batch=50", "synthesis.steps=4", "synthesis.held_out=1", "student.epochs=2"]


class StopAt(Progress):
    """Interrupts the run when a line begins with a text."""

    def __init__(self, text: str) -> None:
        super().__init__(quiet=True)
        self.text = text

    def say(self, text: str) -> None:
        if text.startswith(self.text):
            raise Interrupted(2)


def test_methods_on_the_digits(tmp_path: Path) -> None:
    """Real runs: stopped in the second method and taken up again, and then with nothing left to do."""
    request = Request(
        teacher=EXAMPLES / "digits.onnx",
        options=TeacherOptions(range=(0, 1)),
        probe=EXAMPLES / "digits-test.npz",
        out=tmp_path,
        overrides=TINY,
    )
    run: Callable[[Progress | None], Table] = lambda progress: bench(  # noqa: E731
        request, ["cake-image", "cake-vector"], budget=Budget(None, 5_000), progress=progress
    )
    with pytest.raises(Interrupted):
        run(StopAt("cake-vector, seed 0"))
    first = (tmp_path / "cake-image" / "seed-0" / "report.json").stat().st_mtime_ns
    table = run(None)
    assert (tmp_path / "cake-image" / "seed-0" / "report.json").stat().st_mtime_ns == first
    for method in ("cake-image", "cake-vector"):
        cell = table.cell(method, 0)
        kept = json.loads((tmp_path / method / "seed-0" / "report.json").read_text())
        assert kept["recipe"]["synthesis"]["batches"] > 2  # scaled up
        assert 2_500 < cell.teacher_passes == kept["spent"]["teacher_passes"] <= 5_200
        assert cell.agreement == kept["agreement"]["probe"]["agreement"]["value"]
        assert cell.student_steps > 0 and cell.curve[-1]["agreement"] == pytest.approx(cell.agreement)
    assert run(None).as_dict() == table.as_dict()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
