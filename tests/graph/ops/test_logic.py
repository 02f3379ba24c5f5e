"""Comparisons, truth values, bits and casts, against onnxruntime, onnx's own evaluator and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from harness import Row, build, data, forward_and_gradient, model, normal
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

HUGE = np.array([2**64 - 1, 2**63 + 5, 2**63 - 1, 7], np.uint64)
ODD = np.float32([np.nan, np.inf, -np.inf, 0, 1])
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
UNSIGNED = INTEGERS[4:]
COMPARED = {"Equal": 11, "Less": 9, "Greater": 9, "LessOrEqual": 12, "GreaterOrEqual": 12}
KINDS = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in [*INTEGERS, "float32", "float64", "bool"]}

LOGIC = [
    Row("Not", [data("N", 4, dtype="bool")], gradient=False),
    *(Row(op, [data("N", 3, dtype="bool"), data("N", 1, dtype="bool")], gradient=False) for op in ("And", "Or", "Xor")),
    *(
        Row(op, [data("N", 4, dtype=t, low=-9, high=9), np.array([1, 2, 3, 12], t)], gradient=False, name=t)
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
        for t in INTEGERS
    ),
    *(Row("BitwiseNot", [data("N", 4, dtype=t, low=-9, high=9)], gradient=False, name=t) for t in INTEGERS),
    *(
        Row("BitShift", [data("N", 2, dtype=t, high=99), np.array([1, 3], t)], {"direction": d}, gradient=False)
        for t in UNSIGNED
        for d in ("LEFT", "RIGHT")
    ),
]
COMPARISONS = [
    *(Row(op, [data("N", 3), normal(3)], since=since, gradient=False) for op, since in COMPARED.items()),
    *(Row(op, [data("N", 3), data("N", 1)], gradient=False, name="two") for op in ("Less", "Greater")),
    *(
        Row(op, [data("N", 4, dtype=t, high=6), np.array([1, 2, 3, 4], t)], since=since, gradient=False, name=t)
        for op, since in COMPARED.items()
        for t in INTEGERS
    ),
    Row("Less", [data("N", 4, dtype="uint64", high=9), HUGE], since=9, gradient=False, expected=np.less, name="huge"),
    Row("Equal", [data("N", 3, dtype="bool"), np.array([True, False, True])], gradient=False, name="bool"),
    Row("IsNaN", [ODD], gradient=False),
    Row("IsNaN", [data("N", 2)], gradient=False, name="data"),
    *(
        Row("IsInf", [ODD], {"detect_negative": n, "detect_positive": p}, gradient=False)
        for n in (0, 1)
        for p in (0, 1)
    ),
    Row("IsInf", [data("N", 2)], gradient=False, name="data"),
    Row("Where", [data("N", 3, dtype="bool"), data("N", 3), data("N", 1)]),
    Row("Where", [data("N", 3, dtype="bool"), data("N", 3), np.float32(0)], name="constant"),
    *(
        Row("Where", [data("N", 2, dtype="bool"), data("N", 2, dtype=t), np.array([1, 2], t)], gradient=False, name=t)
        for t in INTEGERS
    ),
]
CASTS = [
    *(
        Row("Cast", [data("N", 5, dtype=a, low=-300, high=300)], {"to": KINDS[b]}, gradient=False, name=f"{a} to {b}")
        for a in ("int16", "uint16", "int64", "uint64")
        for b in KINDS
    ),
    *(
        Row("Cast", [data("N", 5, low=0 if b in UNSIGNED else -9, high=9)], {"to": KINDS[b]}, gradient=False, name=b)
        for b in [*INTEGERS, "bool"]
    ),
    *(Row("Cast", [data("N", 5, dtype="bool")], {"to": KINDS[b]}, gradient=False, name=f"bool to {b}") for b in KINDS),
    *(Row("Cast", [data("N", 5)], {"to": to}, rtol=1e-2) for to in (TensorProto.FLOAT16, TensorProto.DOUBLE)),
    Row("Cast", [ODD], {"to": TensorProto.BOOL}, gradient=False, name="not finite"),
    *(
        Row("CastLike", [data("N", 5, low=1, high=9), np.array([1], t)], gradient=False, name=t)
        for t in [*INTEGERS, "bool"]
    ),
    Row("CastLike", [data("N", 5, dtype="int32"), data("N")], gradient=False, name="data"),
    Row("CastLike", [data("N", 5), normal(1)], name="same"),
    Row("CastLike", [data("N", 5, dtype="int32"), np.int8([1])], since=21, refused="fewer than eight bits"),
    *(
        Row("BitCast", [data("N", 5, dtype=a, low=-99, high=99)], {"to": KINDS[b]}, gradient=False, name=f"{a} as {b}")
        for a, b in (("float32", "int32"), ("int32", "float32"), ("uint16", "int16"), ("int64", "uint64"))
    ),
    Row("BitCast", [data("N", 5, dtype="int16")], {"to": TensorProto.FLOAT16}, refused="kept here in other bits"),
]
ROWS = [*LOGIC, *COMPARISONS, *CASTS]

BITS = [  # x, places, shifted to the left, shifted to the right
    ("int8", [-128, -1, 100, 3, -7, 5], [1, 7, 1, 9, -1, 0], [0, -128, -56, 0, 0, 5], [-64, -1, 50, 0, -1, 5]),
    ("int64", [-8, 8, -1], [2, 64, 63], [-32, 0, -(2**63)], [-2, 0, -1]),
    ("uint8", [255, 255, 3], [1, 8, 200], [254, 0, 0], [127, 0, 0]),
    ("uint64", [2**64 - 1, 2**64 - 1, 2**63, 9], [1, 64, 63, 0], [2**64 - 2, 0, 0, 9], [2**63 - 1, 0, 1, 9]),
]
SMALL = (
    *("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"),
    *("FLOAT4E2M1", "INT4", "UINT4", "INT2", "UINT2", "BFLOAT16", "FLOAT16"),
)

test_forward, test_gradient = forward_and_gradient(ROWS)


@pytest.mark.parametrize(("kind", "x", "places", "left", "right"), BITS, ids=[bits[0] for bits in BITS])
def test_shifts_by_any_number_of_places(
    kind: str, x: list[int], places: list[int], left: list[int], right: list[int]
) -> None:
    for direction, want in (("LEFT", left), ("RIGHT", right)):
        row = Row("BitShift", [data("N", len(x), dtype=kind), np.array(places, kind)], {"direction": direction})
        graph, _ = build(row, 28)
        got = graph.run(1, torch.from_numpy(np.array([x], kind)))[0]
        np.testing.assert_array_equal(got.numpy(), np.array([want], kind))


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("to", SMALL)
def test_casts_to_small_types(to: str, saturate: int) -> None:
    """Rounding, ties, and what is too large, as onnx's own evaluator does it."""
    integer = "INT" in to
    steps = np.arange(-20, 20, dtype=np.float32) if integer else np.linspace(-7, 7, 57, dtype=np.float32)
    odd = (
        []
        if integer
        else [448, 463.9, 464, 465, 480, 57344, 61439, 61441, 1e6, -1e6, 2e-3, 1e-9, np.inf, -np.inf, np.nan]
    )
    x = np.float32([[*steps, *odd]])
    given = x.astype(np.int32) if integer else x
    row = Row(
        "Cast",
        [data("N", x.size, dtype=str(given.dtype))],
        {"to": TensorProto.DataType.Value(to), "saturate": saturate},
    )
    graph, builder = build(row, 28, None)
    assert not builder.blocked
    want = ReferenceEvaluator(model(row, 28)).run(None, {"x0": given})[0].astype(np.float32)
    got = graph.run(1, torch.from_numpy(given))[0].float().numpy()
    np.testing.assert_array_equal(got, want)


def test_a_cast_between_floats_costs_nothing() -> None:
    row = Row("Cast", [data("N", 5)], {"to": TensorProto.FLOAT16})
    graph, _ = build(row, 17)
    assert not graph.steps
