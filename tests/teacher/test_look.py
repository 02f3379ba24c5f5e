"""What a teacher's graph holds besides its answers: taps are the file's own values, and the last layer its last."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from onnxcake.core.errors import UsageError
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher import find_capabilities
from onnxcake.teacher.autotune import ExecutionMode, apply
from onnxcake.teacher.capabilities import ActivationStatistics
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.taps import Tapped
from onnxcake.teacher.teacher import Teacher

N = helper.make_node
CLASSES = 5


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The module with its own random weights, and running statistics that are not those it was born with."""
    torch.manual_seed(seed)
    module = make().eval()
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean, norm.running_var = torch.randn(norm.num_features), torch.rand(norm.num_features) + 0.5
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return module


def kept(module: nn.Module, shape: tuple[int, ...], path: Path, **more: Any) -> Path:
    """An export that leaves every BatchNormalization where it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(more.pop("batch", 2), *shape),),
            str(path),
            input_names=["x"],
            output_names=["y"],
            opset_version=more.pop("opset", 17),
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            **{"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}, **more},
        )
    return path


def inputs_of(*shape: int, count: int = 6, seed: int = 3) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def in_the_file(path: Path, name: str, x: Tensor, runtime: Runtime) -> Tensor:
    """Ask onnxruntime for a value inside the file."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.add().name = name
    return torch.from_numpy(runtime.load(model.SerializeToString()).run(x.numpy()).astype(np.float32))


class Block(nn.Module):
    """Pre-activation: BatchNorm, ReLU, convolution, twice, around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.second(self.one(F.relu(self.first(x))))))


class Attention(nn.Module):
    """A pre-norm block, written out."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * 0.5
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)),
    )


def preactivation() -> nn.Module:
    end = (nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Block(4), Block(4), *end)


def tabular() -> nn.Module:
    first = (nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Tanh())
    return nn.Sequential(*first, nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))


def transformer() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 2, stride=2), Tokens(), Attention(), Mean(), nn.Linear(8, CLASSES))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (plain, (2, 8, 8)),
    "pre-activation": (preactivation, (2, 8, 8)),
    "tabular": (tabular, (7,)),
    "transformer": (transformer, (2, 6, 6)),
}


def running(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]


# Taps


@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("net", NETS)
def test_every_value_of_the_file_can_be_tapped(net: str, opset: int, tmp_path: Path, runtime: Runtime) -> None:
    make, shape = NETS[net]
    path = kept(seeded(make), shape, tmp_path / "t.onnx", opset=opset)
    teacher = Teacher.load(path)
    x = inputs_of(*shape)
    names: dict[str, str] = {}
    for name in {name for node in onnx.load(path).graph.node for name in node.output}:
        try:
            names[name] = teacher.tap(name)
        except UsageError:
            continue  # a shape, or a constant
    assert len(names) >= 7
    wanted = {tap: in_the_file(path, name, x, runtime) for name, tap in names.items()}
    for tap, value in wanted.items():  # each alone: beside others it would keep what it is made of from being fused
        logits, values = teacher.answer(x, (tap,))
        torch.testing.assert_close(values[tap], value, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, teacher.logits(x), atol=1e-5, rtol=1e-4)
    _, values = teacher.answer(x, tuple(wanted))
    for tap, value in wanted.items():
        torch.testing.assert_close(values[tap], value, atol=1e-5, rtol=1e-4)


def test_no_taps_are_the_plain_answer(tmp_path: Path) -> None:
    teacher = Teacher.load(kept(seeded(plain), (2, 8, 8), tmp_path / "t.onnx"))
    called: list[Tensor] = []
    teacher.graph.register_forward_hook(lambda *_: called.append(torch.ones(1)))
    x = inputs_of(2, 8, 8)
    logits, taps = teacher.answer(x)
    assert taps == {} and len(called) == 1 and torch.equal(logits, teacher.logits(x))


