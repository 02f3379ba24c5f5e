"""Two weights instead of one: the same answers at full rank, the best there are below, and only where it can pay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cutting import BATCHES, answers, close, graph_of, inputs, running, written

from onnxcake.pruning.choices import families
from onnxcake.pruning.cut import cut
from onnxcake.pruning.dependencies import follow
from onnxcake.pruning.factor import Factor, energy, rank_for
from onnxcake.pruning.folded_graph import FoldedGraph
from onnxcake.pruning.rank import factorised, factors, ranks_at

FLAT = "g (float[N,12] x) => (float[N,10] y)"
TOKENS = "g (float[N,6,8] x) => (float[N,{out}] y)"
IMAGE = "g (float[N,6,11,9] x) => (float[N,{out}] y)"
SUMMED = "a = Constant<value_ints=[{axes}]>() y = ReduceSum<keepdims=0>(h, a)"
PICTURE = SUMMED.format(axes="2,3")

GEMM = {"w": (12, 10), "b": (10,)}
ROWS: dict[str, tuple[str, dict[str, Any], int]] = {
    "gemm": (f"{FLAT} {{ y = Gemm(x, w, b) }}", GEMM, 17),
    "gemm of opset 9": (f"{FLAT} {{ y = Gemm(x, w, b) }}", GEMM, 9),
    "gemm without bias": (f"{FLAT} {{ y = Gemm(x, w) }}", {"w": (12, 10)}, 13),
    "gemm, all its attributes": (
        f"{FLAT} {{ t = Transpose(x) y = Gemm<alpha=0.5, beta=2.0, transA=1, transB=1>(t, w, b) }}",
        {"w": (10, 12), "b": (10,)},
        17,
    ),
    "matmul": (f"{FLAT} {{ y = MatMul(x, w) }}", {"w": (12, 10)}, 17),
    "matmul of tokens": (
        f"{TOKENS.format(out=10)} {{ h = MatMul(x, w) {SUMMED.format(axes='1')} }}",
        {"w": (8, 10)},
        17,
    ),
    "matmul from the left": (
        f"{TOKENS.format(out=8)} {{ h = MatMul(w, x) {SUMMED.format(axes='1')} }}",
        {"w": (9, 6)},
        17,
    ),
    "1 × 1": (f"{IMAGE.format(out=8)} {{ h = Conv(x, w, b) {PICTURE} }}", {"w": (8, 6, 1, 1), "b": (8,)}, 17),
    "3 × 3": (f"{IMAGE.format(out=8)} {{ h = Conv<pads=[1,1,1,1]>(x, w) {PICTURE} }}", {"w": (8, 6, 3, 3)}, 17),
    "all of convolution": (
        f"{IMAGE.format(out=5)} {{ "
        f"h = Conv<strides=[2,1], pads=[2,0,1,3], dilations=[1,2], kernel_shape=[5,3], group=1>(x, w, b) {PICTURE} }}",
        {"w": (5, 6, 5, 3), "b": (5,)},
        17,
    ),
    "padding by name": (
        f'{IMAGE.format(out=8)} {{ h = Conv<auto_pad="SAME_UPPER", strides=[2,3]>(x, w) {PICTURE} }}',
        {"w": (8, 6, 4, 3)},
        17,
    ),
    "one axis": (
        f"{TOKENS.format(out=7)} {{ h = Conv<strides=[2], pads=[1,2]>(x, w) {SUMMED.format(axes='2')} }}",
        {"w": (7, 6, 5)},
        17,
    ),
    "three axes": (
        f"g (float[N,4,5,6,7] x) => (float[N,6] y) {{ h = Conv<strides=[1,2,1]>(x, w) {SUMMED.format(axes='2,3,4')} }}",
        {"w": (6, 4, 3, 2, 3)},
        17,
    ),
}


def same(one: FoldedGraph, other: FoldedGraph) -> None:
    """The same answers, at several batches."""
    for batch in BATCHES:
        x = inputs(one, batch)
        close(answers(written(one), x), answers(written(other), x))


def only(graph: FoldedGraph) -> Factor:
    (factor,) = factors(graph)
    return factor


@pytest.mark.parametrize("row", ROWS)
def test_full_rank_is_the_same(row: str, tmp_path: Path) -> None:
    text, weights, opset = ROWS[row]
    graph = graph_of(text, tmp_path, opset, **weights)
    factor = only(graph)
    two = factorised(graph, {factor.name: factor.full})
    same(graph, two)
    assert len(two.nodes) == len(graph.nodes) + 1
    assert {node.op_type for node in two.nodes} == {node.op_type for node in graph.nodes}
    assert graph.names[factor.name] == "w"
    assert set(two.names.values()) - set(graph.names.values()) >= {"w.first", "w.second"}
    assert "w" not in two.names.values()


@pytest.mark.parametrize("row", ROWS)
def test_the_rank_is_a_family_of_its_own(row: str, tmp_path: Path) -> None:
    text, weights, opset = ROWS[row]
    graph = graph_of(text, tmp_path, opset, **weights)
    factor = only(graph)
    followed = follow(factorised(graph, {factor.name: 3}))
    atoms = {
        atom
        for axis in followed.axes[f"{factor.name}_first"]
        for element in axis.tolist()
        for atom in followed.indices.atoms(element)
    }
    (family,) = [set(members.tolist()) for members in families(followed).members if atoms & set(members.tolist())]
    assert len(family) == 3
    smaller = cut(followed, sorted(family)[1:], "x", "y")  # the largest singular value's stays
    close(answers(smaller, inputs(graph)), answers(written(factorised(graph, {factor.name: 1})), inputs(graph)))


@pytest.mark.parametrize("row", ROWS)
def test_shapes_between_are_right(row: str, tmp_path: Path) -> None:
    text, weights, opset = ROWS[row]
    graph = graph_of(text, tmp_path, opset, **weights)
    two = factorised(graph, {only(graph).name: 2})
    (between,) = two.shapes.keys() - graph.shapes.keys()
    shown = written(two)
    shown.graph.output.append(onnx.ValueInfoProto(name=between))
    for batch, shape in zip(two.batches, two.shapes[between], strict=True):
        assert running(shown, "x", between)(inputs(graph, batch)).shape == shape


def test_singular_values_and_the_best_of_a_rank(tmp_path: Path) -> None:
    graph = graph_of(*ROWS["gemm"][:1], tmp_path, **GEMM)
    factor = only(graph)
    weight = graph.constants[factor.name]
    u, s, v = np.linalg.svd(weight.astype(np.float64))
    np.testing.assert_allclose(factor.values, s, atol=1e-6)
    for rank in range(1, 11):
        first, second = factor.halves(rank)
        np.testing.assert_allclose(first @ second, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(first, axis=0), np.sqrt(s[:rank]), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(second, axis=1), np.sqrt(s[:rank]), rtol=1e-5)
        assert energy(factor, rank) == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum())


@pytest.mark.parametrize("first, second", [("ihw", "o"), ("i", "ohw"), ("ih", "ow"), ("iw", "oh")])
def test_convolutions_are_split_as_keeps_most(first: str, second: str, tmp_path: Path) -> None:
    sizes, generator = {"o": 8, "i": 6, "h": 3, "w": 3}, np.random.default_rng(3)
    parts = [generator.standard_normal((2, *(sizes[c] for c in part))) for part in (first, second)]
    kernel = np.einsum(f"r{first},r{second}->oihw", *parts).astype(np.float32)
    graph = graph_of(ROWS["3 × 3"][0], tmp_path, w=kernel)
    factor = only(graph)
    assert energy(factor, 2) == pytest.approx(1.0)
    assert factor.parameters(2) == sum(part.size for part in parts)
    same(graph, factorised(graph, {factor.name: 2}))


def test_a_weight_of_lower_rank_than_its_shape(tmp_path: Path) -> None:
    low = np.outer(np.arange(12), np.ones(10)).astype(np.float32)
    for weight in (low, np.zeros_like(low)):
        graph = graph_of(ROWS["matmul"][0], tmp_path, w=weight)
        factor = only(graph)
        assert energy(factor, 1) == pytest.approx(float(weight.any()))
        for rank in (1, 10):
            same(graph, factorised(graph, {factor.name: rank}))


def test_rank_for_parameters(tmp_path: Path) -> None:
    factor = only(graph_of(*ROWS["gemm"][:1], tmp_path, **GEMM))
    assert [rank_for(factor, n) for n in (0, 21, 22, 43, 44, 219, 220, 10**6)] == [0, 0, 1, 1, 2, 9, 10, 10]
    assert all(factor.parameters(rank_for(factor, n)) <= n for n in range(300))


@pytest.mark.parametrize(
    "text, weights",
    [
        pytest.param("h = Conv<group=6>(x, w) {picture}", {"w": (12, 1, 3, 3)}, id="groups"),
        pytest.param("h = Conv(x, w) {picture}", {"w": (1, 6, 1, 1)}, id="larger in two"),
        pytest.param("i = Conv(x, w) j = Conv(i, w) h = Add(j, j) {picture}", {"w": (6, 6, 3, 3)}, id="read twice"),
        pytest.param("t = Transpose<perm=[0,1,3,2]>(x) h = MatMul(x, t) {picture}", {}, id="no constant"),
        pytest.param("h = MatMul(x, w) {picture}", {"w": (6, 9, 9)}, id="a stack of them"),
    ],
)
def test_what_is_not_offered(text: str, weights: dict[str, Any], tmp_path: Path) -> None:
    out = weights["w"][0] if weights else 6
    graph = graph_of(f"{IMAGE.format(out=out)} {{ {text.format(picture=PICTURE)} }}", tmp_path, **weights)
    assert factors(graph) == ()


def test_only_what_is_offered_is_taken(tmp_path: Path) -> None:
    graph = graph_of(*ROWS["gemm"][:1], tmp_path, **GEMM)
    with pytest.raises(ValueError, match="not to be factorised: nobody"):
        factorised(graph, {"nobody": 1})
    for rank in (0, 11):
        with pytest.raises(ValueError, match=f"rank {rank} is not within 1 … 10"):
            factorised(graph, {only(graph).name: rank})


@pytest.mark.parametrize("level", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_ranks_at_a_level(level: float, tmp_path: Path) -> None:
    factor = only(graph_of(*ROWS["gemm"][:1], tmp_path, **GEMM))
    ranks = ranks_at([factor], level)
    enough = [rank for rank in range(1, factor.full + 1) if energy(factor, rank) >= level]
    smaller = factor.parameters(enough[0]) < factor.weight.size
    assert ranks == ({factor.name: enough[0]} if smaller else {})


def test_factors_of_factors_of_several(tmp_path: Path) -> None:
    text = f"{FLAT} {{ h = Gemm(x, v, c) i = Tanh(h) y = Gemm(i, w, b) }}"
    graph = graph_of(text, tmp_path, 9, v=(12, 12), c=(12,), **GEMM)
    two = graph
    for times in (2, 4, 8):
        found = factors(two)
        assert len(found) == times
        two = factorised(two, {factor.name: factor.full for factor in found}, found)
        assert len(two.nodes) == 1 + 2 * times
    assert len({name for node in two.nodes for name in node.output}) == len(two.nodes)
    assert len({node.name for node in two.nodes}) == len(two.nodes)
    assert len(set(two.names.values())) == len(two.constants)
    same(graph, two)
