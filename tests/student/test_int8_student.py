"""Students that learn with int8 rounding: the rounding by hand, and the same answers out of a small file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from plain_session import plain_session
from saturation import product, saturating
from torch import Tensor, nn
from torch.func import functional_call

from onnxcake.core.rng import Key
from onnxcake.onnxfile import export as exporting
from onnxcake.onnxfile.export import export
from onnxcake.onnxfile.int8_weights import with_whole_weights
from onnxcake.runtime import processor
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.quantise import QuantisedLayer, Range, quantised, rounded_weight
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

Shape = tuple[int, ...]
NETS: dict[str, tuple[Shape, dict[str, Any]]] = {
    "mlp": ((1, 8, 8), {}),
    "cnn-small": ((1, 12, 12), {"depth": 2}),
    "wrn-16-1": ((3, 8, 8), {"depth": 10}),
    "vit-small": ((1, 8, 8), {"depth": 1}),
}


def make(name: str, shape: Shape, **hyper: Any) -> nn.Module:
    with Key(0).as_default():
        return ARCHITECTURES[name](Signature("x", shape, "y", "logits", 10), **hyper)


def normal(count: int, shape: Shape, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def seen(net: nn.Module, shape: Shape) -> nn.Module:
    """After some batches, in eval mode: ranges and running statistics are known."""
    net.train()
    with torch.no_grad():
        for seed in range(8):
            net(normal(64, shape, seed))
    return net.eval()


# --- the rounding ------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    """A row whose largest is 127 has levels of 1; halves go to the even; a row of zeros stays."""
    weight = torch.tensor([[127.0, 1.4, -2.5, 3.5], [-2.54, 0.011, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[127.0, 1, -2, 4], [-2.54, 0.02, 0.0, 1.0], [0.0, 0, 0, 0]])
    torch.testing.assert_close(rounded_weight(weight), expected)


def test_weights_of_seven_bits_by_hand() -> None:
    weight = torch.tensor([[63.0, 1.4, -2.5, -63.0], [-1.26, 0.011, 0.0, 0.5]])
    expected = torch.tensor([[63.0, 1, -2, -63], [-1.26, 0.02, 0.0, 0.5]])
    torch.testing.assert_close(rounded_weight(weight, 7), expected)


def test_a_weight_moves_by_half_a_level_at_most() -> None:
    weight = normal(6, (3, 5, 5)) * torch.arange(1, 7)[:, None, None, None]
    level = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    moved = (rounded_weight(weight) - weight).abs() / level
    assert 0.45 < moved.max() <= 0.5 + 1e-4
    torch.testing.assert_close(rounded_weight(rounded_weight(weight)), rounded_weight(weight))


def test_inputs_by_hand() -> None:
    """−1 … 4.1 has levels of 0.02, and zero is one of them; what lies beyond is cut off."""
    inputs = Range()
    inputs(torch.tensor([-1.0, 4.1]))
    inputs.eval()
    x = torch.tensor([-1.0, -1.5, 0.0, 0.013, 0.009, 4.1, 9.0])
    torch.testing.assert_close(inputs(x), torch.tensor([-1.0, -1.0, 0.0, 0.02, 0.0, 4.1, 4.1]))
    assert inputs(x)[2] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_zero_is_a_level_even_of_a_range_beside_it(sign: int) -> None:
    inputs = Range()
    inputs(sign * torch.tensor([2.0, 5.1]))
    found = inputs.eval()(sign * torch.tensor([0.0, 2.0, 5.1]))
    torch.testing.assert_close(found, sign * torch.tensor([0.0, 2.0, 5.1]))


def test_ranges_are_a_mean_and_then_a_moving_average() -> None:
    inputs = Range()
    inputs(torch.tensor([-1.0, 3.0]))
    inputs(torch.tensor([-3.0, 5.0]))
    assert (inputs.low.item(), inputs.high.item()) == (-2, 4)
    for _ in range(98):
        inputs(torch.tensor([-2.0, 4.0]))
    inputs(torch.tensor([-102.0, 104.0]))
    assert (inputs.low.item(), inputs.high.item()) == pytest.approx((-3, 5), rel=1e-4)


def test_eval_mode_keeps_the_ranges() -> None:
    inputs = Range()
    inputs(torch.tensor([-1.0, 3.0]))
    before = {name: value.clone() for name, value in inputs.state_dict().items()}
    inputs.eval()(torch.tensor([-100.0, 100.0]))
    torch.testing.assert_close(inputs.state_dict(), before, rtol=0, atol=0)


def test_nothing_is_rounded_before_the_first_batch() -> None:
    x = normal(5, (3,))
    torch.testing.assert_close(Range().eval()(x), x, rtol=0, atol=0)


def test_gradients_go_straight_through_within_the_range() -> None:
    inputs = Range()
    inputs(torch.tensor([-1.0, 1.0]))
    x = torch.tensor([-2.0, -0.9, 0.0, 0.3, 2.0], requires_grad=True)
    (inputs.eval()(x) * torch.arange(1, 6)).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 2, 3, 4, 0]))


def test_a_layer_computes_with_rounded_weights_on_rounded_inputs() -> None:
    """And its weights get the gradient of the rounded ones."""
    layer = quantised(nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"))
    assert isinstance(layer, QuantisedLayer) and isinstance(layer.layer, nn.Conv2d) and quantised(layer) is layer
    x = normal(4, (2, 6, 6))
    layer(x).square().sum().backward()
    weight = rounded_weight(layer.layer.weight.detach()).requires_grad_(True)
    padded = F.pad(layer.inputs.eval()(x), (1, 1, 1, 1), mode="circular")
    expected = F.conv2d(padded, weight, layer.layer.bias, stride=2)
    expected.square().sum().backward()
    torch.testing.assert_close(layer.eval()(x), expected)
    torch.testing.assert_close(layer.layer.weight.grad, weight.grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    layer = quantised(nn.Linear(3, 2))
    layer(normal(4, (3,)))
    assert not layer(torch.tensor([[1.0, bad, 0.0]])).isfinite().any()
    weight = torch.tensor([[1.0, bad], [1.0, 2.0]])
    assert rounded_weight(weight).isfinite().all(1).tolist() == [False, True]


# --- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_all_convolutions_and_linear_layers_are_quantised_and_nothing_else(name: str) -> None:
    shape, hyper = NETS[name]
    plain, net = make(name, shape, **hyper), quantised(make(name, shape, **hyper))
    wanted = {n for n, m in plain.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {n for n, m in net.named_modules() if isinstance(m, QuantisedLayer)} == wanted
    assert {n for n, _ in plain.named_modules()} <= {n for n, _ in net.named_modules()}
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    before = [name for name, _ in net.named_modules()]
    assert [name for name, _ in quantised(net).named_modules()] == before, "twice is once"


@pytest.mark.parametrize("name", NETS)
def test_its_loss_falls(name: str) -> None:
    shape, hyper = NETS[name]
    net, x, labels = quantised(make(name, shape, **hyper)), normal(24, shape), torch.arange(24) % 3
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(net(x), labels)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_state_travels_with_the_weights() -> None:
    shape, hyper = NETS["cnn-small"]
    net = seen(quantised(make("cnn-small", shape, **hyper)), shape)
    other = quantised(make("cnn-small", shape, **hyper)).eval()
    other.load_state_dict(net.state_dict())
    x = normal(5, shape, 99)
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


def test_lent_buffers_are_the_ones_that_are_updated() -> None:
    net = quantised(nn.Sequential(nn.Linear(3, 2)))
    net(normal(4, (3,), 0))
    before = {name: value.clone() for name, value in net.named_buffers()}
    lent = {name: value.clone() for name, value in net.named_buffers()}
    functional_call(net, lent, (5 * normal(4, (3,), 1),))
    torch.testing.assert_close(dict(net.named_buffers()), before, rtol=0, atol=0)
    assert lent["0.inputs.batches"] == 2 and lent["0.inputs.high"] > before["0.inputs.high"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_the_same_on_cuda() -> None:
    shape, hyper = NETS["cnn-small"]
    nets = [quantised(make("cnn-small", shape, **hyper)).to(device) for device in ("cpu", "cuda")]
    x = normal(32, shape)
    answers = [net(x.to(next(net.parameters()).device)) for net in nets]
    torch.testing.assert_close(answers[1].cpu(), answers[0], rtol=0.05, atol=0.05)
    for net in nets:
        seen_by = net(x.to(next(net.parameters()).device)).sum()
        seen_by.backward()
    torch.testing.assert_close(nets[1].get_buffer("0.inputs.high").cpu(), nets[0].get_buffer("0.inputs.high"))


# --- files -------------------------------------------------------------------------------------------------


def exported(net: nn.Module, shape: Shape) -> bytes:
    return export(net, shape, input_name="x", output_name="y", opset=17)


def answers(content: bytes, x: Tensor, *, fused: bool) -> np.ndarray[Any, Any]:
    """Ask onnxruntime, operator by operator, or with the host's integer kernels for several at once."""
    return np.asarray(plain_session(content, "host" if fused else "exact").run(None, {"x": x.numpy()})[0])


