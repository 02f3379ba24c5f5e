"""What goes in and what comes out is inferred: every kind of score, layout and range, each against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_text import N, Values, model_of, parsed, value
from torch import Tensor

from onnxcake.core.errors import UnsupportedTeacher
from onnxcake.runtime.ort import Runtime
from onnxcake.teacher.scores import Logits, logits_to_output
from onnxcake.teacher.teacher import Teacher

I64, U8, I8, F16 = TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT16


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


W, V, ONE, K, Q = normal(4, 3), normal(4, 7, seed=1), normal(4, 1, seed=2), normal(5, 3, 3, 3, seed=3), normal(5, 3)
SCORES, HIDDEN = N("MatMul", ["x", "W"], ["y"]), N("MatMul", ["x", "W"], ["h"])
SINGLE = N("MatMul", ["x", "one"], ["h"])
WEIGHTS = {"W": W, "V": V, "one": ONE, "K": K, "Q": Q}


def made(
    *body: str | onnx.NodeProto,
    inputs: Values = "float[batch,4] x",
    outputs: Values = "float[batch,3] y",
    metadata: Mapping[str, str] | None = None,
    opset: int = 17,
    **weights: Any,
) -> onnx.ModelProto:
    """Make a model; by default ``x`` [batch, 4] → ``y`` [batch, 3]."""
    read = {name for node in parsed(*body) for name in node.input}
    used = {name: array for name, array in {**WEIGHTS, **weights}.items() if name in read}
    model = model_of(*body, weights=used, inputs=inputs, outputs=outputs, opset=opset, ir_version=9)
    helper.set_model_props(model, dict(metadata or {}))
    return model


def loaded(model: onnx.ModelProto, folder: Path, **said: Any) -> Teacher:
    path = folder / "t.onnx"
    path.write_bytes(model.SerializeToString())
    return Teacher.load(path, **said)


def by_runtime(model: onnx.ModelProto, output: str, x: Tensor, runtime: Runtime) -> Tensor:
    """Ask onnxruntime for the file's own output."""
    only = onnx.ModelProto.FromString(model.SerializeToString())
    del only.graph.output[:]
    only.graph.output.add().name = output
    return torch.from_numpy(runtime.load(only.SerializeToString()).run(x.numpy()).astype(np.float32))


FROM_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "probabilities": lambda logits: logits.softmax(1),
    "log_probabilities": lambda logits: logits.log_softmax(1),
    "binary_logit": lambda logits: logits[:, 1] - logits[:, 0],
    "binary_probability": lambda logits: logits.softmax(1)[:, 1],
    "multilabel_logits": lambda logits: logits,
    "multilabel_probabilities": lambda logits: logits.sigmoid(),
}


@dataclass(frozen=True)
class Kind:
    """A model, what is to be inferred of it, and what the user says."""

    model: onnx.ModelProto
    expected: Mapping[str, Any]
    said: Mapping[str, Any] = field(default_factory=dict)


def kind(name: str, *body: str | onnx.NodeProto, said: Mapping[str, Any] | None = None, **rest: Any) -> Kind:
    """A row of the table of outputs; ``also`` adds to what is expected."""
    also = rest.pop("also", {})
    return Kind(made(*body, **rest), {"output_kind": name, **also}, said or {})


SOFTMAX = N("Softmax", ["h"], ["y"], axis=1)
SIGMOID = N("Sigmoid", ["h"], ["y"])
FLAT = {"outputs": "float[batch] y", "to": np.array([-1])}
ONE_OUT = {"outputs": "float[batch,1] y"}

