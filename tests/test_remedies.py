"""What errors advise: it can be followed with the file alone, names what is in the file, and blames who is at fault."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import command

import onnxcake

PACKAGE = Path(onnxcake.__file__).parent
EXAMPLES = PACKAGE.parent / "examples"
NETWORK = "if you have the network"
OURS = ("fault of onnxcake", "bug of onnxcake", "this is a bug; please report it with the lines above")


def texts() -> Iterator[tuple[str, str]]:
    """Every text in the package but docstrings, with its place; what is filled in shows as {}."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documents = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        skipped = documents | {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield where, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield where, node.value


TEXTS = list(texts())
RULES = {
    # What a text must not say, unless it says one of these too.
    "exporting is no remedy for a vendor's file": (
        r"\b(re-?)?export(ed)? (it|the model|again)|opset_version",
        (NETWORK,),
    ),
    "only our own bugs are reported": (r"\b[Rr]eport (it|this|the)", OURS),
    "inputs are called as in the file": (r"dynamic_axes|--(input|output) (?!and)[a-z]|--(hold|shape) [a-z]\w*=", ()),
    "an example has the rank of the value": (r"--shape \d|1,3,224,224", ()),
}


@pytest.mark.parametrize("name", RULES)
def test_texts_keep_the_rule(name: str) -> None:
    pattern, besides = RULES[name]
    broken = [
        f"{where}: {text!r}"
        for where, text in TEXTS
        if re.search(pattern, text) and not any(words in text for words in besides)
    ]
    assert not broken, "\n".join(broken)


def test_the_rules_see_texts() -> None:
    """A rule that matches nothing at all would hold whatever is written."""
    assert len(TEXTS) > 2000
    for pattern, besides in RULES.values():
        assert not besides or any(re.search(pattern, text) for _, text in TEXTS)


def test_an_example_of_a_shape_has_as_many_sizes_as_were_given() -> None:
    for said, example in (("n,10", "1,10"), ("1,x,y,8", "1,1,1,8"), ("1.5,64", "1,64"), ("mask=b,3", "mask=1,3")):
        ended = command("inspect", EXAMPLES / "digits.onnx", "--shape", said)
        assert ended.code == 2 and f"Write --shape {example}.\n" in ended.err
