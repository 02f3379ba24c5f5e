"""State files that somebody edited: each is one `StoreError` with what, where and what to do, or is taken as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Ended, command

from onnxcake.commands.train import train
from onnxcake.core import files, tensorfile
from onnxcake.core.errors import StoreError
from onnxcake.report.bench_table import Cell, Table
from onnxcake.run import finish, initial_model
from onnxcake.run.cost import RunCost
from onnxcake.run.folder import Run, holds_nothing
from onnxcake.run.plan import Plan
from onnxcake.store.store import Store

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits.onnx"
OVERRIDES = ["synthesis.batches=3", "synthesis.batch=50", "synthesis.steps=5", "synthesis.held_out=1"]
OVERRIDES += ["student.epochs=2", "student.checkpoint_every=3", "student.architecture=mlp"]
OPTIONS = ["--range", "0,1", "--recipe", "cake-image", *(part for each in OVERRIDES for part in ("-o", each))]
ASKED = {"teacher": {"name": "digits.onnx"}, "budget": {"seconds": None, "passes": None}, "student": None}
DEEP = "[" * 200_000 + "]" * 200_000
VALUES = ["null", "true", "-1", "1.5", '"x"', "[]", "{}", str(2**63), "NaN", "-Infinity", "1e999", "9" * 5000, DEEP]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a table as `onnxcake bench` leaves one and what a cut student leaves beside it."""
    out = tmp_path_factory.mktemp("state") / "run"
    done = extract(out)
    assert done.code == 0, done.err
    point = {"agreement": 0.5, "teacher_passes": 1, "teacher_queries": 0, "seconds": 0.5, "student_steps": 1}
    cell = Cell("cake", 0, 0.5, None, None, 1, 0, 2, 3.0, (point,))
    files.write_json(out / "bench.json", Table({**ASKED, "methods": {"cake": "0" * 64}}, (cell,)).as_dict())
    files.write_json(out / "start.json", {"key": "k", "sha256": None, "note": "too small"})
    return out


def extract(out: Path) -> Ended:
    return command("extract", DIGITS, "--out", out, *OPTIONS)


