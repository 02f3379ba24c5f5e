"""Every rule of `onnxcake.recipe.yaml_reader` as a row, and what must hold for any text at all."""

from __future__ import annotations

import copy
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcake.core.errors import RecipeError
from onnxcake.recipe.overrides import override
from onnxcake.recipe.yaml_reader import Mistake, Tree, parse, parse_value, tree_from

QUICKLY_S = 5  # what takes a reader without limits minutes takes far below a second


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def mistakes_in(text: bytes | str) -> list[Mistake]:
    return parse(text, "r.yaml")[1]


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("FALSE", False),
        ("tRue", "tRue"),
        *((word, word) for word in ("yes", "no", "on", "off", "Yes", "NO", "y", "n")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        ("nULL", "nULL"),
        ("none", "none"),
        ("0", 0),
        ("-0", 0),
        ("+7", 7),
        ("-12", -12),
        ("010", 10),
        ("08", 8),
        ("9" * 20, int("9" * 20)),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        ("1e5", 1e5),
        ("1E5", 1e5),
        ("1e-3", 1e-3),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("-1.25", -1.25),
        (".", "."),
        ("e5", "e5"),
        (".e5", ".e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("1_000", "1_000"),
        ("1_0.5", "1_0.5"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("１２", "１２"),  # full-width digits are no number
        ("nan", "nan"),
        ("inf", "inf"),
        ("=", "="),
        ("${HOME}", "${HOME}"),
        ("a text # and a comment", "a text"),
        ("a\n  b", "a b"),
        ("'1'", "1"),
        ('"1e5"', "1e5"),
        ("''", ""),
        ("'true'", "true"),
        ('"null"', "null"),
        ("'.nan'", ".nan"),
        ("|\n  1\n", "1\n"),
        (">-\n  1\n  2\n", "1 2"),
        (r'"\ud83c\udf70 \0 \N"', "\U0001f370 \0 \x85"),
        ("Käse", "Käse"),
        ("[]", []),
        ("{}", {}),
        ("[1, [.5, {a: no, 'b': }]]", [1, [0.5, {"a": "no", "b": None}]]),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    tree, mistakes = parse(f"key: {text}", "r.yaml")
    assert not mistakes
    assert tree.data == {"key": value}
    assert type(tree.data["key"]) is type(value)
    if "\n" not in text:
        assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("a: 1\nb:\n- c\n-\n- d: e\n", {"a": 1, "b": ["c", None, {"d": "e"}]}),
        (b"\xef\xbb\xbfa: 1", {"a": 1}),  # a UTF-8 byte order mark
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("---\na: 1\n...\n", {"a": 1}),
        ("%YAML 1.2\n---\na: 1", {"a": 1}),
        (
            "'<<': 1\n'1': 2\n\"\": 3\nno: 4\n1:30: 5\n? f\n",
            {"<<": 1, "1": 2, "": 3, "no": 4, "1:30": 5, "f": None},
        ),
        ("a: '&b *c !d'", {"a": "&b *c !d"}),
        ("- 1\n- 2", [1, 2]),
        ("lone", "lone"),
        (deep(20), json.loads(deep(20))),
        (str([0] * 9_999), [0] * 9_999),
        ("#" * 65_533 + "\n1", 1),
    ],
)
def test_documents(text: bytes | str, data: Any) -> None:
    tree, mistakes = parse(text, "r.yaml")
    assert not mistakes
    assert tree.data == data


# --- what is refused ---------------------------------------------------------------------------------------

REFUSED = [
    # numbers
    ("a: .nan", "1:1", "'.nan' is not a finite number"),
    ("a: .NaN", "1:1", "'.NaN' is not a finite number"),
    ("a: -.inf", "1:1", "'-.inf' is not a finite number"),
    ("a: +.INF", "1:1", "not a finite number"),
    ("a: 1e400", "1:1", "'1e400' is not a finite number"),
    ("a: [0, -1e400]", "1:8", "'-1e400' is not a finite number"),
    ("a: " + "9" * 400 + ".0", "1:1", "not a finite number"),
    ("a: -" + "1" * 21, "1:1", "'-111111111111111111111' has more than 20 digits"),
    ("a: " + "1" * 5_000, "1:1", "…' has more than 20 digits"),
    # tags, anchors, aliases, merge keys
    (
        "a:\n  b: !!python/object/apply:os.system [id]",
        "2:3",
        "the tag '!!python/object/apply:os.system' is not allowed",
    ),
    ("a: !!int 5", "1:1", "the tag '!!int'"),
    ("a: !mine {b: 1}", "1:1", "the tag '!mine'"),
    ("a: ! 5", "1:1", "the tag '!'"),
    ("!!map {a: 1}", "1:1", "the tag '!!map'"),
    ("!!str a: 1", "1:1", "the tag '!!str'"),
    ("a: 1\nb: &base {c: 1}", "2:1", "the anchor 'base' is not allowed"),
    ("&k a: 1", "1:1", "the anchor 'k'"),
    ("a: [1, *base]", "1:8", "the alias 'base' is not allowed"),
    ("*a : 1", "1:1", "the alias 'a'"),
    ("*a", "1:1", "the alias 'a'"),
    ("a: 1\n<<: {b: 2}", "2:1", "the merge key '<<' is not allowed"),
    # keys
    ("a: 1\nb: 2\na: 3", "3:1", "the key 'a' is on line 1 already"),
    ("a: {b: 1, 'b': 2}", "1:11", "the key 'b' is on line 1 already"),
    ("1: a", "1:1", "a key must be text, not '1'"),
    ("b: 1\n1e5: a", "2:1", "a key must be text, not '1e5'"),
    ("true: a", "1:1", "a key must be text, not 'true'"),
    ("null: a", "1:1", "a key must be text, not 'null'"),
    ("? \n: a", "1:2", "a key must be text, not ''"),
    ("[a]: b", "1:1", "a key must be text, not a list or mapping"),
    ("x: {{a: 1}: b}", "1:5", "a key must be text, not a list or mapping"),
    (".nan: a", "1:1", "'.nan' is not a finite number"),
    (
        "ѕteps: 5",
        "1:1",
        r"the key '\u0455teps' holds U+0455 (CYRILLIC SMALL LETTER DZE); keys are plain ASCII",
    ),
    ("a:\n  '１': 5", "2:3", "U+FF11 (FULLWIDTH DIGIT ONE)"),
    (r'"a\u200b": 5', "1:1", "U+200B (ZERO WIDTH SPACE)"),
    ("schön: 5", "1:1", "U+00F6 (LATIN SMALL LETTER O WITH DIAERESIS)"),
    (r'"a\e[31m": 1' + "\n" + r'"a\e[31m": 1', "2:1", r"the key 'a\x1b[31m' is on line 1 already"),
    # documents and limits
    ("", "", "the recipe is empty"),
    (b"\xef\xbb\xbf", "", "the recipe is empty"),
    ("# only a comment\n", "", "the recipe is empty"),
    ("---\n", "", "the recipe is empty"),
    ("~", "", "the recipe is empty"),
    ("a: 1\n---\nb: 2", "2:1", "a second document begins here"),
    ("---\n---\n", "2:1", "a second document begins here"),
    ("%YAML 1.1\n---\na: 1", "1:1", "without directives"),
    ("%TAG !e! tag:example.com,2026:\n---\na: 1", "1:1", "without directives"),
    (deep(21), "1:21", "nested deeper than 20 levels"),
    ("{? " * 21, "1:61", "nested deeper than 20 levels"),
    ("- " * 21 + "1", "1:41", "nested deeper than 20 levels"),
    (str([0] * 10_000), "1:29999", "more than 10,000 keys and values"),
    ("#" * 65_537, "", "longer than 65,536 bytes"),
    ("é" * 32_769, "", "longer than 65,536 bytes"),
    # characters
    ("a: 1\nb: \0", "2:4", "the character U+0000 (a control character) is not allowed"),
    ("a: '\x1b[31m'", "1:5", "U+001B"),
    ("é: '\u2028'", "1:5", "U+2028 (LINE SEPARATOR)"),
    ("a: \x85", "1:4", "U+0085"),
    ("a: \ufeff1", "1:4", "U+FEFF (ZERO WIDTH NO-BREAK SPACE)"),
    (b"a: 1\r\nb: \xff", "2:4", "the byte 0xff is not UTF-8"),
    (b"\xef\xbb\xbf\xc3\xa9: \xc3", "1:4", "the byte 0xc3 is not UTF-8"),
    ("a: \ud83c", "1:4", "is not UTF-8"),
    (r'a: "\ud83c"', "1:1", "half a surrogate pair"),
    (r'"\ud83c": 1', "1:1", "half a surrogate pair"),
    ("a: 1".encode("utf-16"), "", "UTF-16 or UTF-32"),
    (b"\xfe\xff\0a", "", "UTF-16 or UTF-32"),
    ("a: 1".encode("utf-32"), "", "UTF-16 or UTF-32"),
    (b"\0\0\xfe\xff\0\0\0a", "", "UTF-16 or UTF-32"),
    ("a: 1".encode("utf-16-le"), "1:2", "U+0000"),
    # syntax
    ("a: b: c", "1:5", "a ':' that cannot stand here"),
    ("a: 1\nword\nb: 2", "2:1", "a key without ': ' after it"),
    ("a:\n\tb: 1", "2:1", "a tab; use spaces"),
    ("a: @b", "1:4", "must be in quotes"),
    ("a:\n    b: 1\n  c: 2", "3:3", "check the indentation"),
    ("  a: 1\nb: 2", "2:1", "check the indentation"),
    ("a: 'b' c", "1:8", "check the indentation"),
    ("a: - b", "1:4", "begin the list on a new line"),
    ("a: [1, 2\nb: 3", "2:2", "the list's closing ']'"),
    ("a: {b: 1", "1:9", "the mapping's closing '}'"),
    ("a: [", "1:5", "a value is missing before this"),
    ("a: 1\nb: 'c\nd: 2\n", "2:4", "the quote that opens here is never closed"),
    ('a: "b\n---\n', "1:4", "the quote that opens here is never closed"),
    ('a: "b\n\n\\q"', "3:2", "this is not YAML: found unknown escape character 'q'"),
    (r'a: "\UFFFFFFFF"', "1:7", "this is not YAML: a number out of range"),
    (r'a: "\U00110000"', "1:7", "this is not YAML: a number out of range"),
    ("a: !e!b 1", "1:4", "this is not YAML: found undefined tag handle '!e!'"),
    ("a: &", "1:5", "this is not YAML"),
]


@pytest.mark.parametrize(("text", "place", "what"), REFUSED, ids=[ascii(row[0])[:40] for row in REFUSED])
def test_each_refusal_names_its_place(text: bytes | str, place: str, what: str) -> None:
    (mistake,) = mistakes_in(text)
    assert mistake.where == (f"r.yaml:{place}" if place else "r.yaml")
    assert what in mistake.what
    assert len(mistake.what) < 300
    assert mistake.what.isprintable()
    assert "Traceback" not in mistake.what


def test_every_mistake_at_once_and_the_rest_stays_usable() -> None:
    text = """\
lr: 1e-3
steps: .inf
1: one
steps: 5
source: &s
  ѕcale: 1e999
  sizes: [1, *s, !!float 3]
losses: {<<: *s, entropy: 10}
---
"""
    tree, mistakes = parse(text, "r.yaml")
    assert [mistake.where.removeprefix("r.yaml:") for mistake in mistakes] == [
        *("2:1", "3:1", "4:1", "5:1", "6:3", "6:3", "7:14", "7:18", "8:10", "8:10", "9:1")
    ]
    assert tree.data == {
        "lr": 1e-3,
        "steps": None,
        "source": {"sizes": [1, None, 3]},
        "losses": {"entropy": 10},
    }
    # Whoever checks further can tell what has been said already.
    assert tree.where(("steps",)) in {mistake.where for mistake in mistakes}


@pytest.mark.parametrize("text", ["a: [", "a: 1\nb: \0", deep(21), "a: 1\n: : :", b"\xff", '"\\UFFFFFFFF"'])
def test_unusable_text_gives_no_data(text: bytes | str) -> None:
    tree, mistakes = parse(text, "r.yaml")
    assert tree.data is None
    assert mistakes


def test_mistakes_before_a_syntax_error_are_told_too() -> None:
    assert [mistake.where for mistake in mistakes_in("a: .nan\nb: !!int 1\nc: [")] == [
        "r.yaml:1:1",
        "r.yaml:2:1",
        "r.yaml:3:5",
    ]


# --- places ------------------------------------------------------------------------------------------------


def test_where_is_the_key_or_the_nearest_known_ancestor() -> None:
    text = "# comment\na: 1\nb:\n  c:\n  - d\n  - {e: 5,\n     f: [g]}\n"
    tree, _ = parse(text, "r.yaml")
    table: dict[tuple[str | int, ...], str] = {
        (): "2:1",
        ("a",): "2:1",
        ("b",): "3:1",
        ("b", "c"): "4:3",
        ("b", "c", 0): "5:5",
        ("b", "c", 1): "6:5",
        ("b", "c", 1, "e"): "6:6",
        ("b", "c", 1, "f"): "7:6",
        ("b", "c", 1, "f", 0): "7:10",
        ("b", "c", 1, "missing", "deeper"): "6:5",
        ("b", "c", 7): "4:3",
        ("missing",): "2:1",
    }
    assert {path: tree.where(path) for path in table} == {path: f"r.yaml:{at}" for path, at in table.items()}
    assert set(tree.places) == {path for path in table if "missing" not in path and 7 not in path}


def test_where_without_places_is_the_source() -> None:
    assert tree_from({"a": 1}, "a dict").where(("a",)) == "a dict"
    assert parse("", "r.yaml")[0].where(("a", 0)) == "r.yaml"


def test_what_is_dropped_leaves_no_places() -> None:
    tree, _ = parse("a: {b: 1}\na: {c: 2}\n? {d: 3}\n: {e: 4}\nü: {f: 5}", "r.yaml")
    assert tree.data == {"a": {"b": 1}}
    assert set(tree.places) == {(), ("a",), ("a", "b")}


# --- any text at all ---------------------------------------------------------------------------------------

keys = st.text(st.characters(codec="ascii"), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20) + 1, 10**20 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=30,
)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # tells 1 from 1.0 and 0.0 from -0.0


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(keys, trees, max_size=6) | st.lists(trees, max_size=6), st.sampled_from([None, 0, 2, 7]))
def test_json_is_yaml(data: Any, indent: int | None) -> None:
    text = json.dumps(data, indent=indent)
    tree, mistakes = parse(text.encode(), "r.json")
    assert not mistakes
    assert same(tree.data, data)
    lines = text.split("\n")
    for path, (line, column) in tree.places.items():
        found: Any = data
        for step in path:
            found = found[step]
        named = json.dumps(path[-1]) if path and isinstance(path[-1], str) else json.dumps(found)[0]
        assert lines[line - 1][column - 1 :].startswith(named)


