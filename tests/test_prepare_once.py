"""Every command opens and examines its teacher once, however it is asked to run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import command

from onnxcake.run import initial_model
from onnxcake.teacher import open_graph
from onnxcake.teacher.sandbox import Sandbox

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits.onnx"
RANGE = ("--range", "0,1")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count examinations in the child, graphs built of files by this process, and students cut."""
    count = Counter[str]()

    def counting(owner: Any, name: str, key: str) -> None:
        real = getattr(owner, name)

        def counts(*args: Any, **keys: Any) -> Any:
            count[key] += 1
            return real(*args, **keys)

        monkeypatch.setattr(owner, name, counts)

    counting(Sandbox, "examine", "examined")
    counting(open_graph, "load", "built")
    counting(initial_model, "cut_of", "cut")
    return count


@pytest.mark.parametrize(
    "more",
    [
        ["--passes", 3e3],
        ["--passes", 3e3, "--recipe", "cake"],
        ["--passes", 3e3, "--budget", "1h"],
        ["--budget", "8s"],
        ["--budget", "8s", "--dry-run"],
        ["--dry-run"],
    ],
    ids=str,
)
def test_extract(more: list[object], counted: Counter[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = command("extract", DIGITS, *RANGE, *more, "--out", out)
    assert ended.code == 0, ended.err
    assert counted == {"examined": 1, "built": 1, "cut": 1}
    if not out.exists():
        return
    (out / "report.json").unlink()
    counted.clear()
    assert command("extract", DIGITS, *RANGE, *more, "--out", out).code == 0
    assert counted == {"examined": 1, "built": 1}  # what was cut is kept


def test_bench(counted: Counter[str], tmp_path: Path) -> None:
    asked = ["--methods", "layercake,cake-image,zskt", "--seeds", 2, "--passes", 2e3, "--out", tmp_path / "table"]
    assert command("bench", DIGITS, *RANGE, *asked).code == 0
    assert (counted["examined"], counted["built"]) == (1, 1)


def test_the_others(counted: Counter[str], tmp_path: Path) -> None:
    data, run, small = tmp_path / "data.npy", tmp_path / "run", tmp_path / "small.onnx"
    np.save(data, np.random.default_rng(0).uniform(size=(60, 1, 8, 8)).astype(np.float32))
    extract = ("extract", DIGITS, *RANGE, "--recipe", "cake-image", "--passes", 2e3, "--out", run)
    for asked, found in (
        (("inspect", DIGITS, *RANGE), (1, 0)),
        (("shrink", DIGITS, "--out", small), (1, 1)),
        (("record", DIGITS, "--data", data, "--out", tmp_path / "stats.safetensors"), (1, 1)),
        (("verify", DIGITS, small), (2, 2)),  # once for each file
        (extract, (1, 1)),
        (("train", "--store", run), (0, 0)),
    ):
        counted.clear()
        ended = command(*asked)
        assert ended.code == 0, ended.err
        assert (counted["examined"], counted["built"]) == found, asked
