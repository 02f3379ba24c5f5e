"""The names of the classes, wherever exporters leave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxcake.onnxfile.class_names import class_names


def model(nodes: list[Any], tables: dict[str, Any] | None = None, **metadata: str) -> ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.array(table), name) for name, table in (tables or {}).items()]
    made = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))
    helper.set_model_props(made, metadata)
    return made


def ml(operator: str, inputs: list[str] | None = None, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs or ["x"], [output], domain="ai.onnx.ml", **attributes)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (model([ml("ZipMap", classlabels_strings=["b", "a"])]), ("b", "a")),
        (model([ml("ZipMap", classlabels_int64s=[7, 3])]), ("7", "3")),
        (model([ml("LinearClassifier", classlabels_ints=[1, 2, 3], coefficients=[1.0])]), ("1", "2", "3")),
        (model([ml("SVMClassifier", classlabels_strings=["é", "b"])]), ("é", "b")),
        (
            model(
                [
                    ml("LinearClassifier", output="a", classlabels_ints=[0, 1]),
                    ml("ZipMap", classlabels_strings=["p", "q"]),
                ]
            ),
            ("p", "q"),
        ),
        (model([ml("LinearClassifier", output=o, classlabels_ints=[n, 9]) for n, o in enumerate("ab")]), ()),
        (model([ml("ArrayFeatureExtractor", ["t", "x"])], {"t": np.array(["u", "v"], object)}), ("u", "v")),
        (
            model(
                [ml("ArrayFeatureExtractor", ["t", "x"], "m"), helper.make_node("Cast", ["m"], ["y"], to=7)],
                {"t": np.array([4, 2], np.int32)},
            ),
            ("4", "2"),
        ),
        (model([ml("ArrayFeatureExtractor", ["t", "x"], "unused")], {"t": np.array([4, 2])}), ()),
        (model([], names="{0: 'person', 1: 'bicycle'}"), ("person", "bicycle")),
        (model([], id2label='{"1": "neg", "0": "pos"}'), ("pos", "neg")),
        (model([], classes='["a", "b", "c"]'), ("a", "b", "c")),
        (model([], labels="a, b\nc"), ("a", "b", "c")),
        (model([], class_names="[1, 2]"), ("1", "2")),
        (model([], names='{"0": "a", "2": "b"}'), ()),
        (model([], names="[[1], 2]"), ()),
        (model([], names="just one text"), ()),
        (model([], names="{'a': 'b'}"), ()),
        (model([], names="(" * 5000), ()),
        (model([], names="{None: 'a'}"), ()),
        (model([], names="{1e999: 'a'}"), ()),
        (model([], author="a, b"), ()),
        (model([]), ()),
    ],
)
def test_class_names(made: ModelProto, names: tuple[str, ...]) -> None:
    assert class_names(made) == names
