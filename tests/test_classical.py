"""Classical models end to end: SVMs are kept whole, texts are counted in columns, a broken file is named as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxcake
from onnxcake.core.errors import UnsupportedTeacher
from onnxcake.run.export_student import same
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.teacher import Teacher

N = helper.make_node
ML, MS = "ai.onnx.ml", "com.microsoft"
RANDOM = np.random.default_rng(0)


def saved(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid(*one) for one in (("", 17), (ML, 1), (MS, 1))]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "t.onnx")
    return folder / "t.onnx"


def value(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def machine(classes: int, platt: bool, **kernel: Any) -> Any:
    """An SVM of 4 features, with 5 support vectors for each class."""
    pairs, number = classes * (classes - 1) // 2, 5 * classes
    said = {"prob_a": [-1.5] * pairs, "prob_b": [0.1] * pairs} if platt else {}
    return N(
        "SVMClassifier", ["x"], ["label", "y"], domain=ML, classlabels_ints=list(range(classes)), **kernel, **said,
        coefficients=RANDOM.normal(size=(classes - 1) * number).tolist(), rho=[0.1] * pairs,
        support_vectors=(RANDOM.normal(size=number * 4) * 30).tolist(), vectors_per_class=[5] * classes,
    )  # fmt: skip


# the operator, and its numbers of scores
MACHINES = {
    "rbf, two classes": (machine(2, False, kernel_type="RBF", kernel_params=[1e-3, 0.0, 3.0]), 2),
    "rbf, probabilities": (machine(3, True, kernel_type="RBF", kernel_params=[1e-3, 0.0, 3.0]), 3),
    "polynomial, probabilities": (machine(2, True, kernel_type="POLY", kernel_params=[1e-4, 1.0, 2.0]), 2),
    "sigmoid": (machine(3, False, kernel_type="SIGMOID", kernel_params=[1e-3, 0.0, 3.0]), 3),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_support_vector_machine_is_its_own_student(name: str, tmp_path: Path) -> None:
    node, scores = MACHINES[name]
    outputs = [value("label", "N", kind=TensorProto.INT64), value("y", "N", scores)]
    path = saved(tmp_path, [node], [value("x", "N", 4)], outputs)
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3).as_dict()
    assert any("the teacher's own graph, whole" in note for note in report["substitutes"])
    assert report["student"]["parameters"] == report["teacher"]["parameters"]
    x = (RANDOM.normal(size=(200, 4)) * 30).astype(np.float32)
    one, other = (
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]
        for file in (path, tmp_path / "run" / "student.onnx")
    )
    assert len(set(one.argmax(1))) > 1
    np.testing.assert_array_equal(one, other)


def test_columns_of_words_are_counted_and_their_case_is_changed_without_the_files_language(tmp_path: Path) -> None:
    """As scikit-learn's TfidfVectorizer is exported, beside a column of numbers."""
    nodes = [
        N("Reshape", ["text", "flat"], ["words"]),
        N("StringNormalizer", ["words"], ["low"], case_change_action="LOWER", is_case_sensitive=0, locale="xx_YY"),
        N("Tokenizer", ["low"], ["tokens"], domain=MS, mark=0, mincharnum=1, pad_value="#", tokenexp="[a-z]+"),
        N("Flatten", ["tokens"], ["row"]),
        N(
            "TfIdfVectorizer", ["row"], ["counts"], mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
            ngram_counts=[0], ngram_indexes=[0, 1, 2], pool_strings=["blue", "red", "sea"],
        ),
        N("Concat", ["numbers", "counts"], ["h"], axis=1),
        N("Gemm", ["h", "W"], ["y"]),
    ]  # fmt: skip
    inputs = [value("numbers", None, 2), value("text", None, 1, kind=TensorProto.STRING)]
    path = saved(
        tmp_path, nodes, inputs, [value("y", None, 3)], flat=np.array([-1]), W=RANDOM.normal(size=(5, 3)).astype("f")
    )
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3).as_dict()
    assert report["teacher"]["input_name"] == "h" and report["teacher"]["input_shape"] == [5]
    normaliser = helper.make_model(
        helper.make_graph(
            [N("StringNormalizer", ["s"], ["low"], case_change_action="LOWER", locale="xx_YY"),
             N("Equal", ["low", "wanted"], ["is"]), N("Cast", ["is"], ["y"], to=1)],
            "g", [value("s", 1, kind=TensorProto.STRING)], [value("y", 1)],
            [helper.make_tensor("wanted", TensorProto.STRING, [1], ["é".encode()])],
        ),
        opset_imports=[helper.make_opsetid("", 19)], ir_version=8,
    )  # fmt: skip
    with Runtime() as runtime:
        assert runtime.load(normaliser.SerializeToString()).run_named({"s": np.array(["É"])}).tolist() == [1.0]


