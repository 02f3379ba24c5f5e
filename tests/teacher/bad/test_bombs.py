"""M06: files that ask for more memory or time than there is are refused soon, and the airlock goes on."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from onnx_text import N, parsed, value
from refusals import (
    HIDDEN,
    SCORES,
    YES,
    Bad,
    answers_as_its_file,
    either,
    made,
    own,
    refused,
    saved,
    table,
    tensor,
    unsupported,
)

from onnxcake.core.errors import BadTeacherFile, TeacherError, UnsupportedTeacher
from onnxcake.teacher import sandbox
from onnxcake.teacher.options import TeacherOptions

I64 = np.int64
ASKS = "GiB in one value"


def sized(*body: str | onnx.NodeProto, words: str | tuple[str, ...] = ASKS, **weights: Any) -> Bad:
    """A bomb whose last value ``big`` is summed up and added to honest scores; its node is called "bomb"."""
    ends = parsed("sum = ReduceSum<keepdims=0>(big) y = Add(h, sum)")
    words = (words,) if isinstance(words, str) else words
    return unsupported((*words, "'bomb'"), HIDDEN, *body, *ends, weights=weights, opset=17)


def bomb(op: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return N(op, inputs, ["big"], name="bomb", **attributes)


LIFTED = N("Reshape", ["x", "four"], ["image"])  # [batch, 1, 2, 2]
FOUR = np.array([-1, 1, 2, 2])

SIZES = {
    "ConstantOfShape": sized(bomb("ConstantOfShape", ["many"]), many=np.array([10**6, 10**6])),
    "ConstantOfShape whose size overflows": sized(
        bomb("ConstantOfShape", ["many"]), many=np.array([2**40, 2**40]), words="ConstantOfShape"
    ),
    "ConstantOfShape of a negative size": sized(
        bomb("ConstantOfShape", ["many"]), many=np.array([-5]), words="ConstantOfShape"
    ),
    "Expand": sized(bomb("Expand", ["h", "to"]), to=np.array([10**5, 10**5, 1, 3])),
    "Expand of a constant": sized(bomb("Expand", ["one", "to"]), one=np.ones(1, np.float32), to=np.array([10**6] * 2)),
    "Tile": sized(bomb("Tile", ["h", "times"]), times=np.array([1, 10**10])),
    "Tile of a constant": sized(bomb("Tile", ["one", "times"]), one=np.ones(1, np.float32), times=np.array([10**12])),
    "Range": sized(
        bomb("Range", ["zero", "limit", "delta"]), zero=np.float32(0), limit=np.float32(1e9), delta=np.float32(1e-6)
    ),
    "Range of integers": sized(
        bomb("Range", ["zero", "limit", "delta"]), zero=np.array(0), limit=np.array(10**15), delta=np.array(1)
    ),
    "Resize": sized(
        LIFTED, bomb("Resize", ["image", "", "scales"], mode="nearest"), four=FOUR, scales=np.float32([1, 1, 1e5, 1e5])
    ),
    "Resize to sizes": sized(
        LIFTED,
        bomb("Resize", ["image", "", "", "sizes"], mode="linear"),
        four=FOUR,
        sizes=np.array([1, 1, 10**6, 10**6]),
        words="",
    ),
    "Pad": sized(bomb("Pad", ["h", "pads"]), pads=np.array([0, 10**10, 0, 10**10])),
    "Pad of a constant": sized(bomb("Pad", ["W", "pads"]), pads=np.array([0, 10**12, 0, 0])),
    "OneHot": sized(
        "label = ArgMax<axis=1, keepdims=0>(h)",
        bomb("OneHot", ["label", "depth", "values"]),
        depth=np.array(10**9),
        values=np.float32([0, 1]),
    ),
    "EyeLike": sized("[bomb] square = ConstantOfShape(many) big = EyeLike(square)", many=np.array([10**6, 10**6])),
    "an outer product": sized(
        "c = Reshape(x, column) e = Expand(c, wide) t = Transpose(e)",
        bomb("MatMul", ["t", "e"]),
        column=np.array([-1, 1]),
        wide=np.array([1, 10**6]),
    ),
    "ConvTranspose with a huge stride": sized(
        LIFTED,
        bomb("ConvTranspose", ["image", "kernel"], strides=[10**5, 10**5]),
        four=FOUR,
        kernel=np.ones((1, 1, 1, 1), np.float32),
    ),
    "Gather by a large index": sized(
        "[bomb] indices = ConstantOfShape(many) big = Gather<axis=1>(h, indices)", many=np.array([10**10])
    ),
    "Concat": sized("tiled = Tile(h, times)", bomb("Concat", ["tiled"] * 4000, axis=1), times=np.array([1, 10**5])),
}


def of_huge_dims(dims: list[int], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    huge = TensorProto(name="H", data_type=kind, dims=dims)
    return made("y = MatMul(x, H)", weights={"H": huge})


def sparse(dims: list[int]) -> onnx.ModelProto:
    few = helper.make_sparse_tensor(tensor(np.ones(1, np.float32), "S"), tensor(np.zeros(1, I64), "at"), dims)
    return made("y = MatMul(x, S)", sparse=[few])


def sparse_constant(dims: list[int]) -> onnx.ModelProto:
    few = helper.make_sparse_tensor(tensor(np.ones(1, np.float32)), tensor(np.zeros(1, I64)), dims)
    return made(N("Constant", [], ["S"], name="bomb", sparse_value=few), "y = MatMul(x, S)")


@pytest.mark.parametrize(
    "dims", [[2**31, 2**31], [2**62, 2**62], [2**63 - 1], [2] * 64, [2**16] * 4, [10**6, 10**6], [4, 10**12]]
)
def test_weights_that_the_file_does_not_hold(dims: list[int], tmp_path: Path) -> None:
    refused(saved(of_huge_dims(dims), tmp_path), BadTeacherFile, "'H'", "does not hold what its shape says")


@pytest.mark.parametrize("model", [sparse([10**6, 10**6]), sparse([2**40, 2**40]), sparse([4, 10**10])])
def test_sparse_weights_that_are_huge_when_written_out(model: onnx.ModelProto, tmp_path: Path) -> None:
    refused(saved(model, tmp_path), UnsupportedTeacher, "'S'", "GiB")


def test_sparse_constants_that_are_huge_when_written_out(tmp_path: Path) -> None:
    refused(saved(sparse_constant([10**6, 10**6]), tmp_path), UnsupportedTeacher, "'bomb'", "GiB")


def test_a_small_file_that_takes_days(tmp_path: Path) -> None:
    """No value is too large: 64 × 64 kernels of 101 × 101 numbers, written as one number that is repeated."""
    model = made(
        "K = Expand(one, kernel) [bomb] c = Conv<pads=[50, 50, 50, 50]>(x, K) p = GlobalAveragePool(c)",
        "y = Flatten(p)",
        weights={"one": np.ones(1, np.float32), "kernel": np.array([64, 64, 101, 101])},
        inputs="float[batch,64,700,700] x",
        outputs="float[batch,64] y",
    )
    words = ("one input takes 2.0e+13 multiply-adds", "most of them at 'bomb' (Conv)")
    refused(saved(model, tmp_path), UnsupportedTeacher, *words)


# --- loops --------------------------------------------------------------------------------------------------


def loop(times: Any, nodes: list[onnx.NodeProto], name: str = "bomb", go_on: str = "go") -> onnx.NodeProto:
    """A Loop over a state ``s`` [batch, 3], which ``nodes`` make ``t`` of, and ``stop`` of ``c`` or whatever."""
    body = helper.make_graph(
        nodes,
        "body",
        [value("i", kind=TensorProto.INT64), value("c", kind=TensorProto.BOOL), value("s", "batch", 3)],
        [value(go_on, kind=TensorProto.BOOL), value("t", "batch", 3)],
    )
    return N("Loop", [times, "", "h"], ["y"], name=name, body=body)


GROWS = parsed("go = Identity(c) t = Mul(s, small)")
SMALL = np.float32(1.0001)


def nested(depth: int, times: int) -> onnx.ModelProto:
    """Loops within loops, ``times`` turns each."""
    nodes = parsed("go0 = Identity(c0) t0 = Mul(s0, small)")
    for level in range(depth):
        body = helper.make_graph(
            nodes,
            f"level {level}",
            [value(f"i{level}", kind=TensorProto.INT64), value(f"c{level}", kind=TensorProto.BOOL), value(f"s{level}")],
            [value(f"go{level}", kind=TensorProto.BOOL), value(f"t{level}")],
        )
        up = level + 1
        inputs, out = (["times", "", f"s{up}"], f"t{up}") if up < depth else (["times", "", "h"], "y")
        nodes = [N("Identity", [f"c{up}"], [f"go{up}"])] if up < depth else [HIDDEN]
        nodes.append(N("Loop", inputs, [out], name=f"loop {depth - level}", body=body))
    return made(*nodes, weights={"times": np.array(times), "small": SMALL})


LOOPS = {
    "a Loop of 10¹² turns": unsupported(
        "'bomb'", HIDDEN, loop("times", GROWS), weights={"times": np.array(10**12), "small": SMALL}
    ),
    "a Loop of 2⁶³ − 1 turns": unsupported(
        "'bomb'", HIDDEN, loop("times", GROWS), weights={"times": np.array(2**63 - 1), "small": SMALL}
    ),
    "a Loop without an end": unsupported(("'bomb'", "never ends"), HIDDEN, loop("", GROWS), weights={"small": SMALL}),
    "Loops in Loops": Bad(nested(3, 10_000), UnsupportedTeacher, ("'loop 1'",)),
    "Loops in Loops in Loops": Bad(nested(6, 100), UnsupportedTeacher, ("Loop-17", "iterations", "(at 'loop ")),
    "a Loop that doubles its state": unsupported(
        (ASKS, "'doubled'"),
        HIDDEN,
        N(
            "Loop",
            ["times", "", "h"],
            ["grown"],
            name="bomb",
            body=helper.make_graph(
                parsed("go = Identity(c) [doubled] t = Concat<axis=1>(s, s)"),
                "body",
                [value("i", kind=TensorProto.INT64), value("c", kind=TensorProto.BOOL), value("s", None, None)],
                [value("go", kind=TensorProto.BOOL), value("t", None, None)],
            ),
        ),
        "sum = ReduceSum<keepdims=0>(grown) y = Add(h, sum)",
        weights={"times": np.array(60)},
    ),
}


@table({**SIZES, **LOOPS})
def test_sizes_and_loops(row: Bad, tmp_path: Path) -> None:
    refused(saved(row.model, tmp_path), row.kind, *row.words)


ENDLESS = parsed("m = ReduceMax<keepdims=0>(s) go = Less(m, huge) t = Identity(s)")


def endless() -> onnx.ModelProto:
    """A Loop that goes on while the data are below 10³⁰; onnxruntime itself never comes back."""
    return made(HIDDEN, loop("", ENDLESS), weights={"huge": np.float32(1e30)})


def test_a_loop_that_the_data_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as shorter:
        shorter.setattr(sandbox, "_BASE_S", 2.0)
        error = refused(saved(endless(), tmp_path), TeacherError, "given up", "more than 2 s of processor time")
        assert "running it in onnxruntime" in error["what"] and "ONNXCAKE_PATIENCE=10" in error["remedy"]
    answers_as_its_file(saved(made(SCORES), tmp_path))


@pytest.mark.slow
def test_a_loop_that_the_data_never_end_under_the_real_limit(tmp_path: Path) -> None:
    error = sandbox.examine(saved(endless(), tmp_path), TeacherOptions()).error
    assert type(error) is TeacherError and f"more than {sandbox._BASE_S:.0f} s of processor time" in error.what


# --- depth and number ---------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of some bytes, by hand: a million nodes take a minute otherwise."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def node(source: str, result: str) -> bytes:
    """A Relu as a field of a GraphProto."""
    return field(1, field(1, source.encode()) + field(2, result.encode()) + field(4, b"Relu"))


def with_more(model: onnx.ModelProto, nodes: bytes) -> bytes:
    """A model with further nodes: protobuf joins a message that is given twice."""
    return model.SerializeToString() + field(7, nodes)


def chain(length: int) -> bytes:
    names = ["h", *(f"c{i}" for i in range(length - 1)), "y"]
    return with_more(made(HIDDEN), b"".join(node(a, b) for a, b in itertools.pairwise(names)))


def branching(then: bytes, otherwise: bytes, result: bytes) -> bytes:
    """An If, as a field of a GraphProto."""
    kind = b"\xa0\x01\x05"  # the attribute is a graph
    branches = (field(1, b"then_branch") + field(6, then) + kind, field(1, b"else_branch") + field(6, otherwise) + kind)
    node = field(1, b"yes") + field(2, result) + field(4, b"If") + b"".join(field(5, branch) for branch in branches)
    return field(1, node)


OUT_OF_BRANCH = field(2, b"branch") + field(12, field(1, b"inner"))
DEEPEST = field(1, field(1, b"h") + field(2, b"inner") + field(4, b"Tanh")) + OUT_OF_BRANCH


def ifs(depth: int) -> bytes:
    """Ifs within both branches of one another: 2ⁿ of them."""
    graph = DEEPEST
    for _ in range(depth):
        graph = branching(graph, graph, b"inner") + OUT_OF_BRANCH
    return with_more(made(HIDDEN, weights=YES), branching(graph, graph, b"y"))


def deep(depth: int) -> bytes:
    """Ifs within the first branch of one another."""
    graph = DEEPEST
    for _ in range(depth):
        graph = branching(graph, DEEPEST, b"inner") + OUT_OF_BRANCH
    return with_more(made(HIDDEN, weights=YES), branching(graph, DEEPEST, b"y"))


def call(name: str, source: str = "a", result: str = "b") -> onnx.NodeProto:
    return N(name, [source], [result], domain="own")


def of_functions(*functions: onnx.FunctionProto, entry: str) -> onnx.ModelProto:
    return made(HIDDEN, call(entry, "h", "y"), domains={"own": 1}, functions=functions)


def exponential(levels: int, fan: int) -> onnx.ModelProto:
    functions = [own("f0", N("Tanh", ["a"], ["b"]))]
    for level in range(1, levels):
        names = ["a", *(f"t{i}" for i in range(fan - 1)), "b"]
        calls = [call(f"f{level - 1}", a, b) for a, b in itertools.pairwise(names)]
        functions.append(own(f"f{level}", *calls))
    return of_functions(*functions, entry=f"f{levels - 1}")


def long_call_chain(levels: int) -> onnx.ModelProto:
    functions = [own("f0", N("Tanh", ["a"], ["b"]))]
    functions += [own(f"f{level}", call(f"f{level - 1}")) for level in range(1, levels)]
    return of_functions(*functions, entry=f"f{levels - 1}")


BOTH = either("inner = own.f(a)", "inner = own.f(a)", result="b")
NUMBERS: dict[str, Callable[[], Bad]] = {
    "210,000 nodes": lambda: Bad(
        with_more(made(HIDDEN), node("h", "y") * 210_000), UnsupportedTeacher, ("more than 200,000 operators",)
    ),
    "Ifs 200 deep": lambda: Bad(deep(200), BadTeacherFile, ("deeper in one another",)),
    "Ifs that double": lambda: Bad(ifs(16), UnsupportedTeacher, ("more than 200,000 operators",)),
    "functions that double": lambda: Bad(exponential(40, 2), UnsupportedTeacher, ("written out",)),
    "functions times ten": lambda: Bad(exponential(12, 10), UnsupportedTeacher, ("written out", "operators")),
    "a function that calls itself": lambda: Bad(
        of_functions(own("f", call("f")), entry="f"), BadTeacherFile, ("own::f -> own::f",)
    ),
    "functions that call each other": lambda: Bad(
        of_functions(own("f", call("g")), own("g", call("f")), entry="f"),
        BadTeacherFile,
        ("own::g -> own::f -> own::g",),
    ),
    "a function that calls itself in a branch": lambda: Bad(
        of_functions(own("f", N("Constant", [], ["yes"], value=tensor(np.array(True))), *parsed(BOTH)), entry="f"),
        BadTeacherFile,
        ("own::f -> own::f",),
    ),
    "functions 1000 deep": lambda: Bad(long_call_chain(1000), BadTeacherFile, ("call chain depth",)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_depth_and_number(name: str, tmp_path: Path) -> None:
    row = NUMBERS[name]()
    refused(saved(row.model, tmp_path), row.kind, *row.words)


def test_a_chain_of_40_000_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as shorter:
        shorter.setattr(sandbox, "_BASE_S", 2.0)
        shorter.setattr(sandbox, "_S_PER_NODE", 0.0)
        refused(saved(chain(40_000), tmp_path), TeacherError, "given up", "s of processor time", "40,001 operators")
    answers_as_its_file(saved(made(SCORES), tmp_path))


def test_a_chain_of_1_100_nodes_is_a_teacher(tmp_path: Path) -> None:
    """Deeper than Python's own limit of recursion."""
    answers_as_its_file(saved(chain(1_100), tmp_path))


