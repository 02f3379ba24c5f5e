"""The value behind a file's inputs: chosen where there is one, else named with the options that choose it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_text import N, parsed, value

from onnxcake.cli.options import options_of
from onnxcake.core.errors import UnsupportedTeacher
from onnxcake.onnxfile.dequantise_rows import dequantise_rows_early
from onnxcake.onnxfile.input_choice import GraphChoice
from onnxcake.onnxfile.load import TeacherFile
from onnxcake.onnxfile.normalise import normalise
from onnxcake.onnxfile.rename import SafeGraph

F, LONG, B, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def opened(model: onnx.ModelProto, choice: GraphChoice | None = None) -> SafeGraph:
    onnx.checker.check_model(model)
    file = TeacherFile(onnx.ModelProto.FromString(model.SerializeToString()), {}, "", 0, "t.onnx")
    return normalise(file, choice or GraphChoice())


def long(*numbers: int) -> np.ndarray[Any, Any]:
    return np.int64(numbers)


class Row(NamedTuple):
    """Hold nodes, weights and inputs; the value or the options that are wanted, and the sizes of that value."""

    nodes: Sequence[str | onnx.NodeProto]
    weights: dict[str, Any]
    inputs: str | Sequence[onnx.ValueInfoProto]
    wanted: str
    sizes: tuple[int, ...] = ()


CLASSIFIER = "z = MatMul(h, W) r = Relu(z) y = ReduceMean<axes=[1], keepdims=0>(r)"
DENSE = "z = MatMul(h, W) y = Relu(z)"
COLUMNS = [value(name, None, 1) for name in ("age", "income", "height")]
ENCODER = {"keys_strings": ["a", "b"], "values_int64s": [0, 1]}

CHOSEN: dict[str, Row] = {
    "ids": Row(
        ["h = Gather(E, ids)", CLASSIFIER], {"E": normal(9, 4), "W": normal(4, 3)}, "int64[batch,7] ids", "h", (7, 4)
    ),
    "ids of int32, moved before they are looked up": Row(
        [f"i = Cast<to={LONG}>(ids) j = Add(i, one) h = Gather(E, j)", CLASSIFIER],
        {"E": normal(9, 4), "W": normal(4, 3), "one": long(1)},
        "int32[batch,7] ids",
        "h",
        (7, 4),
    ),
    "ids of words and of segments": Row(
        ["e = Gather(E, ids) g = Gather(G, segments) h = Add(e, g)", CLASSIFIER],
        {"E": normal(9, 4), "G": normal(2, 4), "W": normal(4, 3)},
        "int64[batch,7] ids, int64[batch,7] segments",
        "h",
        (7, 4),
    ),
    "ids whose number is asked for elsewhere": Row(
        [
            "h = Gather(E, ids) z = MatMul(h, W) s = Shape(ids) o = ConstantOfShape(s) u = Unsqueeze(o, last)",
            "a = Add(z, u) y = ReduceMean<axes=[1], keepdims=0>(a)",
        ],
        {"E": normal(9, 4), "W": normal(4, 3), "last": long(2)},
        "int64[batch,7] ids",
        "h",
        (7, 4),
    ),
    "ids of a quantised table, whose rows are turned before they are made floats": Row(
        [
            "e = Gather(E, ids) u = Unsqueeze(e, last) t = Transpose<perm=[1, 0, 2, 3]>(u)",
            "f = DequantizeLinear(t, scale, point) s = Squeeze(f, last) z = MatMul(s, W)",
            "y = ReduceMean<axes=[0], keepdims=0>(z)",
        ],
        {
            "E": np.random.default_rng(0).integers(-100, 100, (9, 4)).astype(np.int8),
            "W": normal(4, 3),
            "scale": np.float32(0.02),
            "point": np.int8(3),
            "last": long(3),
        },
        "int64[1,7] ids",
        "e_dequantized_1",
        (7, 4),
    ),
    "one-hot": Row(
        ["o = OneHot(ids, depth, ends) h = Flatten(o)", DENSE],
        {"depth": np.int64(5), "ends": np.float32([0, 1]), "W": normal(10, 3)},
        "int64[batch,2] ids",
        "o",
        (2, 5),
    ),
    "columns whose distances to a few rows are summed": Row(
        [
            "h = Concat<axis=1>(age, income, height) u = Unsqueeze(h, middle) d = Sub(u, rows) s = Mul(d, d)",
            "y = ReduceSum<keepdims=0>(s, last)",
        ],
        {"middle": long(1), "rows": normal(4, 3), "last": long(2)},
        COLUMNS,
        "h",
        (3,),
    ),
    "columns": Row(["h = Concat<axis=1>(age, income, height)", DENSE], {"W": normal(3, 3)}, COLUMNS, "h", (3,)),
    "columns, scaled": Row(
        [
            "c = Concat<axis=1>(age, income, height)",
            "h = ai.onnx.ml.Scaler<offset=[1.0, 2, 3], scale=[1.0, 1, 1]>(c)",
            DENSE,
        ],
        {"W": normal(3, 3)},
        COLUMNS,
        "c",
        (3,),
    ),
    "a column of numbers and one of texts": Row(
        [
            N("LabelEncoder", ["city"], ["code"], domain="ai.onnx.ml", **ENCODER),
            f"number = Cast<to={F}>(code) a = ai.onnx.ml.Scaler<offset=[1.0], scale=[1.0]>(age)",
            "h = Concat<axis=1>(a, number)",
            DENSE,
        ],
        {"W": normal(2, 3)},
        "float[?,1] age, string[?,1] city",
        "h",
        (2,),
    ),
    "ids and numbers": Row(
        ["e = Gather(E, shop) f = Flatten(e) h = Concat<axis=1>(f, numbers)", DENSE],
        {"E": normal(9, 4), "W": normal(6, 3)},
        "int64[batch,1] shop, float[batch,2] numbers",
        "h",
        (6,),
    ),
    "a bag of truth values": Row(
        [f"h = Cast<to={F}>(words)", DENSE], {"W": normal(6, 3)}, "bool[batch,6] words", "h", (6,)
    ),
    "one text": Row(
        [
            N("LabelEncoder", ["city"], ["code"], domain="ai.onnx.ml", **ENCODER),
            "o = ai.onnx.ml.OneHotEncoder<cats_int64s=[0, 1]>(code) h = Flatten(o)",
            DENSE,
        ],
        {"W": normal(2, 3)},
        "string[?,1] city",
        "o",
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_value_behind_is_chosen(name: str, handmade: Any) -> None:
    nodes, weights, inputs, wanted, sizes = CHOSEN[name]
    safe = opened(handmade(nodes, weights, inputs=inputs, domains={"ai.onnx.ml": 3}))
    assert (safe.input_name, safe.input_shape) == (wanted, sizes)
    assert any(repr(wanted) in note for note in safe.notes)
    named = opened(handmade(nodes, weights, inputs=inputs, domains={"ai.onnx.ml": 3}), GraphChoice(input=wanted))
    assert named.input_shape == sizes and named.model == safe.model, "its sizes are inferred where it is named, too"


@pytest.mark.parametrize("reason", ["a scale for each column", "the turned rows are read elsewhere", "no table"])
def test_rows_keep_their_place_where_that_matters(reason: str, handmade: Any) -> None:
    nodes, weights, inputs, _, _ = CHOSEN["ids of a quantised table, whose rows are turned before they are made floats"]
    nodes, weights = [onnx.NodeProto.FromString(node.SerializeToString()) for node in parsed(*nodes)], dict(weights)
    if reason == "a scale for each column":
        weights |= {"scale": np.float32([0.1, 0.2, 0.3, 0.4]), "point": np.zeros(4, np.int8)}
    elif reason == "no table":
        nodes[0] = N("Cast", ["ids"], ["e"], to=TensorProto.INT8)
    else:
        nodes.append(N("Identity", ["t"], ["turned"]))
    proto = handmade(nodes, weights, inputs=inputs)
    if reason == "the turned rows are read elsewhere":
        proto.graph.output.append(value("turned", None, None, None, None, kind=TensorProto.INT8))
    before = proto.SerializeToString()
    dequantise_rows_early(proto)
    assert proto.SerializeToString() == before


MASKED = parsed(
    f"h = Gather(E, ids) m = Cast<to={F}>(attention_mask) u = Unsqueeze(m, last) z = MatMul(h, W)",
    "r = Mul(z, u) y = ReduceMean<axes=[1], keepdims=0>(r)",
)
LSTM = [
    N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
    N("LSTM", ["t", "W", "R", "", "", "h0", "c0"], ["", "h", ""], hidden_size=3),
    N("Squeeze", ["h", "first"], ["y"]),
]
LATE = parsed("a = MatMul(x, W) b = MatMul(side, V) y = Add(a, b)")

# What is not chosen without the user: how the remedy's options go on.
ASKED: dict[str, Row] = {
    "open length": Row(
        ["h = Gather(E, ids)", CLASSIFIER],
        {"E": normal(9, 4), "W": normal(4, 3)},
        "int64[batch,length] ids",
        "--input h --shape 1,128,4",
    ),
    "a mask": Row(
        MASKED,
        {"E": normal(9, 4), "W": normal(4, 3), "last": long(2)},
        "int64[batch,length] ids, int64[batch,length] attention_mask",
        "--input h --hold attention_mask=1 --shape 1,128,4",
    ),
    "ids that a mask is made of": Row(
        [f"h = Gather(E, ids) pad = Equal(ids, zero) m = Cast<to={F}>(pad)", *MASKED[2:]],
        {"E": normal(9, 4), "W": normal(4, 3), "last": long(2), "zero": long(0)},
        "int64[batch,5] ids",
        "--input h --hold ids=1",
    ),
    "hidden states": Row(
        LSTM,
        {"W": normal(1, 12, 4), "R": normal(1, 12, 3), "first": long(0)},
        "float[batch,7,4] x, float[1,batch,3] h0, float[1,batch,3] c0",
        "--input x --hold h0=0 --hold c0=0",
    ),
    "two branches": Row(
        LATE, {"W": normal(4, 3), "V": normal(2, 3)}, "float[batch,4] x, float[batch,2] side", "--input x --hold side=0"
    ),
    "a mask that is added": Row(
        ["h = Add(x, mask)", DENSE],
        {"W": normal(4, 3)},
        "float[batch,4] mask, float[batch,4] x",
        "--input x --hold mask=1",
    ),
    "two inputs that are added": Row(
        ["h = Add(x, side)", DENSE],
        {"W": normal(4, 3)},
        "float[batch,4] x, float[batch,4] side",
        "--input x --hold side=0",
    ),
    "a switch": Row(
        ["a = MatMul(x, W)", N("Where", ["keras phase:0", "a", "zero"], ["y"])],
        {"W": normal(4, 3), "zero": np.float32(0)},
        [value("x", "batch", 4), value("keras phase:0", kind=B)],
        "--input x --hold 'keras phase:0=false'",
    ),
    "a rate that is compared with a number": Row(
        ["s = Reshape(sr, one) known = Equal(s, rate) h = Where(known, x, zero)", DENSE],
        {"W": normal(4, 3), "one": long(1), "rate": np.array(16000), "zero": np.float32(0)},
        "float[batch,4] x, int64 sr",
        "--input x --hold sr=16000",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_remedy_works_when_it_is_followed(name: str, handmade: Any) -> None:
    nodes, weights, inputs, wanted, _ = ASKED[name]
    model = handmade(nodes, weights, inputs=inputs)
    with pytest.raises(UnsupportedTeacher) as caught:
        opened(model)
    (options,) = re.findall(r"(--input .*?)\.(?: |$)", caught.value.remedy)
    assert options == wanted
    said: dict[str, list[str]] = {"--input": [], "--hold": [], "--shape": []}
    words = shlex.split(options)
    for option, text in zip(words[::2], words[1::2], strict=True):
        said[option].append(text)
    choice = options_of(said["--input"][0], None, said["--shape"], None, None, None, None, said["--hold"]).choice
    assert opened(model, choice).input_name == said["--input"][0]


def test_sizes_said_of_an_input_are_those_of_the_value_behind(handmade: Any) -> None:
    nodes, weights, inputs, _, _ = ASKED["open length"]
    safe = opened(handmade(nodes, weights, inputs=inputs), GraphChoice(input="h", shapes={"ids": (1, 6)}))
    assert safe.input_shape == (6, 4)
    unnamed = opened(handmade(nodes, weights, inputs=inputs), GraphChoice(shapes={"ids": (1, 6)}))
    assert (unnamed.input_name, unnamed.input_shape) == ("h", (6, 4))


@pytest.mark.parametrize(
    ("inputs", "hold", "words"),
    [("float[batch,4] x", {"x": 1}, "0 inputs are left to choose from"), ([], {}, "it has 0 inputs")],
)
def test_nothing_to_choose(inputs: list[Any], hold: dict[str, Any], words: str, handmade: Any) -> None:
    nodes = [N("Identity", ["x" if inputs else "W"], ["y"])]
    model = handmade(nodes, {"W": normal(4, 3)}, inputs="float[batch,4] x")
    if not inputs:
        del model.graph.input[:]
    with pytest.raises(UnsupportedTeacher, match=words) as caught:
        opened(model, GraphChoice(constants=hold))
    assert caught.value.remedy


def test_whole_numbers_that_are_no_ids_are_taken_themselves(handmade: Any) -> None:
    nodes = [N("Cast", ["pixels"], ["h"], to=F), DENSE]
    safe = opened(handmade(nodes, {"W": normal(4, 3)}, inputs="uint8[batch,4] pixels"))
    assert (safe.input_name, safe.input_type) == ("pixels", TensorProto.UINT8)
