"""Parse YAML text to plain data with the place of every key and value, strictly, with every mistake at once.

The only module that imports yaml. It asks PyYAML for events and nothing more: no constructor runs, no alias
is followed. PyYAML's Python reader reads no further ahead than it must, so that limits stop it in time.
Unquoted scalars mean what YAML 1.2's core schema says, but in decimal only: ``no`` and ``0x1F`` are text,
``010`` is ten, ``1e5`` is a number.

A mistake about a value is placed where `Tree.where` places that value, and the value becomes None: whoever
checks the data further leaves out what concerns a place already named.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..core.errors import RecipeError
from ..core.text import SHOWN_CHARACTERS, shown

LIMIT_BYTES, LIMIT_NODES, LIMIT_DEPTH, LIMIT_DIGITS = 64 * 1024, 10_000, 20, 20

Path = tuple[str | int, ...]
Place = tuple[int, int]

WORDS = dict.fromkeys(("null", "Null", "NULL", "~", "")) | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNSEEN = re.compile("[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# PyYAML's words, ours, and whether to point at where the faulty thing begins, not at where it was noticed.
_PLAIN_WORDS = (
    ("mapping values are not allowed", "a ':' that cannot stand here; quote text that holds ': '", False),
    ("could not find expected ':'", "a key without ': ' after it", True),
    ("'\\t' that cannot start", "a tab; use spaces", False),
    ("that cannot start any token", "text that begins with this character must be in quotes", False),
    ("expected <block end>", "this does not line up with the lines above; check the indentation", False),
    ("expected '<document start>'", "the recipe has ended before this; check the indentation", False),
    ("expected the node content", "a value is missing before this", False),
    ("sequence entries are not allowed", "a '-' that cannot stand here; begin the list on a new line", False),
    ("expected ',' or ']'", "a ',' or the list's closing ']' is missing before this", False),
    ("expected ',' or '}'", "a ',' or the mapping's closing '}' is missing before this", False),
    ("found unexpected", "the quote that opens here is never closed", True),
)


@dataclass(frozen=True)
class Mistake:
    """Hold one mistake; ``where`` is like ``cake.yaml:12:5`` or ``-o student.epochs``."""

    where: str
    what: str


@dataclass
class Tree:
    """Hold plain data and the place (line and column, from 1) of each value; of an entry, the place of its key."""

    data: Any
    source: str
    places: dict[Path, Place] = field(default_factory=dict)
    options: dict[Path, str] = field(default_factory=dict)  # what `override` set, removed or made on its way

    def where(self, path: Path) -> str:
        """Return ``source:line:column``, or the overriding ``-o key``, of ``path`` or its nearest known ancestor."""
        for known in (path[:length] for length in range(len(path), -1, -1)):
            if known in self.options:
                return self.options[known]
            if known in self.places:
                return _where(self.source, self.places[known])
        return self.source


def parse(text: bytes | str, source: str) -> tuple[Tree, list[Mistake]]:
    """Parse the one document in ``text``; return it, its data None if unusable, and its mistakes. Never raises."""
    reader = _Reader(text)
    if reader.data is None and not reader.mistakes:
        reader.mistakes.append((None, "the recipe is empty"))
    mistakes = [Mistake(_where(source, place), what) for place, what in reader.mistakes]
    return Tree(reader.data, source, reader.places), mistakes


def parse_value(text: str) -> Any:
    """Parse one scalar, ``[list]`` or ``{mapping}``, by the rules of `parse`.

    Raises:
        ValueError: with all that is wrong with it.
    """
    reader = _Reader(text, flow_only=True)
    if reader.mistakes:
        raise ValueError("; ".join(what for _, what in reader.mistakes))
    return reader.data


class _UnreadableError(Exception):
    """Signal that reading cannot go on; its args are the place (or None) and the mistake."""


class _Reader:
    """Read one document; a ``path`` is None inside parts that are read for their mistakes only."""

    def __init__(self, text: bytes | str, *, flow_only: bool = False) -> None:
        self.data: Any = None
        self.places: dict[Path, Place] = {}
        self.mistakes: list[tuple[Place | None, str]] = []
        self._flow_only = flow_only
        self._nodes = 0
        self._events: Any = None
        try:
            self._events = yaml.SafeLoader(_decoded(text))
            self.data = self._document()
        except _UnreadableError as error:
            self._refuse(*error.args)
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: escapes beyond U+10FFFF
            self._refuse(*_in_plain_words(error, self._events.get_mark()))

    def _refuse(self, place: Place | None, what: str) -> None:
        self.mistakes.append((place, what))

    def _here(self) -> Place:
        return _place(self._events.peek_event().start_mark)

    def _document(self) -> Any:
        self._events.get_event()
        if self._events.check_event(yaml.StreamEndEvent):
            return None
        start = self._events.get_event()
        if start.tags or start.version not in (None, (1, 2)):
            self._refuse(_place(start.start_mark), "a recipe is YAML 1.2 without directives; remove them")
        data = self._value((), 0, self._here())
        self._events.get_event()
        if not self._events.check_event(yaml.StreamEndEvent):
            self._refuse(self._here(), "a second document begins here; a recipe is one document")
        return data

    def _value(self, path: Path | None, depth: int, place: Place) -> Any:
        """Read the next value (or key); ``depth`` counts the lists and mappings around it."""
        event = self._events.get_event()
        if path is not None:
            self.places[path] = place
        self._nodes += 1
        if self._nodes > LIMIT_NODES:
            raise _UnreadableError(place, f"more than {LIMIT_NODES:,} keys and values; a recipe is far smaller")
        name = "alias" if isinstance(event, yaml.AliasEvent) else "anchor"
        for kind, given in ((name, event.anchor), ("tag", getattr(event, "tag", None))):
            if given is not None:
                given = given.replace("tag:yaml.org,2002:", "!!")
                self._refuse(place, f"the {kind} {shown(given)} is not allowed; write the plain value")
        if isinstance(event, yaml.AliasEvent):
            return None
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place)
        if depth == LIMIT_DEPTH:
            raise _UnreadableError(place, f"nested deeper than {LIMIT_DEPTH} levels; write it flatter")
        if self._flow_only and not event.flow_style:
            raise _UnreadableError(place, "write a list as [a, b], a mapping as {a: 1}; quote text with ': '")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path, depth + 1)
        return self._mapping(path, depth + 1)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Any:
        try:
            return _unquoted(event.value) if event.style is None else _paired(event.value)
        except ValueError as error:
            return self._refuse(place, str(error))

    def _list(self, path: Path | None, depth: int) -> list[Any]:
        data: list[Any] = []
        while not self._events.check_event(yaml.SequenceEndEvent):
            data.append(self._value(_child_path(path, len(data)), depth, self._here()))
        self._events.get_event()
        return data

    def _mapping(self, path: Path | None, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not self._events.check_event(yaml.MappingEndEvent):
            place = self._here()
            key = self._key(depth, place)
            if key in lines:
                self._refuse(place, f"the key {shown(key)} is on line {lines[key]} already; keep one of them")
                key = None
            value = self._value(_child_path(path, key), depth, place)
            if key is not None:
                data[key], lines[key] = value, place[0]
        self._events.get_event()
        return data

    def _key(self, depth: int, place: Place) -> str | None:
        """Read the next key; return None, and note a mistake, if it is not valid."""
        mistakes_before = len(self.mistakes)
        event = self._events.peek_event()
        key = self._value(None, depth, place)
        if key == "<<" and event.style is None:
            self._refuse(place, "the merge key '<<' is not allowed; write the keys out")
        elif isinstance(key, str) and (odd := odd_character(key)):
            self._refuse(place, odd)
        elif isinstance(key, str):
            return key
        elif len(self.mistakes) == mistakes_before:
            given = shown(event.value) if isinstance(event, yaml.ScalarEvent) else "a list or mapping"
            self._refuse(place, f"a key must be text, not {given}; put it in quotes if it is meant so")
        return None


def _decoded(text: bytes | str) -> str:
    """Decode the text, if it is short enough, UTF-8, and free of control characters and odd line breaks."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(raw) > LIMIT_BYTES:
        raise _UnreadableError(None, f"longer than {LIMIT_BYTES:,} bytes; a recipe is far smaller")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise _UnreadableError(None, "the text is UTF-16 or UTF-32; save it as UTF-8")
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the byte 0x{error.object[error.start]:02x} is not UTF-8; save the text as UTF-8"
        raise _UnreadableError(_end_of(error.object[: error.start].decode()), what) from error
    if unseen := _UNSEEN.search(decoded):
        what = f"the character {_name_character(unseen[0])} is not allowed; remove it, or escape it in double quotes"
        raise _UnreadableError(_end_of(decoded[: unseen.start()]), what)
    return decoded


