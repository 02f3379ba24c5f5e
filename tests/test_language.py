"""First lines of docstrings say what is done, as an act or in a standard term."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "onnxcake"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name.isidentifier())

# A subject or a pronoun in place of an act.
SUBJECT = re.compile(
    r"(What|Whether|Which|How|Why|Who|Where|When|The|A|An|One|Each|Every|It|Its|This|That|These|Those|If|All|Takes|Has|Is)\b"
)
THIRD_PERSON = re.compile(r"[A-Z][a-z]+(?<!s)s\b")  # "Returns", "Makes"; not "Pass" or "Express"
PLURAL_VERBS = {"Focus", "Bias", "Canvas", "Alias"}


def files(room: str) -> list[Path]:
    """List the files of a room."""
    return sorted((PACKAGE / room).rglob("*.py"))


def first_lines(path: Path) -> Iterator[tuple[str, bool, str]]:
    """Yield the place, whether it is a function, and the first line of each docstring in a file."""

    def inside(node: ast.AST, name: str) -> Iterator[tuple[str, bool, str]]:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield name, isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)), text.splitlines()[0]
        for child in ast.iter_child_nodes(node):
            own = getattr(child, "name", None)
            yield from inside(child, f"{name}.{own}" if isinstance(own, str) else name)

    yield from inside(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(PACKAGE)))


def faults(line: str, function: bool) -> list[str]:
    """List what is wrong with a docstring's first line."""
    found = []
    if SUBJECT.match(line):
        found.append("begins with a subject, not with what is done")
    word = THIRD_PERSON.match(line)
    if function and word is not None and word[0] not in PLURAL_VERBS:
        found.append(f"begins with {word[0]}: say it in the imperative")
    if not line.endswith((".", ":", "…")):
        found.append("does not end as a sentence does")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_first_lines_name_an_act(room: str) -> None:
    wrong = [
        f"{place}: {line!r} {'; '.join(told)}"
        for path in files(room)
        for place, function, line in first_lines(path)
        if (told := faults(line, function))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "function"),
    [
        ("What the teacher says.", True),
        ("The loss of a batch.", False),
        ("Returns the loss.", True),
        ("Whether it fits.", True),
        ("Return the loss", True),
    ],
)
def test_riddles_are_found(line: str, function: bool) -> None:
    assert faults(line, function)


@pytest.mark.parametrize(
    ("line", "function"),
    [("Return the loss of a batch.", True), ("Samples that a student learns from.", False), ("Express it.", True)],
)
def test_acts_pass(line: str, function: bool) -> None:
    assert not faults(line, function)