NO_NEW = pytest.mark.skipif(not hasattr(torch.onnx, "ops"), reason="torch's current exporter rounds since 2.8")
EXPORTS = [*((name, "_export_traced") for name in NETS), pytest.param("cnn-small", "_export_captured", marks=NO_NEW)]


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize(("name", "exporter"), EXPORTS)
def test_onnxruntime_rounds_as_torch_does(name: str, exporter: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value within float's error of the middle between two levels may fall on the other one, and then moves
    the logits by a share of a level. So most answers are the same to float's error, and the rest, with all that
    integer kernels do (they round biases too), differ by less than the rounding itself has changed them.

    Kernels that saturate are those of processors without VNNI, with weights of eight bits.
    """
    other = "_export_traced" if exporter == "_export_captured" else "_export_captured"
    monkeypatch.setattr(exporting, other, lambda *args: (_ for _ in ()).throw(RuntimeError("not this one")))
    shape, hyper = NETS[name]
    net = seen(quantised(make(name, shape, **hyper), bits), shape)
    content, x = exported(net, shape), normal(200, shape, 99)
    with torch.no_grad():
        wanted = net(x).numpy()
        for module in net.modules():
            if isinstance(module, QuantisedLayer):
                module.forward = module.layer.forward  # type: ignore[method-assign]
        rounding = np.abs(net(x).numpy() - wanted)
    plain = np.abs(answers(content, x, fused=False) - wanted)
    assert np.median(plain) < 1e-5 and plain.mean() < 0.2 * rounding.mean()
    if bits == 7 or not processor.saturates():
        fused = np.abs(answers(content, x, fused=True) - wanted)
        assert fused.mean() < 0.7 * rounding.mean() and fused.max() < 1.5 * rounding.max()
    weights = [numpy_helper.to_array(weight) for weight in onnx.load_model_from_string(content).graph.initializer]
    kinds = [weight.dtype for weight in weights if weight.ndim]
    assert max(int(abs(weight.astype(int)).max()) for weight in weights if weight.dtype == np.int8) < 2 ** (bits - 1)
    layers = sum(isinstance(module, QuantisedLayer) for module in net.modules())
    assert kinds.count(np.dtype(np.int8)) >= layers


@pytest.mark.parametrize("bits", [7, 8])
def test_seven_bits_do_not_saturate_and_eight_would(bits: int) -> None:
    """The weights in the file, times bytes: largest ones, and random ones."""
    net = seen(quantised(make("mlp", (20,), hidden=(64, 48)), bits), (20,))
    graph = onnx.load_model_from_string(exported(net, (20,))).graph
    weights = [numpy_helper.to_array(weight) for weight in graph.initializer]
    weights = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim == 2]
    assert len(weights) == 3
    same = []
    for weight in weights:
        draw = np.random.default_rng(0)
        x = np.concatenate([draw.integers(0, 256, (50, weight.shape[1])), np.full((1, weight.shape[1]), 255)])
        x = x.astype(np.uint8)
        same.append(np.array_equal(saturating(x, weight.T), product(x, weight.T)))
    assert all(same) if bits == 7 else not any(same)


def test_the_file_is_small() -> None:
    plain, net = make("mlp", (400,)), seen(quantised(make("mlp", (400,))), (400,))
    assert len(exported(net, (400,))) < 0.3 * len(exported(plain, (400,)))


def test_weights_in_the_file_are_those_that_torch_computed_with() -> None:
    net = seen(quantised(make("mlp", (20,), hidden=(7,))), (20,))
    graph = onnx.load_model_from_string(exported(net, (20,))).graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    found = [
        values[node.input[0]] * values[node.input[1]][:, None]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values
    ]
    layers = [module.layer for module in net.modules() if isinstance(module, QuantisedLayer)]
    for ours, layer in zip(found, layers, strict=True):
        np.testing.assert_array_equal(ours, rounded_weight(layer.weight).detach().numpy())


def test_batch_norm_goes_into_the_scales_whatever_its_sign() -> None:
    norm = nn.BatchNorm2d(4)
    net = seen(quantised(nn.Sequential(nn.Conv2d(2, 4, 3), norm)), (2, 6, 6))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, -2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3, -0.4]))
    content, x = exported(net, (2, 6, 6)), normal(20, (2, 6, 6), 99)
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load_model_from_string(content).graph.node)
    np.testing.assert_allclose(answers(content, x, fused=False), net(x).detach().numpy(), atol=1e-5)


def test_batch_norm_stays_where_the_convolution_is_needed_elsewhere() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) * y

    net = seen(quantised(Twice()), (2, 6, 6))
    content, x = exported(net, (2, 6, 6)), normal(20, (2, 6, 6), 99)
    assert any(n.op_type == "BatchNormalization" for n in onnx.load_model_from_string(content).graph.node)
    np.testing.assert_allclose(answers(content, x, fused=False), net(x).detach().numpy(), atol=1e-4)


def test_a_float_student_is_left_alone() -> None:
    model = onnx.load_model_from_string(exported(make("cnn-small", (1, 8, 8), depth=1), (1, 8, 8)))
    before = model.SerializeToString()
    assert with_whole_weights(model).SerializeToString() == before


def test_a_quantised_student_is_a_teacher(tmp_path: Path) -> None:
    net = seen(quantised(make("cnn-small", (1, 8, 8), depth=1)), (1, 8, 8))
    (tmp_path / "student.onnx").write_bytes(exported(net, (1, 8, 8)))
    teacher, x = Teacher.load(tmp_path / "student.onnx"), normal(50, (1, 8, 8), 99)
    difference = (teacher.logits(x) - net(x)).abs()
    assert difference.median() < 1e-5 and difference.max() < 0.05
