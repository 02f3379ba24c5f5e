"""M19: whatever a file calls things, no code runs, nothing changes, and what is printed of it is plain and short."""

from __future__ import annotations

import json
import keyword
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from in_process import command
from onnx import TensorProto, helper
from onnx_text import N, value
from refusals import HIDDEN, SCORES, made, own, refused, saved, tensor

from onnxcake.core.errors import BadTeacherFile, UnsupportedTeacher, UsageError
from onnxcake.teacher import sandbox
from onnxcake.teacher.open_graph import open_graph
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.teacher import Teacher

CANARY = "CANARY"
MEGABYTES = ("x" * 1_000_000, "\n" * 1_000_000, "\x1b" * 1_000_000, "層" * 333_333, "\"'\\" * 333_333)

# Each holds a {} for a number, so that every name of a file is another one.
TEMPLATES = {
    # the ends of strings
    "double quote": '"{}"',
    "single quote": "'{}'",
    "both quotes": "\"'{}'\"",
    "triple quotes": '"""{}"""',
    "backslash": "\\{}\\",
    "backslash and quote": "\\\"{}\\'",
    "an odd number of backslashes": "\\\\\\{}",
    "a backslash at the end": "{}\\",
    "a comment": "{} # ",
    # Python
    "an import": "\"+__import__('os').system('touch CANARY{}')+\"",
    "an import in single quotes": "'+__import__('os').system('touch CANARY{}')+'",
    "a call": "\");__import__('pathlib').Path('CANARY{}').touch();getattr(self, \"x",
    "a statement": "x{}\n    __import__('os').system('touch CANARY')\n    return x",
    "a statement behind a semicolon": "x{}; open('CANARY', 'w')",
    "an assignment": "x{} = open('CANARY', 'w')",
    "a walrus": "(x{} := open('CANARY', 'w'))",
    "a lambda": "(lambda: open('CANARY{}', 'w'))()",
    "an f-string": "{{open('CANARY{}', 'w')}}",
    "a decorator": "@open('CANARY{}', 'w')",
    "a class": "class A{}:\n open('CANARY', 'w')",
    "an attribute of modules": "__class__.__init__.__globals__{}",
    "an index": "self.__dict__['{}']",
    "a default": "x{}=open('CANARY','w')",
    "an annotation": "x{}: open('CANARY','w')",
    "a pickle": "cos\nsystem\n(S'touch CANARY{}'\ntR.",
    "YAML": "!!python/object/apply:os.system ['touch CANARY{}']",
    # the shell and other programs
    "a shell's command": "$(touch CANARY{})",
    "backquotes": "`touch CANARY{}`",
    "a shell's end": "; touch CANARY{} #",
    "a pipe": "| touch CANARY{}",
    "an environment variable": "${{HOME}}{}",
    "a home": "~root{}",
    "SQL": "'; DROP TABLE teachers{}; --",
    "a spreadsheet's formula": "=cmd|' /C touch CANARY{}'!A0",
    "a logger's look-up": "${{jndi:ldap://localhost/{}}}",
    "HTML": "<script>alert({})</script>",
    "JSON": '","usable":true,"x{}":"',
    "a regular expression": "(a+)+${}",
    "markup": "[red]{}[/red]",
    "markup that closes": "[/]{}[/bold]",
    "markup that links": "[link=file:///etc/passwd]{}[/link]",
    "an option": "--output={}",
    # formats
    "percent": "%s%n%d{}",
    "percent with a width": "%999999999d{}",
    "braces": "{{0.__class__}}{}",
    "braces with a width": "{{:999999999}}{}",
    "braces alone": "{{}}{}",
    "an open brace": "{{{}",
    # paths
    "a path up": "../../CANARY{}",
    "a path up, with backslashes": "..\\..\\CANARY{}",
    "an absolute path": "/tmp/CANARY{}",
    "a drive": "C:\\CANARY{}",
    "a device": "/dev/stdin{}",
    "a URL": "file:///etc/passwd?{}",
    "a share": "\\\\host\\share{}",
    "dots": "a.b..{}.",
    "slashes": "//a//{}//",
    "colons": "a:0:{}",
    # the terminal
    "red": "\x1b[31m{}",
    "a title": "\x1b]0;title{}\x07",
    "a link": "\x1b]8;;http://localhost/{}\x1b\\x",
    "a cleared screen": "\x1b[2J\x1b[H{}",
    "a question": "\x1b[c\x1b[6n{}",
    "a device control": "\x1bP$qm{}\x1b\\",
    "eight bits": "\x9b31m{}\x9d0;x\x9c",
    "backspaces": "abc\b\b\b{}",
    "a bell": "\a{}",
    "overwritten": "{}\rusable",
    # text
    "bidi": "\u202e{}\u2066",
    "bidi that is closed": "\u2067{}\u2069\u202c",
    "marks of direction": "\u200f\u200e\u061c{}",
    "nothing to see": "\u200b\u200c\u200d\u2060{}",
    "a byte order mark": "\ufeff{}",
    "a soft hyphen": "\xad{}",
    "lines of other kinds": "\x85{}\u2028x\u2029",
    "blanks of other kinds": "\xa0\u3000{}\u2003",
    "tags": "\U000e0001\U000e0041{}",
    "selectors": "x\ufe0f\U000e0100{}",
    "not a character": "\ufffe\uffff\U0010ffff{}",
    "private": "\ue000\U000f0000{}",
    "half a pair, spelled out": "\\ud800{}\\udfff",
    "a replaced character": "\ufffd{}",
    "many marks": "a" + "\u0301" * 500 + "{}",
    "letters like ours": "іnput{}",  # the first is Cyrillic
    "wide letters": "ｉｎｐｕｔ{}",
    "digits of others": "v٠{}",
    "not ASCII": "é層🍰{}",
    "a family": "👩‍👩‍👧‍👦{}",
    "a blank at both ends": " {} ",
    "a tab": "\t{}\t",
    "upper and lower": "{}" + "aA",
    # length
    "ten thousand": "x" * 10_000 + "{}",
    "twenty thousand newlines": "\n" * 20_000 + "{}",
    "twenty thousand escapes": "\x1b" * 20_000 + "{}",
    **{f"control character {i}": chr(i) + "{}" for i in [*range(32), 127, *range(128, 132)]},
    **{f"keyword {word}": word + " {}" for word in keyword.kwlist[::3]},
}