def test_taps_have_the_gradient_of_the_network(tmp_path: Path) -> None:
    module = seeded(plain)
    teacher = Teacher.load(kept(module, (2, 8, 8), tmp_path / "t.onnx"))
    assert teacher.offers.statistics is not None
    x = inputs_of(2, 8, 8).requires_grad_(True)
    seen: list[Tensor] = []
    for norm in running(module):
        norm.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    wanted = module(x).square().sum() + sum(value.pow(3).sum() for value in seen)
    logits, taps = teacher.answer(x, teacher.offers.statistics.taps)
    got = logits.square().sum() + sum(value.pow(3).sum() for value in taps.values())
    first, second = (torch.autograd.grad(total, x)[0] for total in (got, wanted))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_taps_share_the_weights_of_the_answer(tmp_path: Path) -> None:
    teacher = Teacher.load(kept(seeded(preactivation), (2, 8, 8), tmp_path / "t.onnx"))
    for buffer in teacher.graph.buffers():
        buffer.data = buffer.clone()  # as if they had been moved to another device
    whole = {buffer.data_ptr() for buffer in teacher.graph.buffers()}

    def held(taps: tuple[str, ...]) -> set[int]:
        teacher.answer(inputs_of(2, 8, 8), taps)
        return {buffer.data_ptr() for buffer in teacher._tapped[taps].buffers()}

    assert teacher.offers.maps and held(teacher.offers.maps) <= whole
    # What lies between a convolution and its normalisation is seen where the one is not folded into the other.
    between, norms = held(teacher.offers.convolutions), 2 * 2  # weight and bias of two convolutions with one each
    assert len(whole - between) == norms and len(between - whole) <= 2 * norms and between & whole


def test_taps_are_laid_out_as_the_answer_is(tmp_path: Path) -> None:
    """The weights that it does not share, too: or the timing's choice would hold for a part of the network alone."""
    teacher = Teacher.load(kept(seeded(plain), (2, 8, 8), tmp_path / "t.onnx"))
    apply(ExecutionMode(channels_last=True), teacher.graph)
    teacher.answer(inputs_of(2, 8, 8), teacher.offers.convolutions)
    weights = [
        b for b in teacher._tapped[teacher.offers.convolutions].buffers() if b.dim() == 4 and b[0, 0].numel() > 1
    ]
    assert weights and all(weight.stride(1) == 1 for weight in weights)


