"""Convolutions: every padding rule, grouping and dilation, with weights held constant and as data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import Row, compile_test, data, forward_and_gradient, normal

W = normal(4, 3, 3, 3)
T = normal(3, 4, 3, 3)
B = normal(4)
LINE, IMAGE, VOLUME = data("N", 3, 9), data("N", 3, 8, 7), data("N", 2, 5, 4, 6)

ROWS = [
    Row("Conv", [LINE, normal(4, 3, 3), B], {"pads": [1, 1], "strides": [2]}, name="line"),
    Row("Conv", [IMAGE, W], {"kernel_shape": [3, 3]}),
    Row("Conv", [IMAGE, W, B], {"pads": [1, 1, 1, 1], "strides": [2, 2], "dilations": [1, 2]}),
    Row("Conv", [IMAGE, W, B], {"pads": [0, 2, 1, 1]}, name="asymmetric"),
    Row("Conv", [VOLUME, normal(4, 2, 2, 3, 3), B], {"pads": [1, 1, 1, 1, 1, 1]}, name="volume"),
    Row("Conv", [VOLUME, normal(4, 2, 2, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 1, 2]}, name="volume,same"),
    *[
        Row("Conv", [IMAGE, normal(4, 3, 3, 2), B], {"auto_pad": auto, "strides": [2, 3]})
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    *[
        Row(
            "Conv",
            [IMAGE, W, B],
            {"auto_pad": auto, "dilations": [2, 1]},
            expected=lambda *xwb: F.conv2d(*map(torch.from_numpy, xwb), padding="same", dilation=(2, 1)),
        )
        for auto in ("SAME_UPPER", "SAME_LOWER")  # onnxruntime refuses these
    ],
    Row("Conv", [data("N", 4, 6, 6), normal(8, 1, 3, 3), normal(8)], {"group": 4, "pads": [1, 1, 1, 1]}, name="depth"),
    Row("Conv", [data("N", 4, 6, 6), normal(6, 2, 3, 3)], {"group": 2}, name="two groups"),
    Row("Conv", [IMAGE, data(4, 3, 3, 3), data(4)], {"pads": [1, 1, 1, 1]}, name="weights are data"),
    Row("Conv", [data("N", 1, 2, 2, 2, 2), normal(1, 1, 1, 1, 1, 1)], refused="4 spatial axes"),
    Row("ConvTranspose", [LINE, normal(3, 4, 3), B], {"strides": [2], "pads": [1, 1]}, name="line"),
    Row("ConvTranspose", [IMAGE, T]),
    Row("ConvTranspose", [IMAGE, T, B], {"strides": [2, 3], "pads": [1, 0, 1, 0], "output_padding": [1, 2]}),
    Row("ConvTranspose", [IMAGE, T, B], {"strides": [2, 2], "pads": [1, 2, 0, 1]}, name="begin cut more"),
    Row("ConvTranspose", [IMAGE, T, B], {"strides": [2, 2], "pads": [0, 1, 1, 2]}, name="end cut more"),
    Row("ConvTranspose", [IMAGE, T, B], {"strides": [1, 1], "pads": [2, 0, 0, 2]}, name="begin cut much more"),
    Row("ConvTranspose", [IMAGE, T, B], {"dilations": [2, 1], "strides": [2, 2]}),
    Row("ConvTranspose", [VOLUME, normal(2, 3, 2, 3, 3)], {"strides": [2, 1, 2]}, name="volume"),
    Row("ConvTranspose", [data("N", 4, 5, 5), normal(4, 3, 3, 3), normal(6)], {"group": 2, "strides": [2, 2]}),
    *[
        Row("ConvTranspose", [IMAGE, normal(3, 4, 3, 2), B], {"auto_pad": auto, "strides": [2, 1]})
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    Row("ConvTranspose", [IMAGE, normal(3, 4, 1, 2)], {"auto_pad": "SAME_UPPER", "strides": [3, 3]}, name="gaps"),
    *[
        Row("ConvTranspose", [IMAGE, T, B], {"auto_pad": auto, "strides": [2, 2], "output_shape": shape})
        for auto in ("NOTSET", "SAME_UPPER", "SAME_LOWER")
        for shape in ([16, 14], [15, 15], [18, 13])
    ],
    Row("ConvTranspose", [IMAGE, T], {"strides": [2, 2], "output_shape": [17, 16], "output_padding": [1, 1]}),
    Row("ConvTranspose", [IMAGE, data(3, 4, 3, 3), data(4)], {"strides": [2, 2]}, name="weights are data"),
    Row("CausalConvWithState", [data("N", 3, 7), normal(3, 1, 4)], outputs=("y", "state")),
    Row(
        "CausalConvWithState",
        [data("N", 3, 2), normal(3, 1, 4), normal(3), data("N", 3, 3)],
        {"activation": "silu"},
        outputs=("y", "state"),
    ),
]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test([ROWS[3], ROWS[-1]])