@settings(deadline=None, max_examples=100)
@given(trees)
def test_values_of_options_are_read_alike(data: Any) -> None:
    assert same(parse_value(json.dumps(data)), data)


@settings(deadline=timedelta(seconds=QUICKLY_S), max_examples=150)
@given(st.binary(max_size=400) | st.text(max_size=200))
def test_any_bytes_are_read_or_refused(text: bytes | str) -> None:
    tree, mistakes = parse(text, "r.yaml")
    assert mistakes or tree.data is not None


PIECES = r"""
a b 1 F é ~ .nan ' " [ ] { } - -\x20 : :\x20 ? ?\x20 , & * &a\x20 *a\x20 ! !!int\x20 !< %FF << | |2 > @ #
--- ... % %YAML\x20 %TAG\x20 1.1 \\ \\U \x20 \n \n\x20\x20 \n-\x20 \r \t \0 \ufeff \ud800
"""
pieces = st.sampled_from([piece.encode("latin-1").decode("unicode_escape") for piece in PIECES.split()])


@settings(deadline=timedelta(seconds=QUICKLY_S), max_examples=600)
@given(st.lists(pieces, max_size=40).map("".join))
def test_anything_like_yaml_is_read_or_refused(text: str) -> None:
    tree, mistakes = parse(text, "r.yaml")
    assert mistakes or tree.data is not None
    assert all(mistake.what.isprintable() for mistake in mistakes)
    override(tree_from({"a": [0, {}]}, "a dict"), text)


