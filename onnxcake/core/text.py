"""Show names and messages that come out of untrusted files: escaped, cut, in quotes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN_CHARACTERS = 100


def shown(name: object) -> str:
    """Return a name out of an untrusted file escaped, cut to 100 characters, in quotes."""
    text = ascii(str(name))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…'"


def printable(text: str) -> str:
    """Escape all characters of ``text`` that a terminal might obey: control, direction, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: Exception, limit: int = 300) -> str:
    """Return the first line of a library's message, escaped and cut, as the message may quote an untrusted file."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:limit].encode("unicode_escape").decode("ascii")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
