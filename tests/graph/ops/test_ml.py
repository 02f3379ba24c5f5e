"""The operators of ai.onnx.ml: against onnxruntime at every version, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import Row, build, compile_test, data, forward_and_gradient, normal
from onnx import TensorProto, helper

ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
LABELLED: dict[str, Any] = {
    "domain": ML,
    "outputs": ("label", "scores"),
    "types": (TensorProto.INT64, TensorProto.FLOAT),
}
PLAIN: dict[str, Any] = {"domain": ML, "types": (TensorProto.FLOAT,)}
X = data("N", 4)


def flat(*shape: int, scale: float = 1.0, seed: int = 0) -> list[float]:
    """Normal numbers as an attribute."""
    return [float(x) for x in (normal(*shape, seed=seed) * scale).ravel()]


def linear(rows: int, labels: list[int], transform: str, shift: float = 0.1) -> Row:
    attrs = {
        "coefficients": flat(rows, 4, scale=0.1),
        "intercepts": [shift] * rows,
        "classlabels_ints": labels,
        "post_transform": transform,
    }
    return Row("LinearClassifier", [X], attrs, name=f"{rows}-{len(labels)}-{transform}", **LABELLED)


def machine(kernel: str, classes: int, transform: str = "NONE", platt: bool = False) -> Row:
    per_class = [3, 2, 4, 2][:classes]
    pairs = classes * (classes - 1) // 2
    attrs: dict[str, Any] = {
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.1, 2.0],
        "vectors_per_class": per_class,
        "support_vectors": flat(sum(per_class), 4),
        "coefficients": flat(classes - 1, sum(per_class), seed=1),
        "rho": flat(pairs, scale=0.3, seed=2),
        "classlabels_ints": list(range(10, 10 + classes)),
        "post_transform": transform,
    }
    if platt:
        attrs |= {"prob_a": [-1.5] * pairs, "prob_b": flat(pairs, scale=0.2, seed=3)}
    name = f"{kernel}-{classes}-{transform}{'-platt' * platt}"
    return Row("SVMClassifier", [X], attrs, name=name, **LABELLED)


def one_weight_per_feature(classes: int, transform: str, **more: Any) -> Row:
    attrs = {
        "kernel_params": [0.0, 0.0, 0.0],
        "coefficients": flat(classes, 4),
        "rho": [0.3],
        "classlabels_ints": list(range(10, 10 + classes)),
        "post_transform": transform,
        **more,
    }
    return Row("SVMClassifier", [X], attrs, name=f"linear-{classes}-{transform}{'-platt' * bool(more)}", **LABELLED)


def regressor(kernel: str, supports: int, one_class: int = 0) -> Row:
    attrs: dict[str, Any] = {
        "kernel_type": kernel,
        "kernel_params": [0.3, 0.1, 3.0],
        "n_supports": supports,
        "coefficients": flat(supports or 4, seed=1),
        "rho": [0.1],
        "one_class": one_class,
    }
    if supports:
        attrs["support_vectors"] = flat(supports, 4)
    name = f"{kernel}-{supports}-{one_class}"
    return Row("SVMRegressor", [X], attrs, gradient=not one_class, name=name, **PLAIN)


LINEAR = [
    *(linear(rows, labels, t) for t in TRANSFORMS for rows, labels in ((1, [7, 9]), (2, [7, 9]), (3, [4, 5, 6]))),
    linear(3, [4, 5, 6], "PROBIT", 0.5),
    Row(
        "LinearClassifier",
        [data("N", 4, dtype="int64", low=-3, high=3)],
        {"coefficients": flat(2, 4), "intercepts": [0.1, 0.2], "classlabels_ints": [0, 1]},
        gradient=False,
        name="whole-numbers",
        **LABELLED,
    ),
    Row(
        "LinearClassifier",
        [X],
        {"coefficients": flat(1, 4), "intercepts": [0.5], "classlabels_ints": [0, 1], "post_transform": "PROBIT"},
        refused="PROBIT is not defined",
        **LABELLED,
    ),
    *(
        Row(
            "LinearRegressor",
            [X],
            {"coefficients": flat(n, 4, scale=0.1), "intercepts": [0.4] * n, "targets": n, "post_transform": t},
            name=f"{n}-{t}",
            **PLAIN,
        )
        for t in (*TRANSFORMS, "PROBIT")
        for n in (1, 2)
    ),
    Row("LinearRegressor", [X], {"coefficients": flat(1, 4)}, name="no-intercept", **PLAIN),
]
MACHINES = [
    *(
        machine(k, n, platt=platt)
        for k in ("LINEAR", "POLY", "RBF", "SIGMOID")
        for n in (2, 4)
        for platt in (False, True)
    ),
    *(machine("RBF", n, t, platt) for t in TRANSFORMS[1:] for n in (2, 3) for platt in (False, True)),
    *(one_weight_per_feature(n, t) for n in (2, 3) for t in TRANSFORMS),
    one_weight_per_feature(2, "NONE", prob_a=[-1.0], prob_b=[0.1]),
    *(regressor(kernel, 5) for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID")),
    regressor("LINEAR", 0),
    regressor("RBF", 5, one_class=1),
]
FEATURES = [
    Row("Scaler", [X], {"offset": flat(4), "scale": flat(4, seed=1)}, **PLAIN),
    Row("Scaler", [X], {"offset": [0.5], "scale": [2.0]}, **PLAIN),
    Row(
        "Scaler", [data("N", 2, dtype="int64")], {"offset": [0.5], "scale": [2.0]}, gradient=False, name="int", **PLAIN
    ),
    *(Row("Normalizer", [X], {"norm": norm}, **PLAIN) for norm in ("MAX", "L1", "L2")),
    *(
        Row(
            "Normalizer",
            [data("N", 2, dtype="int64", low=-1, high=1)],
            {"norm": n},
            gradient=False,
            name=f"{n}0",
            **PLAIN,
        )
        for n in ("MAX", "L1", "L2")
    ),
    Row("Imputer", [X], {"imputed_value_floats": flat(4), "replaced_value_float": float("nan")}, name="nan", **PLAIN),
    Row(
        "Imputer",
        [data("N", 3, dtype="int64", low=0, high=3)],
        {"imputed_value_int64s": [9, 8, 7], "replaced_value_int64": 1},
        gradient=False,
        domain=ML,
        types=(TensorProto.INT64,),
    ),
    Row("Binarizer", [X], {"threshold": 0.3}, gradient=False, **PLAIN),
    Row("ArrayFeatureExtractor", [X, [3, 0]], **PLAIN),
    Row("ArrayFeatureExtractor", [X, [[2]]], name="one", **PLAIN),
    Row("FeatureVectorizer", [X, data("N", 2)], {"inputdimensions": [4, 2]}, **PLAIN),
    Row("FeatureVectorizer", [X, data("N", 3)], {"inputdimensions": [2, 5]}, name="cut-and-filled", **PLAIN),
]
LABELS = [
    Row(
        "OneHotEncoder",
        [data("N", 2, dtype="int64", low=0, high=3)],
        {"cats_int64s": [2, 0, 5]},
        gradient=False,
        **PLAIN,
    ),
    Row(
        "LabelEncoder",
        [data("N", 2, dtype="int64", low=0, high=4)],
        {"keys_int64s": [3, 1, 0], "values_int64s": [5, 6, 7]},
        since=2,
        gradient=False,
        domain=ML,
        types=(TensorProto.INT64,),
    ),
    Row(
        "LabelEncoder",
        [data("N", 2, dtype="int64", low=0, high=4)],
        {"keys_int64s": [3, 1, 0], "values_floats": [0.5, 1.5, 2.5], "default_float": 9.0},
        since=2,
        gradient=False,
        **PLAIN,
    ),
    Row(
        "LabelEncoder",
        [data("N", 2, dtype="int64", low=0, high=4)],
        {
            "keys_tensor": helper.make_tensor("k", TensorProto.INT64, [3], [3, 1, 0]),
            "values_tensor": helper.make_tensor("v", TensorProto.INT64, [3], [5, 6, 7]),
            "default_tensor": helper.make_tensor("d", TensorProto.INT64, [1], [-7]),
        },
        since=4,
        gradient=False,
        name="tensors",
        domain=ML,
        types=(TensorProto.INT64,),
    ),
    Row(
        "LabelEncoder",
        [data("N", 2, dtype="int64", low=0, high=4)],
        {"keys_int64s": [0], "values_strings": ["a"]},
        since=2,
        refused="strings",
        domain=ML,
        types=(TensorProto.STRING,),
    ),
    Row("CastMap", [X], refused="strings or maps", **PLAIN),
]
ROWS = [*LINEAR, *MACHINES, *FEATURES, *LABELS]

test_forward, test_gradient = forward_and_gradient(ROWS)


test_compiles = compile_test([LINEAR[0], machine("RBF", 3, platt=True), FEATURES[0]], 1)


def test_missing_numbers_are_filled_and_have_no_gradient() -> None:
    row = next(row for row in FEATURES if row.op == "Imputer")
    graph, _ = build(row, 1)
    x = torch.tensor([[1.0, float("nan"), 3.0, 4.0]], requires_grad=True)
    y = graph(x)
    y.sum().backward()
    assert torch.equal(y, torch.tensor([[1.0, row.attrs["imputed_value_floats"][1], 3.0, 4.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 1, 1]]


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_the_gradient_at_nothing_is_finite(norm: str) -> None:
    graph, _ = build(Row("Normalizer", [X], {"norm": norm}, **PLAIN), 1)
    x = torch.zeros(2, 4, requires_grad=True)
    y = graph(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()
