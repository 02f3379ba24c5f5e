"""Units: what the file takes, standard units, raw values; and what --range, --mean and --std may say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import command
from torch import Tensor, nn

from onnxcake.core.errors import UsageError
from onnxcake.graph.head_and_tail import Head
from onnxcake.onnxfile.rename import SafeGraph
from onnxcake.teacher.input_values import values_of
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

Pair = tuple[float, float]


def signature(shape: tuple[int, ...] = (3, 4, 4), **values: Any) -> Signature:
    return Signature("x", shape, "y", "logits", 10, **values)


def samples(shape: tuple[int, ...] = (3, 4, 4)) -> Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))


def test_without_a_range_the_units_are_one() -> None:
    plain, x = signature(), samples()
    assert plain.to_input(x) is x and plain.to_standard(x) is x and plain.to_raw(x) is x
    assert plain.bounds() is None and (plain.location, plain.deviation) == ((0.0,), (1.0,))


def of_values(shape: tuple[int, ...] = (3, 4, 4), **values: Any) -> Signature:
    """Make the signature of a plain graph, with what a user says of its values."""
    safe = SafeGraph(onnx.ModelProto(), {}, "x", 1, shape, None, {}, None, {}, {}, {})
    return values_of(safe, "y", Head(), TeacherOptions.of(**values))


def test_what_is_assumed_is_said() -> None:
    told = of_values().assumptions
    assert len(told) == 1 and "--range" in told[0]


def test_a_range_alone_is_centred_and_scaled_to_a_quarter_of_its_width() -> None:
    pixels, x = of_values(range=(0.0, 255.0)), samples()
    assert (pixels.location, pixels.deviation) == ((127.5,), (63.75,))
    assert torch.equal(pixels.to_input(x), x * 63.75 + 127.5)
    torch.testing.assert_close(pixels.to_standard(pixels.to_input(x)), x)
    low, high = pixels.bounds() or (None, None)
    assert low is not None and high is not None
    assert (low == -2).all() and (high == 2).all()
    assert "0…255" in pixels.assumptions[0] and "127.5" in pixels.assumptions[0]
    assert pixels.to_raw(x) is x


def test_a_normalisation_makes_the_files_units_standard() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    images, x = of_values(range=(0.0, 1.0), mean=mean, std=std), samples()
    assert images.to_input(x) is x and images.assumptions == ()
    low, high = images.bounds() or (None, None)
    assert low is not None and high is not None
    assert low.shape == high.shape == (3, 1, 1)
    for channel in range(3):
        assert low[channel].item() == pytest.approx((0 - mean[channel]) / std[channel])
        assert high[channel].item() == pytest.approx((1 - mean[channel]) / std[channel])
    for end, raw in ((low, torch.zeros(1, 3, 4, 4)), (high, torch.ones(1, 3, 4, 4))):
        torch.testing.assert_close(images.to_raw(end.expand(1, 3, 4, 4)), raw, atol=1e-6, rtol=0)


def test_a_normalisation_without_a_range_is_unbounded() -> None:
    images = signature(mean=(0.5,), std=(0.25,))
    assert images.bounds() is None and images.assumptions == ()
    assert torch.equal(images.to_raw(torch.ones(2, 3, 4, 4)), torch.full((2, 3, 4, 4), 0.75))


def test_one_value_serves_every_channel() -> None:
    low, high = signature(range=(0.0, 1.0), mean=(0.5,), std=(0.5,)).bounds() or (None, None)
    assert low is not None and high is not None
    assert (low.broadcast_to(3, 4, 4) == -1).all() and (high.broadcast_to(3, 4, 4) == 1).all()


def test_vectors_have_a_mean_for_each_feature() -> None:
    features = signature((2,), range=(0.0, 10.0), mean=(5.0, 0.0), std=(1.0, 10.0))
    low, high = features.bounds() or (None, None)
    assert low is not None and high is not None
    assert low.tolist() == [-5.0, 0.0] and high.tolist() == [5.0, 1.0]
    assert features.to_raw(torch.tensor([[0.0, 1.0]])).tolist() == [[5.0, 10.0]]


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-1000, 1000, width=32), width=st.floats(0.015625, 1000, width=32), standard=st.floats(-2, 2, width=32)
)
def test_to_standard_undoes_to_input_and_bounds_are_the_range(low: float, width: float, standard: float) -> None:
    ranged = signature((1,), range=(low, low + width), location=(low + width / 2,), deviation=(width / 4,))
    x = torch.tensor([[standard]], dtype=torch.float64)
    inside = ranged.to_input(x)
    assert low - 1e-9 <= inside.item() <= low + width + 1e-9
    assert ranged.to_standard(inside).item() == pytest.approx(standard, abs=1e-8)
    bounds = ranged.bounds()
    assert bounds is not None
    ends = torch.stack([ranged.to_input(end.double()[None]).reshape(()) for end in bounds])
    wanted = torch.tensor([low, low + width], dtype=torch.float64)
    torch.testing.assert_close(ends, wanted, atol=1e-3, rtol=1e-6)


def test_to_input_is_differentiable() -> None:
    x = samples().requires_grad_(True)
    of_values(range=(0.0, 1.0)).to_input(x).sum().backward()
    assert x.grad is not None and (x.grad == 0.25).all()


@pytest.mark.parametrize(
    ("shape", "image", "size"),
    [
        ((1, 8, 8), True, 64),
        ((3, 5, 7), True, 105),
        ((3, 1, 7), False, 21),
        ((3, 7, 1), False, 21),
        ((12,), False, 12),
        ((4, 6), False, 24),
        ((1, 2, 3, 4), False, 24),
    ],
)
def test_what_is_an_image(shape: tuple[int, ...], image: bool, size: int) -> None:
    assert signature(shape).is_image is image and signature(shape).size == size


@pytest.fixture(scope="module")
def vector_teacher(tmp_path_factory: pytest.TempPathFactory, export: Any) -> Path:
    path: Path = export(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2), tmp_path_factory.mktemp("t") / "t.onnx"
    )
    return path


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"range": (1, 1)}, "range 1,1 is empty"),
        ({"range": (2, -2)}, "range 2,-2 is empty"),
        ({"range": (NAN, 1)}, "range"),
        ({"range": (0, INF)}, "range"),
        ({"range": (-INF, INF)}, "range"),
        ({"mean": [0.5]}, "mean and std belong together"),
        ({"std": [0.5]}, "mean and std belong together"),
        ({"mean": [0, 0], "std": [1, 1]}, "2 values of mean"),
        ({"mean": [0], "std": [1, 1, 1, 1]}, "4 values of std"),
        ({"mean": [], "std": []}, "mean must be"),
        ({"mean": [0], "std": [0]}, "std must be"),
        ({"mean": [0] * 3, "std": [1, 1, -1]}, "std must be"),
        ({"mean": [0], "std": [NAN]}, "std must be"),
        ({"mean": [0], "std": [INF]}, "std must be"),
        ({"mean": [NAN], "std": [1]}, "mean must be"),
        ({"mean": [INF], "std": [1]}, "mean must be"),
    ],
)
def test_values_that_cannot_be_meant(values: dict[str, Any], words: str, vector_teacher: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Teacher.load(vector_teacher, **values)
    assert caught.value.exit_code == 2 and caught.value.remedy


def test_whole_numbers_become_floats(vector_teacher: Path) -> None:
    told = Teacher.load(vector_teacher, range=(0, 255), mean=[1, 2, 3], std=[1]).signature
    assert told.range == (0.0, 255.0) and told.mean == (1.0, 2.0, 3.0) and told.std == (1.0,)
    assert all(isinstance(value, float) for value in (*told.range, *told.mean, *told.std))


def test_channels_last_are_moved_and_scaled_each() -> None:
    pictures = signature((4, 5, 3), channels_last=True, location=(1.0, 2.0, 3.0), deviation=(0.5, 1.0, 2.0))
    x = samples((3, 4, 5))
    told = pictures.to_input(x)
    assert told.shape == (5, 4, 5, 3) and pictures.shape == (3, 4, 5) and pictures.is_image
    for channel, (mean, std) in enumerate(zip((1.0, 2.0, 3.0), (0.5, 1.0, 2.0), strict=True)):
        torch.testing.assert_close(told[..., channel], x[:, channel] * std + mean)
    torch.testing.assert_close(pictures.to_standard(told), x)
    assert pictures.to_raw(told).shape == x.shape


def test_bytes_are_whole_numbers_within_their_range() -> None:
    pictures = signature(input_dtype="uint8", range=(0.0, 255.0))
    told = pictures.whole(torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0]))
    assert told.tolist() == [0.0, 0.0, 1.0, 255.0, 255.0]
    assert signature(range=(0.0, 1.0)).whole(torch.tensor([0.4])).item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("kind", "task", "classes", "scores"),
    [("logits", "multiclass", 10, 10), ("binary_logit", "binary", 2, 1), ("multilabel_logits", "multilabel", 10, 10)],
)
def test_the_task_follows_from_the_output(kind: Any, task: str, classes: int, scores: int) -> None:
    told = Signature("x", (3,), "y", kind, classes)
    assert (told.task, told.scores) == (task, scores)
    assert Signature.from_dict(json.loads(json.dumps(asdict(told)))) == told


# --- values for each feature or pixel -----------------------------------------------------------------------


def test_a_value_for_each_number_of_an_input() -> None:
    picture = tuple(float(v) for v in range(3 * 4 * 4))
    whole, x = signature(location=picture, deviation=(2.0,)), samples()
    wanted = torch.tensor(picture).reshape(1, 3, 4, 4)
    torch.testing.assert_close(whole.to_input(x), x * 2 + wanted)
    torch.testing.assert_close(whole.to_standard(whole.to_input(x)), x)
    last = signature((4, 4, 3), channels_last=True, location=picture)  # in the file's layout, as its inputs are
    torch.testing.assert_close(last.to_input(x), x.movedim(1, -1) + torch.tensor(picture).reshape(1, 4, 4, 3))


def test_a_range_for_each_feature() -> None:
    features = of_features(range=([0, 10, 5], [1, 30, 5]))
    assert features.range == ((0.0, 10.0, 5.0), (1.0, 30.0, 5.0))
    assert (features.location, features.deviation) == ((0.5, 20.0, 5.0), (0.25, 5.0, 1.0))
    drawn = features.to_input(features.within(torch.randn(500, 3)))
    assert drawn.amin(0).tolist() == pytest.approx([0, 10, 5]) and drawn.amax(0).tolist() == pytest.approx([1, 30, 5])
    assert "over 30 features" in of_features(range=(list(range(0, 30)), list(range(1, 31))), size=30).assumptions[0]
    assert Signature.from_dict(json.loads(json.dumps(asdict(features)))) == features


def test_a_normalisation_that_leaves_another_scale() -> None:
    caffe = of_features(range=(0, 255), mean=[104, 117, 123], std=[1])
    assert caffe.location == (23.5, 10.5, 4.5) and caffe.deviation == (63.75,) * 3
    assert "another scale" in caffe.assumptions[0]
    drawn = caffe.to_input(caffe.within(10 * torch.randn(500, 3)))
    assert drawn.amin(0).tolist() == pytest.approx([-104, -117, -123], abs=1e-3)
    assert drawn.amax(0).tolist() == pytest.approx([151, 138, 132], abs=1e-3)
    for usual in ({"range": (0, 1), "mean": [0.1307], "std": [0.3081]}, {"mean": [104, 117, 123], "std": [1]}):
        assert (of_features(**usual).location, of_features(**usual).deviation) == ((0.0,), (1.0,))


def of_features(size: int = 3, **values: Any) -> Signature:
    return of_values((size,), **values)


def test_steps_share_what_is_said_of_features() -> None:
    told = of_values((5, 2), mean=[1, 2], std=[3, 4])
    assert told.mean == (1.0, 2.0) * 5 and told.std == (3.0, 4.0) * 5
    torch.testing.assert_close(told.to_raw(torch.zeros(1, 5, 2)), torch.tensor([1.0, 2.0]).expand(1, 5, 2))


TABLES: dict[str, tuple[str, str]] = {
    "two columns": ("r.csv", "0,1\n10,30\n5,6\n"),
    "two columns with names": ("r.csv", "feature,lowest,highest\nage,0,1\nsize,10,30\nyear,5,6\n"),
    "a header alone": ("r.csv", "lowest,highest\n0,1\n10,30\n5,6\n"),
    "two rows": ("r.csv", "0,10,5\n1,30,6\n"),
    "blanks": ("r.txt", "0 1\n10\t30\n 5 6\n"),
    "JSON": ("r.json", "[[0, 1], [10, 30], [5, 6]]"),
}


@pytest.mark.parametrize("name", TABLES)
def test_ranges_out_of_a_file(name: str, tmp_path: Path, export: Any) -> None:
    path = export(nn.Linear(3, 4), (3,), tmp_path / "t.onnx")
    file, text = TABLES[name]
    (tmp_path / file).write_text(text, encoding="utf-8")
    for option in ("--range", "--ranges"):
        ended = command("inspect", path.name, option, file, "--json", cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert ended.told["signature"]["range"] == [[0, 10, 5], [1, 30, 6]]


def test_a_mean_picture_out_of_a_file(tmp_path: Path, export: Any) -> None:
    path = export(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2), tmp_path / "t.onnx")
    np.save(tmp_path / "mean.npy", np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    ended = command("inspect", path.name, "--mean", "mean.npy", "--std", "2", "--json", cwd=tmp_path)
    assert ended.code == 0 and ended.told["signature"]["mean"] == list(range(12)), ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--range", "r.csv"), "4 values of range for an input of shape [3]"),
        (("--range", "none.csv"), "cannot be read"),
        (("--range", "0,1,2"), "is not two numbers"),
        (("--mean", "words.txt", "--std", "1"), "words.txt' cannot be read"),
        (("--range", "turned.csv"), "range 3,2 is empty or has no end (number 1)"),
    ],
)
def test_files_that_cannot_be_meant(arguments: tuple[str, ...], words: str, tmp_path: Path, export: Any) -> None:
    path = export(nn.Linear(3, 4), (3,), tmp_path / "t.onnx")
    (tmp_path / "r.csv").write_text("0,1\n0,1\n0,1\n0,1\n", encoding="utf-8")
    (tmp_path / "turned.csv").write_text("0,1\n3,2\n0,1\n", encoding="utf-8")
    (tmp_path / "words.txt").write_text("many\nwords\n", encoding="utf-8")
    ended = command("inspect", path.name, *arguments, cwd=tmp_path)
    assert ended.code == 2 and words in ended.err, ended.err


def test_values_that_the_file_does_not_take_are_named(tmp_path: Path, export: Any) -> None:
    """Features in thousands, of which the file shows nothing: at 0 ± 1 its sigmoid is saturated."""
    torch.manual_seed(0)
    far = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 3))
    with torch.no_grad():
        far[0].weight.fill_(1.0)
        far[0].bias.fill_(-3000.0)
    export(far, (3,), tmp_path / "t.onnx")
    ended = command("inspect", "t.onnx", cwd=tmp_path)
    assert ended.code == 4
    for part in ("The values assumed (mean 0, deviation 1)", "--range FILE, a CSV of 3 rows lowest,highest"):
        assert part in ended.err, ended.err
    (tmp_path / "r.csv").write_text("900,1100\n900,1100\n900,1100\n", encoding="utf-8")
    assert command("inspect", "t.onnx", "--range", "r.csv", cwd=tmp_path).code == 0