# Put in one place at a time, as they are.
WORDS = [
    *("input", "output", "n0", "n1", "v0", "v1", "v2", "w0", "w1", "teacher", "inner", "beside", "end", "batch"),
    *("__class__", "__init__", "__del__", "__dict__", "__import__", "__builtins__", "__reduce__", "__getattr__"),
    *("self", "forward", "training", "_parameters", "_buffers", "_modules", "state_dict", "c0", "m0", "steps"),
    *("torch", "math", "nan", "inf", "None", "True", "0", "-1", "1e5", "NaN", "lambda", "class", "eval", "exec"),
    *("X", "é", "e\u0301", " ", ".", "..", "/", "\\", '"', "'", "%", "{}", "%s"),
    *("\n", "\0", "-", "--", "#", "*", "[/]"),
]


def test_there_are_enough_of_them() -> None:
    assert len(TEMPLATES) + len(WORDS) + len(MEGABYTES) >= 200


# An If, and a Loop that reads what is around it.
FLOW = """[which] after = If(yes) <
    then_branch = branch () => (float[batch,3] b2) <float two = {2.0}>
        { [times] b1 = Mul(h, two) [tanh] b2 = Tanh(b1) },
    else_branch = other () => (float[batch,3] b3) { b3 = Neg(h) }>
[again] looped = Loop(turns, , after) <
    body = body (int64 turn, bool go, float[rows,3] state) => (bool still, float[rows,3] next)
        { still = Identity(go) [plus] next = Add(state, after) }>"""


def clean_model() -> onnx.ModelProto:
    """A teacher with names in every place that has one."""
    act = own("act", "[inside] s = Sigmoid(a) b = Mul(a, s)")
    sparse = helper.make_sparse_tensor(
        tensor([1, 2, 3], "few", np.float32), tensor([0, 4, 8], "places", np.int64), [3, 3]
    )
    model = made(
        N("Constant", [], ["offset"], name="constant", value=tensor(0.5, "half", np.float32)),
        N("Add", ["x", "offset"], ["shifted"], name="first"),
        N("MatMul", ["shifted", "W"], ["m"], name="dense"),
        N("act", ["m"], ["h"], name="call", domain="own"),
        FLOW,
        N("MatMul", ["looped", "few"], ["mixed"], name="few places"),
        N("Dropout", ["mixed"], ["dropped", ""], name="drop"),
        N("Softmax", ["dropped"], ["y"], name="last", axis=1),
        weights={"yes": np.array(True), "turns": np.array(2), "unused": np.zeros(3, np.float32)},
        functions=[act],
        domains={"own": 1},
    )
    model.graph.sparse_initializer.append(sparse)
    model.graph.value_info.append(value("m", "batch", 3))
    return model


