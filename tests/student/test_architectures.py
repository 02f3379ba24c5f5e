"""Every architecture: shapes, size, learning, refusals, and the same numbers in onnxruntime."""

from __future__ import annotations

import inspect
import io
import typing
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onnxcake.core.errors import RecipeError
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.student import parameters
from onnxcake.teacher.signature import Signature

Shape = tuple[int, ...]

# Narrow where the shape, not the width, is what a row is about.
SHAPES: dict[str, list[tuple[Shape, dict[str, Any]]]] = {
    "lenet5": [((1, 32, 32), {}), ((1, 28, 28), {}), ((3, 32, 32), {}), ((2, 16, 21), {}), ((1, 64, 40), {})],
    "lenet5-half": [((1, 32, 32), {}), ((1, 28, 28), {}), ((3, 32, 32), {})],
    "mlp": [((2,), {}), ((20,), {"hidden": ()}), ((20,), {"hidden": (7, 6, 5)}), ((1, 8, 8), {}), ((3, 64), {})],
    "cnn-small": [
        ((1, 32, 32), {}),
        ((1, 28, 28), {"width": 5, "depth": 1}),
        ((3, 32, 32), {}),
        ((1, 8, 8), {}),
        ((1, 4, 4), {"depth": 5}),
        ((1, 4, 100), {}),
        ((3, 224, 224), {"width": 4}),
        ((3, 64), {}),
        ((1, 4), {}),
        ((2, 1000), {"width": 4}),
    ],
    "resnet8": [((1, 28, 28), {}), ((3, 32, 32), {}), ((1, 8, 8), {}), ((3, 96, 130), {"width": 4})],
    "resnet20": [((1, 32, 32), {"width": 4}), ((3, 32, 32), {}), ((1, 8, 8), {}), ((3, 224, 224), {"width": 2})],
    "resnet18": [(shape, {"width": 4}) for shape in [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 224, 224)]],
    "resnet34": [((1, 32, 32), {"width": 4}), ((3, 65, 65), {"width": 4})],
    "wrn-16-1": [
        ((1, 28, 28), {}),
        ((3, 32, 32), {"depth": 10, "widen": 2}),
        ((1, 8, 8), {}),
        ((3, 224, 224), {"depth": 10}),
    ],
    "vit-small": [
        ((1, 32, 32), {}),
        ((1, 28, 28), {"dim": 24, "heads": 3, "depth": 2, "mlp": 20}),
        ((3, 32, 32), {"patch": 5, "depth": 1}),
        ((1, 8, 8), {}),
        ((3, 224, 224), {"depth": 1}),
    ],
}
ROWS = [(name, shape, hyper) for name, rows in SHAPES.items() for shape, hyper in rows]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring to networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def signature(shape: Shape, classes: int = 10) -> Signature:
    return Signature("x", shape, "y", "logits", classes)


def make(name: str, shape: Shape, classes: int = 10, **hyper: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ARCHITECTURES[name](signature(shape, classes), **hyper)


def normal(batch: int, shape: Shape) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def count(name: str, shape: Shape, classes: int = 10, **hyper: Any) -> int:
    with torch.device("meta"):  # counting needs no memory
        return sum(p.numel() for p in make(name, shape, classes, **hyper).parameters())


@pytest.mark.parametrize(("name", "shape", "hyper"), ROWS, ids=lambda value: str(value).replace(" ", ""))
def test_onnxruntime_gives_the_same_logits(name: str, shape: Shape, hyper: dict[str, Any]) -> None:
    net = make(name, shape, **hyper)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # one batch leaves true statistics, and so logits that differ from row to row
    with torch.no_grad():
        assert net(normal(8, shape)).shape == (8, 10)
        net.eval()
        expected = {batch: net(normal(batch, shape)).numpy() for batch in (1, 3)}
    assert np.ptp(expected[3], axis=0).max() > 0.01, "the logits hardly depend on the input"
    for opset in (13, 17):
        run = session(exported(net, shape, opset)).run
        for batch, logits in expected.items():
            np.testing.assert_allclose(run(None, {"x": normal(batch, shape).numpy()})[0], logits, atol=1e-4, rtol=0)


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def exported(net: nn.Module, shape: Shape, opset: int) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", torch.jit.TracerWarning)  # a value frozen at the traced batch
        torch.onnx.export(
            net,
            (torch.zeros(2, *shape),),
            buffer,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("lenet5", (1, 32, 32), 10, 61_706),
        ("lenet5", (1, 28, 28), 10, 61_706),
        ("lenet5-half", (1, 32, 32), 10, 15_738),
        ("mlp", (20,), 3, 20 * 128 + 128 + 128 * 64 + 64 + 64 * 3 + 3),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("resnet18", (3, 224, 224), 1000, 11_689_512),
        ("resnet34", (3, 32, 32), 10, 21_282_122),
        ("resnet34", (3, 224, 224), 1000, 21_797_672),
    ],
)
def test_exact_sizes(name: str, shape: Shape, classes: int, parameters: int) -> None:
    assert count(name, shape, classes) == parameters


