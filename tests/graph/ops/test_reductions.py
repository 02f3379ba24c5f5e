"""Reductions, running sums, places of extremes, and what is refused, against onnxruntime and central differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from harness import Row, compile_test, data, forward_and_gradient, versions

SUMS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
LOGS = ("ReduceLogSum", "ReduceLogSumExp")
HUGE = np.array([[2**64 - 1, 2**63 + 5, 2**63 - 1, 7]], np.uint64)
X = data("N", 3, 4, low=0.2, high=2)
TIES = np.float32([[3, 1, 3, 2, 1], [0, 0, 0, 0, 0], [-1, 2, -1, 2, 2]])


def axes_input_since(op: str) -> int:
    return 13 if op == "ReduceSum" else 18


def reduction(op: str, x: Any, axes: list[int] | None, attrs: Mapping[str, Any], **more: Any) -> list[Row]:
    """The rows with the axes as an attribute, and as an input, which they became."""
    change = axes_input_since(op)
    told = f"axes={axes}," + ",".join(f"{k}={v}" for k, v in attrs.items()) + more.pop("name", "")
    first = more.pop("since", 1)
    by_attribute = attrs if axes is None else {"axes": axes, **attrs}
    rows = [Row(op, [x], by_attribute, since=first, until=change - 1, name=told, **more)]
    given = [x] if axes is None else [x, np.int64(axes)]
    rows.append(Row(op, given, attrs, since=max(change, first), name=told, **more))
    newest = versions(op)[-1]
    return [row for row in rows if row.since <= newest and any(row.since <= v <= row.until for v in versions(op))]


def whole(dtype: str) -> Any:
    return data("N", 3, 4, dtype=dtype, low=-4, high=5)


AXES = [
    row
    for op in (*SUMS, *LOGS)
    for axes, attrs in (
        (None, {}),
        ([1], {}),
        ([-1], {"keepdims": 0}),
        ([2, 1], {"keepdims": 0}),
        ([0], {"keepdims": 1}),
        ([0, 1, 2], {"keepdims": 0}),
    )
    for row in reduction(op, X, axes, attrs)
]
SPECIAL = [
    *(
        Row(op, [X, *axes], {"noop_with_empty_axes": n}, since=axes_input_since(op), name=f"empty,noop={n},{len(axes)}")
        for op in (*SUMS, *LOGS)
        for n in (0, 1)
        for axes in ([], [np.zeros(0, np.int64)])
    ),
    *(
        row
        for op in (*SUMS, "ReduceLogSumExp")
        for t in ("int32", "int64")
        for row in reduction(op, whole(t), [1], {}, gradient=False, name=t)
        if not (op == "ReduceLogSumExp" and row.since >= 18)
    ),
    *(
        row
        for op in ("ReduceSum", "ReduceProd", "ReduceL1", "ReduceMax", "ReduceMin")
        for t in ("uint32", "uint64")
        for row in reduction(op, whole(t), [2], {"keepdims": 0}, gradient=False, name=t)
    ),
    *(
        row
        for op in ("ReduceMax", "ReduceMin")
        for t in ("int8", "uint8")
        for row in reduction(op, whole(t), [1], {}, since=12, gradient=False, name=t)
    ),
    *(
        Row(op, [data("N", 3, dtype="bool"), [1]], since=20, gradient=False, name="b")
        for op in ("ReduceMax", "ReduceMin")
    ),
    *(
        Row(op, [data("N", 0, 3), [1]], since=18, gradient=False, expected=lambda x, _, v=v: np.full((len(x), 1, 3), v))
        for op, v in (("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceProd", 1.0), ("ReduceLogSum", -np.inf))
    ),
    Row("ReduceMax", [HUGE, [1]], since=18, gradient=False, expected=lambda *_: HUGE[:, :1], name="huge"),
    Row("ReduceMin", [HUGE, [1]], since=18, gradient=False, expected=lambda *_: HUGE[:, 3:], name="huge"),
    *(
        Row(op, [data()], since=18, until=18, name="number")
        for op in ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd")
    ),
]
RUNNING = [
    *(
        Row(op, [X, np.int64(axis)], {"exclusive": e, "reverse": r}, name=f"{axis},{e},{r}")
        for op in ("CumSum", "CumProd")
        for axis in (0, 1, -1)
        for e in (0, 1)
        for r in (0, 1)
    ),
    *(
        Row(op, [whole(t), np.int32(1)], {"exclusive": 1}, gradient=False, name=t)
        for op in ("CumSum", "CumProd")
        for t in ("int32", "int64", "uint32", "uint64")
    ),
]
PLACES = [
    *(
        Row(op, [X], {"axis": axis, "keepdims": k}, gradient=False)
        for op in ("ArgMax", "ArgMin")
        for axis in (0, 2)
        for k in (0, 1)
    ),
    *(Row(op, [X], {"axis": -1}, since=11, gradient=False) for op in ("ArgMax", "ArgMin")),
    *(
        Row(op, [TIES], {"axis": axis, "select_last_index": last}, since=12, gradient=False)
        for op in ("ArgMax", "ArgMin")
        for axis in (0, 1)
        for last in (0, 1)
    ),
    Row("ArgMax", [data("N", 4, dtype="uint64")], gradient=False, name="uint64"),
    Row("ArgMin", [HUGE], {"axis": 1}, gradient=False, expected=lambda _: np.int64([[3]]), name="huge"),
    Row("TopK", [X], {"k": 2}, until=9, outputs=("values", "indices")),
    Row("TopK", [X], {"k": 2, "axis": 1}, until=9, outputs=("values", "indices")),
    *(
        Row("TopK", [X, [k]], {"axis": axis}, since=10, outputs=("values", "indices"), name=f"{k},{axis}")
        for k, axis in ((1, 1), (2, 1), (3, -1), (4, 2))
    ),
    *(
        Row("TopK", [X, [k]], {"largest": 0}, since=11, outputs=("values", "indices"), name=f"smallest{k}")
        for k in (1, 2)
    ),
    *(
        Row(
            "TopK",
            [TIES, [k]],
            {"largest": n},
            since=11,
            outputs=("values", "indices"),
            gradient=False,
            name=f"ties{k}{n}",
        )
        for k in (1, 3, 5)
        for n in (0, 1)
    ),
    *(
        Row("TopK", [whole(t), [2]], since=11, outputs=("values", "indices"), gradient=False, name=t)
        for t in ("int32", "int64", "uint8")
    ),
    Row(
        "TopK",
        [HUGE, [2]],
        since=11,
        outputs=("values", "indices"),
        gradient=False,
        expected=lambda *_: (HUGE[:, :2], np.int64([[0, 1]])),
        name="huge",
    ),
]
RANDOM = [
    Row("RandomNormal", [], {"shape": [2, 3]}, refused="random"),
    Row("RandomUniform", [], {"shape": [2, 3]}, refused="random"),
    *(Row(op, [X], refused="random") for op in ("RandomNormalLike", "RandomUniformLike")),
    Row("Bernoulli", [data("N", 3, low=0, high=1)], refused="random"),
    Row("Multinomial", [data("N", 3)], refused="random", types=(6,)),
]
ROWS = [*AXES, *SPECIAL, *RUNNING, *PLACES, *RANDOM]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test([AXES[0], SPECIAL[1], RUNNING[3], PLACES[0]])
