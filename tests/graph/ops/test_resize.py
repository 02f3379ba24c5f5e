"""Resize and Upsample against onnxruntime and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Row, build, cases, compile_test, data, forward_matches_onnxruntime, gradient_matches_differences

IMAGE = data("N", 2, 6, 5)
LINE = data("N", 2, 9)
LAST = data("N", 4, 5, 2)
NONE = np.zeros(0, np.float32)
MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def f32(*values: float) -> np.ndarray[Any, Any]:
    return np.float32(values)


def by(*scales: float) -> list[Any]:
    """The further inputs of a Resize by scales."""
    return [NONE, f32(*scales)]


def to(*sizes: int) -> list[Any]:
    """The further inputs of a Resize to sizes."""
    return [NONE, NONE, np.int64(sizes)]


def axes(mode: str, *places: int, **more: Any) -> dict[str, Any]:
    return {"mode": mode, "axes": list(places), **more}


def crop(mode: str, **more: Any) -> dict[str, Any]:
    return {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", **more}


REGION = f32(0, 0, 0.2, 0.3, 1, 1, 0.9, 1.4)

OLD = [
    Row("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 3.0]}, until=8),
    Row("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 1.5], "mode": "linear"}, until=8),
    Row("Upsample", [IMAGE, f32(1, 1, 2, 1.7)], since=9, until=9),
    Row("Upsample", [IMAGE, f32(1, 1, 2, 2.5)], {"mode": "linear"}, since=9, until=9),
    Row("Resize", [IMAGE, f32(1, 1, 2.3, 0.6)], since=10, until=10),
    Row("Resize", [IMAGE, f32(1, 1, 2, 2)], since=10, until=10, name="twice"),
    Row("Resize", [IMAGE, f32(1, 1, 1.5, 0.6)], {"mode": "linear"}, since=10, until=10),
]
NEAREST = [
    Row(
        "Resize",
        [IMAGE, *by(1, 1, *scales)],
        {"nearest_mode": rounding, "coordinate_transformation_mode": mode},
        since=11,
        name=f"{mode},{rounding},{scales}",
    )
    for mode in MODES
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    for scales in ((2.0, 3.0), (0.7, 1.6))
]
SMOOTH = [
    Row(
        "Resize",
        [IMAGE, *by(1, 1, *scales)],
        {"mode": mode, "coordinate_transformation_mode": where},
        since=11,
        name=f"{mode},{where},{scales}",
    )
    for mode in ("linear", "cubic")
    for where in MODES
    for scales in ((2.0, 2.0), (0.7, 1.6))
]
SIZES = [
    Row("Resize", [data(1, 2, 6, 5), *to(1, 2, 9, 3)], {"mode": mode}, since=11, opsets=(11, 19), name=f"to,{mode}")
    for mode in ("nearest", "linear", "cubic")
]
OTHER = [
    Row("Resize", [IMAGE, *by(2.5, 0.5)], axes("linear", 2, 3), since=18),
    Row("Resize", [IMAGE, *to(9, 4)], axes("cubic", -2, -1), since=18),
    *[
        Row("Resize", [IMAGE, *to(8, 9)], axes(mode, 2, 3, keep_aspect_ratio_policy=policy), since=18)
        for mode in ("nearest", "linear", "cubic")
        for policy in ("not_larger", "not_smaller")
    ],
    *[
        Row("Resize", [IMAGE, *by(1, 1, 0.6, 0.5)], {"mode": mode, "antialias": 1, "exclude_outside": out}, since=18)
        for mode in ("linear", "cubic")
        for out in (0, 1)
    ],
    Row("Resize", [IMAGE, *by(1, 1, 1.7, 0.7)], {"mode": "cubic", "cubic_coeff_a": -0.5}, since=11),
    Row("Resize", [IMAGE, *by(1, 1, 1.7, 0.7)], {"mode": "cubic", "exclude_outside": 1}, since=11),
    Row(
        "Resize",
        [IMAGE, *by(1, 1, 1.7, 0.7)],
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
        since=19,
    ),
    Row(
        "Resize",
        [IMAGE, *by(1, 1, 1.7, 0.7)],
        {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        since=11,
        until=12,
    ),
    *[
        Row("Resize", [IMAGE, REGION, f32(1, 1, 1.5, 2)], crop(mode, extrapolation_value=-3.0), since=11)
        for mode in ("nearest", "linear", "cubic")
    ],
    Row("Resize", [IMAGE, REGION[[2, 3, 6, 7]], f32(1.5, 2)], crop("linear", axes=[2, 3]), since=18),
    Row("Resize", [LINE, *by(1, 1, 1.7)], {"mode": "linear"}, since=11, name="one axis"),
    Row("Resize", [LINE, *by(1, 1, 2)], since=11, name="one axis, nearest"),
    Row("Resize", [data("N", 1, 3, 4, 5), *by(1, 1, 2, 0.5, 1.6)], {"mode": "linear"}, since=11, name="three axes"),
    Row("Resize", [data("N", 1, 3, 4, 5), *by(1, 1, 2, 3, 1)], since=11, name="three axes, nearest"),
    Row("Resize", [data(5, 6), *by(1.5, 0.5)], {"mode": "linear"}, since=11, name="two axes alone"),
    Row("Resize", [LAST, *by(1, 2, 2, 1)], {"mode": "linear"}, since=11, name="channels last"),
    Row("Resize", [LAST, *by(1, 2, 3, 1)], since=11, name="channels last, nearest"),
    Row("Resize", [data("N", 1, 1, 300), *by(1, 1, 1, 1.3)], {"mode": "cubic"}, since=11, atol=1e-3, name="wide"),
    Row(
        "Resize",
        [data("N", 1, 300), *by(1, 1, 0.77)],
        {"mode": "linear", "antialias": 1},
        since=18,
        atol=1e-3,
        name="wide, antialias",
    ),
    Row("Resize", [IMAGE, *by(1, 1, 1, 1)], {"mode": "linear"}, since=11, name="as it is"),
    Row("Resize", [data("N", 1, 4, 5, dtype="uint8", low=0, high=200), *by(1, 1, 2, 1.5)], since=11, gradient=False),
    Row(
        "Resize",
        [data("N", 1, 4, 5, dtype="uint8", low=0, high=200), *by(1, 1, 2, 4)],
        {"mode": "linear"},
        since=11,
        gradient=False,
    ),
    Row(  # by thirds, which are rounded: what comes next to a whole number is cut off or not as sums are ordered
        "Resize",
        [data("N", 1, 4, 5, dtype="uint8", low=0, high=200), *by(1, 1, 2, 1.5)],
        {"mode": "linear"},
        since=11,
        gradient=False,
        atol=1.0,
        name="bytes by thirds",
    ),
]
REFUSED = [
    Row("Resize", [IMAGE, *by(1, 1, 1e6, 1e6)], {"mode": "linear"}, since=11, refused="GiB"),
    Row("Resize", [IMAGE, *by(1, 1, 1e12, 1)], since=11, refused="GiB"),
    Row("Resize", [IMAGE, *by(1, 1, 1e-12, 1)], {"mode": "linear", "antialias": 1}, since=18, refused="GiB"),
    Row("Resize", [IMAGE, *by(2, 1, 1, 1)], since=11, refused="depends on the batch"),
    Row("Resize", [IMAGE, NONE, data(4)], since=11, refused="constant"),
]
SLOW = {id(row) for row in (*NEAREST, *SMOOTH)}
ROWS = [*OLD, *NEAREST, *SMOOTH, *SIZES, *OTHER, *REFUSED]
# All that these two try is the same at every opset; 10 and what came after 13 are tried by the others.
ALL = [case for case in cases(ROWS) if id(case.values[0]) not in SLOW or case.values[1] in (11, 19)]


@pytest.mark.parametrize(("row", "opset"), ALL)
def test_forward(row: Row, opset: int) -> None:
    forward_matches_onnxruntime(row, opset)


@pytest.mark.parametrize(("row", "opset"), cases([*OLD, *NEAREST[::7], *SMOOTH, *SIZES, *OTHER], gradient=True))
def test_gradient(row: Row, opset: int) -> None:
    gradient_matches_differences(row, opset)


test_compiles = compile_test([SMOOTH[0], SMOOTH[1], OTHER[0]])


FUSED = [
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, by(1, 1, 2, 2)),
    ({"mode": "nearest"}, by(1, 1, 2, 2)),
    ({"mode": "linear"}, by(1, 1, 2, 2)),
    ({"mode": "linear"}, by(1, 1, 1.7, 0.7)),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, by(1, 1, 2, 2)),
    ({"mode": "cubic"}, by(1, 1, 2, 0.5)),
    ({"mode": "cubic", "coordinate_transformation_mode": "align_corners"}, by(1, 1, 2, 2)),
]


@pytest.mark.parametrize(("attrs", "given"), FUSED, ids=str)
def test_the_common_ways_are_one_call(attrs: dict[str, Any], given: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = build(Row("Resize", [IMAGE, *given], attrs), 18)
    calls = []
    plain = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs))
    graph(torch.zeros(2, 2, 6, 5))
    assert calls == [1]