def finished(out: Path) -> None:
    """The report, if it is one; shown, as the command would."""
    report = finish.finished(out, json.loads((out / "kept.json").read_text())["key"])
    assert report is None or report.table()


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": Run.read,
    "plan.json": lambda out: Plan.read(out / "plan.json"),
    "spent.json": lambda out: RunCost(out).so_far(),
    "store/store.json": lambda out: Store.open(out / "store"),
    "start.json": lambda out: initial_model._kept(out, "k", Run.read(out).teacher),
    "bench.json": lambda out: replace(Table.read(out), asked=ASKED).table(),
    "report.json": finished,
}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, from the root on."""
    yield way
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*way, key))


def edited(value: Any, way: tuple[Any, ...], change: str | None) -> str:
    """The text of ``value`` with another text at a place, or without that place if there is none."""
    mark = "\x00here"
    whole = json.loads(json.dumps([value]))
    holder, key = whole, 0
    for step in way:
        holder, key = holder[key], step
    if change is None:
        del holder[key]
        return json.dumps(whole[0]) if whole else ""
    holder[key] = mark
    return json.dumps(whole[0]).replace(json.dumps(mark), change)


@pytest.mark.parametrize("name", READERS)
def test_an_edited_state_file_is_one_error(name: str, run: Path) -> None:
    path, reader = run / name, READERS[name]
    content = path.read_text()
    (run / "kept.json").write_text((run / "report.json").read_text())
    value = json.loads(content)
    at = list(places(value))
    # Every place once, the values in turn; the outer ones with every value.
    edits = [edited(value, way, change) for way in at if len(way) < 2 for change in VALUES]
    edits += [edited(value, way, VALUES[number % len(VALUES)]) for number, way in enumerate(at)]
    edits += [edited(value, way, None) for way in at]
    edits += ['{"unknown": 1, ' + content.lstrip()[1:], content[:-3], content + "x", "\ud800", "", "\x00" * 9]
    refused = 0
    try:
        for text in edits:
            path.write_bytes(text.encode(errors="surrogatepass"))
            try:
                reader(run)
            except StoreError as error:
                refused += 1
                assert str(run) in error.where and error.what and error.remedy.endswith("."), text[:200]
    finally:
        path.write_text(content)
    assert refused > len(edits) / 4 or name == "report.json"  # which is made again
    reader(run)


ONE_EACH = {
    "spent.json": [("seconds", DEEP), ("teacher_passes", "1e999"), ("seconds", '{"x": NaN}')],
    "plan.json": [("threads", str(2**63)), ("chunk", "1000"), ("dtype", '"float8"')],
    "run.json": [("teacher", "7"), ("scaling", '{"budget": 3}'), ("recipe", '{"recipe": 1}')],
    "store/store.json": [("batch", "1e3"), ("shape", "[]")],
    "start.json": [("key", "3")],
}


@pytest.mark.parametrize("name", ONE_EACH)
def test_the_command_says_so_too(name: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "report.json").unlink()
    value = json.loads((out / name).read_text())
    for key, text in ONE_EACH[name]:
        (out / name).write_text(edited(value, (key,), text))
        if name == "start.json":
            ended = command("extract", DIGITS, "--out", out, *OPTIONS, "-o", "student.architecture=auto")
        elif name == "run.json":
            ended = command("train", "--store", out)
        else:
            ended = extract(out)
        assert ended.code == 6 and ended.err.count("onnxcake: ") == 1 and "Traceback" not in ended.err, ended.err


def test_a_set_that_was_made_for_other_inputs_is_not_trained_on(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    value = json.loads((run / "run.json").read_text())
    for way, text in ((("classes",), "11"), (("output_kind",), '"binary_logit"'), (("input_shape",), "[64]")):
        (tmp_path / "run" / "run.json").write_text(edited(value, ("teacher", "signature", *way), text))
        with pytest.raises(StoreError, match="other inputs or classes"):
            train(tmp_path / "run")


def forged(out: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The newest checkpoint of a run, changed, with the right digest in its name."""
    path = max(out.glob("student/*/*.safetensors"))
    tensors, facts = tensorfile.read(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(facts, tensors)
    path.unlink()
    return files.write_with_digest(
        path.parent, path.stem.rpartition("-")[0], path.suffix, tensorfile.pack(tensors, facts)
    )


FORGERIES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], None]] = {
    "another round": lambda facts, tensors: facts.update(round=7),
    "a step beyond the end": lambda facts, tensors: facts.update(step=10**6),
    "no number": lambda facts, tensors: facts.update(rate="fast"),
    "no facts": lambda facts, tensors: [facts.pop(key) for key in [*facts] if key != "run_key"],  # type: ignore[func-returns-value]
    "a curve of another kind": lambda facts, tensors: facts.update(curve=[{"agreement": 0.5}]),
    "weights of another shape": lambda facts, tensors: tensors.update({k: v[None] for k, v in tensors.items()}),
    "no weights": lambda facts, tensors: [tensors.pop(key) for key in [*tensors][1:]],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_checkpoint_is_refused_and_the_remedy_works(
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "report.json").unlink()
    path = forged(out, change)
    ended = extract(out)
    assert ended.code == 6 and "the newest checkpoint is not one of this run" in ended.err, ended.err
    assert "Remove it" in ended.err
    path.unlink()
    if change is FORGERIES["no weights"]:
        assert extract(out).code == 0
        assert (out / "student.onnx").read_bytes() == (run / "student.onnx").read_bytes()


def test_checkpoints_alone_are_something(run: Path, tmp_path: Path) -> None:
    """A method that keeps no set has nothing else until its end, and another seed must not begin over it."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for path in (*out.glob("store/*.safetensors"), out / "report.json", out / "student.onnx"):
        path.unlink()
    assert not holds_nothing(out)
    ended = command("extract", DIGITS, "--out", out, *OPTIONS, "--seed", 1)
    assert ended.code == 6 and "seed was 0, is now 1" in ended.err
    shutil.rmtree(out / "student")
    assert holds_nothing(out)
