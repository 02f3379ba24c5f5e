"""The closed list of things that can go wrong, each with what, where, what to do, and an exit code.

Exit codes, for pipelines to act on:

====  =======================================================================================
0     done
1     internal error: a bug in onnxcake, please report it
2     usage: an argument or a probe file that does not fit
3     the recipe is invalid, or diverges on this teacher
4     the teacher cannot be used
5     done, but under the recipe's ``require`` floor
6     the store is damaged beyond repair, or belongs to another run
7     output cannot be written (permission, disk full)
75    try again: a passing condition
130   interrupted (SIGINT); run again to continue
143   terminated (SIGTERM); run again to continue
====  =======================================================================================
"""

from __future__ import annotations

from typing import Any

from .text import printable


class OnnxcakeError(Exception):
    """Anything onnxcake refuses or cannot do, said as *where: what* and, on its own line, what to do."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", remedy: str = "") -> None:
        # Whoever raises it escapes what an untrusted file says and cuts it; this is the net below them.
        self.what, self.remedy = ("\n".join(map(printable, text.split("\n"))) for text in (what, remedy))
        self.where = printable(str(where))
        super().__init__(self.what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.remedy}" if self.remedy else head

    def as_dict(self) -> dict[str, Any]:
        """The parts, for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(OnnxcakeError):
    """An argument that does not fit."""

    exit_code = 2


class ProbeError(UsageError):
    """A probe file that cannot be read or does not fit the teacher."""


class RecipeError(OnnxcakeError):
    """Every mistake of a recipe, all at once, each with its place."""

    exit_code = 3


class Diverged(OnnxcakeError):
    """A loss stayed non-finite after retries with fresh keys."""

    exit_code = 3


class TeacherError(OnnxcakeError):
    """The teacher cannot be used."""

    exit_code = 4


class BadTeacherFile(TeacherError):
    """Not a readable, well-formed ONNX model."""


class UnsupportedTeacher(TeacherError):
    """A valid model that is not (yet) a classifier we can differentiate."""


class ConversionMismatch(TeacherError):
    """The converted graph and onnxruntime disagree."""


class DeadTeacher(TeacherError):
    """No usable gradient reaches the input, or the answer never changes."""


class BelowFloor(OnnxcakeError):
    """The work is complete, but the student misses what was asked: a recipe's ``require`` floor, or a cut's goal."""

    exit_code = 5


class StoreError(OnnxcakeError):
    """The store is damaged beyond repair, or belongs to another run."""

    exit_code = 6


class OutputError(OnnxcakeError):
    """Output cannot be written."""

    exit_code = 7


class TryAgain(OnnxcakeError):
    """A passing condition: the same command may succeed later."""

    exit_code = 75


class Interrupted(BaseException):
    """A SIGINT or SIGTERM, on its way to the exit; not an Exception, so that nothing swallows it."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(signum)
