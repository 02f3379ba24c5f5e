"""Hold the limits of a run's cost, and the recipe's numbers that follow from them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ..core.errors import UsageError
from ..core.json_files import EXACT
from ..core.quantities import LARGEST, Count, CountOrNone, Positive
from ..core.units import duration

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+\.?\d*|\.\d+)\s*([smh])"
_TOLERANCE = 1.2
_TIME = re.compile(rf"(?:{_PART}\s*)+")


@dataclass(frozen=True)
class Budget:
    """Hold the limits of one run's cost; the scarcer of the two decides.

    Attributes:
        seconds: of synthesis and training on this machine, by forecast; None for any.
        passes: samples through the teacher with gradient; None for any. Methods without gradient spend none.
    """

    __pydantic_config__ = EXACT
    seconds: Positive | None = None
    passes: Positive | None = None

    @classmethod
    def of(cls, time: str | None = None, passes: str | None = None) -> Budget:
        """Parse a budget as it is written: ``90s``, ``1.5h`` or ``4m30s``; and ``1e6`` passes.

        Raises:
            UsageError: if it is written otherwise, or not above zero.
        """
        return cls(None if time is None else _parse_seconds(time), None if passes is None else _parse_passes(passes))

    def as_dict(self) -> dict[str, float | None]:
        """Convert to plain data."""
        return {"seconds": self.seconds, "passes": self.passes}

    def exceeded(self, seconds: float) -> str:
        """Word by how much ``seconds`` exceed the budget; "" if they do not, up to the variation of a clock."""
        if self.seconds is None or seconds <= _TOLERANCE * self.seconds:
            return ""
        return f"exceeded: {duration(seconds)}, where {duration(self.seconds)} were asked for"

    def differences(self, other: Budget) -> list[str]:
        """List the limits in which ``other`` differs, as ``passes 10,000 → 40,000``."""
        pairs = (("seconds", self.seconds, other.seconds), ("passes", self.passes, other.passes))
        return [f"{name} {_format_number(one)} → {_format_number(two)}" for name, one, two in pairs if one != two]


NO_LIMIT = Budget()


@dataclass(frozen=True)
class Scaling:
    """Hold the numbers of a recipe that a budget scaled, decided once and kept with the run.

    Attributes:
        budget: the limits that were given.
        whole: the recipe's own numbers, by their keys in it.
        scaled: the numbers that the run has instead, by the same keys.
    """

    __pydantic_config__ = EXACT
    budget: Budget
    whole: dict[str, CountOrNone | None]
    scaled: dict[str, Count]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return {"budget": self.budget.as_dict(), "whole": self.whole, "scaled": self.scaled}


def _format_number(number: float | None) -> str:
    return "none" if number is None else f"{number:,.10g}"


def _parse_seconds(text: str) -> float:
    parts = re.findall(_PART, text) if _TIME.fullmatch(text.strip()) else []
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= LARGEST:
        raise UsageError(f"{text!r} is no time above zero", remedy="Write --budget 90s, 3m or 1.5h.")
    return seconds


def _parse_passes(text: str) -> float:
    try:
        passes = float(text)
    except ValueError:
        passes = math.nan
    if not 1 <= passes <= LARGEST:
        raise UsageError(f"{text!r} is no number of teacher passes", remedy="Write --passes 1e6.")
    return passes