@pytest.mark.parametrize("ends", [(1, 2), (3, 9)])
def test_a_file_that_cuts_all_of_its_scores_away_is_refused_in_onnxruntimes_words(
    ends: tuple[int, int], tmp_path: Path
) -> None:
    nodes = [
        N("Gemm", ["x", "W"], ["z"]),
        N("Slice", ["z", "starts", "ends", "one"], ["y"]),
        N("ArgMax", ["y"], ["label"], axis=1),
    ]
    weights = {"W": RANDOM.normal(size=(4, 1)).astype("f"), "one": np.array([1])}
    outputs = [value("label", "N", 1, kind=TensorProto.INT64), value("y", "N", None)]
    starts, stops = (np.array([end]) for end in ends)
    path = saved(tmp_path, nodes, [value("x", "N", 4)], outputs, starts=starts, ends=stops, **weights)
    with pytest.raises(UnsupportedTeacher, match=r"onnxruntime cannot run it.*ArgMax") as caught:
        onnxcake.extract(path, out=tmp_path / "run", passes=2e3)
    assert "The file itself is broken there" in caught.value.remedy


@pytest.mark.parametrize(
    ("differences", "share", "alike"),
    [
        ([1e-6] * 100, 1, True),
        ([1e-6] * 99 + [0.04], 1, False),
        ([1e-6] * 99 + [0.04], 0.95, True),
        ([1e-6] * 99 + [np.nan], 0.95, False),
        ([1e-6] * 90 + [0.04] * 10, 0.95, False),
    ],
)
def test_runtimes_may_round_a_few_answers_otherwise(differences: list[float], share: float, alike: bool) -> None:
    assert same(np.array(differences), 1e-3, share) == alike


