"""What a method needs is given, given a substitute that is told, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from onnxcake.core.rng import Key
from onnxcake.evaluate.probes.parts import Probe
from onnxcake.run import requirements
from onnxcake.synthesis.losses import LOSSES
from onnxcake.synthesis.step import Weighted
from onnxcake.teacher.capabilities import ActivationStatistics, MethodInputs
from onnxcake.teacher.teacher import Teacher

KEY = Key(0).at("needs")
CLASSES = 4


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def folded() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Mean(), nn.Linear(4, CLASSES))


def surviving() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), Residual(), Residual(), nn.ReLU(), Mean(), nn.Linear(4, CLASSES))


def patches() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 2, 2), nn.Tanh(), Mean(), nn.Linear(4, CLASSES))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, CLASSES))


@pytest.fixture(scope="module")
def teachers(export: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    folder, made = tmp_path_factory.mktemp("teachers"), {}
    for make in (folded, surviving, patches, mlp):
        torch.manual_seed(0)
        made[make.__name__] = Teacher.load(export(make(), (1, 6, 6), folder / f"{make.__name__}.onnx"))
    return made


@pytest.fixture(scope="module")
def nonlinear(handmade: Any, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Logits tanh(a), tanh(a), −tanh(a), tanh(b) of two numbers that have nothing to do with each other."""
    weight = np.zeros((4, 4), np.float32)
    weight[0], weight[1] = [1, 1, -1, 0], [0, 0, 0, 1]
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    path = tmp_path_factory.mktemp("nonlinear") / "tanh.onnx"
    onnx.save(handmade(nodes, {"W": weight}, outputs=outputs), path)
    return Teacher.load(path)


def resolved(asked: set[Any], teacher: Teacher, **more: Any) -> MethodInputs:
    view, refusals = requirements.resolve(asked, teacher, key=KEY, **more)
    assert refusals == []
    return view


def test_every_need_has_a_phrase() -> None:
    from onnxcake.synthesis.step import Need

    assert set(requirements.PHRASES) == set(get_args(Need))
    assert requirements.listed(["last_layer", "statistics"]) == "BatchNorm statistics, last-layer weights"
    assert requirements.listed([]) == ""


def test_what_needs_nothing_is_given_nothing_but_maps(teachers: dict[str, Teacher]) -> None:
    view = resolved({"labels", "student"}, teachers["folded"])
    assert view == MethodInputs(maps=teachers["folded"].offers.maps) and len(view.maps) == 1


# Statistics


def test_statistics_that_are_there_are_taken_in_silence(export: Any, tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
    module[0].running_mean = torch.arange(6.0)
    view = resolved({"statistics"}, Teacher.load(export(module, (6,), tmp_path / "t.onnx")))
    assert view.statistics is not None and view.statistics.origin == "batch_norm" and view.notes == ()
    assert torch.equal(view.statistics.means[0], torch.arange(6.0)) and view.statistics.scale == 1.0


def test_statistics_that_survived_are_scaled_and_said_so(teachers: dict[str, Teacher]) -> None:
    view = resolved({"statistics"}, teachers["surviving"])
    assert view.statistics is not None and view.statistics.origin == "batch_norm"
    assert len(view.statistics.taps) == 2 and view.statistics.scale == pytest.approx(1.5)
    assert view.notes == (
        "statistics: only 2 BatchNormalization nodes are left in the file; their sum counts 1.5 times",
    )


def test_folded_statistics_become_whitening_and_it_is_said_so(teachers: dict[str, Teacher]) -> None:
    """M20 of the bad teachers, as far as there is a substitute."""
    view = resolved({"statistics"}, teachers["folded"])
    assert view.statistics is not None and view.statistics.origin == "whitening"
    assert torch.equal(view.statistics.means[0], torch.zeros(4)) and view.statistics.scale == 0.1
    (note,) = view.notes
    assert note.startswith(
        "statistics: no BatchNormalization in the file; each convolution's output is pulled to mean 0 and "
        "deviation 1 instead, at a tenth of the weight"
    )
    assert "do_constant_folding=False" in note and "--stats" in note


@pytest.mark.parametrize(
    ("net", "why"),
    [
        ("mlp", "needs BatchNorm statistics: mlp.onnx has no BatchNormalization and no convolution; recorded"),
        ("patches", "patches.onnx has no BatchNormalization and no convolution that one could have been folded into;"),
    ],
)
def test_statistics_that_nothing_can_stand_for_are_refused(net: str, why: str, teachers: dict[str, Teacher]) -> None:
    """M20 of the bad teachers, where there is no substitute."""
    view, refusals = requirements.resolve({"statistics"}, teachers[net], key=KEY)
    assert view.statistics is None and len(refusals) == 1 and why in refusals[0] and "--stats PATH" in refusals[0]


@pytest.mark.parametrize("net", ["mlp", "folded", "surviving"])
def test_recorded_statistics_go_before_all(net: str, teachers: dict[str, Teacher]) -> None:
    recorded = ActivationStatistics(("v1",), (torch.zeros(3),), (torch.ones(3),), "recorded")
    for only in (False, True):
        view = resolved({"statistics"}, teachers[net], recorded=recorded, only_recorded=only)
        assert view.statistics == recorded and view.notes == ()
    assert resolved(set(), teachers[net], recorded=recorded).statistics is None


def test_a_method_of_recorded_statistics_takes_no_others(teachers: dict[str, Teacher]) -> None:
    view, refusals = requirements.resolve({"statistics"}, teachers["surviving"], key=KEY, only_recorded=True)
    assert view.statistics is None and view.notes == ()
    assert refusals == [
        "needs recorded statistics: give them with --stats PATH "
        "(`onnxcake record surviving.onnx --data PATH` makes them)"
    ]


@pytest.mark.parametrize(
    ("net", "given", "left", "told"),
    [
        ("surviving", False, set(), ""),
        ("folded", False, {"statistics"}, "statistics: left out, as folded.onnx has none; if it was trained with"),
        ("mlp", False, {"statistics"}, "statistics: left out, as mlp.onnx has none"),
        ("mlp", True, set(), ""),
    ],
)
def test_an_optional_term_takes_no_substitute(
    net: str, given: bool, left: set[str], told: str, teachers: dict[str, Teacher]
) -> None:
    terms = [
        Weighted("statistics", 1.0, LOSSES["statistics"](optional=True)),
        Weighted("classification", 1.0, LOSSES["classification"]()),
    ]
    recorded = ActivationStatistics(("v1",), (torch.zeros(3),), (torch.ones(3),), "recorded") if given else None
    names, why = requirements.left_out(terms, teachers[net], KEY, recorded)
    assert names == left and len(why) == len(left) and all(text.startswith(told) for text in why)
    needed = Weighted("statistics", 1.0, LOSSES["statistics"]())
    assert requirements.left_out([needed], teachers[net], KEY) == (frozenset(), ())


# Last layer and similarity


@pytest.mark.parametrize("need", ["last_layer", "features"])
def test_the_last_layer_is_given_where_there_is_one(need: str, teachers: dict[str, Teacher]) -> None:
    view, layer = resolved({need}, teachers["mlp"]), teachers["mlp"].offers.last_layer
    assert view.last_layer is not None and layer is not None and view.notes == () and view.similarity is None
    assert view.last_layer.features == layer.features and torch.equal(view.last_layer.weight, layer.weight)
    assert torch.equal(view.last_layer.bias, layer.bias)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"last_layer"}, "last-layer weights: no linear layer"),
        ({"features"}, "last-layer inputs: no linear layer"),
        ({"last_layer", "features"}, "last-layer weights and last-layer inputs: no linear layer"),
    ],
)
def test_what_needs_a_last_layer_that_is_none_is_left_out(asked: set[str], what: str, nonlinear: Teacher) -> None:
    view = resolved(asked, nonlinear)
    assert view.last_layer is None
    assert view.notes == (f"{what} with constant weights makes the logits of tanh.onnx; what needs it is left out",)


