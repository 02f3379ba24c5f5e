"""scikit-learn's classifiers as teachers, exported by skl2onnx's defaults, agreement on real rows that they never saw.

    python benchmarks/sklearn_models.py [--only svc,mlp] [--wrappings bare,onevsrest] [--passes 5e3] [--out FILE]

Each classifier stands bare, behind a StandardScaler, behind a MinMaxScaler, behind a ColumnTransformer with a text
column, and inside OneVsRestClassifier, on breast cancer, wine or digits with their features as they are (unscaled), one
data set for each pair, in turn. `extract` is given no option but --input where it asks for one, and that as its remedy
says. The rows held out are answered by onnxruntime alone, from both files. Trees and neighbours have no gradient, and
are to be refused by name. Each pair is appended to the file (JSON, a line each) as it is finished, and skipped if it is
there.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import results
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn import (
    calibration,
    compose,
    datasets,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

import onnxcake
from onnxcake.core.errors import OnnxcakeError
from onnxcake.onnxfile.locales import with_known_locale

Classifier = Any
GOOD = 0.95  # agreement on real rows
NO_GRADIENT = "refused, as it has no gradient"
_FILE = Path(__file__).with_name("sklearn_models.jsonl")
_LOGISTIC = linear_model.LogisticRegression(max_iter=2000)

# by name: how it is made, and whether its answer has a gradient
CLASSIFIERS: dict[str, tuple[Callable[[], Classifier], bool]] = {
    "logistic": (lambda: linear_model.LogisticRegression(max_iter=2000), True),
    "logistic-cv": (lambda: linear_model.LogisticRegressionCV(Cs=3, cv=3, max_iter=1000), True),
    "sgd": (lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0), True),
    "perceptron": (lambda: linear_model.Perceptron(random_state=0), True),
    "passive-aggressive": (lambda: linear_model.PassiveAggressiveClassifier(random_state=0), True),
    "ridge": (lambda: linear_model.RidgeClassifier(), True),
    "linear-svc": (lambda: svm.LinearSVC(random_state=0), True),
    "svc": (lambda: svm.SVC(), True),
    "svc-poly": (lambda: svm.SVC(kernel="poly", degree=2, probability=True, random_state=0), True),
    "nu-svc": (lambda: svm.NuSVC(nu=0.2), True),
    "mlp": (lambda: neural_network.MLPClassifier((64,), max_iter=300, random_state=0), True),
    "mlp-deep": (lambda: neural_network.MLPClassifier((64, 32), activation="tanh", max_iter=300, random_state=0), True),
    "gaussian-nb": (lambda: naive_bayes.GaussianNB(), True),
    "multinomial-nb": (lambda: naive_bayes.MultinomialNB(), True),
    "complement-nb": (lambda: naive_bayes.ComplementNB(), True),
    "bernoulli-nb": (lambda: naive_bayes.BernoulliNB(), False),
    "lda": (lambda: discriminant_analysis.LinearDiscriminantAnalysis(), True),
    "qda": (lambda: discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1), True),
    "gaussian-process": (lambda: gaussian_process.GaussianProcessClassifier(), True),
    "calibrated": (lambda: calibration.CalibratedClassifierCV(svm.LinearSVC(random_state=0)), True),
    "bagging": (lambda: ensemble.BaggingClassifier(_LOGISTIC, n_estimators=3, random_state=0), True),
    "voting": (
        lambda: ensemble.VotingClassifier([("a", _LOGISTIC), ("b", naive_bayes.GaussianNB())], voting="soft"),
        True,
    ),
    "stacking": (lambda: ensemble.StackingClassifier([("a", _LOGISTIC), ("b", naive_bayes.GaussianNB())]), True),
    "neighbours": (lambda: neighbors.KNeighborsClassifier(), False),
    "tree": (lambda: tree.DecisionTreeClassifier(random_state=0), False),
    "forest": (lambda: ensemble.RandomForestClassifier(10, random_state=0), False),
    "boosting": (lambda: ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), False),
}
WRAPPINGS = ("bare", "standard", "minmax", "columns", "onevsrest")
_DATA = {
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
}
_WORDS = ("red dry", "white sweet", "rose light", "amber dark", "green", "blue", "grey sea", "black", "pink", "gold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CLASSIFIERS))
    parser.add_argument("--wrappings", default=",".join(WRAPPINGS))
    parser.add_argument("--passes", type=float, default=5e3)
    parser.add_argument("--out", type=Path, default=_FILE)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    lines = asked.out.read_text(encoding="utf-8").splitlines() if asked.out.exists() else []
    done = {(row["classifier"], row["wrapping"]) for row in map(json.loads, lines)}
    for place, name in enumerate(CLASSIFIERS):
        for turn, wrapping in enumerate(WRAPPINGS):
            if (
                name not in asked.only.split(",")
                or wrapping not in asked.wrappings.split(",")
                or (name, wrapping) in done
            ):
                continue
            data = list(_DATA)[(place + turn) % len(_DATA)]
            began = time.monotonic()
            row = {"classifier": name, "wrapping": wrapping, "data": data, **_tried(name, wrapping, data, asked.passes)}
            row |= {"seconds": round(time.monotonic() - began, 1), "commit": results.commit()}
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    _summary(asked.out)


def _tried(name: str, wrapping: str, data: str, passes: float) -> dict[str, Any]:
    """Train, export and extract one; say how it went."""
    features, labels = _DATA[data](return_X_y=True)
    train, held, of_train, _ = train_test_split(features.astype(np.float32), labels, random_state=0, stratify=labels)
    folder = results.CACHE / "sklearn" / f"{name}-{wrapping}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    teacher = folder / "teacher.onnx"
    try:
        feeds = _export(name, wrapping, (train, held, of_train), teacher)
    except Exception as error:  # noqa: BLE001 - limits of scikit-learn and skl2onnx are no part of what is measured
        return {"end": "not made", "why": f"{type(error).__name__}: {str(error)[:200]}"}
    said: dict[str, Any] = {}
    for _ in range(2):
        try:
            report = onnxcake.extract(teacher, out=folder / "run", passes=passes, **said)
            break
        except OnnxcakeError as error:
            chosen, sizes = (re.search(rf"--{option} '?([\w/.:,]+)'?", error.remedy) for option in ("input", "shape"))
            named = "" if chosen is None else chosen[1].rstrip(",.")
            if not said and named not in ("", "NAME"):
                said = {"input": named}
                said |= {"shape": [int(size) for size in sizes[1].strip(",.").split(",")]} if sizes else {}
                continue
            end = "refused" if CLASSIFIERS[name][1] else NO_GRADIENT
            return {"end": end, "why": error.what[:300], "remedy": error.remedy[:300], **said}
        except Exception as error:  # noqa: BLE001 - is what is looked for
            return {"end": "a crash", "why": f"{type(error).__name__}: {error}"[:300], **said}
    student = folder / "run" / "student.onnx"
    alike = float((_classes(teacher, feeds, report) == _classes(student, feeds, report, teacher)).mean())
    estimate = report.as_dict()["without_data"]["expected"]
    return {
        "end": "extracted",
        "agreement": round(alike, 4),
        "expected": round(estimate, 4),
        "parameters": [report.as_dict()[side]["parameters"] for side in ("teacher", "student")],
        **said,
    }


def _export(name: str, wrapping: str, data: tuple[Any, Any, Any], path: Path) -> dict[str, Any]:
    """Write the teacher; return what onnxruntime is fed of the rows held out."""
    train, held, labels = data
    model = CLASSIFIERS[name][0]()
    if wrapping == "columns":
        width = train.shape[1]
        noise = np.random.default_rng(0).random(len(labels)) < 0.3
        words = np.where(noise, "plain", np.array(_WORDS)[labels])
        columns = compose.ColumnTransformer(
            [("numbers", preprocessing.StandardScaler(), list(range(width))), ("text", TfidfVectorizer(), width)]
        )
        rows = np.concatenate([train.astype(object), words[:, None]], 1)
        whole = pipeline.make_pipeline(columns, model).fit(rows, labels)
        types = [("numbers", FloatTensorType([None, width])), ("text", StringTensorType([None, 1]))]
        proto = to_onnx(whole, initial_types=types)
        said = np.random.default_rng(1).choice(np.array([*_WORDS[: labels.max() + 1], "plain"]), (len(held), 1))
        feeds = {"numbers": held, "text": said.astype(object)}
    else:
        scalers = {"standard": preprocessing.StandardScaler(), "minmax": preprocessing.MinMaxScaler()}
        if wrapping == "onevsrest":
            model = multiclass.OneVsRestClassifier(model)
        whole = pipeline.make_pipeline(scalers[wrapping], model) if wrapping in scalers else model
        whole.fit(train, labels)
        proto = to_onnx(whole, train[:1])
        feeds = {"X": held}
    path.write_bytes(proto.SerializeToString())
    return feeds


def _classes(path: Path, feeds: dict[str, Any], report: Any, before: Path | None = None) -> Any:
    """The classes that a file names, by the output that was compared."""
    model = onnx.load(path)
    side = report.as_dict()["teacher"]
    wanted = side["output_name"]
    if wanted not in {output.name for output in model.graph.output}:
        model.graph.output.add().name = wanted
    session = _session(model)
    given = {one.name for one in session.get_inputs()}
    if not given <= feeds.keys() and before is not None:  # a value inside the teacher is what the student takes
        inner = onnx.load(before)
        inner.graph.output.add().name = side["input_name"]
        front = _session(inner)
        feeds = {side["input_name"]: front.run([side["input_name"]], feeds)[0]}
    answer = session.run([wanted], {name: feeds[name] for name in given})[0]
    if isinstance(answer, list):  # a ZipMap's dictionaries
        answer = np.array([list(row.values()) for row in answer])
    rows = np.asarray(answer).reshape(len(answer), -1)
    if rows.shape[1] > 1:
        return rows.argmax(1)
    return rows[:, 0] > (0.5 if side["output_kind"].endswith("probability") else 0)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Open a model; texts are normalised in the C library's own locale where the file's is not installed."""
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(content, providers=providers)
    except Exception as error:
        if "Locale" not in str(error):
            raise
        return onnxruntime.InferenceSession(with_known_locale(content), providers=providers)


def _summary(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    made = [row for row in rows if row["end"] != "not made"]
    found = [row for row in made if row["end"] == "extracted"]
    good = [row for row in found if row["agreement"] >= GOOD]
    refused = [row for row in made if row["end"] == NO_GRADIENT]
    print(
        f"{len(rows)} pairs, {len(made)} of them made by skl2onnx: {len(found)} extracted, {len(good)} of these with "
        f"an agreement of {GOOD} or more on real rows; {len(refused)} without a gradient refused; "
        f"{len(made) - len(found) - len(refused)} others"
    )


if __name__ == "__main__":
    main()
