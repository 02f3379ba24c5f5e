"""The glue of the cut: inputs that cost nothing, slopes out of a file, times, and a check of what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from onnxcake.core.errors import TeacherError
from onnxcake.core.rng import Key
from onnxcake.pruning.cut_student import check, cut_of, draws, synthetic
from onnxcake.pruning.goal import Goal, Pruned
from onnxcake.runtime.latency import latency_ms
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

IMAGES = Signature("x", (3, 24, 24), "y", "logits", 5)


def perceptron(hidden: int = 16, living: int = 16) -> nn.Module:
    """Without biases; of the hidden units only every ``hidden / living``-th says anything."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 4, bias=False))
    with torch.no_grad():
        for unit in range(hidden):
            if unit % (hidden // living):
                net[2].weight[:, unit] = 0
    return net


def slopes_of(path: Path, multiply_adds: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    signature = Signature("x", (6,), "y", "logits", 4)
    return list(draws(path.read_bytes(), signature, multiply_adds, Key(seed), path.name))


def test_every_other_image_is_smooth() -> None:
    x = synthetic(IMAGES, 6, Key(0))
    near = [float(np.corrcoef(one[:, :, 1:].flatten(), one[:, :, :-1].flatten())[0, 1]) for one in x.numpy()]
    assert all(abs(likeness) < 0.1 for likeness in near[::2])
    assert all(likeness > 0.7 for likeness in near[1::2])
    assert torch.allclose(x[1::2].mean((1, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x[1::2].std((1, 2, 3)), torch.ones(3), atol=1e-5)
    assert torch.equal(x, synthetic(IMAGES, 6, Key(0)))
    assert not torch.equal(x, synthetic(IMAGES, 6, Key(1)))


def test_inputs_are_what_the_file_takes() -> None:
    bytes_ = replace(
        IMAGES,
        input_shape=(24, 30, 3),
        channels_last=True,
        input_dtype="uint8",
        range=(0.0, 255.0),
        location=(127.5,),
        deviation=(73.6,),
    )
    x = synthetic(bytes_, 4, Key(0))
    assert x.shape == (4, 24, 30, 3)
    assert x.min() == 0 and x.max() == 255 and torch.equal(x, x.round())
    assert synthetic(Signature("x", (7,), "y", "logits", 3), 5, Key(0)).shape == (5, 7)


def test_slopes_are_of_the_files_weights(export: Any, tmp_path: Path) -> None:
    path = export(perceptron(), (6,), tmp_path / "net.onnx")
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    found = slopes_of(path)
    for draw in found:
        assert {name: array.shape for name, array in draw.items()} == {n: w.shape for n, w in weights.items()}
        # Answers without biases are homogeneous: each layer's Σ w · ∂z/∂w is z.
        first, second = (float(array.sum()) for array in draw.values())
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)
    assert max(abs(float(next(iter(draw.values())).sum())) for draw in found) > 0.1
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(found, slopes_of(path), strict=True) for n in weights)
    assert not np.array_equal(next(iter(found[0].values())), next(iter(slopes_of(path, seed=1)[0].values())))


def test_a_large_model_is_asked_less(export: Any, tmp_path: Path) -> None:
    path = export(perceptron(), (6,), tmp_path / "net.onnx")
    assert len(slopes_of(path)) == 32
    assert 4 <= len(slopes_of(path, int(4e9))) < 12
    assert len(slopes_of(path, int(1e12))) == 4


@pytest.mark.parametrize("score", ["responses", "weights"])
def test_what_says_nothing_goes_first(score: Any, export: Any, tmp_path: Path, runtime: Runtime) -> None:
    path = export(perceptron(64, living=16), (6,), tmp_path / "net.onnx")
    teacher = Teacher.load(path)
    pruned = cut_of(teacher, Goal(keep=0.25), score, Key(0), runtime)
    assert pruned.parameters == (640, 160)
    inputs = synthetic(teacher.signature, 50, Key(3)).numpy()
    same = np.allclose(runtime.load(pruned.content).run(inputs), runtime.load(path.read_bytes()).run(inputs), atol=1e-5)
    assert same or score == "weights"  # which sees half of a silent unit alive
    chance = cut_of(teacher, Goal(keep=0.25), "random", Key(0), runtime)
    assert not np.allclose(runtime.load(chance.content).run(inputs), runtime.load(path.read_bytes()).run(inputs))


class Layered(nn.Module):
    """Two hidden layers; their weights are of a low ``rank``, or random where there is none."""

    def __init__(self, rank: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in ((12, 60), (60, 60), (60, 4)))
        for layer in self.layers if rank else ():
            with torch.no_grad():
                sides = torch.randn(len(layer.weight), rank), torch.randn(rank, layer.weight.shape[1])
                layer.weight.copy_(sides[0] @ sides[1] / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:2]:
            x = torch.relu(layer(x))
        return self.layers[2](x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("rank", "low_rank", "products"),
    [(3, "auto", True), (None, "auto", False), (3, "tied", False)],
    ids=["of a low rank", "random", "of a low rank, and not wanted"],
)
@pytest.mark.parametrize("goal", [Goal(keep=0.4), Goal(max_params=2000), Goal(max_macs=2000), Goal(max_bytes=9000)])
def test_products_are_taken_where_they_keep_much_more(
    rank: int | None, low_rank: Any, products: bool, goal: Goal, export: Any, tmp_path: Path, runtime: Runtime
) -> None:
    path = export(Layered(rank), (12,), tmp_path / "net.onnx")
    teacher = Teacher.load(path)
    pruned = cut_of(teacher, goal, "responses", Key(0), runtime, low_rank=low_rank)
    assert (len(pruned.layers[1].shapes) == 3) == products
    assert pruned.parameters[1] <= goal.parameters_of(pruned.parameters[0])
    assert goal.max_macs is None or pruned.multiply_adds[1] <= goal.max_macs
    assert goal.max_bytes is None or len(pruned.content) <= goal.max_bytes
    inputs = synthetic(teacher.signature, 50, Key(3)).numpy()
    whole, smaller = (runtime.load(content).run(inputs) for content in (path.read_bytes(), pruned.content))
    assert np.allclose(smaller, whole, atol=1e-3) == products  # all of the rank is left, or something is missing


def test_latency_is_of_one_input(export: Any, tmp_path: Path, runtime: Runtime) -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.Flatten(), nn.Linear(64 * 16 * 16, 5))
    free = export(net, (3, 24, 24), tmp_path / "free.onnx").read_bytes()
    fixed = onnx.load_from_string(free)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    times = [latency_ms(runtime.load(content, 1), (3, 24, 24)) for content in (free, fixed.SerializeToString())]
    assert all(0.01 < time < 1000 for time in times)
    assert times[1] < 3 * times[0]  # a fourth of what the batch of four takes


def test_an_unsound_file_is_refused(export: Any, tmp_path: Path, runtime: Runtime) -> None:
    teacher = Teacher.load(export(perceptron(), (6,), tmp_path / "net.onnx"))
    whole = cut_of(teacher, Goal(keep=1.0), "weights", Key(0), runtime)
    assert whole.parameters == (160, 160)

    def refusal(pruned: Pruned) -> str:
        with pytest.raises(TeacherError, match="unsound") as caught:
            check(teacher, pruned, Key(0), runtime)
        assert caught.value.where == "net.onnx" and caught.value.remedy
        return caught.value.what

    assert "onnxruntime refuses it" in refusal(replace(whole, content=b"no model"))
    other = onnx.load_from_string(whole.content)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    assert "answers otherwise" in refusal(replace(whole, content=other.SerializeToString()))
    narrow = export(nn.Linear(6, 3), (6,), tmp_path / "narrow.onnx").read_bytes()
    assert "not [5, 4]" in refusal(replace(whole, content=narrow, parameters=(160, 21)))

    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + x.mean(0, keepdim=True))[:, :4]

    mixing = export(Mixing(), (6,), tmp_path / "mixing.onnx").read_bytes()
    assert "depends on the others" in refusal(replace(whole, content=mixing, parameters=(160, 0)))