def test_similarity_is_the_cosine_of_rows() -> None:
    alike = requirements.cosines(torch.tensor([[1.0, 0.0], [2.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]))
    half = 0.5**0.5
    wanted = torch.tensor([[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(alike, wanted, atol=1e-6, rtol=0)


def test_similarity_is_of_the_last_layer(teachers: dict[str, Teacher]) -> None:
    view, layer = resolved({"similarity"}, teachers["mlp"]), teachers["mlp"].offers.last_layer
    assert layer is not None and view.similarity is not None and view.notes == () and view.last_layer is None
    first, second = layer.weight[0], layer.weight[2]
    assert float(view.similarity[0, 2]) == pytest.approx(
        float(first @ second / (first.norm() * second.norm())), abs=1e-5
    )


def test_similarity_without_a_last_layer_is_how_logits_go_together(nonlinear: Teacher) -> None:
    view = resolved({"similarity"}, nonlinear)
    assert view.similarity is not None and len(view.notes) == 1 and "1000 samples of noise" in view.notes[0]
    wanted = torch.tensor([[1.0, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(view.similarity, wanted, atol=0.1, rtol=0)  # 1000 samples: 0.03
    again, other = (requirements.resolve({"similarity"}, nonlinear, key=key)[0] for key in (KEY, Key(1)))
    assert again.similarity is not None and torch.equal(view.similarity, again.similarity)
    assert other.similarity is not None and not torch.equal(view.similarity, other.similarity)


def test_a_logit_that_never_changes_is_like_no_other(handmade: Any, tmp_path: Path) -> None:
    weight = np.eye(4, dtype=np.float32)
    weight[3, 3] = 0
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    onnx.save(handmade(nodes, {"W": weight}, outputs=outputs), tmp_path / "t.onnx")
    similarity = requirements.correlations(Teacher.load(tmp_path / "t.onnx"), KEY)
    assert similarity[3].tolist() == [0, 0, 0, 1]


# Data


def test_real_inputs_are_given_in_standard_units(export: Any, tmp_path: Path) -> None:
    teacher = Teacher.load(export(nn.Linear(6, CLASSES), (6,), tmp_path / "t.onnx"), range=(-1, 7))
    inputs = np.linspace(-1, 7, 18, dtype=np.float32).reshape(3, 6)
    view = resolved({"data"}, teacher, data=Probe(inputs, np.array([2, 0, 1]), "data.npz", ""))
    assert view.data is not None
    torch.testing.assert_close(view.data[0], torch.from_numpy((inputs - 3) / 2))
    assert view.data[1] is not None and view.data[1].tolist() == [2, 0, 1]
    assert resolved({"data"}, teacher, data=Probe(inputs, None, "data.npz", "")).data[1] is None  # type: ignore[index]
    assert resolved(set(), teacher, data=Probe(inputs, None, "data.npz", "")).data is None


def test_all_reasons_are_told_at_once(teachers: dict[str, Teacher]) -> None:
    view, refusals = requirements.resolve({"statistics", "data", "features"}, teachers["mlp"], key=KEY)
    assert len(refusals) == 2 and refusals[1] == "needs real inputs: give them with --data PATH"
    assert view.last_layer is not None, "what can be given is"