OUTPUTS = {
    "logits": kind("logits", SCORES, also={"classes": 3, "task": "multiclass", "output_shape": None}),
    "two logits": kind("logits", "y = MatMul(x, T)", T=W[:, :2], outputs="float[batch,2] y"),
    "probabilities": kind("probabilities", "h = MatMul(x, W) y = Softmax<axis=1>(h)"),
    "probabilities, last axis": kind("probabilities", "h = MatMul(x, W) y = Softmax<axis=-1>(h)"),
    "probabilities at an old opset": kind("probabilities", "h = MatMul(x, W) y = Softmax(h)", opset=11),
    "probabilities that no Softmax makes": kind(
        "probabilities",
        "h = MatMul(x, W) e = Exp(h) sum = ReduceSum(e, one_axis) y = Div(e, sum)",
        one_axis=np.array([1]),
    ),
    "log-probabilities": kind("log_probabilities", "h = MatMul(x, W) y = LogSoftmax<axis=1>(h)"),
    "log of probabilities": kind("log_probabilities", "h = MatMul(x, W) p = Softmax<axis=1>(h) y = Log(p)"),
    "a binary logit by its name": kind(
        "binary_logit",
        "the_logit = MatMul(x, one)",
        outputs="float[batch,1] the_logit",
        also={"classes": 2, "task": "binary", "scores": 1},
    ),
    "a binary logit as the user says": kind("binary_logit", "y = MatMul(x, one)", said={"task": "binary"}, **ONE_OUT),
    "a binary logit without a second dimension": kind(
        "binary_logit",
        "h = MatMul(x, one) y = Reshape(h, to)",
        said={"task": "binary"},
        also={"output_shape": ()},
        **FLAT,
    ),
    "a binary probability": kind(
        "binary_probability", "h = MatMul(x, one) y = Sigmoid(h)", also={"classes": 2, "task": "binary"}, **ONE_OUT
    ),
    "a binary probability without a second dimension": kind(
        "binary_probability",
        "h = MatMul(x, one) s = Sigmoid(h) y = Squeeze(s, axis)",
        axis=np.array([1]),
        outputs=FLAT["outputs"],
        also={"output_shape": ()},
    ),
    "a binary probability that no Sigmoid makes": kind(
        "binary_probability",
        "h = MatMul(x, one) t = Tanh(h) m = Mul(t, half) y = Add(m, half)",
        half=np.float32(0.5),
        **ONE_OUT,
    ),
    "labels, each a probability": kind(
        "multilabel_probabilities", "h = MatMul(x, W) y = Sigmoid(h)", also={"task": "multilabel"}
    ),
    "labels, each a logit": kind("multilabel_logits", SCORES, said={"task": "multilabel"}, also={"task": "multilabel"}),
    "one against the rest": kind("logits", "h = MatMul(x, W) y = Sigmoid(h)", said={"task": "multiclass"}),
    "scores with two sizes of one": kind(
        "logits",
        "h = MatMul(x, W) y = Reshape(h, to)",
        to=np.array([-1, 3, 1, 1]),
        outputs="float[batch,3,1,1] y",
        also={"output_shape": (3, 1, 1), "classes": 3},
    ),
    "probabilities with two sizes of one": kind(
        "probabilities",
        "h = MatMul(x, W) r = Reshape(h, to) y = Softmax<axis=1>(r)",
        to=np.array([-1, 3, 1, 1]),
        outputs="float[batch,3,1,1] y",
        also={"output_shape": (3, 1, 1)},
    ),
    "scores behind a size of one": kind(
        "logits",
        "h = MatMul(x, W) y = Unsqueeze(h, axis)",
        axis=np.array([1]),
        outputs="float[batch,1,3] y",
        also={"output_shape": (1, 3)},
    ),
    "logits and probabilities": kind(
        "logits",
        "y = MatMul(x, W) p = Softmax<axis=1>(y)",
        outputs="float[batch,3] p, float[batch,3] y",
        also={"output_name": "y"},
    ),
    "probabilities of both, as the user says": kind(
        "probabilities",
        "y = MatMul(x, W) p = Softmax<axis=1>(y)",
        outputs="float[batch,3] p, float[batch,3] y",
        said={"output": "p"},
        also={"output_name": "p"},
    ),
    "probabilities and features": kind(
        "probabilities",
        "h = MatMul(x, W) y = Softmax<axis=1>(h) features = MatMul(x, V)",
        outputs="float[batch,7] features, float[batch,3] y",
        also={"output_name": "y"},
    ),
    "logits and features, as the user says": kind(
        "logits",
        "y = MatMul(x, W) features = MatMul(x, V)",
        outputs="float[batch,7] features, float[batch,3] y",
        said={"output": "y"},
        also={"output_name": "y", "classes": 3},
    ),
    "what is before the label": kind(
        "logits",
        "h = MatMul(x, W) y = ArgMax<axis=1>(h)",
        outputs="int64[batch,1] y",
        said={"output": "h"},
        also={"output_name": "h"},
    ),
    "scores beside boxes": kind(
        "probabilities",
        "h = MatMul(x, W) y = Softmax<axis=1>(h) flat = MatMul(x, B) boxes = Reshape(flat, to)",
        B=normal(4, 20),
        to=np.array([-1, 5, 4]),
        outputs="float[batch,5,4] boxes, float[batch,3] y",
        also={"output_name": "y"},
    ),
    "shares of sigmoids (one against the rest)": kind(
        "probabilities", "h = MatMul(x, W) s = Sigmoid(h) y = LpNormalization<axis=-1, p=1>(s)"
    ),
    "a binary logit beside its label": kind(
        "binary_logit",
        f"y = MatMul(x, one) g = Greater(y, zero) c = Cast<to={I64}>(g) label = Reshape(c, to)",
        zero=np.float32(0),
        to=np.array([-1]),
        outputs="int64[batch] label, float[batch,1] y",
    ),
    "in half precision": kind(
        "probabilities", f"h = MatMul(x, W) p = Softmax<axis=1>(h) y = Cast<to={F16}>(p)", outputs="float16[batch,3] y"
    ),
}