BOMBS = {
    "billion laughs": "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 10)),
    "merged laughs": "a0: &a0 {k: ha}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}]}}\n" for n in range(1, 10)),
    "a loop": "&a [*a]",
    "brackets": "[" * 65_000,
    "braces": "{" * 65_000,
    "keys of keys": "{[" * 32_000,
    "dashes": "- " * 32_000,
    "question marks": "? " * 32_000,
    "one line each": "\n".join(" " * n + "-" for n in range(350)),
    "many nodes": "[" + "1," * 32_000 + "]",
    "many keys": "".join(f"k{n}:\n" for n in range(9_000)),
    "one key again and again": "k:\n" * 20_000,
    "no end of anchors": "- &a\n" * 12_000,
    "a long number": "1" * 65_000,
    "a long almost-number": "1" * 64_000 + "x",
    "a long word": "x" * 65_000,
    "a long quote": '"' + "\\n" * 32_000,
    "a long tag": "!" + "%41" * 21_000,
    "empty lines": '"' + "\n" * 65_000,
    "far too long": "[" * 50_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name: str) -> None:
    start = time.perf_counter()
    parse(BOMBS[name], "r.yaml")
    assert time.perf_counter() - start < QUICKLY_S


def test_billion_laughs_names_every_anchor() -> None:
    mistakes = mistakes_in(BOMBS["billion laughs"])
    assert [mistake.where for mistake in mistakes if "anchor" in mistake.what] == [
        f"r.yaml:{line}:1" for line in range(1, 11)
    ]


