"""The names of the classes, wherever exporters leave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx_text import model_of

from onnxcake.onnxfile.class_names import class_names


def model(body: str = "", tables: dict[str, Any] | None = None, **metadata: str) -> ModelProto:
    made = model_of(body, weights=tables, inputs="float[] x", outputs="float[] y", domains={"ai.onnx.ml": 3})
    helper.set_model_props(made, metadata)
    return made


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (model('y = ai.onnx.ml.ZipMap<classlabels_strings=["b", "a"]>(x)'), ("b", "a")),
        (model("y = ai.onnx.ml.ZipMap<classlabels_int64s=[7, 3]>(x)"), ("7", "3")),
        (model("y = ai.onnx.ml.LinearClassifier<classlabels_ints=[1, 2, 3], coefficients=[1.0]>(x)"), ("1", "2", "3")),
        (model('y = ai.onnx.ml.SVMClassifier<classlabels_strings=["é", "b"]>(x)'), ("é", "b")),
        (
            model(
                "a = ai.onnx.ml.LinearClassifier<classlabels_ints=[0, 1]>(x) "
                'y = ai.onnx.ml.ZipMap<classlabels_strings=["p", "q"]>(x)'
            ),
            ("p", "q"),
        ),
        (
            model(
                "a = ai.onnx.ml.LinearClassifier<classlabels_ints=[0, 9]>(x) "
                "b = ai.onnx.ml.LinearClassifier<classlabels_ints=[1, 9]>(x)"
            ),
            (),
        ),
        (model("y = ai.onnx.ml.ArrayFeatureExtractor(t, x)", {"t": np.array(["u", "v"], object)}), ("u", "v")),
        (model("m = ai.onnx.ml.ArrayFeatureExtractor(t, x) y = Cast<to=7>(m)", {"t": np.int32([4, 2])}), ("4", "2")),
        (model("unused = ai.onnx.ml.ArrayFeatureExtractor(t, x)", {"t": np.array([4, 2])}), ()),
        (model(names="{0: 'person', 1: 'bicycle'}"), ("person", "bicycle")),
        (model(id2label='{"1": "neg", "0": "pos"}'), ("pos", "neg")),
        (model(classes='["a", "b", "c"]'), ("a", "b", "c")),
        (model(labels="a, b\nc"), ("a", "b", "c")),
        (model(class_names="[1, 2]"), ("1", "2")),
        (model(names='{"0": "a", "2": "b"}'), ()),
        (model(names="[[1], 2]"), ()),
        (model(names="just one text"), ()),
        (model(names="{'a': 'b'}"), ()),
        (model(names="(" * 5000), ()),
        (model(names="{None: 'a'}"), ()),
        (model(names="{1e999: 'a'}"), ()),
        (model(author="a, b"), ()),
        (model(), ()),
    ],
)
def test_class_names(made: ModelProto, names: tuple[str, ...]) -> None:
    assert class_names(made) == names