Rename = Callable[[str, str], str]  # what kind of thing, what it was called → what it is called


def renamed(model: onnx.ModelProto, rename: Rename) -> onnx.ModelProto:
    """The same model with its names replaced, and texts put wherever there is room for one."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    outputs = {out.name for out in model.graph.output}
    inputs = {source.name for source in model.graph.input}
    weights = {w.name for w in model.graph.initializer}

    def new(name: str) -> str:
        if not name:
            return ""
        kind = "input" if name in inputs else "output" if name in outputs else "weight" if name in weights else "value"
        return rename(kind, name)

    def of_tensor(one: TensorProto, kind: str | None = None) -> None:
        one.name = new(one.name) if kind is None else rename(kind, one.name)
        one.doc_string = rename("text", "tensor")
        one.metadata_props.add(key=rename("text", "key"), value=rename("text", "value"))

    def of_value(one: onnx.ValueInfoProto) -> None:
        one.name = new(one.name)
        one.doc_string = rename("text", "value")
        one.type.denotation = rename("text", "type")
        for dim in one.type.tensor_type.shape.dim:
            dim.denotation = rename("text", "dim")
            if dim.dim_param:
                dim.dim_param = rename("size", dim.dim_param)

    def of_nodes(nodes: Any) -> None:
        for node in nodes:
            node.name = rename("node", node.name)
            node.doc_string = rename("text", "node")
            node.metadata_props.add(key=rename("text", "key"), value=rename("text", "value"))
            node.input[:] = [new(name) for name in node.input]
            node.output[:] = [new(name) for name in node.output]
            if node.domain:
                node.domain, node.op_type = rename("domain", node.domain), rename("operator", node.op_type)
            for attribute in node.attribute:
                attribute.doc_string = rename("text", "attribute")
                if attribute.HasField("t"):
                    of_tensor(attribute.t, "text")
                if attribute.HasField("g"):
                    of_graph(attribute.g)

    def of_graph(graph: onnx.GraphProto) -> None:
        graph.name, graph.doc_string = rename("text", graph.name), rename("text", "graph")
        graph.metadata_props.add(key=rename("text", "key"), value=rename("text", "value"))
        for one in (*graph.input, *graph.output, *graph.value_info):
            of_value(one)
        for weight in graph.initializer:
            of_tensor(weight)
        for sparse in graph.sparse_initializer:
            of_tensor(sparse.values)
            of_tensor(sparse.indices, "text")
        of_nodes(graph.node)

    of_graph(model.graph)
    for function in model.functions:
        function.name, function.domain = rename("operator", function.name), rename("domain", function.domain)
        function.doc_string = rename("text", "function")
        function.input[:] = [rename("value", name) for name in function.input]
        function.output[:] = [rename("value", name) for name in function.output]
        of_nodes(function.node)
    for opset in model.opset_import:
        if opset.domain:
            opset.domain = rename("domain", opset.domain)
    model.doc_string = model.producer_name = model.producer_version = model.domain = rename("text", "model")
    for number in range(3):
        model.metadata_props.add(key=rename("text", f"key {number}"), value=rename("text", "value"))
    return model


def everywhere(template: str) -> Rename:
    known: dict[tuple[str, str], str] = {}
    return lambda kind, name: known.setdefault((kind, name), template.format(len(known)))


def in_one_place(place: str, word: str) -> Rename:
    """Only the first thing of a kind is called so."""
    taken: list[str] = []

    def rename(kind: str, name: str) -> str:
        if kind != place:
            return f"text for {name}" if kind == "text" else name
        taken.append(name)
        return word if name == taken[0] else name

    return rename


PLACES = ("node", "value", "input", "output", "weight", "size")


class Twin:
    """The clean model, and what becomes of it."""

    def __init__(self, folder: Path) -> None:
        self.model = clean_model()
        self.path = saved(self.model, folder, "clean.onnx")
        onnx.checker.check_model(self.model)
        self.facts = Teacher.load(self.path).facts
        self.opened = open_graph(self.path, TeacherOptions())
        self.bytes = self.opened.safe.cut(self.opened.output).SerializeToString()
        self.x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
        self.answer = self.answer_of(self.opened)

    def answer_of(self, opened: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and input gradient."""
        leaf = self.x.clone().requires_grad_(True)
        out = opened.logits("probabilities")(leaf)
        return out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("clean"))


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is made or left in this folder, and the environment stays as it was."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    yield
    assert not [path.name for path in (*tmp_path.iterdir(), *tmp_path.parent.iterdir()) if CANARY in path.name]
    assert not Path("/tmp/CANARY").exists()
    assert {k: v for k, v in os.environ.items() if "PYTEST" not in k} == {
        k: v for k, v in environment.items() if "PYTEST" not in k
    }