# --- memory -------------------------------------------------------------------------------------------------

MEMORY = 1 << 30


class Peak:
    """The most that this process's children hold at once, beyond what they held at first."""

    def __enter__(self) -> Peak:
        self.first, self.most, self.done = self._held(), 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.most = max(self.most, self._held() - self.first)

    def _held(self) -> int:
        total = 0
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        return total


def many_constants() -> onnx.ModelProto:
    """Each allowed for itself, 4 GB together."""
    ends = {"zero": np.float32(0), "limit": np.float32(5e7), "one": np.float32(1)}
    ranges = [N("Range", ["zero", "limit", "one"], [f"r{i}"]) for i in range(20)]
    sums = [N("ReduceSum", [f"r{i}"], [f"s{i}"], keepdims=0) for i in range(20)]
    return made(HIDDEN, *ranges, *sums, N("Sum", ["h", *(f"s{i}" for i in range(20))], ["y"]), weights=ends)


def many_values() -> onnx.ModelProto:
    """Built without memory, by views; 2.5 GB when onnxruntime runs it on two inputs."""
    columns = np.array([1, 8_000_000])
    scaled = [N("Mul", ["h1", f"k{i}"], [f"m{i}"]) for i in range(40)]
    wide = [N("Expand", [f"m{i}", "columns"], [f"e{i}"]) for i in range(40)]
    ends = [N("Max", [f"e{i}" for i in range(40)], ["most"]), N("ReduceSum", ["most"], ["sum"], keepdims=0)]
    first = parsed("h = MatMul(x, W) h1 = ReduceMax<axes=[1]>(h)")
    weights = {"columns": columns, **{f"k{i}": np.float32(i) for i in range(40)}}
    return made(*first, *scaled, *wide, *ends, "y = Add(h, sum)", weights=weights)


@pytest.mark.parametrize(
    ("model", "words", "most"),
    [
        (SIZES["ConstantOfShape"].model, ASKS, MEMORY // 8),
        (sparse([10**6, 10**6]), "'S'", MEMORY // 8),
        (many_constants(), "given up", MEMORY * 3 // 2),
        pytest.param(many_values(), "memory", MEMORY * 3 // 2, marks=pytest.mark.slow),
    ],
    ids=["one huge value", "a sparse tensor", "many constants", "many values"],
)
def test_memory_is_bounded(
    model: onnx.ModelProto, words: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_memory", lambda: MEMORY)
    answers_as_its_file(saved(made(SCORES), tmp_path))  # the child is warm, and holds its libraries
    with Peak() as peak:
        error = sandbox.examine(saved(model, tmp_path), TeacherOptions()).error
    assert isinstance(error, TeacherError) and words in error.what
    assert peak.most < most
    answers_as_its_file(saved(made(SCORES), tmp_path))