# --- -o key=value ------------------------------------------------------------------------------------------

BASE = "lr: 1e-3\nstudent:\n  epochs: 5\n  width: [8, 16]\nlosses:\n- {name: entropy}\nempty:\n"
DATA = {
    "lr": 1e-3,
    "student": {"epochs": 5, "width": [8, 16]},
    "losses": [{"name": "entropy"}],
    "empty": None,
}


@pytest.mark.parametrize(
    ("assignment", "changes"),
    [
        ("lr=1e-4", {"lr": 1e-4}),
        (" lr = 1e-4 ", {"lr": 1e-4}),
        ("lr=no", {"lr": "no"}),
        ("lr=a=b", {"lr": "a=b"}),
        ('lr=""', {"lr": ""}),
        ("lr='null'", {"lr": "null"}),
        ("lr=${HOME}", {"lr": "${HOME}"}),
        ("student.epochs=010", {"student": {"epochs": 10, "width": [8, 16]}}),
        ("student.width.1=32", {"student": {"epochs": 5, "width": [8, 32]}}),
        ("student.width=[1, 2, 3]", {"student": {"epochs": 5, "width": [1, 2, 3]}}),
        ("student={name: mlp, hidden: null}", {"student": {"name": "mlp", "hidden": None}}),
        ("losses.0.weight=2", {"losses": [{"name": "entropy", "weight": 2}]}),
        ("require.agreement=.9", {"require": {"agreement": 0.9}}),
        ("a.b.0.c=1", {"a": {"b": {"0": {"c": 1}}}}),
        ("empty.a=1", {"empty": {"a": 1}}),
        ("student.epochs=null", {"student": {"width": [8, 16]}}),
        ("losses.0.name=~", {"losses": [{}]}),
    ],
)
def test_override(assignment: str, changes: dict[str, Any]) -> None:
    tree, _ = parse(BASE, "r.yaml")
    assert override(tree, assignment) is None
    assert tree.data == DATA | changes