def is_the_twin(hostile: onnx.ModelProto, twin: Twin, folder: Path) -> None:
    """The same bytes for onnxruntime, the same answers and gradients to the bit, and plain output."""
    path = saved(hostile, folder)
    code, out, err = command("inspect", path)
    assert (code, err) == (0, f"inspecting {path.name}\n")
    assert "can be used" in out and out.replace("\n", "").isprintable() and len(out) < 20_000
    opened = open_graph(path, TeacherOptions())
    assert opened.safe.cut(opened.output).SerializeToString() == twin.bytes
    assert all(map(torch.equal, twin.answer_of(opened), twin.answer))
    own = hostile.graph
    assert opened.safe.input_name == own.input[0].name
    assert opened.safe.outputs == {opened.output: own.output[0].name}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_hostile_names_change_nothing(kind: str, twin: Twin, tmp_path: Path) -> None:
    is_the_twin(renamed(twin.model, everywhere(TEMPLATES[kind])), twin, tmp_path)


@pytest.mark.parametrize("word", WORDS)
def test_words_change_nothing(word: str, twin: Twin, tmp_path: Path) -> None:
    place = PLACES[WORDS.index(word) % len(PLACES)]
    is_the_twin(renamed(twin.model, in_one_place(place, word)), twin, tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_a_megabyte_changes_nothing(place: str, twin: Twin, tmp_path: Path) -> None:
    name = MEGABYTES[PLACES.index(place) % len(MEGABYTES)]
    is_the_twin(renamed(twin.model, in_one_place(place, name)), twin, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_every_word_in_every_place(place: str, twin: Twin, tmp_path: Path) -> None:
    for word in (*WORDS, *MEGABYTES):
        is_the_twin(renamed(twin.model, in_one_place(place, word)), twin, tmp_path)


@pytest.mark.parametrize("kind", ["double quote", "red", "bidi", "ten thousand", "control character 0", "JSON"])
def test_the_whole_teacher_is_the_twins(kind: str, twin: Twin, tmp_path: Path) -> None:
    hostile = renamed(twin.model, everywhere(TEMPLATES[kind]))
    teacher = Teacher.load(saved(hostile, tmp_path))
    signature = teacher.signature
    names = (hostile.graph.input[0].name, hostile.graph.output[0].name)
    assert (signature.input_name, signature.output_name) == names
    assert replace(signature, input_name="x", output_name="y") == twin.facts.signature
    assert (teacher.facts.operators, teacher.facts.parity) == (twin.facts.operators, twin.facts.parity)
    code, out, _ = command("inspect", tmp_path / "t.onnx", "--json")
    found = json.loads(out)
    assert code == 0 and out.isascii() and out.replace("\n", "").isprintable() and len(out) < 60_000
    told = (found["input"]["name"], found["outputs"][0]["name"])
    assert all(a == b or (len(a) == 1001 and b.startswith(a[:-1])) for a, b in zip(told, names, strict=True))
    # A name may be chosen by itself.
    assert Teacher.load(tmp_path / "t.onnx", input=names[0], output=names[1]).facts == teacher.facts


@pytest.mark.parametrize("kind", TEMPLATES)
def test_hostile_names_in_a_refusal(kind: str, tmp_path: Path) -> None:
    nodes = [HIDDEN, N("Hardmax", ["h"], ["i"]), N("act", ["i"], ["y"], domain="own")]
    bad = made(*nodes, domains={"own": 1}, inputs="float[batch,4] x")
    path = saved(renamed(bad, everywhere(TEMPLATES[kind])), tmp_path)
    error = refused(path, UnsupportedTeacher, "no conversion for this operator")
    assert len(error["what"]) < 700
    if [*TEMPLATES].index(kind) % 4:
        return  # the terminal gets the same texts
    code, out, err = command("inspect", path)
    assert code == 4 and "cannot be used" in out
    for stream in (out, err):
        assert stream.replace("\n", "").isprintable() and len(stream) < 20_000


# --- messages of every kind --------------------------------------------------------------------------------

LOUD = 'x\x1b[31m\u202e\r\n"; import os' + "y" * 5000


MESSAGES = {
    "a node": (UnsupportedTeacher, made(N("Secret", ["x"], ["y"], name=LOUD, domain="acme"), domains={"acme": 1})),
    "an operator": (UnsupportedTeacher, made(N(LOUD, ["x"], ["y"], domain=LOUD), domains={LOUD: 1})),
    "an operator of the standard": (UnsupportedTeacher, made(N(LOUD, ["x"], ["y"]))),
    "an operator before labels": (
        UnsupportedTeacher,
        made(N(LOUD, ["x"], ["y"], domain="acme"), domains={"acme": 1}, outputs="int64[batch] y"),
    ),
    "an input": (
        UnsupportedTeacher,
        made(N("Add", ["x", LOUD], ["y"]), inputs=[value("x", "b", 4), value(LOUD, "b", 4)]),
    ),
    "a size": (UnsupportedTeacher, made(N("Relu", ["x"], ["y"]), inputs=[value("x", "b", LOUD)])),
    "an input of no use": (
        UnsupportedTeacher,
        made(N("Relu", [LOUD], ["y"]), inputs=[value(LOUD, "b", kind=TensorProto.BOOL)]),
    ),
    "two outputs": (
        UnsupportedTeacher,
        made(
            N("MatMul", ["x", "W"], ["y"]), N("Tanh", ["x"], [LOUD]), outputs=[value("y", "b", 3), value(LOUD, "b", 4)]
        ),
    ),
    "a weight as output": (
        UnsupportedTeacher,
        made(N("Relu", ["x"], ["y"]), weights={LOUD: np.ones((4, 3))}, outputs=[value(LOUD, 4, 3)]),
    ),
    "a weight": (
        BadTeacherFile,
        made(N("MatMul", ["x", LOUD], ["y"]), weights={LOUD: np.full((4, 3), np.nan, np.float32)}),
    ),
    "an undefined value": (BadTeacherFile, made(N("Relu", [LOUD], ["y"]))),
    "an attribute": (BadTeacherFile, made(N("Relu", ["x"], ["y"], **{LOUD: 1}))),
    "a value made twice": (BadTeacherFile, made(N("Relu", ["x"], [LOUD]), N("Relu", ["x"], [LOUD]), SCORES)),
    "an output never made": (BadTeacherFile, made(SCORES, outputs=[value(LOUD, "b", 3)])),
    "a domain that is not imported": (BadTeacherFile, made(N("Secret", ["x"], ["y"], domain=LOUD))),
    "a mode": (
        BadTeacherFile,
        made(HIDDEN, N("Resize", ["h", "", "s"], ["y"], mode=LOUD), weights={"s": np.ones(2, np.float32)}),
    ),
    "a recursive function": (
        BadTeacherFile,
        made(
            N(LOUD, ["x"], ["y"], domain="own"),
            domains={"own": 1},
            functions=[own(LOUD, N(LOUD, ["a"], ["b"], domain="own"))],
        ),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_escape_and_cut_what_the_file_says(name: str, tmp_path: Path) -> None:
    kind, model = MESSAGES[name]
    path = saved(model, tmp_path)
    exam = sandbox.examine(path, TeacherOptions())
    assert isinstance(exam.error, kind | UnsupportedTeacher if name == "a mode" else kind), exam.error
    text = str(exam.error)
    assert text.replace("\n", "").isprintable() and len(text) < 1500 and text.count("\n") == 1
    refused(path, type(exam.error))


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_a_wrong_name_among_loud_ones(option: str, twin: Twin, tmp_path: Path) -> None:
    path = saved(renamed(twin.model, everywhere(TEMPLATES["red"])), tmp_path)
    refused(path, UsageError, "no value is called", arguments=[option, "\x1b[31m999"])


# --- texts that nobody needs --------------------------------------------------------------------------------


def test_much_text_is_no_harm(twin: Twin, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(twin.model.SerializeToString())
    model.doc_string = "x" * 20_000_000
    model.graph.doc_string = "\x1b[31m" * 1_000_000
    for number in range(100_000):
        model.metadata_props.add(key=f"\x1b{number}", value="y")
    is_the_twin(model, twin, tmp_path)


@pytest.mark.parametrize("replacement", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"a\x80"])
@pytest.mark.parametrize("place", ["node", "value", "input", "output", "weight", "operator", "domain", "size"])
def test_names_that_are_no_text(place: str, replacement: bytes, twin: Twin, tmp_path: Path) -> None:
    """Half surrogates among them, which some writers let through."""
    mark = "@" * len(replacement)
    content = renamed(twin.model, in_one_place(place, mark)).SerializeToString()
    assert mark.encode() in content
    path = saved(content.replace(mark.encode(), replacement), tmp_path)
    refused(path, BadTeacherFile, "a name that is not text")
