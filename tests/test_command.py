"""The command as a user runs it: real files, exit codes, and processes of its own where it matters."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from in_process import command

from onnxcake.core.tensorfile import unpack
from onnxcake.recipe.recipe import names

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DIGITS, DIGITS_TEST = EXAMPLES / "digits.onnx", EXAMPLES / "digits-test.npz"
TINY = ["synthesis.rounds=3", "synthesis.batch=50", "synthesis.steps=5", "synthesis.held_out=1", "student.steps=2"]
SET = ["synthesis.batches=3", "synthesis.batch=50", "synthesis.steps=5", "synthesis.held_out=1", "student.epochs=2"]
QUICK = [part for assignment in TINY for part in ("-o", assignment)]
OFFLINE = ["--recipe", "cake-image", *(part for assignment in SET for part in ("-o", assignment))]


def onnxcake(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process, told as one of its own would be."""
    return subprocess.CompletedProcess(arguments, *command(*arguments, cwd=cwd))


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "onnxcake", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "by the command"])
def test_what_others_registered_for_the_end_is_run(before: bool, tmp_path: Path) -> None:
    lines = ["from onnxcake import __main__ as command", "command.run()"]
    later = "import onnxcake.core.waiting as w; w.begin = lambda task: atexit.register(print, 'the end')"
    lines.insert(1, "atexit.register(print, 'the end')" if before else later)
    script = "import atexit, sys; sys.argv[1:] = ['inspect', 'gone.onnx', '--json']\n" + "\n".join(lines)
    left = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert left.returncode == 4 and "gone.onnx" in left.stderr and left.stdout.endswith("}\nthe end\n")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on the digits teacher."""
    out = tmp_path_factory.mktemp("run") / "digits"
    result = process("extract", DIGITS, "--range", "0,1", "--out", out, "--probe", DIGITS_TEST, "--json", *QUICK)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())
    return out


def test_a_run_leaves_a_student_in_the_teachers_place_and_a_report(done: Path) -> None:
    teacher, student = onnx.load(DIGITS), onnx.load(done / "student.onnx")
    for side in ("input", "output"):
        theirs, ours = getattr(teacher.graph, side)[0], getattr(student.graph, side)[0]
        assert ours.name == theirs.name
        assert ours.type.tensor_type.elem_type == theirs.type.tensor_type.elem_type
        assert ours.type.tensor_type.shape.dim[0].dim_param
    assert student.opset_import[0].version == teacher.opset_import[0].version
    report = json.loads((done / "report.json").read_text())
    assert report["agreement"]["probe"]["samples"] == 450
    assert report["agreement"]["probe"]["teacher_accuracy"]["value"] > 0.98
    assert set(report["agreement"]["probe"]) == {"samples", "agreement", "kl", "teacher_accuracy", "student_accuracy"}
    assert report["agreement"]["held_out"]["samples"] == 50
    assert report["student"]["torch_vs_onnxruntime"] < 1e-4
    assert report["student"]["parameters"] < 0.5 * report["teacher"]["parameters"]
    assert report["spent"]["teacher_passes"] == 4 * 50 * 5
    assert (done / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "probe (450): agreement" in (done / "report.txt").read_text()


def test_a_run_sized_by_teacher_passes(tmp_path: Path) -> None:
    out, more = tmp_path / "sized", ["-o", "synthesis.rounds=40", "--passes", "2000"]
    first = onnxcake("extract", DIGITS, "--range", "0,1", "--out", out, *QUICK, *more)
    assert first.returncode == 0, first.stderr
    spent = json.loads((out / "report.json").read_text())["spent"]["teacher_passes"]
    assert 1500 <= spent <= 2000 and spent % 250 == 0
    again = onnxcake("extract", DIGITS, "--range", "0,1", "--out", out, *QUICK, *more)
    assert again.returncode == 0 and "finished before, nothing to do" in again.stderr
    other = onnxcake("extract", DIGITS, "--range", "0,1", "--out", out, *QUICK, *more, "-o", "synthesis.steps=6")
    assert other.returncode == 6, other.stderr
    wrong = onnxcake("extract", DIGITS, "--range", "0,1", "--out", out, *QUICK, "--budget", "soon")
    assert wrong.returncode == 2 and "no time above zero" in wrong.stderr


def test_nothing_written_holds_a_path_of_this_machine(done: Path) -> None:
    for path in done.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(Path.home()).encode() not in content or str(Path.home()) == "/"
            assert str(done.parent).encode() not in content
            assert str(EXAMPLES.parent).encode() not in content


def test_a_finished_run_does_nothing_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", done, "--probe", DIGITS_TEST, *QUICK)
    assert result.returncode == 0
    assert "finished before" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == before


def test_other_options_on_the_same_folder_are_refused_by_name(done: Path) -> None:
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", done, *QUICK, "-o", "synthesis.steps=6")
    assert result.returncode == 6
    assert "synthesis.steps was 5, is now 6" in result.stderr
    assert "--out" in result.stderr


def test_a_damaged_shard_is_put_away_and_made_again(done: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    shard = sorted((copy / "store").glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (copy / "report.json").unlink()
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", copy, "--probe", DIGITS_TEST, *QUICK)
    assert result.returncode == 0, result.stderr
    assert "damaged" in result.stderr
    content[-1] ^= 1
    assert shard.read_bytes() == content
    assert len(list((copy / "store" / "quarantine").iterdir())) == 1


def test_verify_says_what_the_report_says(done: Path) -> None:
    result = onnxcake("verify", DIGITS, done / "student.onnx", "--probe", DIGITS_TEST, "--store", done, "--json")
    assert result.returncode == 0, result.stderr
    told, report = json.loads(result.stdout), json.loads((done / "report.json").read_text())
    for source in ("probe", "held_out"):
        assert told["agreement"][source]["agreement"] == report["agreement"][source]["agreement"]


def test_train_makes_another_student_of_the_same_set(done: Path, tmp_path: Path) -> None:
    none = onnxcake("train", "--store", done)
    assert none.returncode == 6 and "keeps no samples" in none.stderr
    out, made = tmp_path / "other", tmp_path / "set"
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", made, *OFFLINE)
    assert result.returncode == 0, result.stderr
    overrides = ["-o", "student.architecture={mlp: {hidden: [16]}}", "-o", "student.epochs=3"]
    result = onnxcake("train", "--store", made, "--out", out, "--json", *overrides)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["student"]["architecture"] == "mlp"
    assert (out / "student.onnx").exists()
    again = onnxcake("train", "--store", made, "--out", out, *overrides)
    assert again.returncode == 0
    assert "finished before" in again.stderr


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--dry-run", "--json", *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ahead = json.loads(result.stdout)
    assert (ahead["batches"], ahead["teacher_passes"]) == (4, 4 * 50 * 5)
    assert ahead["synthesis_s"] > 0
    assert ahead["training_s"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "teacher passes" in result.stderr


def test_the_folder_is_named_after_the_teacher(tmp_path: Path) -> None:
    result = onnxcake("extract", DIGITS, "--range", "0,1", *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "digits" / "student.onnx").exists()


def test_under_the_floor_is_done_with_exit_code_5(done: Path) -> None:
    floor = [*QUICK, "-o", "require.agreement=1.0", "-o", "require.max_bytes=10", "-o", "require.max_latency_ms=1e-6"]
    result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", done, "--probe", DIGITS_TEST, *floor)
    assert result.returncode == 5
    assert "agreement" in result.stderr
    assert "bytes are over" in result.stderr
    assert "latency" in result.stderr
    assert (done / "student.onnx").exists()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_soon_and_the_next_start_goes_on(tmp_path: Path, number: int, code: int) -> None:
    longer = [*OFFLINE, "-o", "student.epochs=4000", "-o", "student.checkpoint_every=1000000"]
    command = ["extract", str(DIGITS), "--range", "0,1", "--out", str(tmp_path / "run"), *longer]
    with subprocess.Popen([sys.executable, "-m", "onnxcake", *command], stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "run").glob("student/*")):  # training has begun
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(1)
        process.send_signal(number)
        start = time.monotonic()
        assert process.wait(timeout=20) == code
        assert time.monotonic() - start < 15
        assert "run the same command again" in process.stderr.read()
    (checkpoint,) = (tmp_path / "run").glob("student/*/step-*.safetensors")
    _, facts = unpack(checkpoint)
    assert facts["step"] > 0


BAD = {
    "missing teacher": (["extract", "nowhere.onnx"], 4, "cannot be read"),
    "empty teacher": (["extract", "empty.onnx"], 4, "the file is empty"),
    "no ONNX": (["extract", "page.onnx"], 4, "an HTML"),
    "truncated teacher": (["extract", "cut.onnx"], 4, "not an ONNX model, or a truncated one"),
    "bad recipe": (["extract", str(DIGITS), "--recipe", "bad.yaml"], 3, "bad.yaml:2:1: unknown key 'synthesys'"),
    "unknown recipe": (["extract", str(DIGITS), "--recipe", "cakes"], 3, "did you mean 'cake'?"),
    "probe of another shape": (["extract", str(DIGITS), "--probe", "probe.npz"], 2, "shape [n, 1, 8, 8]"),
    "no probe": (["extract", str(DIGITS), "--probe", "none.npz"], 2, "cannot be read"),
    "output in a file": (["extract", str(DIGITS), "--out", "empty.onnx/run"], 7, "cannot be written"),
    "somebody's file": (["extract", str(DIGITS), "--out", "taken"], 7, "would be overwritten"),
    "empty range": (["extract", str(DIGITS), "--range", "1,0"], 2, "is empty"),
    "mean alone": (["extract", str(DIGITS), "--mean", "0.5"], 2, "belong together"),
    "no GPU called so": (["extract", str(DIGITS), "--device", "tpu"], 2, "is not known"),
    "no such option": (["extract", str(DIGITS), "--speed", "9"], 2, "No such option"),
    "no store": (["train", "--store", "taken"], 6, "no run here"),
    "other inputs": (["verify", str(DIGITS), "moons.onnx"], 2, "takes inputs of shape [2]"),
}


@pytest.mark.parametrize("arguments, code, words", BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_error_and_leaves_nothing(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "page.onnx").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "cut.onnx").write_bytes(DIGITS.read_bytes()[:5000])
    (tmp_path / "bad.yaml").write_text("recipe: 1\nsynthesys: {}\n")
    np.savez(tmp_path / "probe.npz", x=np.zeros((4, 3, 9, 9), np.float32))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "student.onnx").write_text("mine")
    weight = onnx.helper.make_tensor("w", 1, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    values = [onnx.helper.make_tensor_value_info(name, 1, ["n", 2]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "moons.onnx")
    before = sorted(tmp_path.rglob("*"))
    result = onnxcake(*arguments, *(QUICK if arguments[0] == "extract" else []), cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken" / "student.onnx").read_text() == "mine"


def test_an_error_is_an_object_for_json(tmp_path: Path) -> None:
    result = onnxcake("extract", "nowhere.onnx", "--json", cwd=tmp_path)
    assert result.returncode == 4
    told = json.loads(result.stdout)
    assert told["error"] == "BadTeacherFile"
    assert told["remedy"]


def test_a_full_disk_keeps_what_is_finished_and_the_next_start_completes(tmp_path: Path) -> None:
    """A real limit on file sizes stands for the full disk: shards and start fit under it, checkpoints do not."""
    command = ["extract", DIGITS, "--range", "0,1", "--out", tmp_path / "run", *OFFLINE]
    limit = 180_000

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = process(*command, preexec_fn=limited)
    assert result.returncode == 7, result.stderr
    assert "run the same command again" in result.stderr
    shards = {path.name for path in (tmp_path / "run" / "store").glob("*.safetensors")}
    assert shards
    assert not list((tmp_path / "run").rglob("*.tmp"))
    result = onnxcake(*command)
    assert result.returncode == 0, result.stderr
    assert shards <= {path.name for path in (tmp_path / "run" / "store").glob("*.safetensors")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = onnxcake("extract", DIGITS, "--out", tmp_path / "run", *QUICK)
    assert result.returncode == 7


def test_a_second_run_on_the_same_folder_is_told_to_wait(tmp_path: Path) -> None:
    from onnxcake.core.files import sole_writer

    (tmp_path / "run").mkdir()
    with sole_writer(tmp_path / "run"):
        result = onnxcake("extract", DIGITS, "--range", "0,1", "--out", tmp_path / "run", *QUICK)
    assert result.returncode == 75
    assert "another onnxcake run" in result.stderr


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys, onnxcake.cli; onnxcake.cli.app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip().endswith("False"), result.stderr


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, onnxcake; print('torch' in sys.modules, onnxcake.extract.__name__, onnxcake.__version__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split()[:2] == ["False", "extract"]


def test_recipes_are_listed_and_shown_from_any_folder(tmp_path: Path) -> None:
    result = onnxcake("recipes", "list", cwd=tmp_path)
    assert [line.split()[0] for line in result.stdout.splitlines()] == names()
    assert {"cake", "lake", "naive"} <= set(names())
    assert onnxcake("recipes", "show", "cake", cwd=tmp_path).stdout.startswith("# CAKE")
