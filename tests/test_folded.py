"""Whitening stands for statistics where BatchNormalization was folded away, not where there never was any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onnxcake.core.random_fields import fields
from onnxcake.core.rng import Key
from onnxcake.run.prepare import Request
from onnxcake.run.trial import prepare
from onnxcake.teacher.folded_batch_norm import seems_folded
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

SHAPE, WIDTH = (3, 12, 12), 8


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def network(depth: int, norm: Callable[[], nn.Module], gain: float = 1.0) -> nn.Module:
    """Convolutions, each with a normalisation, that has seen a few batches of smooth images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        conv = nn.Conv2d(SHAPE[0] if number == 0 else WIDTH, WIDTH, 3, padding=1)
        conv.weight.data *= gain
        layers += [conv, norm(), nn.ReLU()]
    net = nn.Sequential(*layers, Mean(), nn.Linear(WIDTH, 4))
    with torch.no_grad():
        for _ in range(60):
            net(fields(32, SHAPE, generator))
    return net.eval()


def batch_norm() -> nn.Module:
    return nn.BatchNorm2d(WIDTH)


def group_norm() -> nn.Module:
    return nn.GroupNorm(2, WIDTH)


@pytest.mark.parametrize(
    ("depth", "norm", "gain", "wanted"),
    [
        (9, batch_norm, 1.0, True),
        (9, batch_norm, 5.0, True),  # the weights' own size is divided out
        (3, batch_norm, 1.0, False),
        (9, nn.Identity, 1.0, False),
        (9, nn.Identity, 5.0, False),
        (9, group_norm, 1.0, False),
    ],
)
def test_what_seems_folded(
    depth: int, norm: Callable[[], nn.Module], gain: float, wanted: bool, export: Any, tmp_path: Path
) -> None:
    path = export(network(depth, norm, gain), SHAPE, tmp_path / "t.onnx")
    teacher = Teacher.load(path)
    assert teacher.offers.statistics is None
    assert seems_folded(teacher, Key(0)) is wanted
    assert not teacher._tapped  # what a run answers with is made after the timing that says how it lies in memory
    job = prepare(Request(path, "layercake", tmp_path / "run", options=TeacherOptions.of()))
    origin = None if job.view.statistics is None else job.view.statistics.origin
    assert origin == ("whitening" if wanted else None)
    (note,) = (note for note in job.view.notes if note.startswith("statistics: "))
    assert ("pulled to mean 0 and deviation 1" in note) == wanted
