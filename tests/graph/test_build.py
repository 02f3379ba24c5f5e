"""The builder: what is folded, what follows the batch, what is refused and how, and what torch.compile sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from harness import built, opened
from onnx import parser
from onnx_text import model_of, whole
from plain_session import plain_session

from onnxcake.graph.build import BATCHES
from onnxcake.graph.build_log import Limits
from onnxcake.graph.module import Graph


def answer(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    session = plain_session(model.SerializeToString())
    return np.asarray(session.run(None, {"x": x.numpy()})[0])


def same(model: onnx.ModelProto, *batches: int, **said: Any) -> Graph:
    """The graph, once it has answered as onnxruntime does to batches of these sizes."""
    graph = built(model, **said)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    for batch in batches:
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        np.testing.assert_allclose(graph(x).numpy(), answer(model, x), rtol=1e-5, atol=1e-6)
    return graph


def test_constants_are_folded_and_shapes_become_numbers() -> None:
    model = whole(
        """(float[N,2,6] x) => (float[N,M] y) {
            s = Shape(x) b = Gather(s, zero) c = Reshape(b, one) d = Concat<axis=0>(c, minus)
            e = Mul(w, w) f = Mul(x, e) y = Reshape(f, d) }""",
        {"zero": np.array([0]), "minus": np.array([-1]), "w": np.arange(6, dtype="f"), "one": np.array([1])},
    )
    graph = same(model, 1, 4, 9)
    assert [step.op for step in graph.steps] == ["Mul", "Reshape"]
    assert len(list(graph.buffers())) == 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_tensor_that_depends_on_the_batch_alone_follows_it(batch: int) -> None:
    """Tokens repeated for each input: ConstantOfShape and Expand read the batch, not the data."""
    model = whole(
        """(float[N,3,4] x) => (float[N,4,4] y) {
            s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, rest) z = ConstantOfShape(t)
            u = Add(z, w) y = Concat<axis=1>(u, x) }""",
        {"rest": np.array([1, 4]), "w": np.arange(4, dtype="f")},
    )
    same(model, batch)


def test_a_size_that_does_not_follow_the_batch_in_a_line_is_refused() -> None:
    model = whole(
        "(float[N,4] x) => (float[M] y) { s = Shape<start=0, end=1>(x) q = Mul(s, s) y = Expand(w, q) }",
        {"w": np.ones(1, "f")},
    )
    _, builder = opened(model)
    # 3² and 7² lie on a line of whole numbers; 3² and 8² do not.
    assert not builder.blocked
    _, builder = opened(model, batches=(3, 8))
    assert builder.blocked or builder.values["y"].seen[0].shape == (9,)


def test_every_obstacle_is_told_at_once_and_what_follows_it_is_not() -> None:
    body = """[first] a = NoSuch(x) [after] b = Relu(a) [second] c = NeitherThis(b) [fine] d = Relu(x)
        [sizes] e = Cast<to=7>(d) [third] f = Reshape(d, e)"""
    _, builder = opened(model_of(body, inputs="float[N,4] x", outputs="float[] c, float[] f"))
    assert [(b.node, b.missing) for b in builder.blocked] == [("first", True), ("second", True), ("third", False)]
    assert "depends on the data" in builder.blocked[2].why and builder.blocked[2].remedy


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("z = ConstantOfShape(s) y = Add(x, z)", {"s": np.array([100_000, 100_000])}),
        ("z = Expand(w, s) y = Add(x, z)", {"s": np.array([100_000, 100_000]), "w": np.ones(1, "f")}),
        ("y = Tile(x, s)", {"s": np.array([1, 1_000_000_000])}),
    ],
)
def test_a_bomb_is_refused_before_it_takes_memory(body: str, weights: dict[str, Any]) -> None:
    _, builder = opened(whole(f"(float[N,4] x) => (float[N,4] y) {{ {body} }}", weights), limits=Limits(1 << 20))
    assert len(builder.blocked) == 1 and "GiB" in builder.blocked[0].why


def test_functions_of_the_model_are_called_with_their_attributes() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,4] x) => (float[N,4] y) '
        "{ a = own.leaky <slope = 0.5>(x) y = own.twice(a) }"
        '<domain: "own", opset_import: ["" : 17]> leaky <slope>(x) => (y) { y = LeakyRelu<alpha: float = @slope>(x) }'
        '<domain: "own", opset_import: ["" : 17]> twice (x) => (y) { y = Add(x, x) }'
    )
    same(model, 3)


def test_a_standard_operator_without_a_converter_is_built_from_its_own_body(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxcake.graph import registry

    registry.find("", "Relu")
    monkeypatch.delitem(registry.CONVERTERS, ("", "HardSwish"))
    graph = same(whole("(float[N,4] x) => (float[N,4] y) { y = HardSwish(x) }"), 3)
    assert all(step.op != "HardSwish" for step in graph.steps)


@pytest.mark.parametrize("baked", [1, 7])
def test_a_batch_written_into_a_reshape_is_set_free(baked: int) -> None:
    model = whole("(float[N,2,6] x) => (float[N,12] y) { a = Relu(x) y = Reshape(a, s) }", {"s": np.array([baked, 12])})
    graph = built(model, fixed_batch=baked)
    for batch in (1, 3, 7):
        x = torch.randn(batch, 2, 6)
        assert torch.equal(graph(x), x.relu().reshape(batch, 12))


def test_a_fixed_batch_is_kept_where_it_is_asked_for() -> None:
    model = whole("(float[N,2,6] x) => (float[N,12] y) { y = Reshape(x, s) }", {"s": np.array([7, 12])})
    graph = built(model, batches=(7, 7))
    assert graph(torch.zeros(7, 2, 6)).shape == (7, 12)


def test_torch_compile_sees_one_graph() -> None:
    model = whole(
        """(float[N,2,6] x) => (float[N,M] y) {
            s = Shape<start=0, end=1>(x) d = Concat<axis=0>(s, minus) a = Slice(x, one, two, one)
            b = Concat<axis=1>(a, x) c = Reshape(b, d) e = MatMul(c, w) y = Softmax(e) }""",
        {
            "minus": np.array([-1]),
            "one": np.array([1]),
            "two": np.array([2]),
            "w": np.random.default_rng(0).normal(size=(18, 3)).astype("f"),
        },
    )
    graph = same(model, 2)
    x = torch.randn(4, 2, 6, requires_grad=True)
    compiled = torch.compile(graph, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), graph(x))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).square().sum(), x), torch.autograd.grad(graph(x).square().sum(), x)
    )


def test_constants_move_with_the_module() -> None:
    graph = built(whole("(float[N,4] x) => (float[N,4] y) { y = Add(x, w) }", {"w": np.ones(4, "f")}))
    assert graph.double()(torch.zeros(2, 4, dtype=torch.float64)).dtype == torch.float64
    assert not any(p.requires_grad for p in graph.parameters())


def test_each_step_can_be_watched() -> None:
    graph = built(whole("(float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) y = Exp(b) }"))
    seen: list[tuple[str, torch.Tensor]] = []
    x = torch.randn(3, 4)
    (y,) = graph.run(3, x, watch=lambda step, given, out: seen.append((step.op, out)))
    assert [op for op, _ in seen] == ["Relu", "Neg", "Exp"] and torch.equal(seen[-1][1], y)


def test_values_are_let_go_when_nobody_reads_them_any_longer() -> None:
    graph = built(whole("(float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) y = Exp(b) }"))
    assert [call[-1] for call in graph._calls] == [(graph.inputs[0],), (1,), (2,)] or all(c[-1] for c in graph._calls)


def test_the_trial_batches_are_not_baked_in() -> None:
    assert len(set(BATCHES)) == 2
    same(
        whole("(float[N,3,4] x) => (float[N,4] y) { y = ReduceSum<keepdims=0>(x, a) }", {"a": np.array([1])}),
        *BATCHES,
        1,
    )