# what is behind a matrix product with large weights: saturated at most random inputs, and right all the same
SATURATED = {
    "a sigmoid by its formula": [
        N("Neg", ["z"], ["n"]), N("Exp", ["n"], ["e"]), N("Add", ["e", "one"], ["s"]), N("Reciprocal", ["s"], ["p"]),
        N("ReduceSum", ["p", "axis"], ["t"]), N("Div", ["p", "t"], ["y"]),
    ],
    "a sigmoid and its counterpart": [
        N("Sigmoid", ["z"], ["s"]), N("Slice", ["s", "from", "to", "axis"], ["p"]), N("Sub", ["one", "p"], ["q"]),
        N("Concat", ["q", "p"], ["y"], axis=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [("a sigmoid by its formula", 40), ("a sigmoid and its counterpart", 8)])
def test_a_teacher_that_is_saturated_at_most_random_inputs_is_taken(name: str, size: float, tmp_path: Path) -> None:
    weights = {"W": RANDOM.normal(size=(4, 3)).astype("f") * size, "one": np.float32(1), "axis": np.array([1])}
    weights |= {"from": np.array([0]), "to": np.array([1])}
    nodes = [N("MatMul", ["x", "W"], ["z"]), *SATURATED[name]]
    read = {name for node in nodes for name in node.input}
    outputs = [value("y", "N", 3 if size > 8 else 2)]
    path = saved(
        tmp_path, nodes, [value("x", "N", 4)], outputs, **{one: w for one, w in weights.items() if one in read}
    )
    teacher, x = Teacher.load(path), torch.randn(64, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(teacher.logits(x)[:, 0].sum(), x)
    assert gradient.isfinite().all() and gradient.any()


# what is behind a matrix product z: probabilities of two or three classes that end in no Softmax
QUOTIENTS = {
    "sigmoids, divided by their sum": [
        N("Sigmoid", ["z"], ["p"]), N("ReduceSum", ["p", "axis"], ["t"], keepdims=1), N("Div", ["p", "t"], ["y"]),
    ],
    "sigmoids, normalised": [N("Sigmoid", ["z"], ["p"]), N("LpNormalization", ["p"], ["y"], axis=1, p=1)],
    "a softmax by its formula": [
        N("ReduceMax", ["z"], ["m"], axes=[1]), N("Sub", ["z", "m"], ["d"]), N("Exp", ["d"], ["e"]),
        N("ReduceSum", ["e", "axis"], ["t"], keepdims=1), N("Div", ["e", "t"], ["y"]),
    ],
    "an exponential of what a log-sum-exp is subtracted of": [
        N("ReduceLogSumExp", ["z"], ["l"], axes=[1], keepdims=0), N("Reshape", ["l", "column"], ["r"]),
        N("Sub", ["z", "r"], ["g"]), N("Exp", ["g"], ["y"]),
    ],
    "a mean of two softmaxes": [
        N("Softmax", ["z"], ["p"], axis=1), N("Neg", ["z"], ["n"]), N("Softmax", ["n"], ["q"], axis=1),
        N("Add", ["p", "q"], ["s"]), N("Mul", ["s", "half"], ["y"]),
    ],
    "one class of a softmax, against the rest": [
        N("Slice", ["z", "axis", "three", "axis"], ["two"]), N("Softmax", ["two"], ["p"], axis=1),
        N("Slice", ["p", "axis", "second", "axis"], ["one"]), N("Sub", ["unit", "one"], ["q"]),
        N("Concat", ["q", "one"], ["y"], axis=1),
    ],
    "the probability of the second of two classes": [
        N("Slice", ["z", "axis", "three", "axis"], ["two"]), N("Softmax", ["two"], ["p"], axis=1),
        N("Slice", ["p", "axis", "second", "axis"], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTIENTS)
def test_logits_of_saturated_probabilities_are_exact(name: str, tmp_path: Path) -> None:
    """Differences of the logits equal those in exact arithmetic where every probability is 0 or 1 in float32."""
    weights = np.random.default_rng(3).normal(size=(4, 3)).astype("f")
    constants = {"axis": np.array([1]), "half": np.float32(0.5), "unit": np.float32(1), "column": np.array([-1, 1])}
    constants |= {"three": np.array([3]), "second": np.array([2])}
    nodes = [N("MatMul", ["x", "W"], ["z"]), *QUOTIENTS[name]]
    read = {one for node in nodes for one in node.input}
    path = saved(
        tmp_path, nodes, [value("x", "N", 4)], [value("y", "N", None)], W=weights,
        **{one: array for one, array in constants.items() if one in read},
    )  # fmt: skip
    teacher = Teacher.load(path)
    x = (200 * torch.randn(64, 4, generator=torch.Generator().manual_seed(1))).requires_grad_(True)
    logits, z = teacher.logits(x), x.detach().double() @ torch.from_numpy(weights).double()
    (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x)
    assert gradient.isfinite().all() and gradient.any()
    wanted = {
        "mean": torch.logaddexp(z.log_softmax(1), (-z).log_softmax(1)),
        "sigm": torch.nn.functional.logsigmoid(z),
        "one ": z[:, 1:].log_softmax(1),
        "the ": z[:, 1:].log_softmax(1),
    }.get(name[2:6] if name.startswith("a mean") else name[:4], z)
    got, wanted = (one - one.mean(1, keepdim=True) for one in (logits.detach().double(), wanted))
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


MLP = [N("Gemm", ["x", "V"], ["h"]), N("Relu", ["h"], ["r"]), N("Gemm", ["r", "W"], ["y"])]


@pytest.mark.parametrize("said", [(), ("student.architecture={auto: {max_params: 120}}",)])
def test_a_small_network_of_a_table_stays_whole_where_its_cut_is_not_the_same(
    said: tuple[str, ...], tmp_path: Path
) -> None:
    draw = np.random.default_rng(5)
    weights = {"V": draw.normal(size=(6, 20)).astype("f"), "W": draw.normal(size=(20, 4)).astype("f")}
    path = saved(tmp_path, MLP, [value("x", "N", 6)], [value("y", "N", 4)], **weights)
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3, overrides=said)
    kept = not said
    assert (report.as_dict()["student"]["parameters"] == 200) == kept
    assert any("nothing is gained" in one for one in report.as_dict()["substitutes"]) == kept
    if kept:
        x = draw.normal(size=(50, 6)).astype("f") * 100
        sides = [onnxruntime.InferenceSession(one) for one in (path, tmp_path / "run" / "student.onnx")]
        np.testing.assert_allclose(*(side.run(None, {"x": x})[0] for side in sides), rtol=1e-5)


def test_a_network_of_a_table_of_which_half_is_idle_is_cut(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    first, second = draw.normal(size=(6, 20)).astype("f"), draw.normal(size=(20, 4)).astype("f")
    first[:, 8:], second[8:] = 0, 0
    path = saved(tmp_path, MLP, [value("x", "N", 6)], [value("y", "N", 4)], V=first, W=second)
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3)
    assert report.as_dict()["student"]["parameters"] <= 100 and report.as_dict()["without_data"]["expected"] > 0.999


def test_a_file_that_answers_0_by_0_at_most_random_inputs_is_taken_and_that_is_said(tmp_path: Path) -> None:
    """Likelihoods that all vanish in float32, divided by their sum: real rows lie near one of the classes."""
    centres = 4 * np.random.default_rng(7).normal(size=(3, 8)).astype("f")
    nodes = [
        N("Unsqueeze", ["x", "axis"], ["u"]), N("Sub", ["u", "centres"], ["d"]), N("Mul", ["d", "d"], ["s"]),
        N("ReduceSum", ["s", "last"], ["t"], keepdims=0), N("Neg", ["t"], ["n"]), N("Exp", ["n"], ["e"]),
        N("ReduceSum", ["e", "axis"], ["r"]), N("Div", ["e", "r"], ["y"]),
    ]  # fmt: skip
    path = saved(
        tmp_path, nodes, [value("x", "N", 8)], [value("y", "N", 3)],
        centres=centres[None], axis=np.array([1]), last=np.array([2]),
    )  # fmt: skip
    x = (centres.repeat(20, 0) + np.random.default_rng(0).normal(size=(60, 8)) / 4).astype("f")
    np.savez(tmp_path / "probe.npz", x=x)
    report = onnxcake.extract(path, out=tmp_path / "run", passes=2e3, probe=tmp_path / "probe.npz")
    assert report.as_dict()["agreement"]["probe"]["agreement"]["value"] == 1
    assert any("no answer (0 / 0)" in one for one in report.as_dict()["without_data"]["alarms"])
