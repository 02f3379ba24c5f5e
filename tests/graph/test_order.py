"""Nodes come out sorted, whatever order they were written in, and as they were where that was sorted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_text import N, model_of, parsed
from plain_session import plain_session

from onnxcake.onnxfile.load import load_bytes
from onnxcake.onnxfile.topological_order import sort_nodes
from onnxcake.onnxfile.walk import graphs, nodes

COUNT = 30


def drawn(seed: int) -> onnx.ModelProto:
    """A sorted graph of random wiring: of each value and two earlier ones, some by way of an If or a function."""
    draw = np.random.default_rng(seed)
    made, listed = ["x"], list[str]()
    for number in range(COUNT):
        first, second = (made[i] for i in draw.integers(len(made), size=2))
        out = f"v{number}"
        if number % 7 == 3:
            then, other = (
                f"b () => (float[] {out}_{i}) {{ {out}_{i}_a = Mul({first}, {second}) {out}_{i} = Tanh({out}_{i}_a) }}"
                for i in range(2)
            )
            listed.append(f"{out} = If(yes) <then_branch = {then}, else_branch = {other}>")
        elif number % 7 == 5:
            listed.append(f"{out} = own.both({first}, {second})")
        else:
            listed.append(f"{out} = {draw.choice(['Add', 'Sub', 'Max'])}({first}, {second})")
        made.append(out)
    listed.append(f"sum = Sum({', '.join(made)}) y = MatMul(sum, W)")
    body = parsed("m = Mul(a, b) s = Sin(m) c = Add(s, a)")
    function = helper.make_function("own", "both", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    weights = {"W": draw.normal(size=(4, 3)).astype(np.float32), "yes": np.array(True)}
    return model_of(*listed, weights=weights, domains={"own": 1}, functions=[function], ir_version=8)


def shuffled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same with the nodes of every graph and function in another order."""
    draw, copy = np.random.default_rng(seed), onnx.ModelProto()
    copy.CopyFrom(model)
    for body in reversed([*copy.functions, *graphs(copy)]):
        listed = [onnx.NodeProto.FromString(body.node[i].SerializeToString()) for i in draw.permutation(len(body.node))]
        del body.node[:]
        body.node.extend(listed)
    return copy


def answers(model: onnx.ModelProto) -> np.ndarray:
    session = plain_session(model.SerializeToString())
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def order(model: onnx.ModelProto) -> list[str]:
    return [name for node in nodes(model) for name in node.output]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_in_no_order_comes_out_sorted(seed: int) -> None:
    model = drawn(seed)
    mixed = shuffled(model, seed)
    assert order(mixed) != order(model)
    sort_nodes(mixed, "t.onnx")
    onnx.checker.check_model(mixed, full_check=True)
    assert sorted(order(mixed)) == sorted(order(model)), "no node is lost or doubled"
    np.testing.assert_array_equal(answers(mixed), answers(model))
    load_bytes(shuffled(model, seed).SerializeToString(), "t.onnx")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_sorted_stays_as_it_is_to_the_bit(seed: int) -> None:
    model = drawn(seed)
    before = model.SerializeToString(deterministic=True)
    sort_nodes(model, "t.onnx")
    assert model.SerializeToString(deterministic=True) == before


def test_one_node_too_late_moves_as_little_as_it_must(handmade: object) -> None:
    late = parsed("a = Relu(x) b = Add(a, c) d = Tanh(a) c = Exp(x)")
    model = handmade([*late, N("Sum", ["b", "d"], ["y"])])  # type: ignore[operator]
    sort_nodes(model, "t.onnx")
    assert order(model) == ["a", "d", "c", "b", "y"]
