"""`auto: {like: NAME}`: the teacher cut to the channels, units and blocks of a named architecture of its family."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console

from onnxcake import extract, shrink
from onnxcake.core.errors import RecipeError
from onnxcake.core.rng import Key
from onnxcake.pruning.cut_student import cut_of
from onnxcake.pruning.goal import Goal, NothingToCut
from onnxcake.recipe.recipe import Recipe
from onnxcake.runtime.ort import Runtime
from onnxcake.student.architectures import ARCHITECTURES
from onnxcake.student.shapes import shapes_of
from onnxcake.teacher.signature import Signature
from onnxcake.teacher.teacher import Teacher

IMAGES = Signature("x", (3, 16, 16), "y", "logits", 4)
VECTORS = Signature("x", (12,), "y", "logits", 4)
VIT = {"patch": 4, "dim": 24, "heads": 3, "mlp": 40, "depth": 3}
Named = tuple[str, dict[str, Any]]

ROWS: dict[str, tuple[Signature, Named, Named]] = {
    "narrower, with pooling and a flattened end": (IMAGES, ("lenet5", {}), ("lenet5-half", {})),
    "units": (VECTORS, ("mlp", {"hidden": (32, 16)}), ("mlp", {"hidden": (9, 16)})),
    "blocks": (IMAGES, ("resnet20", {"width": 4}), ("resnet8", {"width": 4})),
    "blocks and channels": (IMAGES, ("resnet20", {"width": 8}), ("resnet8", {"width": 3})),
    "the same": (IMAGES, ("resnet8", {"width": 4}), ("resnet8", {"width": 4})),
    "layers of a transformer": (IMAGES, ("vit-small", VIT), ("vit-small", {**VIT, "depth": 1})),
    "what a head holds, and hidden units": (IMAGES, ("vit-small", VIT), ("vit-small", {**VIT, "dim": 12, "mlp": 7})),
}


def file_of(named: Named, signature: Signature, path: Path, export: Any) -> Path:
    torch.manual_seed(0)
    net = ARCHITECTURES[named[0]](signature, **named[1])
    found: Path = export(net.eval(), signature.shape, path)
    return found


def matrices(content: bytes) -> list[np.ndarray]:
    """The weights of the file's layers in order, what is made first."""
    graph = onnx.load_model_from_string(content).graph
    weights = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            first = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            array = weights[node.input[1]]
            found.append(array if first else array.T)
    return found


@pytest.mark.parametrize(("signature", "large", "small"), ROWS.values(), ids=ROWS)
def test_it_is_that_architecture_with_the_teachers_weights(
    signature: Signature, large: Named, small: Named, tmp_path: Path, export: Any, runtime: Runtime
) -> None:
    path = file_of(large, signature, tmp_path / "large.onnx", export)
    teacher = Teacher.load(path)
    pruned = cut_of(teacher, Goal(), "weights", Key(0), runtime, like=shapes_of(*small, signature))
    named = file_of(small, signature, tmp_path / "small.onnx", export).read_bytes()
    assert [w.shape for w in matrices(pruned.content)] == [w.shape for w in matrices(named)]
    own = np.concatenate([w.ravel() for w in matrices(path.read_bytes())])
    assert all(np.isin(w.ravel(), own).all() for w in matrices(pruned.content))
    x = torch.randn(5, *signature.shape, generator=Key(1).generator()).numpy()
    answers = runtime.load(pruned.content).run(x)
    assert answers.shape == (5, 4) and np.isfinite(answers).all()
    if large == small:
        np.testing.assert_allclose(answers, runtime.load(path.read_bytes()).run(x), atol=1e-5)


