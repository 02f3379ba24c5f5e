"""Multiply-adds: counted once, whichever way a model writes its products."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from quantised_models import WAYS, quantised
from torch import nn

from onnxcake.graph.convert import convert
from onnxcake.graph.cost import multiply_adds
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise


def counted(path: Path) -> int:
    safe = normalise(load(path))
    return multiply_adds(convert(safe), next(iter(safe.outputs)))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("name, wanted", [("cnn", 16 * 16 * 8 * 27 + 8 * 8 * 8 * 72 + 40), ("mlp", None)])
@pytest.mark.parametrize("way", WAYS)
def test_quantisation_changes_nothing(way: str, name: str, wanted: int | None, tmp_path: Path) -> None:
    from quantised_models import exported

    plain = counted(saved(exported(name), tmp_path))
    assert plain == (wanted or plain) and plain > 0
    assert counted(saved(quantised(name, way), tmp_path)) == plain


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[0][:, -1]


def test_by_hand(tmp_path: Path, export: object) -> None:
    rows = [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), (3, 4), 12 * 7),
        (nn.Linear(4, 7), (3, 4), 3 * 4 * 7),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 6, 6), 16 * 8 * 2 * 9),
        (nn.ConvTranspose2d(4, 8, 3), (4, 6, 6), 36 * 4 * 8 * 9),
        (Recurrent(), (10, 6), 10 * 4 * 5 * (6 + 5)),
    ]
    for net, shape, wanted in rows:
        assert counted(export(net, shape, tmp_path / "m.onnx")) == wanted, net  # type: ignore[operator]
