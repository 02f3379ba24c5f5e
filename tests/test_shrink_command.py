"""`onnxcake shrink`: the file that it writes, what it tells, and what it refuses."""

from __future__ import annotations

import io
import json
import stat
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from in_process import command
from rich.console import Console
from torch import Tensor, nn

from onnxcake.commands.shrink import shrink
from onnxcake.core.errors import BelowFloor, OnnxcakeError, OutputError, RecipeError, TeacherError, UsageError
from onnxcake.pruning.goal import NothingToCut
from onnxcake.runtime.ort import Runtime

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"


class Residual(nn.Module):
    """A small ResNet: two stages, the second begun with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._layer(3, 16)
        self.one, self.two = self._layer(16, 16), self._layer(16, 16)
        self.down, self.three, self.four = self._layer(16, 32, 2, 1), self._layer(16, 32, 2), self._layer(32, 32)
        self.last = nn.Linear(32, 7)

    @staticmethod
    def _layer(before: int, after: int, stride: int = 1, side: int = 3) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, side, stride, side // 2, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        x = (self.down(x) + self.four(self.three(x).relu())).relu()
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, export: Any) -> dict[str, Path]:
    """The teachers of this file."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    return {
        "digits": DIGITS,
        "residual": export(Residual(), (3, 12, 12), folder / "residual.onnx"),
        "sklearn": sklearn_file("mlp", folder / "sklearn.onnx"),
    }


