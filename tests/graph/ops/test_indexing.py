"""Picking, writing, cutting, padding and filling by index, against onnxruntime and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import Row, compile_test, data, forward_and_gradient, normal, opened
from onnx import TensorProto, helper, numpy_helper
from onnx_text import N, model_of, parsed

from onnxcake.graph.build import Builder
from onnxcake.graph.module import Graph

END = 2**63 - 1
X = data("N", 4, 6)


def i64(*values: Any) -> np.ndarray[Any, Any]:
    return np.int64(values)


def index(*shape: int | str, size: int) -> Any:
    return data(*shape, dtype="int64", low=-size, high=size)


GATHER = [
    Row("Gather", [X, i64(2)[0]], {"axis": 1}, name="one"),
    Row("Gather", [X, i64(-1)[0]], {"axis": 2}, since=11, name="one, from the end"),
    Row("Gather", [X, i64(1, 2, 3)], {"axis": 2}, name="a run"),
    Row("Gather", [X, i64(0, 2, 4)], {"axis": -1}, name="every other"),
    Row("Gather", [X, i64(3, -1, 0)], {"axis": 2}, since=11, name="any"),
    Row("Gather", [X, i64([3, -1, 0], [2, 2, 1])], {"axis": 1}, since=11, name="two-dimensional"),
    Row("Gather", [X, i64(7)], {"axis": 1}, gradient=False, refused="outside the axis"),
    Row("Gather", [normal(9, 5), data("N", 3, dtype="int64", low=0, high=9)], gradient=False, name="embedding"),
    Row("Gather", [normal(9, 5), index("N", size=9)], since=11, gradient=False, name="embedding from the end"),
    Row("Gather", [X, index("N", 2, size=4)], {"axis": 1}, since=11, name="data indices"),
    Row("Gather", [normal(9, 5), data("N", dtype="int32", low=0, high=5)], {"axis": 1}, gradient=False, name="int32"),
    Row("GatherElements", [X, index("N", 4, 2, size=6)], {"axis": 2}),
    Row("GatherElements", [data(4, 6), i64([0, -1, 2, 3, 3, 0])], {"axis": 0}, name="constant"),
    Row("GatherND", [X, index("N", 2, 1, size=4)], {"batch_dims": 1}, since=12),
    Row("GatherND", [data(3, 4, 5), index("N", 2, size=3)], name="pairs"),
    Row("GatherND", [data(3, 4, 5), i64([[0, 1, 2]], [[2, -1, 0]])], name="constant"),
    Row("GatherND", [X, index("N", 4, 3, 1, size=6)], {"batch_dims": 2}, since=12),
]

SCATTER = [
    Row("Scatter", [X, np.tile(i64([[3, 1]]), (1, 4, 1)), normal(1, 4, 2)], {"axis": 2}, until=10),
    Row("ScatterElements", [data(3, 6), i64([3, -1], [0, 5], [2, 1]), normal(3, 2)], {"axis": 1}),
    Row("ScatterElements", [data(5, 3), i64([3, -1, 0]), data(1, 3)], {"axis": 0}, name="data updates"),
    *[
        Row(
            "ScatterElements",
            [data(3, 6), i64([1, 1, 3], [0, 5, 5], [2, 2, 2]), data(3, 3)],
            {"axis": 1, "reduction": how},
            since=16 if how in ("add", "mul") else 18,
        )
        for how in ("add", "mul", "max", "min")
    ],
    Row("ScatterND", [data(4, 5), i64([0], [-1]), data(2, 5)]),
    Row("ScatterND", [data(4, 5), i64([0, 3], [2, -1]), data(2)], name="elements"),
    *[
        Row(
            "ScatterND",
            [data(4, 5, 2), i64([0, 3], [2, 1], [0, 3]), data(3, 2)],
            {"reduction": how},
            since=16 if how in ("add", "mul") else 18,
        )
        for how in ("add", "mul", "max", "min")
    ],
    Row("TensorScatter", [data("N", 2, 6, 3), data("N", 2, 2, 3)]),
    Row("TensorScatter", [data("N", 6, 3), data("N", 2, 3), data("N", dtype="int64", low=0, high=4)]),
    Row(
        "TensorScatter",
        [data("N", 6, 3), data("N", 4, 3), data("N", dtype="int64", low=0, high=6)],
        {"mode": "circular", "axis": 1},
    ),
]

CUT = [
    Row("Slice", [X], {"starts": [1, -4], "ends": [3, END], "axes": [1, 2]}, until=9),
    Row("Slice", [X], {"starts": [0, 1], "ends": [END, -1]}, until=9),
    Row("Slice", [X, i64(1), i64(3), i64(1)], since=10, name="one axis"),
    Row("Slice", [X, i64(1, 1), i64(100, -1), i64(1, -1), i64(1, 2)], since=10, name="steps"),
    Row("Slice", [X, i64(-1), i64(-END), i64(2), i64(-1)], since=10, name="reversed"),
    Row("Slice", [X, i64(4, 3), i64(0, -100), i64(2, 1), i64(-2, -1)], since=10, name="reversed steps"),
    Row("Slice", [X, i64(0, 0), i64(END, END), i64(0, 2)], since=10, name="all"),
    Row("Slice", [X, i64(-1), i64(-END), i64(0), i64(-1)], since=10, name="batch reversed"),
    Row("Slice", [X, i64(3), i64(3), i64(2)], since=10, gradient=False, name="empty"),
    Row("Slice", [X, i64(1), i64(3), None, i64(1)], since=10, name="no axes"),
    Row("Slice", [X, data(1, dtype="int64"), i64(3)], since=10, gradient=False, refused="depends on the data"),
    Row("Split", [X], {"axis": 2, "split": [1, 2, 3]}, outputs=("a", "b", "c"), until=12),
    Row("Split", [X, i64(1, 2, 3)], {"axis": 2}, outputs=("a", "b", "c"), since=13),
    Row("Split", [X, i64(2, 2, 2)], {"axis": -1}, outputs=("a", "b", "c"), since=13, name="same sizes"),
    Row("Split", [X], {"axis": 1}, outputs=("a", "b"), until=17),
    Row("Split", [X], {"axis": 2, "num_outputs": 4}, outputs=("a", "b", "c", "d"), since=18, refused="cannot be split"),
    Row("Split", [X], {"axis": 2, "num_outputs": 2}, outputs=("a", "b"), since=18),
    Row("Split", [data("N", 7)], {"axis": 1, "num_outputs": 3}, outputs=("a", "b", "c"), since=18),
    Row("Compress", [X, np.array([True, False, True])], {"axis": 1}),
    Row("Compress", [X, np.array([False, True, True, False])], name="flat"),
    Row("Compress", [X, data(4, dtype="bool")], {"axis": 1}, gradient=False, refused="depends on the data"),
]

PAD = [
    Row("Pad", [X], {"pads": [0, 1, 2, 0, 3, 0], "value": 1.5}, until=10),
    Row("Pad", [X], {"pads": [0, 1, 2, 0, 1, 3], "mode": "reflect"}, until=10),
    Row("Pad", [X, i64(0, 1, 2, 0, 3, 0)], since=11, name="zeros"),
    Row("Pad", [X, i64(0, -1, 2, 0, 3, -2), np.float32(2.5)], since=11, name="constant, negative"),
    Row("Pad", [X, i64(0, 1, 2, 0, 3, 0), data()], since=11, name="data constant"),
    Row("Pad", [X, i64(1, 2, 3, 0), None, i64(-1, 1)], since=18, name="axes"),
    Row("Pad", [X, i64(0, 0, 2, 0, 0, 5)], {"mode": "reflect"}, since=11),
    Row("Pad", [X, i64(0, 3, 2, 0, 0, 5)], {"mode": "reflect"}, since=11, name="reflect two axes"),
    Row("Pad", [data("N", 2, 4, 5), i64(0, 0, 1, 2, 0, 0, 3, 4)], {"mode": "reflect"}, since=11, name="image"),
    Row("Pad", [data("N", 2, 4, 5), i64(0, 0, 1, 2, 0, 0, 3, 7)], {"mode": "edge"}, since=11, name="image, edge"),
    Row("Pad", [data("N", 3, 2, 4, 5), i64(0, 2, 1, 1, 2, 0, 2, 0, 1, 3)], {"mode": "edge"}, since=11, name="4 axes"),
    Row("Pad", [X, i64(0, 5, 2, 0, 9, 5)], {"mode": "edge"}, since=11),
    Row("Pad", [X, i64(0, -1, 2, 0, 1, -2)], {"mode": "edge"}, since=11, name="edge, negative"),
    Row("Pad", [X, i64(0, 1, -2, 0, 1, 2)], {"mode": "reflect"}, since=11, name="reflect, negative"),
    Row("Pad", [X, i64(0, 1, 2, 0, 3, 5)], {"mode": "wrap"}, since=19),
    Row("Pad", [data("N", 4, dtype="int64"), i64(0, 1, 0, 2)], {"mode": "reflect"}, since=11, gradient=False),
    Row("Pad", [X, i64(0, 1, 2**40, 0, 3, 5)], {"mode": "edge"}, since=11, gradient=False, refused="GiB"),
    Row("CenterCropPad", [X, i64(7, 3)], {"axes": [1, 2]}),
    Row("CenterCropPad", [X, i64(1, 9)], {"axes": [-2, -1]}),
]

FILL = [
    Row("Tile", [X, i64(1, 2, 3)]),
    Row("Tile", [data("N", 1, 6), i64(1, 3, 1)], name="a view"),
    Row("OneHot", [data("N", 2, dtype="int64", low=-6, high=7), i64(4)[0], np.float32([0.5, 2])], gradient=False),
    Row("OneHot", [data("N", 2, dtype="int64", low=0, high=4), i64(4)[0], data(2)], {"axis": 1}, name="data values"),
    Row("EyeLike", [data("N", 5)], {"k": 1}, gradient=False),
    Row("EyeLike", [data(4, 5)], {"k": -2, "dtype": TensorProto.INT32}, types=(TensorProto.INT32,), gradient=False),
    *[Row("Trilu", [X, i64(k)[0]], {"upper": upper}, name=f"{upper} {k}") for upper in (0, 1) for k in (-2, 0, 3)],
    Row("Trilu", [X]),
    Row("ReverseSequence", [data(5, "N", 3), data("N", dtype="int64", low=1, high=6)]),
    Row(
        "ReverseSequence", [data("N", 5, 3), data("N", dtype="int64", low=1, high=6)], {"time_axis": 1, "batch_axis": 0}
    ),
    *[
        Row(op, [X], gradient=False, refused="depends on the data", types=(TensorProto.INT64,))
        for op in ("NonZero", "Unique")
    ],
]

ROWS = [*GATHER, *SCATTER, *CUT, *PAD, *FILL]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test([GATHER[5], GATHER[9], GATHER[13], SCATTER[8], CUT[7], CUT[16], PAD[4], FILL[8]], 18)


# What is computed from shapes and constants


def known(nodes: list[Any], constants: dict[str, Any]) -> tuple[Graph, Builder]:
    """Build the graph of `nodes` from "x" (a batch of [4, 6]) to "y"."""
    return opened(model_of(*nodes, weights=constants, inputs="float[N,4,6] x", outputs="float[] y", opset=18))


def test_shape_arithmetic_is_done_while_building() -> None:
    graph, builder = known(
        parsed(
            "shape = Shape(x) batch = Slice(shape, zero, one) last = Gather<axis=0>(shape, two)",
            "s0, s1, s2 = Split<num_outputs=3>(shape) to = Concat<axis=0>(batch, last, s1) y = Reshape(x, to)",
        ),
        {"zero": i64(0), "one": i64(1), "two": i64(2)},
    )
    assert not builder.blocked
    assert len(graph.steps) == 1
    assert graph(torch.zeros(5, 4, 6)).shape == (5, 6, 4)


def test_sizes_follow_the_batch() -> None:
    graph, builder = known(
        [
            *parsed("shape = Shape(x) batch = Slice(shape, zero, one) sizes = Concat<axis=0>(batch, one)"),
            N("ConstantOfShape", ["sizes"], ["ones"], value=numpy_helper.from_array(np.float32([1]))),
            *parsed(
                "times = Concat<axis=0>(batch, one, one) tokens = Tile(token, times)",
                "both = Concat<axis=1>(tokens, x) count = Squeeze(batch) numbers = Range(nought, count, step)",
                "column = Unsqueeze(numbers, one) picked = Gather(table, column) padded = Pad(both, pads)",
                "y = Concat<axis=1>(padded, picked)",
            ),
        ],
        {
            "zero": i64(0),
            "one": i64(1),
            "nought": i64(0)[0],
            "step": i64(1)[0],
            "token": normal(1, 1, 6),
            "table": normal(50, 6),
            "pads": i64(0, 1, 0, 0, 0, 0),
        },
    )
    assert not builder.blocked, builder.blocked
    for batch in (1, 2, 9):
        x = torch.randn(batch, 4, 6)
        y = graph(x)
        assert torch.equal(y[:, 1], torch.from_numpy(normal(1, 1, 6))[0].expand(batch, 6))
        assert torch.equal(y[:, 2:6], x)
        assert torch.equal(y[:, 6], torch.from_numpy(normal(50, 6))[:batch])


def test_slice_up_to_half_the_batch() -> None:
    graph, builder = known(
        parsed(
            "twice = Concat<axis=0>(x, x) shape = Shape(x) batch = Slice(shape, zero, one)",
            "y = Slice(twice, batch, end, zero, one)",
        ),
        {"zero": i64(0), "one": i64(1), "end": i64(END)},
    )
    assert not builder.blocked
    x = torch.randn(5, 4, 6)
    assert torch.equal(graph(x), x)


def test_a_batch_written_into_a_slice_follows() -> None:
    builder = Builder(fixed_batch=1)
    value = builder.input(((3, 4), (7, 4)), torch.float32)
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    weights = [numpy_helper.from_array(array, name) for name, array in (("zero", i64(0)), ("one", i64(1)))]
    proto = helper.make_graph(parsed("y = Slice(x, zero, one, zero)"), "g", [shape], [shape], weights)
    (y,) = builder.graph(proto, {"": 18}, {"x": value})
    assert y is value


@pytest.mark.parametrize(
    ("op", "given", "attrs", "want"),
    [
        ("NonZero", [np.float32([[0, 2], [3, 0]])], {}, [[0, 1], [1, 0]]),
        ("Unique", [np.float32([2, 1, 1, 3, 4, 3])], {"sorted": 0}, [2, 1, 3, 4]),
        ("Unique", [np.float32([[2, 1], [1, 3]])], {}, [1, 2, 3]),
        ("Range", [np.float32(0.5), np.float32(3), np.float32(1)], {}, [0.5, 1.5, 2.5]),
        ("Range", [np.int32(5), np.int32(0), np.int32(-2)], {}, [5, 3, 1]),
        ("Tile", [i64(1, 2), i64(2)], {}, [1, 2, 1, 2]),
        ("GatherND", [i64([1, 2], [3, 4]), i64([1, -2])], {}, [3]),
        ("ScatterElements", [i64(1, 2, 3), i64(1), i64(7)], {}, [1, 7, 3]),
        ("Compress", [i64(1, 2, 3), np.array([True, False, True])], {}, [1, 3]),
    ],
)
def test_constants_are_folded(op: str, given: list[Any], attrs: dict[str, Any], want: list[Any]) -> None:
    names = [f"c{i}" for i in range(len(given))]
    graph, builder = known([N(op, names, ["y"], **attrs)], dict(zip(names, given, strict=True)))
    assert not builder.blocked
    assert not graph.steps
    assert graph(torch.zeros(2, 4, 6)).tolist() == want


def test_unique_tells_all_it_knows() -> None:
    graph, _ = known(
        parsed("found, first, inverse, counts = Unique<sorted=0>(c) y = Concat<axis=0>(first, inverse, counts)"),
        {"c": np.float32([2, 1, 1, 3, 4, 3])},
    )
    assert graph(torch.zeros(2, 4, 6)).tolist() == [0, 1, 3, 4, 0, 1, 1, 2, 3, 2, 1, 2, 2, 1]