@pytest.mark.parametrize("row", OUTPUTS.values(), ids=list(OUTPUTS))
def test_outputs(row: Kind, tmp_path: Path, runtime: Runtime) -> None:
    teacher = loaded(row.model, tmp_path, **row.said)
    signature = teacher.signature
    assert {name: getattr(signature, name) for name in row.expected} == dict(row.expected)
    x = signature.to_input(torch.randn(9, *signature.shape, generator=torch.Generator().manual_seed(1)))
    file = by_runtime(row.model, signature.output_name, x, runtime)
    logits = teacher.logits(x)
    low = row.model.graph.output[0].type.tensor_type.elem_type == F16
    near = {"atol": 1e-3, "rtol": 2e-3} if low else {"atol": 1e-5, "rtol": 1e-4}
    assert logits.shape == (9, signature.classes)
    rows = FROM_LOGITS[signature.output_kind](logits).reshape(9, -1)
    torch.testing.assert_close(rows, file.reshape(9, -1), **near)
    torch.testing.assert_close(logits_to_output(signature)(logits), file, **near)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(teacher.logits(leaf)[:, -1].sum(), leaf)
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_what_probabilities_do_not_tell_is_put_at_zero(kind: Any) -> None:
    """They tell logits but for one number in each row: the mean is 0, whatever it was."""
    logits = 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) + 20
    told = Logits(kind, before=False)(logits.softmax(1) if kind == "probabilities" else logits.log_softmax(1))
    torch.testing.assert_close(told, logits - logits.mean(1, keepdim=True), atol=1e-4, rtol=1e-4)
    seen = Logits(kind, before=True)(logits)  # where the Softmax is visible nothing is lost
    assert torch.equal(seen, logits)


def test_a_class_without_any_probability_leaves_the_others_finite() -> None:
    told = Logits("probabilities", before=False)(torch.tensor([[0.0, 0.25, 0.75], [0.0, 0.0, 1.0]]))
    assert told.isfinite().all()
    torch.testing.assert_close(told.softmax(1), torch.tensor([[0.0, 0.25, 0.75], [0.0, 0.0, 1.0]]))