class Wandering(nn.Module):
    """Mix its inputs with those of the batch that it was traced with, where no rewriting can follow."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(int(x.shape[0] * x.shape[1]), int(x.shape[2]))
        return rows.t().reshape(int(x.shape[2]), int(x.shape[0]), -1).permute(1, 0, 2).reshape(int(x.shape[0]), -1)


class Deep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (2, 3, 1))


def wandering() -> nn.Module:
    middle = (nn.Linear(6, 6), nn.BatchNorm1d(6), Deep(), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(Wandering(), *middle, nn.Linear(12, CLASSES))


@pytest.mark.parametrize("traced", [1, 2])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_graph_of_a_fixed_batch_has_taps_too(count: int, traced: int, tmp_path: Path) -> None:
    module = seeded(wandering)
    path = kept(module, (2, 3), tmp_path / "t.onnx", batch=traced, dynamic_axes=None)
    opened = open_graph(path, TeacherOptions(), fixed=True)
    offers, x = find_capabilities.offers(opened, "logits"), inputs_of(2, 3, count=count).requires_grad_(True)
    assert offers.statistics is not None and offers.last_layer is not None
    taps = (offers.statistics.taps[0], *offers.convolutions, offers.last_layer.features)
    logits, values = Tapped(opened, "logits", taps)(x)
    seen: list[Tensor] = []
    for place in (2, 5, 7):
        module[place].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    wanted = module(x)
    for got, right in zip((logits, *values), (wanted, *seen), strict=True):
        torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-4)
    first, second = (torch.autograd.grad(v.square().sum(), x)[0] for v in (values[1], seen[1]))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


class AllInOne(nn.Module):
    """A softmax over all that there is, which was one input when it was traced."""

    def forward(self, x: Tensor) -> Tensor:
        return (6 * x.reshape(int(x.numel())).softmax(0)).reshape(int(x.shape[0]), -1)


def test_a_teacher_that_is_run_in_pieces_answers_with_taps(tmp_path: Path, export: Any) -> None:
    module = seeded(lambda: nn.Sequential(AllInOne(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, CLASSES)))
    teacher = Teacher.load(export(module, (2, 3), tmp_path / "t.onnx", dynamic=False))
    assert teacher.facts.fixed_batch == 1 and teacher.offers.last_layer is not None
    features, x = teacher.offers.last_layer.features, inputs_of(2, 3)
    logits, taps = teacher.answer(x, (features,))
    torch.testing.assert_close(logits, torch.cat([module(one[None]) for one in x]), atol=1e-5, rtol=1e-4)
    inner = torch.cat([module[:-1](one[None]) for one in x])
    torch.testing.assert_close(taps[features], inner, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("conv", "no value called 'conv'"),
        ("/0/Conv_output", "did you mean '/0/Conv_output_0'"),
        ("0.weight", "numbers"),
    ],
)
def test_a_tap_that_is_none_is_refused(name: str, why: str, tmp_path: Path) -> None:
    teacher = Teacher.load(kept(seeded(plain), (2, 8, 8), tmp_path / "t.onnx"))
    with pytest.raises(UsageError, match=why):
        teacher.tap(name)
    assert teacher.shape_of(teacher.tap("/0/Conv_output_0")) == (4, 8, 8)


# Statistics


@pytest.mark.parametrize("net", ["plain", "pre-activation", "tabular"])
def test_statistics_are_of_what_goes_into_each_batch_norm(net: str, tmp_path: Path, runtime: Runtime) -> None:
    make, shape = NETS[net]
    module = seeded(make)
    path = kept(module, shape, tmp_path / "t.onnx")
    teacher = Teacher.load(path)
    statistics, names = teacher.offers.statistics, dict(teacher.offers.names)
    assert statistics is not None and statistics.origin == "batch_norm" and statistics.scale == 1.0
    norms, x = running(module), inputs_of(*shape)
    by_node = [node.input[0] for node in onnx.load(path).graph.node if node.op_type == "BatchNormalization"]
    assert [names[tap] for tap in statistics.taps] == by_node and len(by_node) == len(norms)
    seen: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    module(x)
    _, values = teacher.answer(x, statistics.taps)
    for place, norm in enumerate(norms):
        assert torch.equal(statistics.means[place], norm.running_mean)
        assert torch.equal(statistics.variances[place], norm.running_var)
        torch.testing.assert_close(values[statistics.taps[place]], seen[place], atol=1e-5, rtol=1e-4)


def test_statistics_that_survive_folding_stand_for_those_that_do_not(tmp_path: Path, export: Any) -> None:
    module = seeded(preactivation)
    path = export(module, (2, 8, 8), tmp_path / "t.onnx")
    left = [n for n in onnx.load(path).graph.node if n.op_type == "BatchNormalization"]
    assert 0 < len(left) < len(running(module)), "torch has folded some, and not all"
    statistics = Teacher.load(path).offers.statistics
    assert statistics is not None and len(statistics.taps) == len(left)
    assert statistics.scale == pytest.approx(5 / len(left)), "of five convolutions"
    means = [norm.running_mean for norm in running(module)]
    assert all(any(torch.equal(mean, one) for one in means) for mean in statistics.means)


def test_what_does_not_reach_the_logits_is_not_offered(tmp_path: Path, handmade: Any, normal: Any) -> None:
    nodes = [
        *(N("MatMul", ["x", "W"], ["y"]), N("MatMul", ["x", "V"], ["h"])),
        N("BatchNormalization", ["h", "one", "zero", "zero", "one"], ["other"]),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("y", 3), ("other", 7))]
    ones = {"one": np.ones(7, np.float32), "zero": np.zeros(7, np.float32)}
    onnx.save(handmade(nodes, {"W": normal(4, 3), "V": normal(4, 7), **ones}, outputs=outputs), tmp_path / "t.onnx")
    assert Teacher.load(tmp_path / "t.onnx", output="y").offers.statistics is None
    assert Teacher.load(tmp_path / "t.onnx", output="other").offers.statistics is not None


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


def gated() -> nn.Module:
    body = (nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Gate(4))
    down = (nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(*body, *down, nn.Conv2d(6, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def whitened(teacher: Teacher) -> list[str] | None:
    names = dict(teacher.offers.names)
    return None if teacher.whitening is None else [names[tap] for tap in teacher.whitening.taps]


def test_whitening_is_of_the_convolutions_that_a_batch_norm_was_folded_into(tmp_path: Path, export: Any) -> None:
    teacher = Teacher.load(export(seeded(gated), (2, 8, 8), tmp_path / "t.onnx"))
    assert teacher.offers.statistics is None and whitened(teacher) == ["/0/Conv_output_0", "/4/Conv_output_0"]
    assert len(teacher.offers.convolutions) == 4, "the gate's two as well, the logits' not"
    whitening = teacher.whitening
    assert isinstance(whitening, ActivationStatistics) and whitening.origin == "whitening" and whitening.scale == 0.1
    assert [len(mean) for mean in whitening.means] == [4, 6]
    assert not any(mean.any() for mean in whitening.means)
    assert all((variance == 1).all() for variance in whitening.variances)


def test_gates_do_not_scale_statistics_up(tmp_path: Path) -> None:
    statistics = Teacher.load(kept(seeded(gated), (2, 8, 8), tmp_path / "t.onnx")).offers.statistics
    assert statistics is not None and statistics.scale == 1.0


def test_an_image_cut_into_patches_is_not_whitened(tmp_path: Path, export: Any) -> None:
    teacher = Teacher.load(export(seeded(transformer), (2, 6, 6), tmp_path / "t.onnx"))
    assert teacher.whitening is None and len(teacher.offers.convolutions) == 1


def test_a_convolution_that_scores_by_way_of_an_activation_is_no_layer_to_match(tmp_path: Path, export: Any) -> None:
    def make() -> nn.Module:
        head = (nn.Conv2d(4, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), *head)

    teacher = Teacher.load(export(seeded(make, 4), (2, 8, 8), tmp_path / "t.onnx"))
    assert teacher.offers.last_layer is None and whitened(teacher) == ["/0/Conv_output_0"]


def test_the_last_layer_of_a_network_is_its_own(tmp_path: Path, export: Any) -> None:
    for net, (make, shape) in NETS.items():
        module = seeded(make)
        layer = Teacher.load(export(module, shape, tmp_path / f"{net}.onnx")).offers.last_layer
        assert layer is not None and isinstance(module, nn.Sequential)
        torch.testing.assert_close(layer.weight, module[-1].weight)
        torch.testing.assert_close(layer.bias, module[-1].bias)


# Maps


class Stage(nn.Module):
    """A bottleneck that halves the sides in its middle, a gate, and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(before, 3, 1), nn.Conv2d(3, 3, 3, stride, 1)
        self.three, self.short, self.gate = nn.Conv2d(3, after, 1), nn.Conv2d(before, after, 1, stride), Gate(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.gate(self.three(F.relu(self.two(F.relu(self.one(x))))))
        return F.relu(inner + self.short(x))


class LastNorm(nn.Module):
    """LayerNorm with the channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def lenet() -> nn.Module:
    first = (nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))


def stages() -> nn.Module:
    body = (nn.Conv2d(1, 4, 3, padding=1), Stage(4, 6, 1), Stage(6, 8, 2), Stage(8, 10, 2))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, CLASSES))


def modern() -> nn.Module:
    stem = (nn.Conv2d(1, 4, 4, 4), LastNorm(4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.GELU())
    return nn.Sequential(
        *stem, LastNorm(4), nn.Conv2d(4, 6, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (
            lenet,
            [("/1/Relu_output_0", (3, 24, 24)), ("/4/Relu_output_0", (4, 8, 8)), ("/5/MaxPool_output_0", (4, 4, 4))],
        ),
        (stages, [(f"/{n}/Relu_2_output_0", (2 * n + 4, 28 >> n - 1, 28 >> n - 1)) for n in (1, 2, 3)]),
        (modern, [("/4/Transpose_1_output_0", (4, 7, 7)), ("/5/Conv_output_0", (6, 3, 3))]),
        (tabular, []),
    ],
)
def test_maps_are_the_last_of_each_size_that_all_goes_through(
    make: Callable[[], nn.Module], wanted: list[tuple[str, tuple[int, ...]]], tmp_path: Path, export: Any
) -> None:
    shape = (7,) if make is tabular else (1, 28, 28)
    teacher = Teacher.load(export(seeded(make), shape, tmp_path / "t.onnx"))
    names = dict(teacher.offers.names)
    assert [(names[tap], teacher.shape_of(tap)) for tap in teacher.offers.maps] == wanted


def test_names_are_the_files_own_whatever_they_are(tmp_path: Path, normal: Any, handmade: Any) -> None:
    odd = 'a" + exit()\n:rows'
    nodes = [N("Tanh", ["x"], [odd]), N("MatMul", [odd, "W"], ["y"])]
    onnx.save(handmade(nodes, {"W": normal(4, 3)}), tmp_path / "t.onnx")
    teacher = Teacher.load(tmp_path / "t.onnx")
    assert teacher.offers.names == ((teacher.tap(odd), odd),)
    x = inputs_of(4)
    assert torch.equal(teacher.answer(x, (teacher.tap(odd),))[1][teacher.tap(odd)], x.tanh())
    assert numpy_helper.to_array(onnx.load(tmp_path / "t.onnx").graph.initializer[0]).shape == (4, 3)
