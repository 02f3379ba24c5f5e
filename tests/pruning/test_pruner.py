"""How much is cut: goals, matrices that are tied down, and residual blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cutting import Array, model_of, running
from onnx import numpy_helper

from onnxcake.core.rng import Key
from onnxcake.pruning.goal import Goal, Measurements, NothingToCut, Pruned
from onnxcake.pruning.pruner import Pruner
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions

NOTHING = Measurements()

LINEAR = "net (float[N,32] x) => (float[N,24] y) { y = MatMul(x, w) }"
RESIDUAL = """net (float[N,8] x) => (float[N,4] y) {
    a = MatMul(x, w0)
    b = MatMul(a, w1) b_ = Relu(b) c = MatMul(b_, w2) d = Add(a, c)
    e = MatMul(d, w3) e_ = Relu(e) f = MatMul(e_, w4) g = Add(d, f)
    y = MatMul(g, w5)
}"""
SIZES = {"w0": (8, 16), "w1": (16, 32), "w2": (32, 16), "w3": (16, 32), "w4": (32, 16), "w5": (16, 4)}


def pruner_of(folder: Path, text: str, **weights: object) -> Pruner:
    path = folder / "net.onnx"
    onnx.save(model_of(text, **weights), path)
    return Pruner(open_graph(path, TeacherOptions()), "x", "y")


def pruned(pruner: Pruner, goal: Goal) -> Pruned:
    return pruner.prune_to(goal, pruner.scores("weights", Key(0), NOTHING), NOTHING)


def constants(content: bytes) -> dict[str, Array]:
    graph = onnx.load_model_from_string(content).graph
    return {w.name: numpy_helper.to_array(w) for w in graph.initializer}


def noise(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def said(content: bytes, x: Array) -> Array:
    model = onnx.load_model_from_string(content)
    return running(model, model.graph.input[0].name, model.graph.output[0].name)(x)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_each_goal_is_reached_by_the_largest_that_does(tmp_path: Path, share: float) -> None:
    pruner = pruner_of(tmp_path, RESIDUAL, **SIZES)
    whole = pruned(pruner, Goal(keep=1.0))
    assert whole.parameters[0] == whole.parameters[1] == sum(a * b for a, b in SIZES.values())
    assert whole.multiply_adds[0] == whole.multiply_adds[1] == whole.parameters[0]  # each weight is used once
    for goal, measure in (
        (Goal(keep=share), lambda p: p.parameters[1] / whole.parameters[0]),
        (Goal(max_params=int(share * whole.parameters[0])), lambda p: p.parameters[1] / whole.parameters[0]),
        (Goal(max_macs=int(share * whole.multiply_adds[0])), lambda p: p.multiply_adds[1] / whole.multiply_adds[0]),
        (Goal(max_bytes=int(share * len(whole.content))), lambda p: len(p.content) / len(whole.content)),
    ):
        assert 0.9 * share < measure(pruned(pruner, goal)) <= share
    found = pruned(pruner, Goal(keep=share))
    assert sum(a.size for a in constants(found.content).values()) == found.parameters[1]
    assert found.parameters[1] == sum(layer.parameters[1] for layer in found.layers)


def test_latency_is_what_is_measured(tmp_path: Path) -> None:
    pruner = pruner_of(tmp_path, RESIDUAL, **SIZES)
    tools = Measurements(latency_ms=len)  # as if a byte took a millisecond
    worth = pruner.scores("weights", Key(0), tools)
    most = len(pruner.whole()) // 2
    assert 0.85 * most < len(pruner.prune_to(Goal(max_latency_ms=most), worth, tools).content) <= most


def test_a_matrix_that_is_tied_down_is_factorised(tmp_path: Path) -> None:
    """Input and output stay: what is left to choose is the rank, and the largest singular values stay."""
    weight = np.random.default_rng(0).standard_normal((32, 24)).astype(np.float32)
    pruner = pruner_of(tmp_path, LINEAR, w=weight)
    goal, worth = Goal(keep=0.5), pruner.scores("weights", Key(0), NOTHING)
    assert not pruner.reaches(goal, worth, NOTHING)
    assert pruner.reaches(Goal(keep=1.0), worth, NOTHING)
    factored = pruner.with_tied_factorised()
    student = pruned(factored, goal)
    rank = int(0.5 * 32 * 24 / (32 + 24))
    assert student.parameters == (32 * 24, rank * (32 + 24))
    left, values, right = np.linalg.svd(weight)
    x = noise(5, 32)
    wanted = x @ (left[:, :rank] * values[:rank]) @ right[:rank]
    assert np.allclose(said(student.content, x), wanted, atol=1e-4)


def test_the_block_that_matters_least_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(size).astype(np.float32) for name, size in SIZES.items()}
    weights["w2"] *= 1e-4  # the first block adds next to nothing
    pruner = pruner_of(tmp_path, RESIDUAL, **weights)
    x = noise(6, 8)
    shallow = pruner.drop_blocks(1, lambda content: said(content, x))
    student = pruned(shallow, Goal(keep=1.0))
    assert student.parameters[1] == student.parameters[0] - 2 * 16 * 32
    a = x @ weights["w0"]
    wanted = (a + np.maximum(a @ weights["w3"], 0) @ weights["w4"]) @ weights["w5"]
    assert np.allclose(said(student.content, x), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(NothingToCut, match="fewer than 3 residual blocks"):
        pruner.drop_blocks(3, lambda content: said(content, x))


def test_where_nothing_can_be_left_out_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NothingToCut, match="nothing in its graph"):
        pruner_of(tmp_path, "net (float[N,4] x) => (float[N,4] y) { y = Mul(x, w) }", w=(4,))