class Refusal(NamedTuple):
    """Hold a model, and words of the error and its remedy."""

    model: onnx.ModelProto
    what: str
    remedy: str


def refusal(what: str, remedy: str, *body: str | onnx.NodeProto, **rest: Any) -> Refusal:
    return Refusal(made(*body, **rest), what, remedy)


REFUSED = {
    "logits and features": refusal(
        "not plain which output holds the class scores: 'features' [N, 7], 'y' [N, 3]",
        "--output NAME",
        "y = MatMul(x, W) features = MatMul(x, V)",
        outputs="float[batch,7] features, float[batch,3] y",
    ),
    "labels alone": refusal(
        "output 'y' (int64 [N, 1]) comes from ArgMax, which has no gradient",
        "--output 'h'",
        "h = MatMul(x, W) y = ArgMax<axis=1>(h)",
        outputs="int64[batch,1] y",
    ),
    "the largest alone": refusal(
        "output 'y' holds the largest scores in order (TopK), those of other classes for each input",
        "--output 'p'",
        "h = MatMul(x, W) p = Softmax(h) y, i = TopK(p, two)",
        two=np.array([2]),
        outputs="float[batch,2] y, int64[batch,2] i",
    ),
    "a regression whose results happen to lie between 0 and 1": refusal(
        "output 'share' is one unbounded number for each input",
        "--task binary",
        "m = MatMul(x, small) share = Add(m, half)",
        small=0.01 * ONE,
        half=np.float32([0.5]),
        outputs="float[batch,1] share",
    ),
    "a number between -1 and 1 that happens to be positive": refusal(
        "output 'y' is one unbounded number for each input",
        "--task binary",
        "p = Softplus(x) m = MatMul(p, ones) y = Tanh(m)",
        ones=np.ones((4, 1), np.float32),
        **ONE_OUT,
    ),
    "a regression": refusal(
        "output 'price' is one unbounded number for each input: a binary logit, or the result of a regression",
        "--task binary",
        "price = MatMul(x, one)",
        outputs="float[batch,1] price",
    ),
    "an embedding": refusal(
        "output 'y' is an embedding (its rows have length one)",
        "--output NAME",
        "h = MatMul(x, W) n = ReduceL2<axes=[1]>(h) c = Clip(n, least) y = Div(h, c)",
        least=np.float32(1e-12),
    ),
    "an embedding by its own operator": refusal(
        "output 'y' is an embedding", "--output NAME", "h = MatMul(x, W) y = LpNormalization<axis=-1>(h)"
    ),
    "labels behind a table": refusal(
        "output 'y' (int64 [N]) comes from Gather, which has no gradient",
        "--output 'h'",
        "h = MatMul(x, W) a = ArgMax<axis=1, keepdims=0>(h) y = Gather(classes, a)",
        classes=np.array([3, 5, 7]),
        outputs="int64[batch] y",
    ),
    "several classifiers in a sequence": refusal(
        "output 'all' is a sequence",
        "--output NAME: 'y', 'z'",
        "y = MatMul(x, W) z = MatMul(x, V) all = SequenceConstruct(y, z)",
        outputs=[helper.make_tensor_sequence_value_info("all", 1, None)],
    ),
    "a detector": refusal(
        "[N, 5, 3] holds one answer for each of many places",
        "--output NAME",
        "b = MatMul(x, B) s = MatMul(x, S) boxes = Reshape(b, four) scores = Reshape(s, many)",
        B=normal(4, 20),
        S=normal(4, 15),
        four=np.array([-1, 5, 4]),
        many=np.array([-1, 5, 3]),
        outputs="float[batch,5,4] boxes, float[batch,5,3] scores",
    ),
    "unknown sizes": refusal(
        "input 'x' has the shape batch×3×height×width; all but the batch must be known",
        "--shape 1,3,224,224",
        "c = Conv(x, K) p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, Q)",
        inputs="float[batch,3,height,width] x",
    ),
}


