"""The public names: what docs/api.md shows works as it stands there, and each name is documented."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import onnxcake

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a small teacher, which is the working directory."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    export(net, (1, 8), tmp_path / "teacher.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(folder: Path) -> None:
    script = folder / "examples.py"
    script.write_text("".join(CODE))
    names = runpy.run_path(str(script))
    assert names["found"].error is None
    assert 0 <= names["report"].agreement <= 1
    assert names["other"].agreement >= 0
    assert names["inputs"].shape == (32, 1, 8)
    for made in ("run/student.onnx", "smaller.onnx", "bench/bench.json", "statistics.safetensors"):
        assert (folder / made).is_file()


def test_every_public_name_is_on_the_page_and_has_typed_arguments() -> None:
    for name in set(onnxcake.__all__) - {"__version__"}:
        made = getattr(onnxcake, name)
        assert re.search(rf"\b{name}\b", PAGE), name
        assert made.__doc__, name
        if inspect.isfunction(made):
            signature = inspect.signature(made)
            assert signature.return_annotation is not signature.empty
            assert all(one.annotation is not one.empty for one in signature.parameters.values()), name
