"""Define the closed list of errors, each with what, where, what to do, and an exit code.

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
    """Base of all errors: a refusal or failure, worded as *where: what* and, on its own line, what to do.

    Args:
        what: what is wrong, in words for the user.
        where: the file, option or place in a recipe that the error is about.
        remedy: what the user can do about it with what is at hand.
    """

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
        """Return the parts of the error as plain values, for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


class UsageError(OnnxcakeError):
    """Argument of a command or function that does not fit."""

    exit_code = 2


class ProbeError(UsageError):
    """Probe file that cannot be read or does not fit the teacher."""


class RecipeError(OnnxcakeError):
    """Mistakes of a recipe, all of them at once, each with its line and column."""

    exit_code = 3


class Diverged(OnnxcakeError):
    """Loss that stayed non-finite after retries with fresh random keys."""

    exit_code = 3


class TeacherError(OnnxcakeError):
    """Teacher that cannot be used; the subclasses say why."""

    exit_code = 4


class BadTeacherFile(TeacherError):
    """File that is not a readable, well-formed ONNX model."""


class UnsupportedTeacher(TeacherError):
    """Valid ONNX model that is not (yet) a classifier with a gradient."""


class ConversionMismatch(TeacherError):
    """Converted graph whose outputs differ from onnxruntime's."""


class DeadTeacher(TeacherError):
    """Teacher without a usable gradient at its input, or with one and the same output for all inputs."""


class BelowFloor(OnnxcakeError):
    """Complete work whose student misses what was asked: a recipe's ``require`` floor, or a cut's goal."""

    exit_code = 5


class StoreError(OnnxcakeError):
    """Store that is damaged beyond repair, or belongs to another run."""

    exit_code = 6


class OutputError(OnnxcakeError):
    """Output that cannot be written."""

    exit_code = 7


class TryAgain(OnnxcakeError):
    """Passing condition under which the same command may succeed later."""

    exit_code = 75


class Interrupted(BaseException):
    """SIGINT or SIGTERM, raised up to the program's exit; not an Exception, so that no handler swallows it."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(signum)
