"""A student that is an ONNX model: after training, its file computes in onnxruntime what it computes in torch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from onnxcake.core.errors import UsageError
from onnxcake.core.rng import Key
from onnxcake.runtime.ort import Runtime
from onnxcake.student.onnx_model import InitialModel
from onnxcake.student.onnx_student import OnnxStudent
from onnxcake.student.student import count
from onnxcake.teacher.scores import logits_to_output
from onnxcake.teacher.signature import Signature

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits.onnx"
KEY = Key(0)


class Encoder(nn.Module):
    """A small vision transformer: patches, a class token, places, one layer of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, 16, 4, 4), nn.Linear(16, 3)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.layer(x)[:, 0])


class Recurrent(nn.Module):
    """The mean state of a recurrent layer, in both directions."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 6, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1))


def shaken(net: nn.Module) -> nn.Module:
    """The network, none of its weights and statistics those that layers begin with."""
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(-0.5, 0.5)
    return net


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv and batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2, bias=False),
            nn.BatchNorm2d(8), nn.PReLU(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        ), (1, 8, 8),
    ),
    "batch norm alone": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3)), (2, 4, 4)),
    "transposed convolution, group norm": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 8, 2, 2), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8, affine=True), nn.SiLU(),
            nn.Flatten(), nn.Linear(512, 3),
        ), (2, 4, 4),
    ),
    "transformer": (Encoder, (1, 8, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 4)),
    "gru": (lambda: Recurrent(nn.GRU), (5, 4)),
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 3)), (4,)),
}  # fmt: skip


def signature_of(shape: tuple[int, ...], **changes: Any) -> Signature:
    plain = Signature("values", shape, "scores", "logits", 3, location=(0.2,), deviation=(0.5,))
    return replace(plain, **changes)


def inputs(shape: tuple[int, ...], number: int = 6) -> Tensor:
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(number))


def exported(name: str, folder: Path, opset: int = 17, change: Any = shaken) -> tuple[Path, tuple[int, ...]]:
    """The file of a net, batch norms apart from their convolutions; and the shape of its inputs."""
    make, shape = NETS[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        path = folder / "student.onnx"
        torch.onnx.export(
            change(make()).eval(), (torch.zeros(2, *shape),), str(path), input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}}, opset_version=opset, dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    return path, shape


def started(path: Path, signature: Signature, **changes: Any) -> OnnxStudent:
    return OnnxStudent(InitialModel.read(path, signature), signature, **changes)


def stepped(student: nn.Module, shape: tuple[int, ...], steps: int = 3) -> None:
    """Trains a little, toward some class or other, so that every weight moves."""
    optimiser = torch.optim.SGD(student.train().parameters(), lr=0.05)
    for step in range(steps):
        x = inputs(shape, 7 + step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(student(x), torch.arange(len(x)) % 3).backward()
        optimiser.step()
    student.eval()


def arrays(content: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(content).graph.initializer}


def difference(student: OnnxStudent, runtime: Runtime, shape: tuple[int, ...]) -> float:
    """Between the file in onnxruntime and the module in torch, at two batch sizes; the file passes the checker."""
    content = student.content()
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    session, worst = runtime.load(content), 0.0
    assert [value[0] for value in (*session.inputs, *session.outputs)] == ["values", "scores"]
    for number in (1, 6):
        x = inputs(shape, number)
        with torch.no_grad():
            wanted = logits_to_output(student.signature)(student(x)).numpy()
        got = session.run(x.numpy())
        assert got.shape == wanted.shape
        worst = max(worst, float(np.abs(got - wanted).max() / max(1, np.abs(wanted).max())))
    return worst


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("name", NETS)
def test_its_file_is_what_was_trained(name: str, opset: int, runtime: Runtime, tmp_path: Path) -> None:
    path, shape = exported(name, tmp_path, opset)
    student, before = started(path, signature_of(shape)), arrays(path.read_bytes())
    assert difference(student, runtime, shape) < 1e-5
    x = inputs(shape)
    with torch.no_grad():
        np.testing.assert_allclose(student(x), runtime.load(path.read_bytes()).run(x.numpy()), atol=1e-5)
    stepped(student, shape)
    assert difference(student, runtime, shape) < 1e-5
    after = arrays(student.content())
    still = {name for name in after if name in before and np.array_equal(after[name], before[name])}
    floats = {name for name, array in before.items() if array.dtype == np.float32 and array.size > 1}
    assert {name for name in still & floats if "running" not in name} == set()
    ones_and_zeros = 8 if "group norm" in name else 0  # what the exporter puts into its InstanceNormalization
    assert count(student) == student.start.parameters() == count(NETS[name][0]()) + ones_and_zeros


def test_a_normalisation_costs_nothing_beside_its_convolution(tmp_path: Path) -> None:
    path, shape = exported("conv and batch norm", tmp_path)
    steps = started(path, signature_of(shape)).net.steps
    assert sum(step.op in ("Conv", "BatchNormalization") for step in steps) == 2


def test_a_file_that_is_at_hand(runtime: Runtime) -> None:
    signature = Signature("values", (1, 8, 8), "scores", "logits", 10)
    student = started(DIGITS, signature)
    stepped(student, (1, 8, 8))
    assert difference(student, runtime, (1, 8, 8)) < 1e-5
    assert count(student) == 38_282


NODE = helper.make_node
ROWS: dict[str, tuple[list[Any], dict[str, Any], set[str]]] = {
    "a product and a sum": (
        [NODE("MatMul", ["x", "w"], ["a"]), NODE("Add", ["b", "a"], ["y"])], {"w": (4, 3), "b": (3,)}, {"w", "b"},
    ),
    "transposed on the way": (
        [NODE("Transpose", ["w"], ["t"]), NODE("Identity", ["t"], ["i"]), NODE("MatMul", ["x", "i"], ["y"])],
        {"w": (3, 4)}, {"w"},
    ),
    "made of two": (
        [NODE("Mul", ["w", "gain"], ["s"]), NODE("MatMul", ["x", "s"], ["y"])],
        {"w": (4, 3), "gain": (3,)}, {"w", "gain"},
    ),
    "used twice": (
        [
            NODE("MatMul", ["x", "w"], ["a"]), NODE("Transpose", ["w"], ["t"]), NODE("MatMul", ["a", "t"], ["b"]),
            NODE("MatMul", ["b", "w"], ["y"]),
        ], {"w": (4, 3)}, {"w"},
    ),
    "numbers, masks, divisors and exponents": (
        [
            NODE("MatMul", ["x", "w"], ["a"]), NODE("Add", ["a", "mask"], ["b"]), NODE("Mul", ["b", "half"], ["c"]),
            NODE("Div", ["c", "root"], ["d"]), NODE("Pow", ["d", "one"], ["y"]),
        ],
        {
            "w": (4, 3), "mask": [0.0, -100, 0], "half": [0.5], "root": [2.0, 3, 4], "one": [1.0, 1, 1],
        }, {"w"},
    ),
    "infinite": (
        [NODE("MatMul", ["x", "w"], ["a"]), NODE("Max", ["a", "low"], ["y"])],
        {"w": (4, 3), "low": [-np.inf, -np.inf, 0]}, {"w"},
    ),
    "what is done to the input first": (
        [NODE("Sub", ["x", "mean"], ["a"]), NODE("Div", ["a", "std"], ["b"]), NODE("MatMul", ["b", "w"], ["y"])],
        {"mean": (4,), "std": [1.0, 2, 3, 4], "w": (4, 3)}, {"w"},
    ),
    "looked at": (  # where it is above zero is a constant of the graph
        [
            NODE("Greater", ["v", "zero"], ["up"]), NODE("MatMul", ["x", "w"], ["a"]), NODE("Add", ["a", "v"], ["b"]),
            NODE("Where", ["up", "b", "a"], ["y"]),
        ], {"w": (4, 3), "v": [1.0, -1, 1], "zero": [0.0]}, {"w"},
    ),
    "one number that an operator makes a bias": (
        [
            NODE("Unsqueeze", ["x", "one"], ["u"]), NODE("Conv", ["u", "w", "b"], ["c"]), NODE("Relu", ["c"], ["r"]),
            NODE("Flatten", ["r"], ["y"]),
        ],
        {"w": (1, 1, 2), "b": [0.05], "one": np.array([1])}, {"w", "b"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_is_a_weight(name: str, handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path) -> None:
    nodes, given, trained = ROWS[name]
    kept = {
        key: normal(*value) if isinstance(value, tuple) else np.asarray(value, getattr(value, "dtype", np.float32))
        for key, value in given.items()
    }
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes, kept).SerializeToString())
    student = started(path, signature_of((4,)))
    stepped(student, (4,))
    after = arrays(student.content())
    assert {key for key in after if not np.array_equal(after[key], kept[key])} == trained
    assert difference(student, runtime, (4,)) < 1e-5


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_weights_keep_their_type(kind: Any, handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path) -> None:
    to = {np.float16: onnx.TensorProto.FLOAT16, np.float64: onnx.TensorProto.DOUBLE}[kind]
    nodes = [
        NODE("Cast", ["x"], ["c"], to=to), NODE("MatMul", ["c", "w"], ["a"]), NODE("Cast", ["a"], ["y"], to=1)
    ]  # fmt: skip
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes, {"w": normal(4, 3).astype(kind)}).SerializeToString())
    student = started(path, signature_of((4,)))
    stepped(student, (4,))
    after = arrays(student.content())["w"]
    assert after.dtype == kind and not np.array_equal(after, normal(4, 3).astype(kind))
    assert difference(student, runtime, (4,)) < (5e-3 if kind == np.float16 else 1e-6)


def test_weights_in_constant_nodes(handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(normal(4, 3), "inside")
    nodes = [NODE("Constant", [], ["w"], value=weight), NODE("MatMul", ["x", "w"], ["y"])]
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes).SerializeToString())
    student = started(path, signature_of((4,)))
    stepped(student, (4,))
    assert count(student) == 12
    assert difference(student, runtime, (4,)) < 1e-6


def test_a_start_that_was_kept_is_the_same_start(tmp_path: Path) -> None:
    path, shape = exported("transformer", tmp_path)
    first = InitialModel.read(path, signature_of(shape))
    path.write_bytes(first.content)
    assert InitialModel.read(path, signature_of(shape)).digest == first.digest


def test_what_an_exporter_made_one_is_several_again(runtime: Runtime, tmp_path: Path) -> None:
    """It writes the fresh scales of all normalisations as one initialiser."""
    path, shape = exported("conv and batch norm", tmp_path, change=lambda net: net)
    student = started(path, signature_of(shape))
    assert count(student) == count(NETS["conv and batch norm"][0]())
    stepped(student, shape)
    assert difference(student, runtime, shape) < 1e-5


# --- drawn anew --------------------------------------------------------------------------------------------


def test_fresh_weights_are_drawn_as_torch_draws_them(runtime: Runtime, tmp_path: Path) -> None:
    path, shape = exported("conv and batch norm", tmp_path)
    signature = signature_of(shape)
    student = started(path, signature, fresh=KEY)
    now = arrays(student.content())
    for name, fan_in in (("0.weight", 9), ("0.bias", 9), ("3.weight", 27), ("8.weight", 8), ("8.bias", 8)):
        assert 0.5 < np.abs(now[name]).max() * fan_in**0.5 <= 1
    assert (now["1.weight"] == 1).all() and (now["1.bias"] == 0).all() and (now["5.weight"] == 0.25).all()
    again, other = (arrays(started(path, signature, fresh=key).content()) for key in (KEY, Key(1)))
    assert all(np.array_equal(now[name], again[name]) for name in now)
    assert not np.array_equal(now["0.weight"], other["0.weight"])
    assert difference(student, runtime, shape) < 1e-5
    stepped(student, shape)
    assert difference(student, runtime, shape) < 1e-5


def test_fresh_statistics_are_those_of_noise(tmp_path: Path) -> None:
    path, shape = exported("batch norm alone", tmp_path)
    now = arrays(started(path, signature_of(shape), fresh=KEY).content())
    assert now["0.running_mean"] == pytest.approx(0.2, abs=0.05)  # the signature's location and deviation
    assert now["0.running_var"] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("opset", [14, 17])
def test_fresh_normalisations_and_tokens(opset: int, tmp_path: Path) -> None:
    path, shape = exported("transformer", tmp_path, opset)
    now = arrays(started(path, signature_of(shape), fresh=KEY).content())
    for norm in ("layer.norm1", "layer.norm2"):
        assert (now[f"{norm}.weight"] == 1).all() and (now[f"{norm}.bias"] == 0).all()
    assert 0.01 < now["token"].std() < 0.03 and 0.015 < now["places"].std() < 0.025
    assert 0.9 < np.abs(now["head.weight"]).max() * 4 <= 1


# --- the teacher's kind of output --------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["logits", "probabilities", "log_probabilities"])
@pytest.mark.parametrize("end", [None, "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("shape", [None, (3, 1, 1)])
def test_it_answers_as_the_teacher_does(
    wanted: Any, end: str | None, shape: Any, handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path
) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["y" if end is None else "a"])]
    nodes += [] if end is None else [NODE(end, ["a"], ["y"], axis=1)]
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes, {"w": normal(4, 3)}).SerializeToString())
    student = started(path, signature_of((4,), output_kind=wanted, output_shape=shape))
    stepped(student, (4,))
    assert difference(student, runtime, (4,)) < 1e-6


@pytest.mark.parametrize("teacher, end", [("binary_probability", None), ("binary_logit", "Sigmoid")])
def test_a_binary_classifier(
    teacher: Any, end: str | None, handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path
) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["y" if end is None else "a"])]
    nodes += [] if end is None else [NODE(end, ["a"], ["y"])]
    path = tmp_path / "student.onnx"
    outputs = [helper.make_tensor_value_info("y", 1, ["batch", 1])]
    path.write_bytes(handmade(nodes, {"w": normal(4, 1)}, outputs=outputs).SerializeToString())
    student = started(path, signature_of((4,), output_kind=teacher, classes=2, output_shape=()))
    assert difference(student, runtime, (4,)) < 1e-6


def test_names_that_the_model_uses_inside(handmade: Any, normal: Any, runtime: Runtime, tmp_path: Path) -> None:
    nodes = [NODE("MatMul", ["x", "scores"], ["values"]), NODE("Relu", ["values"], ["y"])]
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes, {"scores": normal(4, 3)}).SerializeToString())
    student = started(path, signature_of((4,)))
    stepped(student, (4,))
    assert difference(student, runtime, (4,)) < 1e-6


# --- what does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"input_shape": (5,)}, r"takes \[5\].*does not fit"),
        ({"classes": 4}, r"gives 4 classes.*it takes \[4\] float32 and gives 3 classes"),
        ({"output_kind": "binary_logit", "classes": 2}, "binary does not fit"),
        ({"input_dtype": "uint8"}, "takes .* uint8.*float32"),
    ],
)
def test_a_model_for_something_else(
    changes: dict[str, Any], told: str, handmade: Any, normal: Any, tmp_path: Path
) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade([NODE("MatMul", ["x", "w"], ["y"])], {"w": normal(4, 3)}).SerializeToString())
    with pytest.raises(UsageError, match=f"cannot be a student.*{told}"):
        InitialModel.read(
            path, signature_of(**{"shape": (4,), **changes} if "input_shape" not in changes else {"shape": (5,)})
        )


def test_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not an ONNX model"):
        InitialModel.read(tmp_path / "student.onnx", signature_of((4,)))


def test_values_inside_are_named_as_the_model_does(handmade: Any, normal: Any, tmp_path: Path) -> None:
    nodes = [NODE("MatMul", ["x", "w"], ["hidden"]), NODE("Relu", ["hidden"], ["y"])]
    path = tmp_path / "student.onnx"
    path.write_bytes(handmade(nodes, {"w": normal(4, 3)}).SerializeToString())
    student, x = started(path, signature_of((4,)), taps=["hidden"]), inputs((4,))
    logits = student(x)
    torch.testing.assert_close(student.pop_values()["hidden"], x @ torch.from_numpy(normal(4, 3)))
    torch.testing.assert_close(logits, (x @ torch.from_numpy(normal(4, 3))).relu())
    with pytest.raises(UsageError, match="no value called 'hiden'"):
        started(path, signature_of((4,)), taps=["hiden"])