def test_the_units_that_stay_are_those_of_the_largest_weights(tmp_path: Path, export: Any, runtime: Runtime) -> None:
    torch.manual_seed(0)
    net = ARCHITECTURES["mlp"](VECTORS, hidden=(8,))
    linear = [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        linear[0].weight[[1, 4, 6]] *= 100
    teacher = Teacher.load(export(net, (12,), tmp_path / "net.onnx"))
    like = shapes_of("mlp", {"hidden": (3,)}, VECTORS)
    pruned = cut_of(teacher, Goal(), "weights", Key(0), runtime, like=like)
    np.testing.assert_array_equal(matrices(pruned.content)[0], linear[0].weight[[1, 4, 6]].detach().numpy())


@pytest.mark.parametrize(
    ("large", "small", "why"),
    [
        (("lenet5", {}), ("cnn-small", {}), "6×3×5×5, .* of which there is no choosing 16×3×3×3"),
        (("lenet5-half", {}), ("lenet5", {}), "of which there is no choosing 6×3×5×5"),
        (("resnet20", {"width": 4}), ("lenet5", {}), "no choice of its blocks leaves the 5 layers wanted"),
        (("vit-small", VIT), ("vit-small", {**VIT, "dim": 16, "heads": 2}), "no larger network of the same family"),
    ],
    ids=["another family", "a smaller teacher", "a shallower one of another family", "fewer heads"],
)
def test_what_is_no_larger_one_of_the_family_is_refused(
    large: Named, small: Named, why: str, tmp_path: Path, export: Any, runtime: Runtime
) -> None:
    teacher = Teacher.load(file_of(large, IMAGES, tmp_path / "net.onnx", export))
    with pytest.raises(NothingToCut, match=why):
        cut_of(teacher, Goal(), "weights", Key(0), runtime, like=shapes_of(*small, IMAGES))


def test_the_command_cuts_the_same(tmp_path: Path, export: Any) -> None:
    path = file_of(("resnet20", {"width": 4}), IMAGES, tmp_path / "net.onnx", export)
    done = shrink(path, like="{resnet8: {width: 3}}", out=tmp_path / "small.onnx")
    named = file_of(("resnet8", {"width": 3}), IMAGES, tmp_path / "named.onnx", export).read_bytes()
    assert [w.shape for w in matrices((tmp_path / "small.onnx").read_bytes())] == [w.shape for w in matrices(named)]
    done.check_goal()
    assert done.as_dict()["goal"]["limit"] == "{resnet8: {width: 3}}"
    console = Console(file=io.StringIO(), width=160)
    done.show(console)
    assert "parameters" in console.file.getvalue()  # type: ignore[attr-defined]


SMALL = ["synthesis.batch=50", "synthesis.batches=2", "synthesis.steps=3", "student.epochs=2", "student.batch=25"]


@pytest.mark.parametrize(("like", "cut"), [("{resnet8: {width: 4}}", True), ("lenet5-half", False)])
def test_a_run(like: str, cut: bool, tmp_path: Path, export: Any) -> None:
    path = file_of(("resnet20", {"width": 8}), IMAGES, tmp_path / "net.onnx", export)
    overrides = [*SMALL, f"student.architecture={{auto: {{like: {like}}}}}"]
    report = extract(path, recipe="cake-image", out=tmp_path / "run", overrides=overrides).as_dict()
    named = ("resnet8", {"width": 4}) if cut else ("lenet5-half", {})
    want = [w.shape for w in matrices(file_of(named, IMAGES, tmp_path / "named.onnx", export).read_bytes())]
    assert [w.shape for w in matrices((tmp_path / "run" / "student.onnx").read_bytes())] == want
    assert report["student"]["architecture"] == ("auto" if cut else "lenet5-half")
    assert any("it begins from noise" in note for note in report["substitutes"]) != cut


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("{like: lenet5-half, keep: 0.5}", "give one of keep, .*like"),
        ("{like: resnet8, drop_blocks: 2}", "leave drop_blocks out"),
        ("{like: lenet5-third}", "lenet5-third"),
        ("{like: {resnet8: {width: 0}}}", "like.resnet8.width: should be greater than or equal to 1"),
        ("{like: {mlp: {}, resnet8: {}}}", "like: name exactly one of"),
    ],
)
def test_what_is_said_is_checked(said: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        Recipe.load("layercake", [f"student.architecture={{auto: {said}}}"])
