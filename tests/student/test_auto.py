"""The student that is chosen when none is named: of the teacher's family, and smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onnxcake.core.errors import RecipeError
from onnxcake.core.rng import Key
from onnxcake.recipe.recipe import Recipe
from onnxcake.runtime.ort import Runtime
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.choose_architecture import choose
from onnxcake.student.student import count, make, parameters
from onnxcake.teacher.facts import Facts
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

DIGITS = Path(__file__).parents[2] / "examples" / "digits.onnx"


def architecture(name: str, shape: tuple[int, ...], **hyper: Any) -> nn.Module:
    """With biases as if trained: of equal ones, such as zeros, the exporter makes one."""
    net = ARCHITECTURES[name](Signature("x", shape, "y", "logits", 5), **hyper)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return net


class Patches(nn.Module):
    """Attention over rows of a signal: no picture, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(32, 24), nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.inner(x)
        mixed = torch.softmax(rows @ rows.transpose(1, 2), 2) @ rows
        return self.out(mixed.flatten(1))


TEACHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 5)
        ),
        (3, 12, 12),
        {"cnn-small"},
    ),
    "cnn with probabilities": (
        # Softmax and MatMul, yet no attention
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(576, 64),
            nn.Linear(64, 5, bias=False),
            nn.Softmax(1),
        ),
        (1, 8, 8),
        {"cnn-small"},
    ),
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(2, 32, 5), nn.ReLU(), nn.Flatten(), nn.Linear(896, 5)),
        (2, 32),
        {"cnn-small"},
    ),
    "table": (lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)), (20,), {"mlp"}),
    "plane": (lambda: nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 20), nn.Linear(20, 5)), (2,), {"mlp"}),
    "mlp on images": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 99), nn.ReLU(), nn.Linear(99, 5)),
        (1, 8, 8),
        {"mlp"},
    ),
    "attention over a signal": (Patches, (2, 32), {"mlp"}),
    "vision transformer": (lambda: architecture("vit-small", (1, 16, 16)), (1, 16, 16), {"vit-small"}),
    "residual, large": (
        lambda: architecture("resnet18", (3, 16, 16), width=16),
        (3, 16, 16),
        {"resnet18", "resnet20"},
    ),
    "residual, small": (lambda: architecture("resnet8", (3, 16, 16)), (3, 16, 16), {"cnn-small"}),
}

every_teacher = pytest.mark.parametrize("name", TEACHERS)


@pytest.fixture(scope="module")
def teachers(export: Any, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    folder, loaded = tmp_path_factory.mktemp("auto"), {}
    for name, (make_net, shape, _) in TEACHERS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = make_net()
        loaded[name] = Teacher.load(export(net, shape, folder / f"{name}.onnx")).facts
    return loaded


def size(teacher: Facts, keep: float) -> int:
    name, hyper = choose(teacher, keep * teacher.parameters)
    return parameters(lambda: ARCHITECTURES[name](teacher.signature, **hyper))


@every_teacher
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.25])
def test_it_is_of_the_family_and_small_enough(keep: float, name: str, teachers: dict[str, Facts]) -> None:
    teacher = teachers[name]
    chosen, hyper = choose(teacher, keep * teacher.parameters)
    assert chosen in TEACHERS[name][2]
    student = make(chosen, hyper, teacher.signature, Key(0)).eval()
    smallest = size(teacher, 1e-9)
    assert count(student) == size(teacher, keep)
    assert smallest <= count(student) <= max(keep * teacher.parameters, smallest)
    assert student(torch.zeros(2, *teacher.signature.input_shape)).shape == (2, 5)


@every_teacher
def test_half_of_these_teachers_is_within_reach(name: str, teachers: dict[str, Facts]) -> None:
    teacher = teachers[name]
    assert 0.15 * teacher.parameters < size(teacher, 0.5) <= 0.5 * teacher.parameters


@every_teacher
def test_it_is_the_largest_that_fits(name: str, teachers: dict[str, Facts]) -> None:
    """The more may be kept, the larger it is; where just its own size may be kept, it is still chosen."""
    teacher = teachers[name]
    sizes = [size(teacher, share) for share in (1e-9, 0.1, 0.3, 0.7, 2.0)]
    assert sizes == sorted(sizes) and len(set(sizes)) > 2
    for own in (sizes[2], sizes[4]):
        assert size(teacher, (own + 0.5) / teacher.parameters) == own
        assert size(teacher, (own - 0.5) / teacher.parameters) < max(own, sizes[0] + 1)


@every_teacher
def test_where_none_is_small_enough_it_is_the_smallest(name: str, teachers: dict[str, Facts]) -> None:
    teacher = teachers[name]
    smallest = size(teacher, 1e-9)
    assert size(teacher, (smallest + 0.5) / teacher.parameters) == smallest, "none of those that fit is smaller"
    assert choose(teacher, (smallest - 0.5) / teacher.parameters) == choose(teacher, 1e-9)


def test_the_digits_have_a_small_convolutional_student(runtime: Runtime) -> None:
    facts = Teacher.load(DIGITS, range=(0, 1)).facts
    assert choose(facts, 0.5)[0] == "cnn-small" and size(facts, 0.5) <= 0.5 * facts.parameters


@pytest.mark.parametrize("shape", [(1, 3, 9), (2, 3)], ids=str)
def test_an_input_that_no_family_takes_is_refused(shape: tuple[int, ...], teachers: dict[str, Facts]) -> None:
    teacher = teachers["cnn"]
    tiny = replace(teacher, signature=replace(teacher.signature, input_shape=shape))
    with pytest.raises(RecipeError) as caught:
        choose(tiny, 0.5)
    assert caught.value.what == f"no student fits inputs of shape {list(shape)}"
    option = caught.value.remedy.removeprefix("Name one: -o ").removesuffix(".")
    chosen = Recipe.load("cake", [option]).student.architecture
    make(chosen.name, chosen.keys(), tiny.signature, Key(0))
