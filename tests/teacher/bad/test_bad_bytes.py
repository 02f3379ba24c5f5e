"""M03: a teacher cut anywhere, or with any bit flipped, is refused or still a teacher; nothing else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import saved
from torch import nn

from onnxcake.core.errors import OnnxcakeError, UsageError
from onnxcake.onnxfile.load import load
from onnxcake.onnxfile.normalise import normalise
from onnxcake.teacher import sandbox
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, export: Any) -> bytes:
    """A teacher with every field that an exporter writes, in about a kilobyte."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    path: Path = export(nn.Sequential(body, nn.Softmax(1)), (1, 4, 4), tmp_path_factory.mktemp("tiny") / "t.onnx")
    content = path.read_bytes()
    assert 900 < len(content) < 1600
    return content


def is_still_a_teacher(content: bytes, path: Path) -> bool:
    """Say whether it is; anything else than that or an `OnnxcakeError` fails the test."""
    path.write_bytes(content)
    exam = sandbox.examine(path, TeacherOptions())
    if exam.error is None:
        assert exam.facts is not None and exam.facts.parity < 2e-3
        return True
    assert isinstance(exam.error, OnnxcakeError) and not isinstance(exam.error, UsageError)
    assert exam.facts is None and exam.error.exit_code == 4 and exam.error.what and exam.error.remedy
    text = str(exam.error)
    assert text.replace("\n", "").isprintable() and len(text) < 2500 and "Traceback" not in text
    assert not ("given up" in text and "processor time" not in text and "memory" not in text), text
    return False


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def spread(count: int, many: int) -> list[int]:
    """``many`` of ``count`` places, evenly, both ends among them."""
    return sorted({round(i * (count - 1) / (many - 1)) for i in range(many)})


def test_the_whole_file_is_a_teacher(tiny: bytes, tmp_path: Path) -> None:
    assert is_still_a_teacher(tiny, tmp_path / "t.onnx")


def test_cut_anywhere(tiny: bytes, tmp_path: Path) -> None:
    lengths = sorted({*spread(len(tiny) - 1, 60), *range(len(tiny) - 10, len(tiny))})
    assert not [length for length in lengths if is_still_a_teacher(tiny[:length], tmp_path / "t.onnx")]


def test_a_flipped_bit_anywhere(tiny: bytes, tmp_path: Path) -> None:
    bits = np.random.default_rng(0).choice(len(tiny) * 8, 120, replace=False).tolist()
    outcomes = [is_still_a_teacher(flipped(tiny, bit), tmp_path / "t.onnx") for bit in bits]
    assert any(outcomes) and not all(outcomes), "some bits are in weights, others in the structure"


def test_what_is_still_a_teacher_loads(tiny: bytes, tmp_path: Path) -> None:
    """What the airlock lets in, the graph is built from again outside it."""
    path, found = tmp_path / "t.onnx", 0
    for bit in spread(len(tiny) * 8, 40):
        if is_still_a_teacher(flipped(tiny, bit), path):
            teacher, found = Teacher.load(path), found + 1
            assert teacher.logits(torch.zeros(1, *teacher.signature.input_shape)).isfinite().all()
    assert found > 3


def test_zeroed_doubled_and_missing_stretches(tiny: bytes, tmp_path: Path) -> None:
    for start in spread(len(tiny) - 16, 20):
        is_still_a_teacher(tiny[:start] + bytes(16) + tiny[start + 16 :], tmp_path / "t.onnx")
        is_still_a_teacher(tiny[: start + 16] + tiny[start:], tmp_path / "t.onnx")
        is_still_a_teacher(tiny[:start] + tiny[start + 16 :], tmp_path / "t.onnx")


def test_two_teachers_in_one_file(tiny: bytes, tmp_path: Path) -> None:
    """Protobuf merges them: every node is there twice."""
    assert not is_still_a_teacher(tiny + tiny, tmp_path / "t.onnx")


def test_reading_alone_raises_nothing_else(tiny: bytes, tmp_path: Path) -> None:
    """The part that runs outside the airlock too, in this process."""
    for length in spread(len(tiny) - 1, 200):
        with pytest.raises(OnnxcakeError):
            load(saved(tiny[:length], tmp_path))
    for bit in spread(len(tiny) * 8, 400):
        try:
            normalise(load(saved(flipped(tiny, bit), tmp_path)))
        except OnnxcakeError as error:
            assert error.exit_code == 4


@pytest.mark.slow
def test_cut_at_every_byte(tiny: bytes, tmp_path: Path) -> None:
    assert not [n for n in range(len(tiny)) if is_still_a_teacher(tiny[:n], tmp_path / "t.onnx")]


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_every_bit_flipped(bit: int, tiny: bytes, tmp_path: Path) -> None:
    outcomes = [is_still_a_teacher(flipped(tiny, 8 * n + bit), tmp_path / "t.onnx") for n in range(len(tiny))]
    assert any(outcomes) and not all(outcomes)
