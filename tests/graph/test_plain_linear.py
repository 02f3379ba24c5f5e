"""scikit-learn's linear classifiers as matrix products: the same answers, weights that can be trained and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_text import model_of
from plain_session import plain_session

import onnxcake
from onnxcake.onnxfile.linear_classifiers import write_out_linear
from onnxcake.teacher.scores import logits_to_output
from onnxcake.teacher.teacher import Teacher

RANDOM = np.random.default_rng(0)
W3, B3 = RANDOM.normal(size=(3, 4)).astype(np.float32), RANDOM.normal(size=3).astype(np.float32)
W2 = np.stack([-W3[0], W3[0]])
B2 = np.float32([-0.3, 0.3])


def model(weights: Any, bias: Any, labels: Any, opset: int = 17, **more: Any) -> onnx.ModelProto:
    """A LinearClassifier of float inputs ``x`` [N, 4], its label and scores ``y`` as outputs."""
    words = isinstance(labels[0], str)
    said = {"classlabels_strings" if words else "classlabels_ints": labels}
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", coefficients=weights.reshape(-1).tolist(),
        intercepts=bias.tolist(), **said, **more,
    )  # fmt: skip
    outputs = f"{'string' if words else 'int64'}[N] label, float[N,{len(labels)}] y"
    return model_of(node, inputs="float[N,4] x", outputs=outputs, opset=opset, domains={"ai.onnx.ml": 1}, ir_version=8)


# model, kind of output, whether it is written out
CLASSIFIERS: dict[str, tuple[onnx.ModelProto, str, bool]] = {
    "softmax": (model(W3, B3, [0, 1, 2], post_transform="SOFTMAX"), "probabilities", True),
    "labels that do not count up": (model(W3, B3, [7, 3, 5], post_transform="SOFTMAX"), "probabilities", True),
    "names": (model(W3, B3, ["a", "b", "c"], post_transform="SOFTMAX"), "probabilities", True),
    "scores": (model(W3, B3, [0, 1, 2]), "logits", True),
    "a sigmoid and its counterpart": (model(W2, B2, [0, 1], post_transform="LOGISTIC"), "probabilities", True),
    "at an old opset": (model(W2, B2, [0, 1], opset=9, post_transform="LOGISTIC"), "probabilities", True),
    "one label of several sigmoids": (model(W3, B3, [0, 1, 2], post_transform="LOGISTIC"), "logits", True),
    "two other rows": (model(W3[:2], B3[:2], [0, 1], post_transform="SOFTMAX"), "probabilities", True),
    "zero stays zero": (model(W3, B3, [0, 1, 2], post_transform="SOFTMAX_ZERO"), "probabilities", False),
    "one row for two classes": (model(W3[:1], B3[:1], [0, 1], post_transform="LOGISTIC"), "probabilities", False),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_answers_are_the_files(name: str, tmp_path: Path) -> None:
    made, kind, written = CLASSIFIERS[name]
    path = tmp_path / "t.onnx"
    path.write_bytes(made.SerializeToString())
    teacher = Teacher.load(path)
    signature = teacher.signature
    assert signature.output_kind == kind
    assert ("Gemm" in teacher.facts.operators) == written
    x = RANDOM.normal(size=(64, 4)).astype(np.float32)
    session = plain_session(made.SerializeToString())
    wanted = torch.from_numpy(session.run(["y"], {"x": x})[0])
    logits = teacher.logits(torch.from_numpy(x))
    assert torch.equal(logits.argmax(1), wanted.argmax(1))
    if kind == "probabilities":
        torch.testing.assert_close(logits_to_output(signature)(logits), wanted, atol=1e-6, rtol=1e-5)


def test_labels_are_kept() -> None:
    made, x = CLASSIFIERS["labels that do not count up"][0], RANDOM.normal(size=(64, 4)).astype(np.float32)
    copy = onnx.ModelProto.FromString(made.SerializeToString())
    write_out_linear(copy)
    onnx.checker.check_model(copy, full_check=True)
    sides = (plain_session(one.SerializeToString()).run(None, {"x": x}) for one in (made, copy))
    (label, scores), (of_copy, scores_of_copy) = sides
    assert np.array_equal(label, of_copy) and len(set(label)) > 1 and set(label) <= {3, 5, 7}
    np.testing.assert_allclose(scores, scores_of_copy, atol=1e-6)


def test_of_a_binary_one_half_is_kept_and_answers_alike(tmp_path: Path) -> None:
    """The two rows of a logistic regression are of rank one."""
    path = tmp_path / "t.onnx"
    path.write_bytes(CLASSIFIERS["a sigmoid and its counterpart"][0].SerializeToString())
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3).as_dict()
    assert report["without_data"]["expected"] > 0.99


def test_a_small_teacher_of_which_nothing_can_be_cut_is_its_own_student(tmp_path: Path, handmade: Any) -> None:
    """Naive Bayes: distances to the classes' means have no channel that could be left out."""
    means, variances = RANDOM.normal(size=(1, 3, 4)).astype(np.float32), np.ones((1, 3, 4), np.float32)
    nodes = [
        "r = Reshape(x, to) d = Sub(r, theta) q = Pow(d, two) s = Div(q, sigma) t = ReduceSum<keepdims=0>(s, axis)",
        "y = Neg(t)",
    ]
    weights = {"to": np.array([-1, 1, 4]), "theta": means, "two": np.float32(2), "sigma": variances}
    path = tmp_path / "t.onnx"
    path.write_bytes(handmade(nodes, {**weights, "axis": np.array([2])}).SerializeToString())
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3).as_dict()
    assert report["without_data"]["expected"] == 1
    assert any("the teacher's own graph, whole" in note for note in report["substitutes"])