def test_override_removes_with_null() -> None:
    tree, _ = parse(BASE, "r.yaml")
    for key in ("lr", "student", "losses", "empty"):
        assert override(tree, f"{key}=null") is None
        assert key not in tree.data


@pytest.mark.parametrize(
    ("assignment", "where", "what"),
    [
        ("student.epochs", "-o student.epochs", "write key=value"),
        ("lr=", "-o lr", "write key=value"),
        ("lr= ", "-o lr", "write key=value"),
        ("", "-o ", "write key=value"),
        ("=1", "-o ", "write key=value"),
        (".lr=1", "-o .lr", "write key=value"),
        ("a..b=1", "-o a..b", "write key=value"),
        ("a.=1", "-o a.", "write key=value"),
        (".".join("a" * 21) + "=1", "-o a.a.a", "write key=value"),
        ("ѕteps=1", r"-o '\u0455teps'", "U+0455 (CYRILLIC SMALL LETTER DZE)"),
        ("lr=#ff0000", "-o lr", "needs quotes"),
        ("lr=---", "-o lr", "no value"),
        ("lr=.nan", "-o lr", "'.nan' is not a finite number"),
        ("lr=1e400", "-o lr", "'1e400' is not a finite number"),
        ("lr=[.nan, 1e400]", "-o lr", "'.nan' is not a finite number; '1e400' is not a finite number"),
        ("lr=!!int 5", "-o lr", "the tag '!!int' is not allowed"),
        ("lr=&a 5", "-o lr", "the anchor 'a' is not allowed"),
        ("lr=*a", "-o lr", "the alias 'a' is not allowed"),
        ("lr={a: 1, a: 2}", "-o lr", "the key 'a' is on line 1 already"),
        ("lr=a: 1", "-o lr", "a mapping as {a: 1}"),
        ("lr=- 1", "-o lr", "a list as [a, b]"),
        ("lr=[1", "-o lr", "closing ']'"),
        ("lr=a\0", "-o lr", "U+0000"),
        ("lr=\udcff", "-o lr", "is not UTF-8"),
        ("lr.steps=1", "-o lr.steps", "'lr' is '0.001', not a mapping, so it has no 'steps'"),
        ("student.epochs.a.b=1", "-o student.epochs.a.b", "'student.epochs' is '5', not a mapping"),
        (
            "losses.entropy=1",
            "-o losses.entropy",
            "'losses' has 1 items, numbered from 0, and no 'entropy' among",
        ),
        ("losses.1=2", "-o losses.1", "no '1' among"),
        ("losses.-1=2", "-o losses.-1", "no '-1' among"),
        ("losses.1.a=2", "-o losses.1.a", "no '1' among"),
        ("losses.00.a=2", "-o losses.00.a", "no '00' among"),
        ("losses." + "9" * 5_000 + "=2", "-o 'losses.9999", "among"),
        ("losses.0=null", "-o losses.0", "give the whole list"),
        ("studnet=null", "-o studnet", "there is nothing to remove (did you mean 'student'?)"),
        ("a.b.c=null", "-o a.b.c", "there is nothing to remove"),
        ("empty.a=null", "-o empty.a", "there is nothing to remove"),
    ],
)
def test_override_refuses_and_changes_nothing(assignment: str, where: str, what: str) -> None:
    tree, _ = parse(BASE, "r.yaml")
    before = copy.deepcopy(tree)
    mistake = override(tree, assignment)
    assert mistake is not None
    assert mistake.where.startswith(where) if len(assignment) > 40 else mistake.where == where
    assert what in mistake.what
    assert tree == before