@pytest.mark.parametrize(
    ("name", "hyper", "millions"),
    [
        ("resnet8", {}, 0.08),
        ("resnet20", {}, 0.27),
        ("wrn-16-1", {}, 0.17),
        ("wrn-16-1", {"widen": 2}, 0.69),
        ("wrn-16-2", {}, 0.69),
        ("wrn-40-1", {}, 0.56),
        ("wrn-40-2", {}, 2.24),
        ("wrn-16-1", {"depth": 40}, 0.56),
        ("wrn-16-1", {"depth": 40, "widen": 2}, 2.24),
        ("wrn-16-1", {"depth": 28, "widen": 10}, 36.48),
    ],
)
def test_published_sizes_on_cifar(name: str, hyper: dict[str, Any], millions: float) -> None:
    assert count(name, (3, 32, 32), **hyper) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("name", "shape", "hyper"),
    [
        ("lenet5", (1, 28, 28), {}),
        ("lenet5-half", (1, 28, 28), {}),
        ("mlp", (2,), {}),
        ("cnn-small", (1, 8, 8), {}),
        ("cnn-small", (3, 64), {}),
        ("resnet8", (1, 8, 8), {}),
        ("resnet20", (1, 8, 8), {}),
        ("resnet18", (1, 8, 8), {"width": 8}),
        ("resnet34", (1, 8, 8), {"width": 8}),
        ("wrn-16-1", (1, 8, 8), {}),
        ("vit-small", (1, 8, 8), {}),
    ],
)
def test_loss_falls(name: str, shape: Shape, hyper: dict[str, Any]) -> None:
    net = make(name, shape, 3, **hyper)
    x, labels = normal(24, shape), torch.arange(24) % 3
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(net(x), labels)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.97 * losses[0]


def test_large_images_are_halved_more_often() -> None:
    """So that the cost of 49 times the pixels stays in bounds."""
    for name, hyper in [("cnn-small", {}), ("resnet8", {}), ("resnet18", {"width": 8}), ("wrn-16-1", {})]:
        maps: list[torch.Size] = []
        net = make(name, (3, 224, 224), **hyper).eval()
        pool = next(m for m in net.modules() if isinstance(m, nn.AdaptiveAvgPool2d))
        pool.register_forward_pre_hook(lambda _module, inputs, maps=maps: maps.append(inputs[0].shape))
        with torch.no_grad():
            net(torch.zeros(1, 3, 224, 224))
        assert max(maps[0][2:]) <= 14, name


@pytest.mark.parametrize(("side", "tokens"), [(4, 4), (8, 16), (28, 49), (32, 64), (64, 64), (224, 196)])
def test_patches_are_chosen_by_size(side: int, tokens: int) -> None:
    assert dict(make("vit-small", (3, side, side)).named_parameters())["0.position"].shape == (tokens, 64)


@pytest.mark.parametrize(
    ("name", "shape", "hyper", "advice"),
    [
        ("lenet5", (20,), {}, "`mlp`"),
        ("lenet5", (1, 15, 28), {}, "`cnn-small`"),
        ("lenet5-half", (1, 8, 8), {}, "`cnn-small`"),
        ("cnn-small", (20,), {}, "`mlp`"),
        ("cnn-small", (1, 3, 28), {}, "`mlp`"),
        ("cnn-small", (12, 3), {}, "`mlp`"),
        ("cnn-small", (3, 8, 8, 8), {}, "`mlp`"),
        ("resnet8", (1, 4, 4), {}, "`cnn-small`"),
        ("resnet20", (2,), {}, "`mlp`"),
        ("resnet18", (32, 32, 3), {}, "`mlp`"),
        ("resnet34", (1, 7, 8), {}, "`cnn-small`"),
        ("wrn-16-1", (3, 64), {}, "`cnn-small`"),
        ("vit-small", (3, 64), {}, "`cnn-small`"),
        ("vit-small", (1, 2, 2), {}, "`mlp`"),
        ("mlp", (2,), {"hidden": (8, 0)}, "`hidden`"),
        ("cnn-small", (1, 8, 8), {"depth": 0}, "`depth`"),
        ("resnet20", (1, 8, 8), {"width": 0}, "`width`"),
        ("wrn-16-1", (1, 8, 8), {"depth": 17}, "10, 16, 22"),
        ("wrn-16-1", (1, 8, 8), {"widen": -1}, "`widen`"),
        ("vit-small", (1, 8, 8), {"heads": 5}, "`heads`"),
        ("vit-small", (1, 8, 8), {"patch": 9}, "`patch`"),
        ("vit-small", (1, 8, 8), {"patch": -1}, "`patch`"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, shape: Shape, hyper: dict[str, Any], advice: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make(name, shape, **hyper)
    assert caught.value.what.startswith(name) and advice in caught.value.remedy


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keys_are_plain_numbers_with_defaults(name: str) -> None:
    function = ARCHITECTURES[name]
    assert function.__name__ == name.replace("-", "_")
    first, *keys = inspect.signature(function).parameters.values()
    types = typing.get_type_hints(function)
    assert types[first.name] is Signature
    for key in keys:
        assert key.kind is key.KEYWORD_ONLY and key.default is not key.empty
        assert types[key.name] in (int, float, tuple[int, ...])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_caller_seeds(name: str) -> None:
    hyper = {"width": 4} if name in ("resnet18", "resnet34") else {}
    with torch.random.fork_rng(devices=[]):
        nets = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            net = ARCHITECTURES[name](signature((1, 16, 16)), **hyper)
            nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(nets[0], nets[1]) and not torch.equal(nets[0], nets[2])


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("cnn-small", {"width": 10**9}),
        ("mlp", {"hidden": (10**9, 10**9, 10**9)}),
        ("resnet18", {"width": 10**9}),
        ("vit-small", {"dim": 10**9, "heads": 1, "mlp": 10**9}),
    ],
)
def test_a_student_of_any_size_is_counted_or_refused(name: str, hyper: dict[str, Any]) -> None:
    """The largest numbers that a recipe may hold."""
    signature = Signature("x", (3, 32, 32), "y", "logits", 10)
    try:
        assert parameters(lambda: ARCHITECTURES[name](signature, **hyper)) > 10**18
    except RecipeError as error:
        assert error.what == "a student of this size fits no memory"