def sklearn_file(kind: str, path: Path) -> Path:
    """A fitted classifier of scikit-learn."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    made = {
        "mlp": lambda: MLPClassifier((24, 16), max_iter=30, random_state=0),
        "linear": lambda: LogisticRegression(max_iter=200),
        "trees": lambda: RandomForestClassifier(5, random_state=0),
    }
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = skl2onnx.to_onnx(made[kind]().fit(x, y), x[:1], options={"zipmap": False}, target_opset=17)
    onnx.save(model, path)
    return path


def single_file(path: Path) -> Path:
    """A classifier of one row of weights: nothing can be left out of it."""
    shapes = [onnx.helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("x", 6), ("y", 1))]
    nodes = [onnx.helper.make_node("Gemm", ["x", "W"], ["z"]), onnx.helper.make_node("Sigmoid", ["z"], ["y"])]
    weights = [onnx.numpy_helper.from_array(np.ones((6, 1), np.float32), "W")]
    graph = onnx.helper.make_graph(nodes, "g", shapes[:1], shapes[1:], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def ends(path: Path) -> list[tuple[str, int]]:
    graph = onnx.load(path).graph
    output = next(o for o in graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    return [(value.name, value.type.tensor_type.elem_type) for value in (graph.input[0], output)]


def inputs_for(path: Path, count: int) -> Any:
    shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


def answers(runtime: Runtime, path: Path, inputs: Any) -> Any:
    """What comes out under the name that the class scores have."""
    model, (_, (name, _)) = onnx.load(path), ends(path)
    chosen = next(output for output in model.graph.output if output.name == name)
    del model.graph.output[:]
    model.graph.output.append(chosen)
    return runtime.load(model.SerializeToString()).run(inputs)


@pytest.mark.parametrize("name", ["digits", "residual", "sklearn"])
@pytest.mark.parametrize("keep", [0.75, 0.5, 0.25])
def test_a_share_of_the_parameters(
    name: str, keep: float, files: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    out = tmp_path / "out.onnx"
    data = shrink(files[name], keep=keep, out=out).as_dict()
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert ends(out) == ends(files[name])
    for batch in (1, 3):
        inputs = inputs_for(files[name], batch)
        got = runtime.load(out.read_bytes()).run(inputs)
        assert got.shape == answers(runtime, files[name], inputs).shape and np.isfinite(got).all()
    teacher, student = data["teacher"], data["student"]
    assert 0.9 * keep <= student["parameters"] / teacher["parameters"] <= keep
    assert student["bytes"] == out.stat().st_size and teacher["bytes"] == files[name].stat().st_size
    assert data["goal"] == {
        "asked": "keep",
        "limit": keep,
        "reached": student["parameters"] / teacher["parameters"],
        "missed": False,
        "short": False,
        "held": [],
    }
    for key, side in ((key, place) for key in ("parameters", "multiply_adds") for place in (0, 1)):
        of_layers = sum(layer[key][side] for layer in data["layers"])
        assert of_layers == (teacher, student)[side][key]


@pytest.mark.parametrize("name", ["digits", "residual", "sklearn"])
def test_all_of_it_is_the_teacher(name: str, files: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    out = tmp_path / "out.onnx"
    data = shrink(files[name], keep=1.0, out=out).as_dict()
    assert data["student"]["parameters"] == data["teacher"]["parameters"]
    inputs = inputs_for(files[name], 20)
    wanted = answers(runtime, files[name], inputs)
    assert np.abs(runtime.load(out.read_bytes()).run(inputs) - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("name", ["digits", "residual"])
@pytest.mark.parametrize(
    ("goal", "of", "share"),
    [("max_params", "parameters", 0.4), ("max_bytes", "bytes", 0.6), ("max_macs", "multiply_adds", 0.3)],
)
def test_the_largest_that_fits(
    name: str, goal: str, of: str, share: float, files: dict[str, Path], tmp_path: Path
) -> None:
    whole = shrink(files[name], keep=1.0, out=tmp_path / "whole.onnx").as_dict()["student"][of]
    limit = int(share * whole)
    data = shrink(files[name], **{goal: limit}, out=tmp_path / "out.onnx").as_dict()  # type: ignore[arg-type]
    assert 0.85 * limit <= data["student"][of] <= limit
    assert data["goal"]["reached"] == data["student"][of] and not data["goal"]["missed"]


def test_by_latency(tmp_path: Path) -> None:
    data = shrink(DIGITS, max_latency_ms=1000.0, out=tmp_path / "out.onnx").as_dict()
    assert data["student"]["parameters"] == data["teacher"]["parameters"]
    assert data["latency_ms"]["threads"] == 1 and 0 < data["latency_ms"]["student"] < 1000
    hopeless = shrink(DIGITS, max_latency_ms=1e-6, out=tmp_path / "out.onnx")
    assert hopeless.as_dict()["student"]["parameters"] < 0.01 * hopeless.as_dict()["teacher"]["parameters"]
    with pytest.raises(BelowFloor, match=r"ms, not 0\.000 ms"):
        hopeless.check_goal()


def test_a_goal_out_of_reach_is_told_with_what_held_it(files: dict[str, Path], tmp_path: Path) -> None:
    done = shrink(files["residual"], max_params=1, out=tmp_path / "out.onnx")
    assert done.as_dict()["goal"]["missed"] and done.as_dict()["goal"]["held"]
    with pytest.raises(BelowFloor, match=r"parameters, not 1 parameters; held are '.*Gemm' .* by the output") as caught:
        done.check_goal()
    assert caught.value.exit_code == 5


def test_the_seed_and_the_score_decide(tmp_path: Path) -> None:
    def digest(**options: Any) -> str:
        done = shrink(DIGITS, out=tmp_path / "out.onnx", low_rank="tied", **options)
        return str(done.as_dict()["student"]["sha256"])

    assert digest() == digest(score="weights", seed=1) == digest(keep=0.5)
    assert digest(score="responses") == digest(score="responses", seed=0)
    assert digest(score="random") == digest(score="random") != digest(score="random", seed=1)
    assert len({digest(), digest(score="responses"), digest(score="random")}) == 3


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"keep": 0.5, "max_macs": 7}, UsageError, "--keep and --max-macs are several goals"),
        ({"keep": 0.0}, UsageError, "--keep 0 is no size"),
        ({"keep": 1.5}, UsageError, "--keep 1.5 is no size"),
        ({"keep": float("nan")}, UsageError, "--keep nan is no size"),
        ({"max_params": -3}, UsageError, "--max-params -3 is no size"),
        ({"max_latency_ms": float("inf")}, UsageError, "--max-latency-ms inf is no size"),
        ({"keep": 0.5, "like": "mlp"}, UsageError, "--keep and --like are several goals"),
        ({"like": "mlp-third"}, RecipeError, "mlp-third"),
        ({"like": "mlp", "drop_blocks": 1}, RecipeError, "leave drop_blocks out"),
        ({"like": "resnet8"}, NothingToCut, "no larger network of the same family"),
        ({"score": "taste"}, UsageError, "score 'taste' is not known"),
        ({"low_rank": "never"}, UsageError, "low rank 'never' is not known"),
        ({"out": DIGITS}, UsageError, "overwrite the teacher"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], error: type[OnnxcakeError], says: str, tmp_path: Path) -> None:
    before = DIGITS.read_bytes()
    with pytest.raises(error, match=says):
        shrink(DIGITS, **{"out": tmp_path / "out.onnx", **options})
    assert DIGITS.read_bytes() == before and not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(("kind", "error", "code"), [("trees", TeacherError, 4), ("single", NothingToCut, 4)])
def test_what_cannot_be_cut(kind: str, error: type[OnnxcakeError], code: int, tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    path = single_file(path) if kind == "single" else sklearn_file(kind, path)
    with pytest.raises(error, match=r"gradient|left out") as caught:
        shrink(path, out=tmp_path / "out.onnx")
    assert caught.value.exit_code == code and caught.value.remedy
    assert not (tmp_path / "out.onnx").exists()


def test_nobodys_file_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default = tmp_path / "digits-small.onnx"
    shrink(DIGITS, keep=0.5)
    first = default.read_bytes()
    shrink(DIGITS, keep=0.25)  # an earlier result gives way
    assert default.stat().st_size < len(first)
    for content in (b"notes", onnx_by("somebody", first)):
        default.write_bytes(content)
        with pytest.raises(OutputError, match="has not written"):
            shrink(DIGITS)
        assert default.read_bytes() == content
    shrink(DIGITS, out="digits-small.onnx")
    assert default.read_bytes() == first
    with pytest.raises(OutputError):
        shrink(DIGITS, out=default / "inside.onnx")


def onnx_by(producer: str, content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.producer_name = producer
    changed: bytes = model.SerializeToString()
    return changed


@pytest.mark.parametrize(("low_rank", "told"), [("auto", "64×512 → 25×512 · 64×25"), ("tied", "64×512 → 46×352")])
def test_the_table(low_rank: Any, told: str, tmp_path: Path) -> None:
    done = shrink(DIGITS, out=tmp_path / "out.onnx", low_rank=low_rank)
    first, *others = done.layers
    done = replace(done, layers=(replace(first, name="[red]\x1b[31mfirst"), *others))
    text = io.StringIO()
    done.show(Console(file=text, width=160))
    lines = text.getvalue().splitlines()
    assert told in next(line for line in lines if line.startswith("/6/Gemm"))
    assert "38,282" in next(line for line in lines if "parameters" in line and "%" in line)
    assert any("latency, batch 1, 1 thread" in line for line in lines)
    assert any(line.startswith("[red]\\x1b[31mfirst") for line in lines)


@pytest.mark.parametrize("low_rank", ["auto", "tied"])
def test_the_rows_of_the_table_add_up(low_rank: Any, tmp_path: Path) -> None:
    data = shrink(DIGITS, out=tmp_path / "out.onnx", low_rank=low_rank).as_dict()
    for key in ("parameters", "multiply_adds"):
        for place, side in enumerate(("teacher", "student")):
            assert sum(layer[key][place] for layer in data["layers"]) == data[side][key]


def test_the_command(tmp_path: Path) -> None:
    run = partial(command, "shrink", cwd=tmp_path)
    code, told, said = run(DIGITS, "--keep", 0.5, "--json")
    assert code == 0, said
    assert json.loads(told)["student"]["file"] == "digits-small.onnx" and (tmp_path / "digits-small.onnx").exists()
    code, told, said = run(DIGITS, "--max-bytes", 100, "-o", "tiny.onnx")
    assert code == 5 and "/6/Gemm" in told
    assert "bytes, not 100 bytes; held are" in said
    assert (tmp_path / "tiny.onnx").exists()


def test_the_commands_exit_codes(tmp_path: Path) -> None:
    def code(*arguments: object) -> int:
        ended = command("shrink", *arguments, cwd=tmp_path)
        assert ended.err.count("onnxcake: ") == 1
        return ended.code

    assert code(DIGITS, "--keep", "0.5", "--max-params", "9") == 2
    assert code(DIGITS, "--score", "taste") == 2
    assert code(tmp_path / "missing.onnx") == 4
    assert code(single_file(tmp_path / "single.onnx")) == 4
    assert code(sklearn_file("linear", tmp_path / "linear.onnx")) == 5
    (tmp_path / "digits-small.onnx").write_text("notes")
    assert code(DIGITS) == 7


def test_what_is_no_file_is_not_replaced_by_the_student(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to("kept")
    (tmp_path / "digits-small.onnx").symlink_to("kept")
    (tmp_path / "folder.onnx").mkdir()
    for name in (["-o", "link.onnx"], ["-o", "folder.onnx"], ["-o", "/dev/stdout"], []):
        ended = command("shrink", DIGITS, *name, cwd=tmp_path)
        assert ended.code == 7 and "is not replaced by a file" in ended.err and ended.out == "", name
    assert command("shrink", DIGITS, "-o", "/dev/null", cwd=tmp_path).code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-small.onnx", "folder.onnx", "link.onnx"]
    assert (tmp_path / "link.onnx").is_symlink() and (tmp_path / "digits-small.onnx").is_symlink()
