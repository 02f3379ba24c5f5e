"""Define the kinds of numbers that recipes hold, as field types that the recipe's schema checks."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

LARGEST = 1e30  # well within single precision

Number = Annotated[float, Ge(-LARGEST), Le(LARGEST)]
Positive = Annotated[float, Gt(0), Le(LARGEST)]
NonNegative = Annotated[float, Ge(0), Le(LARGEST)]
Count = Annotated[int, Ge(1), Le(1_000_000_000)]
CountOrNone = Annotated[int, Ge(0), Le(1_000_000_000)]
Share = Annotated[float, Gt(0), Le(1)]
Part = Annotated[float, Ge(0), Lt(1)]
Momentum = Annotated[float, Ge(0), Lt(1)]