def _unquoted(text: str) -> Any:
    """Convert an unquoted scalar to its value; raise ValueError for a number that is not finite or too long."""
    if text in WORDS:
        return WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-")) > LIMIT_DIGITS:
            raise ValueError(f"{shown(text)} has more than {LIMIT_DIGITS} digits")
        return int(text)
    number = _FLOAT.fullmatch(text)
    if _NOT_FINITE.fullmatch(text) or (number and math.isinf(float(text))):
        raise ValueError(f"{shown(text)} is not a finite number")
    return float(text) if number else text


def _paired(text: str) -> str:
    r"""Join JSON's ``\ud83c\udf70`` into one character; raise ValueError for half of such a pair."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(text)} holds half a surrogate pair; write the whole character") from error


def _in_plain_words(error: Exception, here: Any) -> tuple[Place, str]:
    problem = str(getattr(error, "problem", "a number out of range"))
    mark = getattr(error, "problem_mark", None) or here
    for said, words, at_its_begin in _PLAIN_WORDS:
        if said in problem:
            begin = getattr(error, "context_mark", None)
            return _place(begin if begin and at_its_begin else mark), words
    said = problem.encode("ascii", "backslashreplace").decode()[:SHOWN_CHARACTERS]
    return _place(mark), f"this is not YAML: {said}"


def odd_character(key: str) -> str:
    odd = re.search(r"[^\0-\x7f]", key)
    return f"the key {shown(key)} holds {_name_character(odd[0])}; keys are plain ASCII" if odd else ""


def _name_character(character: str) -> str:
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"


def _where(source: str, place: Place | None) -> str:
    return f"{source}:{place[0]}:{place[1]}" if place else source


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


def _end_of(text: str) -> Place:
    lines = (text + ".").splitlines()
    return len(lines), len(lines[-1])


def _child_path(path: Path | None, step: str | int | None) -> Path | None:
    return None if path is None or step is None else (*path, step)


def tree_from(data: Any, source: str) -> Tree:
    """Copy a recipe given as Python data, so that no override reaches the caller's own.

    Raises:
        RecipeError: if it is nested deeper than a recipe may be, or holds itself.
    """

    def copied(value: Any, depth: int) -> Any:
        if not isinstance(value, Mapping | list | tuple):
            return value
        if depth == LIMIT_DEPTH:
            remedy = "Write it flatter; it must not hold itself either."
            raise RecipeError(f"nested deeper than {LIMIT_DEPTH} levels", where=source, remedy=remedy)
        if isinstance(value, Mapping):
            return {str(key): copied(item, depth + 1) for key, item in value.items()}
        return [copied(item, depth + 1) for item in value]

    return Tree(copied(data, 0), source)
