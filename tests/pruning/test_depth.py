"""Residual blocks: found where leaving them out makes sense, and then the rest is what it would be without them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cutting import BATCHES, answers, close, graph_of, inputs, teacher_of, written
from plain_session import plain_session
from torch import Tensor, nn

from onnxcake.pruning.choices import families
from onnxcake.pruning.cut import cut
from onnxcake.pruning.dependencies import follow
from onnxcake.pruning.depth import block_scores, blocks, without
from onnxcake.pruning.factor import rank_for
from onnxcake.pruning.folded_graph import Array, FoldedGraph
from onnxcake.pruning.rank import factorised, factors

HEAD = "g (float[N,6] x) => (float[N,4] y)"
RESIDUAL = "h = MatMul(x, w) r = Relu(h) f = MatMul(r, v) s = Add(x, f) t = Tanh(s) y = MatMul(t, u)"
SQUARE = {"w": (6, 6), "v": (6, 6), "u": (6, 4)}


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """Of each token to all, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.three, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x).reshape(x.shape[0], x.shape[1], 3, 2, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """An image's channels as tokens and back to the mean of them."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def convolutions() -> nn.Sequential:
    def block() -> Residual:
        return Residual(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    return nn.Sequential(
        nn.Conv2d(3, 8, 3), block(), nn.ReLU(), block(), nn.ReLU(), block(), nn.Flatten(), nn.Linear(8 * 4, 5)
    )


def transformer() -> nn.Module:
    def pair() -> list[nn.Module]:
        mlp = Residual(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        return [Residual(nn.LayerNorm(8), Attention(8)), mlp]

    return Tokens(*pair(), *pair())


NETWORKS = {"convolutions": (convolutions, (3, 4, 4), 3), "transformer": (transformer, (6, 4, 2), 4)}


def network(name: str) -> tuple[nn.Module, tuple[int, ...], list[Residual]]:
    torch.manual_seed(1)
    make, shape, count = NETWORKS[name]
    module = make().eval()
    found = [part for part in module.modules() if isinstance(part, Residual)]
    assert len(found) == count
    return module, shape, found


def exported(module: nn.Module, shape: tuple[int, ...], folder: Path, export: Any) -> FoldedGraph:
    return teacher_of(export(module, shape, folder / "teacher.onnx"), folder).followed.graph


def run(graph: FoldedGraph, batch: int = max(BATCHES)) -> Array:
    return answers(written(graph), inputs(graph, batch))


def logits_of(x: Array, content: bytes) -> Array:
    session = plain_session(content)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def parameters(graph: FoldedGraph) -> int:
    return sum(array.size for array in graph.constants.values() if array.dtype.kind == "f" and array.size > 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_block_left_out_is_the_network_without_it(name: str, tmp_path: Path, export: Any) -> None:
    module, shape, residuals = network(name)
    graph = exported(module, shape, tmp_path, export)
    found = blocks(graph)
    assert len(found) == len(residuals)
    for gone in ([0], [1], [0, 1], [0, 2], list(range(len(found)))):
        rest = without(graph, [found[i] for i in gone])
        bodies = [residual.body for residual in residuals]
        for i in gone:
            residuals[i].body = nn.Sequential(nn.Threshold(torch.inf, 0.0))  # adds zeros
        for batch in BATCHES:
            x = inputs(graph, batch)
            with torch.no_grad():
                close(answers(written(rest), x), module(torch.from_numpy(x)).numpy())
        for residual, body in zip(residuals, bodies, strict=True):
            residual.body = body
        assert parameters(graph) - parameters(rest) == sum(found[i].parameters for i in gone)
        assert len(graph.nodes) - len(rest.nodes) >= sum(len(found[i].nodes) + 1 for i in gone)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_that_adds_nothing_changes_nothing(name: str, tmp_path: Path, export: Any) -> None:
    module, shape, residuals = network(name)
    last = [part for part in residuals[1].modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    graph = exported(module, shape, tmp_path, export)
    found = blocks(graph)
    np.testing.assert_allclose(run(without(graph, [found[1]])), run(graph), atol=1e-6)
    scores = block_scores(graph, found, partial(logits_of, inputs(graph)))
    assert scores.shape == (len(found),)
    assert scores[1] < 1e-6
    assert (np.delete(scores, 1) > 1e-3).all()
    whole = run(graph)
    change = np.linalg.norm(run(without(graph, found[:1])) - whole) / np.linalg.norm(whole - whole.mean(0))
    assert scores[0] == pytest.approx(change, rel=1e-4)


def test_what_a_block_says(tmp_path: Path) -> None:
    graph = graph_of(f"{HEAD} {{ {RESIDUAL} }}", tmp_path, **SQUARE)
    (block,) = blocks(graph)
    assert block.operators == ("MatMul", "Relu", "MatMul")
    assert block.parameters == 72
    made = {name: node for node in graph.nodes for name in node.output}
    assert made[block.add].op_type == "Add"
    assert block.skip in made[block.add].input
    assert [made[name].op_type for name in block.nodes] == list(block.operators)


@pytest.mark.parametrize("add", ["Add(x, f)", "Add(f, x)", "Sum(x, f)"])
def test_the_input_itself_can_be_what_is_left(add: str, tmp_path: Path) -> None:
    graph = graph_of(f"{HEAD} {{ {RESIDUAL.replace('Add(x, f)', add)} }}", tmp_path, **SQUARE)
    rest = without(graph, blocks(graph))
    (u,) = (array for array in rest.constants.values() if array.dtype.kind == "f")
    assert [node.op_type for node in rest.nodes] == ["Tanh", "MatMul"]
    close(run(rest), np.tanh(inputs(graph)) @ u)


def test_blocks_within_blocks(tmp_path: Path) -> None:
    text = (
        "a = MatMul(x, w) b = Tanh(a) c = MatMul(b, v) d = Add(b, c) e = MatMul(d, p) s = Add(x, e) "
        "i = Relu(s) j = MatMul(i, q) k = Add(s, j) y = MatMul(k, u)"
    )
    names = {"p": (6, 6), "q": (6, 6), **SQUARE}
    graph = graph_of(f"{HEAD} {{ {text} }}", tmp_path, **names)
    inner, outer, after = blocks(graph)
    assert set(inner.nodes) < set(outer.nodes)
    assert (inner.parameters, outer.parameters, after.parameters) == (36, 108, 36)
    w, v, p, q, u = (
        next(graph.constants[safe] for safe, name in graph.names.items() if name == wanted) for wanted in "wvpqu"
    )
    x = inputs(graph)

    def expected(has_inner: bool, has_outer: bool, has_after: bool) -> Array:
        b = np.tanh(x @ w)
        s = x + (b + has_inner * (b @ v)) @ p * has_outer
        return np.asarray((s + has_after * (np.maximum(s, 0) @ q)) @ u)

    for choice in range(8):
        there = [bool(choice & bit) for bit in (1, 2, 4)]
        gone = [block for block, stays in zip((inner, outer, after), there, strict=True) if not stays]
        for order in (gone, gone[::-1]):
            close(run(without(graph, order)), expected(*there))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("h = MatMul(x, w) f = MatMul(x, v) s = Add(h, f) y = MatMul(s, u)", id="a projection beside it"),
        pytest.param(
            "f = MatMul(x, w) s = Add(x, f) a = MatMul(s, u) b = MatMul(f, v) y = Add(a, b)", id="read outside"
        ),
        pytest.param("h = MatMul(x, w) y = Add(x, h)", id="the last node"),
        pytest.param("s = Add(x, x) y = MatMul(s, u)", id="twice the same"),
        pytest.param("a = Mul(x, x) b = Mul(a, k) s = Add(x, b) y = MatMul(s, u)", id="an activation written out"),
        pytest.param("m = ReduceMean<axes=[1]>(x) f = MatMul(x, w) s = Add(m, f) y = MatMul(s, u)", id="broadcast"),
        pytest.param("f = MatMul(x, w) s = Mul(x, f) y = MatMul(s, u)", id="a product"),
        pytest.param("f = MatMul(x, w) s = Sum(x, f, f) y = MatMul(s, u)", id="a sum of three"),
    ],
)
def test_what_is_no_block(text: str, tmp_path: Path) -> None:
    wide = "y = Add(x, h)" in text
    weights = {"w": (6, 6), "v": (6, 4 if "(f, v)" in text else 6), "u": (6, 4), "k": np.float32(0.1)}
    used = {name: value for name, value in weights.items() if f", {name})" in text}
    assert blocks(graph_of(f"{HEAD.replace('4', '6') if wide else HEAD} {{ {text} }}", tmp_path, **used)) == ()


def test_a_block_without_which_the_answers_are_no_numbers(tmp_path: Path) -> None:
    text = "a = Abs(x) n = Neg(a) f = Mul(n, e) s = Add(n, f) t = Log(s) y = MatMul(t, u)"
    graph = graph_of(f"{HEAD} {{ {text} }}", tmp_path, e=np.full(6, -2, np.float32), u=(6, 4))
    logits = partial(logits_of, inputs(graph))
    assert block_scores(graph, blocks(graph), logits).tolist() == [np.inf]
    assert block_scores(graph, [], logits).shape == (0,)


def test_values_read_in_sub_graphs(tmp_path: Path) -> None:
    text = (
        "f = MatMul(x, w) s = Add(x, f) l = ReduceMax<keepdims=0>(x) z = Constant<value_float=0.5>() c = Greater(l, z) "
        "t = If (c) <then_branch = a () => (float[N,6] p) { p = Relu(s) }, "
        "else_branch = b () => (float[N,6] q) { q = Neg(s) }> y = MatMul(t, u)"
    )
    graph = graph_of(f"{HEAD} {{ {text} }}", tmp_path, w=(6, 6), u=(6, 4))
    (block,) = blocks(graph)
    rest = without(graph, [block])
    (u,) = (a for a in rest.constants.values() if a.shape == (6, 4))
    x = inputs(graph)
    close(run(rest), np.maximum(x, 0) @ u)


def test_the_rest_can_be_cut_further(tmp_path: Path, export: Any) -> None:
    module, shape, _ = network("transformer")
    graph = exported(module, shape, tmp_path, export)
    rest = without(graph, blocks(graph)[1:3])
    assert len(blocks(rest)) == 2
    found = factors(rest)
    thin = follow(
        factorised(rest, {factor.name: max(1, rank_for(factor, factor.weight.size // 2)) for factor in found})
    )
    choice = families(thin)
    scores = np.random.default_rng(0).random(thin.indices.size + 1)
    small = cut(thin, choice.dropped(scores, choice.counts(0.5)).tolist(), "x", "y")
    onnx.checker.check_model(small, full_check=True)
    for batch in BATCHES:
        y = answers(small, inputs(graph, batch))
        assert y.shape == (batch, 5)
        assert np.isfinite(y).all()
