"""Nodes come out sorted, whatever order they were written in, and as they were where that was sorted."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_text import N, parsed

from onnxcake.onnxfile.load import load_bytes
from onnxcake.onnxfile.topological_order import sort_nodes
from onnxcake.onnxfile.walk import graphs, nodes

COUNT = 30


def drawn(seed: int) -> onnx.ModelProto:
    """A sorted graph of random wiring: of each value and two earlier ones, some by way of an If or a function."""
    draw = np.random.default_rng(seed)
    made, listed = ["x"], []
    for number in range(COUNT):
        first, second = (made[i] for i in draw.integers(len(made), size=2))
        out = f"v{number}"
        if number % 7 == 3:
            branches = [
                helper.make_graph(
                    [N("Mul", [first, second], [f"{out}/{side}/a"]), N("Tanh", [f"{out}/{side}/a"], [f"{out}/{side}"])],
                    side,
                    [],
                    [helper.make_tensor_value_info(f"{out}/{side}", TensorProto.FLOAT, None)],
                )
                for side in ("then", "else")
            ]
            listed.append(N("If", ["yes"], [out], then_branch=branches[0], else_branch=branches[1]))
        elif number % 7 == 5:
            listed.append(N("both", [first, second], [out], domain="own"))
        else:
            listed.append(N(str(draw.choice(["Add", "Sub", "Max"])), [first, second], [out]))
        made.append(out)
    listed.append(N("Sum", made, ["sum"]))
    listed.append(N("MatMul", ["sum", "W"], ["y"]))
    function = helper.make_function(
        "own",
        "both",
        ["a", "b"],
        ["c"],
        parsed("m = Mul(a, b) s = Sin(m) c = Add(s, a)"),
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        listed,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(draw.normal(size=(4, 3)).astype(np.float32), "W"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[function])


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
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
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
