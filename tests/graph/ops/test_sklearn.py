"""Classifiers of scikit-learn, as skl2onnx writes them: probabilities as by onnxruntime, and their gradients."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from harness import built, opened
from plain_session import plain_session
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC

skl2onnx = pytest.importorskip("skl2onnx")

FEATURES = 5
LOGISTIC = LogisticRegression()
SMOOTH = [  # name, estimator, classes; for differences through onnxruntime, which computes in float32
    ("logistic-2", LOGISTIC, 2),
    ("logistic-3", LOGISTIC, 3),
    ("one-against-the-rest", OneVsRestClassifier(LOGISTIC), 3),
    ("scaled-principal-components", make_pipeline(StandardScaler(), PCA(3), LOGISTIC), 3),
    ("normalised", make_pipeline(Normalizer("l2"), LOGISTIC), 2),
    ("imputed", make_pipeline(SimpleImputer(), LOGISTIC), 3),
    ("polynomial", make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=500)), 2),
    ("sgd-2", make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", alpha=0.1, random_state=0)), 2),
    ("linear-svc-2", LinearSVC(), 2),
    ("linear-svc-3", LinearSVC(), 3),
    ("svc-margin", SVC(), 2),
    ("perceptron-2", MLPClassifier((8,), activation="tanh", max_iter=50, random_state=0), 2),
    ("perceptron-3", MLPClassifier((8, 6), activation="logistic", max_iter=50, random_state=0), 3),
    ("bayes-2", GaussianNB(), 2),
    ("bayes-3", GaussianNB(), 3),
    ("discriminant-2", LinearDiscriminantAnalysis(), 2),
    ("discriminant-3", LinearDiscriminantAnalysis(), 3),
    ("quadratic-discriminant", QuadraticDiscriminantAnalysis(), 3),
]
JUMPING = [  # where votes count, or the pairwise coupling stops
    ("one-against-one", OneVsOneClassifier(LOGISTIC), 3),
    ("svc-votes", SVC(), 3),
    ("svc-2", SVC(probability=True, random_state=0), 2),
    ("svc-3", SVC(probability=True, random_state=0), 3),
    ("svc-polynomial", SVC(kernel="poly", probability=True, random_state=0), 3),
    ("calibrated-svc", CalibratedClassifierCV(SVC(), ensemble=False), 3),
    ("perceptron-relu", MLPClassifier((8,), max_iter=50, random_state=0), 3),
]
TREES = [
    ("forest", RandomForestClassifier(3, random_state=0), 3),
    ("boosting", GradientBoostingClassifier(n_estimators=3, random_state=0), 2),
]


def converted(estimator: Any, classes: int, **options: Any) -> tuple[onnx.ModelProto, np.ndarray[Any, Any]]:
    """(the fitted estimator as an ONNX model that ends in its scores, some inputs)."""
    x, y = make_classification(
        120, FEATURES, n_informative=4, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=0
    )
    x = x.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(x, options.pop("labels", np.arange(classes))[y])
        model = skl2onnx.to_onnx(estimator, x[:1], **options)
    return _ending_in(model, model.graph.output[-1].name), x[:12] + np.float32(0.05)


def _ending_in(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The model without what only its labels need; what ZipMap makes of the scores is left out too."""
    makers = {name: node for node in model.graph.node for name in node.output}
    if makers[output].op_type == "ZipMap":
        output = makers[output].input[0]
    wanted, kept = {output}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(kept[::-1])
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    return model


def check_values(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> None:
    graph, builder = opened(model)
    assert not builder.blocked, builder.blocked
    (want,) = plain_session(model.SerializeToString()).run(None, {model.graph.input[0].name: x})
    np.testing.assert_allclose(graph(torch.from_numpy(x)).numpy(), want, rtol=1e-4, atol=1e-5)


def each(estimators: list[tuple[str, Any, int]], *more: Any) -> list[Any]:
    return [pytest.param(estimator, classes, *more, id=name) for name, estimator, classes in estimators]


@pytest.mark.parametrize(("estimator", "classes", "smooth"), [*each(SMOOTH, True), *each(JUMPING, False)])
def test_scores_and_gradient(estimator: Any, classes: int, smooth: bool) -> None:
    model, x = converted(estimator, classes)
    check_values(model, x)
    graph = built(model, precision=torch.float64)
    assert torch.autograd.gradcheck(graph, torch.from_numpy(x[:2]).double().requires_grad_())
    if smooth:
        _check_differences(model, x)


def _check_differences(model: onnx.ModelProto, x: np.ndarray[Any, Any], step: float = 1e-2) -> None:
    """The gradient of a mixture of the scores, against differences through onnxruntime."""
    graph, runtime = built(model), plain_session(model.SerializeToString())
    given = torch.from_numpy(x).requires_grad_()
    scores = graph(given)
    mixture = np.random.default_rng(0).normal(size=scores.shape[1]).astype(np.float32)
    (gradient,) = torch.autograd.grad((scores @ torch.from_numpy(mixture)).sum(), given)

    def answer(x: np.ndarray[Any, Any]) -> Any:
        return runtime.run(None, {model.graph.input[0].name: x.astype(np.float32)})[0] @ mixture

    moves = step * np.eye(FEATURES)
    slopes = np.stack([(answer(x + move) - answer(x - move)) / (2 * step) for move in moves], 1)
    np.testing.assert_allclose(gradient.numpy(), slopes, atol=2e-2 * np.abs(slopes).max())


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_older_opsets(opset: int) -> None:
    check_values(
        *converted(
            make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=20, random_state=0)), 3, target_opset=opset
        )
    )


def test_labels_that_are_words() -> None:
    check_values(*converted(LOGISTIC, 3, labels=np.array(["cat", "dog", "horse"])))


@pytest.mark.parametrize(("estimator", "classes"), each(TREES))
def test_trees_are_refused_by_name(estimator: Any, classes: int) -> None:
    model, _ = converted(estimator, classes)
    _, builder = opened(model)
    (blocked,) = builder.blocked
    assert "TreeEnsembleClassifier" in blocked.op
    assert "a tree ensemble is piecewise constant" in blocked.why
    assert "Use a teacher with a gradient" in blocked.remedy