SIGNAL = {"inputs": "float[batch,2,40] x", "along": normal(1, 2, 3), "once": np.array([0, -1, 1])}
ALONG = N("Conv", ["x", "along"], ["h"], kernel_shape=[3], pads=[1, 1])
for ending, last in {"logits": N("Identity", ["s"], ["y"]), "sigmoids": N("Sigmoid", ["s"], ["y"])}.items():
    for form, nodes in {
        "channels first": parsed("s = Identity(h)"),
        "channels last": parsed("s = Transpose<perm=[0, 2, 1]>(h)"),
    }.items():
        REFUSED[f"one answer for each place of a signal, {ending}, {form}"] = refusal(
            "40 numbers for each input, as many as the input has places",
            "--task multiclass",
            ALONG,
            *nodes,
            last,
            outputs="float[batch,?,?] y",
            **SIGNAL,
        )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier(name: str, tmp_path: Path) -> None:
    model, what, remedy = REFUSED[name]
    with pytest.raises(UnsupportedTeacher) as caught:
        loaded(model, tmp_path)
    assert what in caught.value.what and remedy in caught.value.remedy


# --- class scores or features -------------------------------------------------------------------------------


def head_of(*body: str | onnx.NodeProto, name: str = "y", count: int = 96, **more: Any) -> onnx.ModelProto:
    """Of a picture [3, 8, 8]: a convolution ``c`` [5, 8, 8], ``body``, and what they make as output."""
    wide, deep = normal(5, count, seed=4), normal(count, 3, 1, 1, seed=5)
    weights = {"wide": wide, "deep": deep, "bias": normal(count, seed=6), "to": np.array([-1, count]), **more}
    listed = parsed(*body)
    renamed = [N(n.op_type, n.input, [name if o == "y" else o for o in n.output]) for n in listed]
    for node, copy in zip(listed, renamed, strict=True):
        copy.attribute.extend(node.attribute)
    out = [value(name, "batch", count)]
    metadata = weights.pop("metadata", None)
    conv = N("Conv", ["x", "K"], ["c"])
    pooled, flat = parsed("p = GlobalAveragePool(c) f = Flatten(p)")
    before = (conv, pooled, flat) if any("f" in node.input for node in listed) else ()
    inputs = "float[batch,3,8,8] x"
    return made(*before, *renamed, inputs=inputs, outputs=out, metadata=metadata, **weights)


LINEAR, LINEAR_M = (N("Gemm", ["f", "wide", "bias"], [made_name]) for made_name in "ym")
CLASSES: dict[str, onnx.ModelProto] = {
    "a linear layer of any width": head_of(LINEAR),
    "of an extractor's width": head_of(LINEAR, count=512),
    "under an output's name": head_of(LINEAR, count=2048, name="output"),
    "a product without a bias": head_of("y = MatMul(f, wide)", count=2048, name="495"),
    "few, after an activation": head_of("m = MatMul(f, wide) y = Relu(m)", count=10),
    "an activation, by its name": head_of("m = MatMul(f, wide) y = Tanh(m)", name="class_logits"),
    "convolved, cut, averaged (SqueezeNet)": head_of(
        "d = Conv(x, deep) r = Relu(d) g = GlobalAveragePool(r) y = Flatten(g)", count=1000
    ),
    "an activation, with names in the metadata": head_of(
        "m = MatMul(f, wide) y = Relu(m)", metadata={"labels": str([f"c{i}" for i in range(96)]).replace("'", '"')}
    ),
}


def feature(against: str, *body: str | onnx.NodeProto, **rest: Any) -> tuple[onnx.ModelProto, str]:
    return head_of(*body, **rest), against


