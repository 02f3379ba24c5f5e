"""Students cut as products, fitted layer by layer to what the teacher's layers give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import onnxcake
from onnxcake.core.random_fields import fields
from onnxcake.core.rng import Key
from onnxcake.graph.least_squares import Fit
from onnxcake.onnxfile.export import export as exported
from onnxcake.pruning import cut_student, reconstruct
from onnxcake.pruning.cut_student import cut_of
from onnxcake.pruning.goal import Goal
from onnxcake.pruning.reconstruct import reconstructed
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.teacher import Teacher

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
IMAGE, VECTOR, TOKENS = (2, 10, 10), (12,), (6, 8)


class Residual(nn.Module):
    """Two convolutions beside a third, BatchNormalization behind each or none; and a sum that reads two of them."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.skip = (
            nn.Sequential(
                nn.Conv2d(i, o, 3, 1, 1, bias=not normalised), nn.BatchNorm2d(o) if normalised else nn.Identity()
            )
            for i, o in ((2, 6), (6, 8), (8, 8), (6, 8))
        )
        self.head = nn.Linear(8, 4)
        for norm in (part[1] for part in (self.stem, self.one, self.two, self.skip) if normalised):
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(torch.relu(self.one(x))) + self.skip(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Linear layers over places, which exporters write as a product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.two(torch.relu(self.one(x)))).mean(1))  # type: ignore[no-any-return]


def halves() -> nn.Module:
    """Layers that are low-rank factors already."""
    return nn.Sequential(nn.Linear(12, 3, bias=False), nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 4))


def shaken(path: Path, scale: float) -> bytes:
    """The file with noise on its float weights, of this part of each one's deviation; normalisations as they are."""
    model, draw = onnx.load(path), np.random.default_rng(0)
    norms = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[1:]}
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.size > 1 and weight.name not in norms:
            noise = draw.normal(size=array.shape) * scale * array.std()
            weight.CopyFrom(numpy_helper.from_array((array + noise).astype(np.float32), weight.name))
    content: bytes = model.SerializeToString()
    return content


def distance(runtime: Runtime, teacher: Teacher, content: bytes, key: int = 9) -> float:
    """Of the answers to fresh fields, in deviations of the teacher's."""
    signature = teacher.signature
    x = signature.whole(signature.to_input(signature.within(fields(200, signature.shape, Key(key).generator()))))
    sessions = runtime.load(teacher.model, weights=teacher.weights), runtime.load(content)
    wanted, found = (session.run_in_batches(x.numpy()) for session in sessions)
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std())


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "gemm": (lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)), VECTOR),
    "low-rank factors": (halves, VECTOR),
    "matmul and add": (Tokens, TOKENS),
    "convolutions, a residual sum": (lambda: Residual(False), IMAGE),
    "convolutions, normalised": (lambda: Residual(True), IMAGE),
}


@pytest.mark.parametrize("kind", NETS)
def test_weights_that_were_shaken_come_back(kind: str, export: Any, tmp_path: Path, runtime: Runtime) -> None:
    make, shape = NETS[kind]
    torch.manual_seed(0)
    path = export(make(), shape, tmp_path / "net.onnx")
    teacher = Teacher.load(path)
    content = shaken(path, 0.3)
    fitted = reconstructed(content, teacher, Key(0))
    assert distance(runtime, teacher, content) > 0.1
    assert distance(runtime, teacher, fitted) < 0.02
    assert fitted == reconstructed(content, teacher, Key(0))
    assert fitted != reconstructed(content, teacher, Key(1))


def test_a_graph_may_hold_sequences(handmade: Any, tmp_path: Path, runtime: Runtime) -> None:
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(4, 16)), "b": draw.normal(size=16), "v": draw.normal(size=(8, 3))}
    model = handmade(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["wide"]),
            helper.make_node("SplitToSequence", ["wide", "eight"], ["parts"], axis=1),
            helper.make_node("SequenceAt", ["parts", "one"], ["part"]),
            helper.make_node("Relu", ["part"], ["positive"]),
            helper.make_node("MatMul", ["positive", "v"], ["y"]),
        ],
        {
            **{name: array.astype(np.float32) for name, array in weights.items()},
            "eight": np.array(8),
            "one": np.array(1),
        },
    )
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    teacher, content = Teacher.load(path), shaken(path, 0.3)
    fitted = reconstructed(content, teacher, Key(0))
    assert distance(runtime, teacher, fitted) < 0.02 < distance(runtime, teacher, content)


def test_a_fit_is_that_of_least_squares(export: Any, tmp_path: Path) -> None:
    """One layer whose target it cannot give: torch.linalg.lstsq on the same inputs finds the same weights."""
    torch.manual_seed(0)
    graph = reconstruct._FittedStudent.of(
        reconstruct.InitialModel.like(
            export(nn.Linear(12, 4), VECTOR, tmp_path / "net.onnx").read_bytes(),
            Teacher.load(tmp_path / "net.onnx").signature,
            "net",
        )
    ).graph
    x, held = torch.randn(400, 12), torch.arange(400) % 4 == 0
    target = torch.tanh(x @ torch.randn(12, 4)) + 1
    fit = Fit(graph, [len(graph.steps) - 1], target, held, turns=60)
    with torch.no_grad():
        found = graph.with_functions(fit.functions)(x)[0]
    ones = torch.cat([x, torch.ones(400, 1)], 1)
    wanted = ones @ torch.linalg.lstsq(ones[~held], target[~held]).solution
    assert torch.allclose(found, wanted, atol=0.02)  # it stops where the inputs held out gain no more
    assert float((wanted - target).square().mean()) > 0.01


def test_products_of_a_trained_teacher_agree_with_it_before_they_learn(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = EXAMPLES / "digits.onnx"
    teacher = Teacher.load(digits, range=(0, 1))
    agreement = []
    for fitted in (True, False):
        if not fitted:
            monkeypatch.setattr(cut_student, "reconstructed", lambda content, *_: content)
        pruned = cut_of(teacher, Goal(keep=0.25), "weights", Key(0), runtime)
        file = tmp_path / f"{fitted}.onnx"
        file.write_bytes(pruned.content)
        report = onnxcake.verify(digits, file, probe=EXAMPLES / "digits-test.npz").as_dict()
        agreement.append(report["agreement"]["probe"]["agreement"]["value"])
    assert agreement[0] > 0.95 > agreement[1]


def test_weights_of_several_readers_stay(export: Any, tmp_path: Path) -> None:
    """One layer that is used twice: what it should give here is not what it should give there."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(12, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    path = export(Twice(), VECTOR, tmp_path / "net.onnx")
    content = shaken(path, 0.3)
    before, after = (
        {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(model).graph.initializer}
        for model in (content, reconstructed(content, Teacher.load(path), Key(0)))
    )
    assert all(np.array_equal(before[name], after[name]) for name in before if "shared" in name)


@pytest.mark.parametrize("why", ["nothing is lacking", "it is too large", "it has other channels"])
def test_what_would_gain_nothing_stays_as_it_is(
    why: str, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
    path = export(net, VECTOR, tmp_path / "net.onnx")
    teacher, content = Teacher.load(path), shaken(path, 0.3)
    if why == "nothing is lacking":
        content = path.read_bytes()
    elif why == "it is too large":
        monkeypatch.setattr(reconstruct, "_MULTIPLY_ADDS", 1000)
    else:
        other = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
        content = exported(other, VECTOR, input_name="x", output_name="z", opset=17)
    assert reconstructed(content, teacher, Key(0)) == content
