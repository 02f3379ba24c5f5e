"""Blocks, sampling, regions and deformable convolution against onnxruntime and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Row, built, compile_test, data, forward_and_gradient, forward_matches_onnxruntime, normal, positive
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_text import N, model_of

from onnxcake.graph.ops.sampling import grid_sample


def i64(*numbers: Any) -> np.ndarray[Any, Any]:
    return np.int64(numbers)


BLOCKS = [
    Row("DepthToSpace", [data("N", 8, 2, 3)], {"blocksize": 2}),
    Row("DepthToSpace", [data("N", 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, since=11),
    Row("SpaceToDepth", [data("N", 2, 4, 6)], {"blocksize": 2}),
    Row("Col2Im", [data("N", 2 * 6, 9), i64(4, 5), i64(2, 3)]),
    Row("Col2Im", [data("N", 6, 20), i64(5, 4), i64(1, 3)], {"pads": [0, 1, 0, 1]}),
    Row("Col2Im", [data("N", 12, 9), i64(6, 5), i64(2, 2)], {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    Row("Col2Im", [data("N", 4, 6), i64(5, 4), i64(2, 2)], {"dilations": [2, 2]}),
    Row("Col2Im", [data("N", 8, 12), i64(3, 3, 4), i64(2, 2, 2)], {"pads": [0, 0, 0, 0, 0, 0]}, name="three axes"),
    Row("Col2Im", [data("N", 8, 5), i64(9), i64(4)], {"pads": [1, 2], "strides": [2], "dilations": [1]}, name="one"),
    Row(
        "MaxUnpool",
        [data(1, 2, 2, 2), i64([[[5, 7], [8, 10]], [[21, 22], [28, 31]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    Row(
        "MaxUnpool",
        [data(1, 1, 2, 2), i64([[[6, 8], [16, 18]]]), i64(1, 1, 5, 5)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        name="shape",
    ),
]

OTHER_GRIDS = [
    Row(
        "GridSample", [data("N", 2, 6), data("N", 4, 1, low=-1.2, high=1.2)], {"mode": "linear"}, since=20, name="line"
    ),
    Row("GridSample", [data("N", 1, 3, 2, 4), data("N", 2, 1, 2, 3)], {"mode": "cubic"}, since=20, name="volume"),
]
GRID = [
    Row(
        "GridSample",
        [data("N", 2, 4, 5), data("N", 3, 3, 2, low=-1.3, high=1.3)],
        {"mode": mode, "padding_mode": padding, "align_corners": corners},
        since=since,
        until=until,
    )
    for mode, since, until in (
        ("bilinear", 16, 19),
        ("bicubic", 16, 19),
        ("nearest", 16, 22),
        ("linear", 20, 22),
        ("cubic", 20, 22),
    )
    for padding in ("zeros", "border", "reflection")
    for corners in (0, 1)
]
VOLUME = [
    Row(
        "GridSample",
        [data("N", 1, 2, 3, 4), data("N", 2, 2, 2, 3, low=-1.3, high=1.3)],
        {"mode": mode, "padding_mode": padding, "align_corners": corners},
        since=20,
    )
    for mode, padding in (("linear", "zeros"), ("nearest", "border"), ("linear", "reflection"))
    for corners in (0, 1)
]
AFFINE = [
    Row(
        "AffineGrid",
        [data(2, axes, axes + 1), i64(2, 3, *(4, 5, 3)[:axes])],
        {"align_corners": corners},
        name=f"{axes}",
    )
    for corners in (0, 1)
    for axes in (2, 3)
]

ROIS = np.float32([[0, 0, 6, 5], [1.3, 2.1, 5.7, 4.2], [-2, -1, 9.5, 3.3]])
REGIONS = [
    *[
        Row(
            "RoiAlign",
            [data("N", 2, 6, 7), ROIS, i64(0, 1, 0)],
            {"output_height": 2, "output_width": 3, "sampling_ratio": ratio, "mode": mode, "spatial_scale": 0.8},
        )
        for mode in ("avg", "max")
        for ratio in (0, 2)
    ],
    Row(
        "RoiAlign",
        [data("N", 1, 6, 7), ROIS, i64(1, 1, 0)],
        {"output_height": 2, "output_width": 2, "coordinate_transformation_mode": "output_half_pixel"},
        since=16,
    ),
    Row(
        "RoiAlign",
        [data("N", 1, 6, 7), data(3, 4, low=0.3, high=5.1), data(3, dtype="int64", low=0, high=2)],
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
        name="data regions",
    ),
    Row("RoiAlign", [data("N", 1, 6, 7), data(3, 4), i64(0, 0, 0)], refused="how many points"),
    Row(
        "MaxRoiPool",
        [data("N", 2, 6, 7), np.float32([[0, 0, 0, 6, 5], [1, 1.3, 2.1, 5.7, 4.2], [0, 5, 4, 12, 9], [0, 8, 8, 9, 9]])],
        {"pooled_shape": [2, 3], "spatial_scale": 0.9},
        opsets=(7, 21),
    ),
    Row(
        "NonMaxSuppression",
        [data(1, 6, 4), data(1, 1, 6), i64(3)],
        gradient=False,
        refused="must be a constant",
        types=(TensorProto.INT64,),
    ),
]

DEFORM = [
    Row("DeformConv", [data("N", 2, 5, 6), normal(3, 2, 2, 3), data("N", 12, 4, 4, low=-1.2, high=1.2)]),
    Row(
        "DeformConv",
        [
            data("N", 4, 5, 6),
            normal(6, 2, 3, 3),
            data("N", 36, 3, 3, low=-1.2, high=1.2),
            normal(6),
            data("N", 18, 3, 3),
        ],
        {"group": 2, "offset_group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]},
    ),
    Row(
        "DeformConv",
        [data("N", 2, 6, 6), data(3, 2, 2, 2), data("N", 8, 4, 6, low=-1.2, high=1.2), None, data("N", 4, 4, 6)],
        {"pads": [0, 1, 0, 1], "dilations": [2, 2]},
        name="mask alone",
    ),
]

ROWS = [*BLOCKS, *GRID, *VOLUME, *AFFINE, *REGIONS, *DEFORM]

test_forward, test_gradient = forward_and_gradient(ROWS, gradient=[*ROWS, *OTHER_GRIDS])


test_compiles = compile_test([BLOCKS[0], BLOCKS[5], BLOCKS[9], GRID[0], REGIONS[0], REGIONS[7], DEFORM[1]], 19)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(("overlap", "least"), [(0.5, 0.4), (0.1, 0.0), (0.9, 0.6)])
def test_suppression_of_known_boxes(center: int, overlap: float, least: float) -> None:
    boxes, scores = positive(2, 12, 4), positive(2, 3, 12, seed=1) - 0.5
    constants = [boxes, scores, i64(4), np.float32([overlap]), np.float32([least])]
    row = Row("NonMaxSuppression", constants, {"center_point_box": center}, types=(TensorProto.INT64,), gradient=False)
    forward_matches_onnxruntime(row, 11)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_sampling_in_any_number_of_axes(axes: int, mode: str, corners: int, padding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *(3, 4, 5)[:axes], generator=generator)
    grid = torch.rand(2, *(2, 3, 2)[:axes], axes, generator=generator) * 3 - 1.5
    got = grid_sample(x, grid, mode, padding, bool(corners))
    if axes == 2:
        name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
        torch.testing.assert_close(got, F.grid_sample(x, grid, name, padding, bool(corners)), rtol=0, atol=1e-5)
        return
    if mode == "cubic" and padding == "border":
        # For points outside, onnx's evaluator does not do what torch and onnxruntime do in two axes.
        grid = grid.clamp(-1, 1)
        got = grid_sample(x, grid, mode, padding, bool(corners))
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], **attrs)
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "grid", "y")]
    proto = helper.make_model(helper.make_graph([node], "g", kinds[:2], kinds[2:]))
    (want,) = ReferenceEvaluator(proto).run(None, {"x": x.numpy(), "grid": grid.numpy()})
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-5)


def test_space_to_depth_column_first() -> None:
    crd = N("SpaceToDepth", ["x"], ["y"], blocksize=2, mode="CRD")
    given = torch.randn(5, 2, 4, 6)
    got = built(model_of(crd, inputs="float[N,2,4,6] x", outputs="float[] y", opset=28))(given)
    assert torch.equal(F.pixel_shuffle(got, 2), given)
