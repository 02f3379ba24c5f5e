"""Recorded statistics are those of the data, of this teacher alone, and damage is always found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save
from torch import Tensor, nn

from onnxcake.core.errors import OutputError, UsageError
from onnxcake.teacher import recorded_statistics
from onnxcake.teacher.recorded_statistics import load, record
from onnxcake.teacher.teacher import Teacher


class Block(nn.Module):
    """Its BatchNorm stands before a convolution and survives folding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x)))


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), Block(), Block(), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(45, 4))


def headed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 4))


NETS = {"normed": normed, "plain": plain, "headed": headed, "mlp": mlp}
Made = tuple[nn.Module, Teacher, Path]


def made(net: str, folder: Path, export: Any, seed: int = 0) -> Made:
    torch.manual_seed(seed)
    module = NETS[net]()
    path = export(module, (2, 6, 6), folder / f"{net}.onnx")
    return module, Teacher.load(path), path


@pytest.fixture(scope="module")
def nets(export: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {net: made(net, tmp_path_factory.mktemp(net), export) for net in NETS}


def data(count: int = 23, seed: int = 5) -> Tensor:
    return 2 + 3 * torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def in_torch(net: str, module: Any, x: Tensor) -> list[Tensor]:
    """What is to be measured [channels, everything else], by way of the module."""
    seen: list[Tensor] = []
    if net == "normed":
        for block in (module[1], module[2]):
            block.norm.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    elif net == "plain":
        for place in (0, 2):
            module[place].register_forward_hook(lambda _m, _g, out: seen.append(out))
        module[5].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    elif net == "headed":
        module[0].register_forward_hook(lambda _m, _g, out: seen.append(out))
        module[2].register_forward_pre_hook(lambda _m, given: seen.append(given[0].mean((2, 3))))
    else:
        module[3].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    with torch.no_grad():
        module.double()(x.double())
    module.float()
    return [value.movedim(1, 0).flatten(1) for value in seen]


@pytest.mark.parametrize("at_once", [256, 5, 1])
@pytest.mark.parametrize("net", NETS)
def test_recorded_statistics_are_those_of_the_data(
    net: str, at_once: int, nets: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, teacher, _ = nets[net]
    monkeypatch.setattr(recorded_statistics, "_MOST_AT_ONCE", at_once)
    names = record(teacher, data(), tmp_path / "stats.safetensors")
    statistics = load(tmp_path / "stats.safetensors", teacher)
    own = dict(teacher.offers.names)
    assert tuple(own[tap] for tap in statistics.taps) == names
    assert statistics.origin == "recorded" and statistics.scale == 1.0
    wanted = in_torch(net, module, data())
    assert len(wanted) == len(statistics.taps)
    for mean, variance, value in zip(statistics.means, statistics.variances, wanted, strict=True):
        torch.testing.assert_close(mean, value.mean(1).float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(variance, value.var(1, correction=0).float(), atol=1e-6, rtol=1e-4)


def test_a_large_mean_does_not_swallow_the_variance(export: Any, tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))
    teacher = Teacher.load(export(module, (3,), tmp_path / "t.onnx"))
    inputs = 1e4 + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    assert teacher.offers.statistics is not None
    ((mean, variance),) = recorded_statistics.measure(teacher, inputs, teacher.offers.statistics.taps)
    torch.testing.assert_close(mean, inputs.double().mean(0), atol=0, rtol=1e-14)
    torch.testing.assert_close(variance, inputs.double().var(0, correction=0), atol=0, rtol=1e-10)


def test_the_same_data_gives_the_same_file(nets: dict[str, Made], tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(nets["plain"][1], data(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_statistics_of_another_teacher_are_refused(nets: dict[str, Made], tmp_path: Path, export: Any) -> None:
    _, teacher, _ = nets["plain"]
    record(teacher, data(), tmp_path / "s")
    _, other, _ = made("plain", tmp_path, export, seed=1)
    with pytest.raises(UsageError, match=r"recorded from another teacher \('plain.onnx'") as caught:
        load(tmp_path / "s", other)
    assert caught.value.where == str(tmp_path / "s") and "onnxcake record" in caught.value.remedy


def test_values_that_the_chosen_output_does_not_need_are_refused(nets: dict[str, Made], tmp_path: Path) -> None:
    _, teacher, path = nets["plain"]
    record(teacher, data(), tmp_path / "s")
    nodes = onnx.load(path).graph.node
    inner = next(node.output[0] for node in nodes if node.op_type == "Flatten")
    cut = Teacher.load(path, output=inner)
    with pytest.raises(UsageError, match="lies not on the way"):
        load(tmp_path / "s", cut)


def test_every_damage_is_found(nets: dict[str, Made], tmp_path: Path) -> None:
    _, teacher, _ = nets["mlp"]
    path = tmp_path / "s"
    record(teacher, data(), path)
    whole = path.read_bytes()
    load(path, teacher)
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for content in [*damaged, whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(UsageError):
            load(path, teacher)


FOREIGN = {
    "no facts": save({"weight": torch.ones(2)}),
    "other facts": save({"weight": torch.ones(2)}, {"onnxcake": "{}"}),
    "a list of facts": save({"weight": torch.ones(2)}, {"onnxcake": "[1, 2]"}),
    "deep facts": save({"weight": torch.ones(2)}, {"onnxcake": "[" * 100_000}),
    "not safetensors": b"PK\3\4 not this",
    "nothing": b"",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=list(FOREIGN))
def test_files_of_something_else_are_refused(content: bytes, nets: dict[str, Made], tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(UsageError, match="damaged, or holds something else"):
        load(tmp_path / "s", nets["plain"][1])


def forged(teacher: Teacher, path: Path, mean: Tensor, variance: Tensor) -> None:
    """A file of sound form that holds what nobody records."""
    tensors = {"mean.0": mean.clone(), "variance.0": variance.clone()}
    facts: dict[str, Any] = {"kind": "activation statistics", "version": 1, "teacher": teacher.facts.digest}
    facts |= {"file": teacher.name, "samples": 3, "values": [teacher.offers.names[0][1]]}
    facts["digest"] = recorded_statistics._digest(tensors, facts)
    path.write_bytes(save(tensors, {"onnxcake": json.dumps(facts)}))


def test_numbers_that_are_no_statistics_are_refused(nets: dict[str, Made], tmp_path: Path) -> None:
    _, teacher, _ = nets["plain"]
    path, ones = tmp_path / "s", torch.ones(3, dtype=torch.float64)
    forged(teacher, path, ones, ones)
    assert len(load(path, teacher).taps) == 1
    for mean, variance, why in (
        (ones * torch.nan, ones, "no statistics"),
        (ones, ones * torch.inf, "no statistics"),
        (ones, -ones, "no statistics"),
        (ones[:2], ones[:2], "has 3 channels"),
        (ones, ones[:2], "has 3 channels"),
        (ones[None], ones[None], "has 3 channels"),
    ):
        forged(teacher, path, mean, variance)
        with pytest.raises(UsageError, match=why):
            load(path, teacher)


@pytest.mark.parametrize("place", ["missing", "."])
def test_a_file_that_is_not_there_is_refused(place: str, nets: dict[str, Made], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / place, nets["plain"][1])


def test_what_cannot_be_recorded_is_refused(nets: dict[str, Made], tmp_path: Path, handmade: Any, normal: Any) -> None:
    _, teacher, _ = nets["plain"]
    with pytest.raises(UsageError, match="1 inputs have no variance"):
        record(teacher, data(1), tmp_path / "s")
    with pytest.raises(UsageError, match="not finite"):
        record(teacher, data() * torch.inf, tmp_path / "s")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        record(teacher, data(), tmp_path / "file" / "s")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])]
    onnx.save(handmade(nodes, {"W": normal(4, 3)}), tmp_path / "t.onnx")
    with pytest.raises(UsageError, match="nothing to record"):
        record(Teacher.load(tmp_path / "t.onnx"), torch.ones(5, 4), tmp_path / "s")
    assert not (tmp_path / "s").exists()