FEATURES: dict[str, tuple[onnx.ModelProto, str]] = {
    "an activation at the end": feature(
        "it ends in LeakyRelu, not in a linear layer", "m = MatMul(f, wide) y = LeakyRelu(m)"
    ),
    "a backbone's pooled maps": feature(
        "1280 is a usual number of features",
        "d = Conv(x, deep) r = Relu(d) g = GlobalAveragePool(r) y = Reshape(g, to)",
        count=1280,
    ),
    "a convolution's maps of a single place": feature(
        "it has the shape of maps", "y = Conv(x, span)", span=normal(96, 3, 8, 8, seed=7)
    ),
    "a convolution by its name": feature(
        "that of a layer inside",
        "m = Conv(x, span) y = Flatten(m)",
        name="model/conv2d_19",
        span=normal(96, 3, 8, 8, seed=7),
    ),
    "an embedding by its name": feature(
        "its name, 'image_embeds'", "y = MatMul(f, wide)", name="image_embeds", count=512
    ),
    "normalised by batch": feature(
        "it ends in BatchNormalization",
        LINEAR_M,
        "y = BatchNormalization(m, b1, bias, bias, b1)",
        count=128,
        b1=np.ones(128, np.float32),
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_ordinary_logits_need_no_option(name: str, tmp_path: Path) -> None:
    signature = loaded(CLASSES[name], tmp_path).signature
    assert signature.output_kind == "logits" and signature.task == "multiclass"


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_not_taken_for_classes(name: str, tmp_path: Path) -> None:
    model, against = FEATURES[name]
    with pytest.raises(UnsupportedTeacher) as caught:
        loaded(model, tmp_path)
    assert "unbounded numbers for each input" in caught.value.what and against in caught.value.what
    assert "--task multiclass" in caught.value.remedy
    assert loaded(model, tmp_path, task="multiclass").signature.output_kind == "logits"


def test_a_row_of_a_sequence_is_a_classifier_when_chosen(tmp_path: Path) -> None:
    model = REFUSED["several classifiers in a sequence"][0]
    for name, classes in (("y", 3), ("z", 7)):
        assert loaded(model, tmp_path, output=name).signature.classes == classes


def test_a_normalizer_is_known_by_its_norm(tmp_path: Path) -> None:
    for norm, refused in (("L2", True), ("L1", False)):
        model = made("h = MatMul(x, W) s = Sigmoid(h)", N("Normalizer", ["s"], ["y"], domain="ai.onnx.ml", norm=norm))
        model.opset_import.add(domain="ai.onnx.ml", version=3)
        if refused:
            with pytest.raises(UnsupportedTeacher, match="embedding"):
                loaded(model, tmp_path)
        else:
            assert loaded(model, tmp_path).signature.output_kind == "probabilities"


# --- what goes in -------------------------------------------------------------------------------------------

POOLED = parsed("p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, Q)")
CONV = (N("Conv", ["i", "K"], ["c"], pads=[1, 1, 1, 1]), *POOLED)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
BYTES = (MEAN * 255, STD * 255)
IMAGE, LAST = "float[batch,3,8,8] x", "float[batch,8,8,3] x"


def by_channel(array: Any) -> Any:
    return array.reshape(1, 3, 1, 1)


class Shown(NamedTuple):
    """Hold a model, what is read of its beginning, and what is said of that."""

    model: onnx.ModelProto
    expected: dict[str, Any]
    stated: tuple[str, ...]


def shown(
    expected: dict[str, Any], stated: str | tuple[str, ...], *body: Any, inputs: str = IMAGE, **rest: Any
) -> Shown:
    """Make a row of a network that begins with ``body``, which makes ``i``."""
    stated = (stated,) if isinstance(stated, str) else stated
    return Shown(made(*body, *CONV, inputs=inputs, **rest), expected, stated)


INPUTS = {
    "nothing shown": shown(
        {"range": None, "location": (0.0,), "deviation": (1.0,), "input_name": "i"},
        "assumed to be normalised",
        inputs="float[batch,3,8,8] i",
    ),
    "channels last": shown(
        {"channels_last": True, "input_shape": (8, 8, 3), "shape": (3, 8, 8), "range": None},
        "their 3 channels last",
        "i = Transpose<perm=[0, 3, 1, 2]>(x)",
        inputs=LAST,
    ),
    "normalised inside, values 0 to 1": shown(
        {"range": (0.0, 1.0), "location": tuple(map(float, MEAN)), "deviation": tuple(map(float, STD))},
        ("0…1, as the file shows (Sub, Div)", "normalises its inputs itself"),
        "s = Sub(x, m) i = Div(s, d)",
        m=by_channel(MEAN),
        d=by_channel(STD),
    ),
    "normalised inside, values 0 to 255": shown(
        {"range": (0.0, 255.0)},
        "0…255, as the file shows (Mul, Sub, Div)",
        "u = Mul(x, scale) s = Sub(u, m) i = Div(s, d)",
        scale=np.float32(1 / 255),
        m=by_channel(MEAN),
        d=by_channel(STD),
    ),
    "scaled inside": shown(
        {"range": (0.0, 255.0), "location": (127.5,), "deviation": (63.75,)},
        "0…255, as the file shows (Div)",
        "i = Div(x, scale)",
        scale=np.float32(255),
    ),
    "bytes, with all of it inside": shown(
        {"input_dtype": "uint8", "range": (0.0, 255.0), "location": tuple(map(float, BYTES[0]))},
        ("0…255, as the file shows (its integer type, Sub, Mul)", "normalises its inputs itself"),
        "f0 = Cast<to=1>(x) s = Sub(f0, m) i = Mul(s, d)",
        inputs="uint8[batch,3,8,8] x",
        m=by_channel(BYTES[0]),
        d=by_channel(1 / BYTES[1]),
    ),
    "bytes, channels last": shown(
        {"input_dtype": "uint8", "range": (0.0, 255.0), "channels_last": True, "shape": (3, 8, 8)},
        ("channels last", "its integer type"),
        "f0 = Cast<to=1>(x) t = Transpose<perm=[0, 3, 1, 2]>(f0) i = Div(t, scale)",
        inputs="uint8[batch,8,8,3] x",
        scale=np.float32(255),
    ),
    "a BatchNormalization first": shown(
        {"range": (0.0, 1.0), "location": tuple(map(float, MEAN))},
        "BatchNormalization",
        "i = BatchNormalization<epsilon=0.0>(x, g, b, m, v)",
        g=np.ones(3, np.float32),
        b=np.zeros(3, np.float32),
        m=MEAN,
        v=STD**2,
    ),
    "quantised first": shown(
        {"range": (-2.56, 2.54)},
        "QuantizeLinear",
        "q = QuantizeLinear(x, scale, zero) i = DequantizeLinear(q, scale, zero)",
        scale=np.float32(0.02),
        zero=np.int8(0),
    ),
    "cut first": shown(
        {"range": (-1.0, 1.0), "location": (0.0,), "deviation": (0.5,)},
        "Clip",
        "i = Clip(x, low, high)",
        low=np.float32(-1),
        high=np.float32(1),
    ),
    "said in the metadata": shown(
        {"range": (0.0, 255.0), "location": (127.5,)},
        "metadata Image.NominalPixelRange = NominalRange_0_255",
        "i = Identity(x)",
        metadata={"Image.NominalPixelRange": "NominalRange_0_255"},
    ),
    "nonsense in the metadata": shown(
        {"range": None}, "assumed to be normalised", "i = Identity(x)", metadata={"Image.NominalPixelRange": "\x1b[31m"}
    ),
    "half precision": shown(
        {"input_dtype": "float16", "range": None},
        "assumed to be normalised",
        "i = Cast<to=1>(x)",
        inputs="float16[batch,3,8,8] x",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, tmp_path: Path, runtime: Runtime) -> None:
    model, expected, stated = INPUTS[name]
    teacher = loaded(model, tmp_path)
    signature = teacher.signature
    for key, wanted in expected.items():
        close = isinstance(wanted, tuple) and any(isinstance(number, float) for number in wanted)
        assert getattr(signature, key) == (pytest.approx(wanted, rel=1e-5) if close else wanted), key
    assert all(any(part in text for text in signature.assumptions) for part in stated), signature.assumptions
    assert_answers_as_the_file(teacher, model, runtime)


def assert_answers_as_the_file(teacher: Teacher, model: onnx.ModelProto, runtime: Runtime) -> None:
    """On inputs drawn in standard units, which stay in the file's range; and units go there and back."""
    signature = teacher.signature
    standard = torch.randn(9, *signature.shape, generator=torch.Generator().manual_seed(1))
    if (bounds := signature.bounds()) is not None:
        standard = standard.clamp(*bounds)
    inputs = signature.to_input(standard)
    assert inputs.shape[1:] == signature.input_shape
    torch.testing.assert_close(signature.to_standard(inputs), standard, atol=1e-4, rtol=1e-4)
    if signature.range is not None and signature.mean is None:
        low, high = signature.range
        assert inputs.min() >= low - 1e-3 and inputs.max() <= high + 1e-3
    whole = signature.whole(inputs)
    file = by_runtime(model, signature.output_name, whole, runtime)
    torch.testing.assert_close(logits_to_output(signature)(teacher.logits(whole)), file, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(teacher.logits_of_standard(standard), teacher.logits(inputs))
    leaf = standard.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(teacher.logits_of_standard(leaf)[:, 0].sum(), leaf)
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()


def test_the_user_knows_better(tmp_path: Path) -> None:
    model = INPUTS["normalised inside, values 0 to 1"][0]
    told = loaded(model, tmp_path, range=(-3, 5)).signature
    assert told.range == (-3.0, 5.0)
    told = loaded(model, tmp_path, range=(0, 255), mean=[125, 126, 127], std=[64]).signature
    assert (told.range, told.mean, told.std) == ((0.0, 255.0), (125.0, 126.0, 127.0), (64.0,))
    assert (told.location, told.deviation, told.assumptions) == ((0.0,), (1.0,), ())


def test_unknown_sizes_that_the_user_says(tmp_path: Path, runtime: Runtime) -> None:
    model = REFUSED["unknown sizes"][0]
    teacher = loaded(model, tmp_path, shape=(1, 3, 9, 7))
    assert teacher.signature.input_shape == (3, 9, 7)
    assert_answers_as_the_file(teacher, model, runtime)


def test_a_text_classifier_behind_its_embedding(tmp_path: Path, runtime: Runtime) -> None:
    table = normal(20, 4, seed=9)
    model = made(
        "embedded = Gather(table, x) t = Tanh(embedded) pooled = ReduceMean<axes=[1], keepdims=0>(t)",
        "y = MatMul(pooled, W)",
        inputs="int64[batch,6] x",
        table=table,
    )
    for said in ({}, {"input": "embedded"}, {"input": "embedded", "shape": (1, 6, 4)}):
        teacher = loaded(model, tmp_path, **said)
        assert (teacher.signature.input_name, teacher.signature.input_shape) == ("embedded", (6, 4))
    words = torch.randint(0, 20, (9, 6), generator=torch.Generator().manual_seed(0))
    file = by_runtime(model, "y", words, runtime)
    torch.testing.assert_close(teacher.logits(torch.from_numpy(table)[words]), file, atol=1e-5, rtol=1e-4)
    own = runtime.load(teacher.model, weights=teacher.weights).run(table[words.numpy()])
    torch.testing.assert_close(torch.from_numpy(own), file, atol=1e-5, rtol=1e-4)


def test_two_inputs_one_held(tmp_path: Path) -> None:
    model = made("m = Mul(x, mask) y = MatMul(m, W)", inputs="float[batch,4] x, float[batch,4] mask")
    with pytest.raises(UnsupportedTeacher, match="2 inputs"):
        loaded(model, tmp_path)
    teacher = loaded(model, tmp_path, constants={"mask": 3})
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(teacher.logits(x), x @ torch.from_numpy(W) * 3, atol=1e-5, rtol=1e-5)