@pytest.mark.parametrize("data", [None, 5, "text"])
def test_override_needs_a_mapping(data: Any) -> None:
    mistake = override(Tree(data, "r.yaml"), "a=1")
    assert mistake is not None
    assert "the recipe is" in mistake.what


def test_override_is_the_place_from_then_on() -> None:
    tree, _ = parse(BASE, "r.yaml")
    for assignment in ("student={name: mlp}", "require.floor.agreement=.9", "losses.0.weight=2", "lr=null"):
        assert override(tree, assignment) is None
    table: dict[tuple[str | int, ...], str] = {
        ("student",): "-o student",
        ("student", "name"): "-o student",
        ("student", "epochs"): "-o student",
        ("require",): "-o require.floor.agreement",
        ("require", "floor", "agreement"): "-o require.floor.agreement",
        ("losses", 0, "weight"): "-o losses.0.weight",
        ("losses", 0, "name"): "r.yaml:6:4",
        ("lr",): "-o lr",
        ("other",): "r.yaml:1:1",
    }
    assert {path: tree.where(path) for path in table} == table
    assert override(tree, "student.name=cnn") is None
    assert tree.where(("student", "name")) == "-o student.name"
    assert override(tree, "student={name: vit}") is None
    assert tree.where(("student", "name")) == "-o student"


def test_a_tree_from_python_data_is_a_copy() -> None:
    loss = {"weight": 1}
    data = {"losses": {"a": loss, "b": loss}, "sizes": (1, 2)}
    tree = tree_from(data, "a dict")
    assert override(tree, "losses.a.weight=2") is None
    assert override(tree, "sizes.0=5") is None
    assert tree.data == {"losses": {"a": {"weight": 2}, "b": {"weight": 1}}, "sizes": [5, 2]}
    assert data == {"losses": {"a": {"weight": 1}, "b": {"weight": 1}}, "sizes": (1, 2)}


def test_a_tree_from_data_that_holds_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["self"] = data
    with pytest.raises(RecipeError, match="nested deeper than 20 levels"):
        tree_from(data, "a dict")
