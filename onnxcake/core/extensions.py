"""Look up parts of recipes that other distributions offer, by their entry points.

Nothing is imported before a recipe names it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from .errors import RecipeError
from .text import shown

Made = TypeVar("Made")
_REMEDY = "Name another part, or mend, update or uninstall that distribution."


class Registry(dict[str, Made]):
    """Map the names of parts to the parts, built-in ones and those from outside.

    ``registry["name"] = part`` adds one in Python; a name that is not there is looked up in the entry point group.

    Args:
        group: the entry point group, such as ``onnxcake.losses``.
        misfit: returns what a part must be, if the given object is none; None if it fits.
        parts: the built-in ones.
    """

    def __init__(self, group: str, misfit: Callable[[object], str | None], parts: Mapping[str, Made]) -> None:
        super().__init__(parts)
        self.group, self._misfit, self._built_in = group, misfit, frozenset(parts)

    def __setitem__(self, name: str, made: Made) -> None:
        """Add a part from outside.

        Raises:
            RecipeError: if a built-in one has the name, or it is none.
        """
        self._add(name, made, "in Python")

    def __missing__(self, name: str) -> Made:
        """Load the part that a distribution offers.

        Raises:
            RecipeError: if none offers it, or it cannot be used.
        """
        self.check(name)
        offers = self._offers.get(name, [])
        if not offers:
            raise RecipeError(
                f"nothing that is installed offers {shown(name)}",
                where=self.group,
                remedy="Install the distribution that it came from, or add it in Python before the recipe is read.",
            )
        try:
            made = offers[0].load()
        except (Exception, SystemExit) as error:  # code from outside may raise anything
            raise self.broken(name, f"cannot be imported: {type(error).__name__}: {shown(error)}") from error
        self._add(name, made, _distribution(offers[0]))
        return made  # type: ignore[no-any-return]

    @property
    def names(self) -> list[str]:
        """List the names of all parts, those from outside included, which are not imported."""
        return [*self, *sorted(self._offers.keys() - self.keys())]

    def check(self, name: str) -> None:
        """Make sure that a name stands for one part.

        Raises:
            RecipeError: naming the distributions, if a built-in one has the same name, or two distributions offer it.
        """
        offers = self._offers.get(name, [])
        if offers and name in self._built_in:
            raise self.broken(name, "has the name of a part that comes with onnxcake")
        if len(offers) > 1 and name not in self:
            raise self.broken(name, "is offered more than once")

    def broken(self, name: str, why: str) -> RecipeError:
        """Return the error about a part from outside that cannot be used, with the distributions that offer it."""
        offers = self._offers.get(name, [])
        origin = " and ".join(_distribution(one) for one in offers) or "in Python"
        return self._error(name, origin, why)

    @property
    def _offers(self) -> dict[str, list[EntryPoint]]:
        """Find what is offered by name, on ``sys.path`` as it is now."""
        return _offers(self.group, tuple(sys.path))

    def _add(self, name: str, made: Made, origin: str) -> None:
        if name in self._built_in:
            raise self._error(name, origin, "has the name of a part that comes with onnxcake")
        if (wanted := self._misfit(made)) is not None:
            raise self._error(name, origin, f"is not {wanted}")
        super().__setitem__(name, made)

    def _error(self, name: str, origin: str, why: str) -> RecipeError:
        return RecipeError(f"{shown(name)} ({origin}) {why}", where=self.group, remedy=_REMEDY)


@lru_cache(maxsize=8)
def _offers(group: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Find the entry points of a group by name, on ``sys.path`` as it is."""
    found: dict[str, list[EntryPoint]] = {}
    for one in entry_points(group=group):
        found.setdefault(one.name, []).append(one)
    return found


def _distribution(offer: EntryPoint) -> str:
    return "an unnamed distribution" if offer.dist is None else f"{offer.dist.name} {offer.dist.version}"
