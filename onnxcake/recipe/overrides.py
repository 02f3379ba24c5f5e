"""Apply overrides (``-o key=value``) to a recipe's data."""

from __future__ import annotations

from typing import Any

from ..core.text import SHOWN_CHARACTERS, did_you_mean, shown
from .yaml_reader import LIMIT_DEPTH, WORDS, Mistake, Path, Tree, odd_character, parse_value


def override(tree: Tree, assignment: str) -> Mistake | None:
    """Set ``a.b.c=value``, making mappings on the way; ``null`` removes the key. A mistake changes nothing.

    The part of the key that stands for an item of a list is its number, from 0.
    """
    key, _, text = (part.strip() for part in assignment.partition("="))
    plain = key.isascii() and key.isprintable() and len(key) <= SHOWN_CHARACTERS
    option = f"-o {key if plain else shown(key)}"
    try:
        if not text or "" in (parts := key.split(".")) or len(parts) > LIMIT_DEPTH:
            raise ValueError("write key=value, like student.epochs=20; null removes the key")
        if odd := odd_character(key):
            raise ValueError(odd)
        value = parse_value(text)
        if value is None and text not in WORDS:
            raise ValueError("no value after '='; text that begins with '#' needs quotes")
        _assign(tree, parts, value, option)
    except ValueError as error:
        return Mistake(option, str(error))
    return None


def _assign(tree: Tree, parts: list[str], value: Any, option: str) -> None:
    """Walk to the last part of the key and set or remove it; raise ValueError before anything is changed."""
    holder, path = tree.data, Path()
    for part in parts[:-1]:
        step, child = _find_child(holder, part, path)
        path = (*path, step)
        if child is None:
            child = {}
            if value is not None:
                holder[step] = child
                tree.options[path] = option
        holder = child
    step, _ = _find_child(holder, parts[-1], path)
    path = (*path, step)
    if value is not None:
        holder[step] = value
    elif isinstance(holder, list):
        raise ValueError("an item of a list cannot be removed; give the whole list anew")
    elif step in holder:
        del holder[step]
    else:
        raise ValueError(f"there is nothing to remove{did_you_mean(parts[-1], map(str, holder))}")
    tree.places = {known: place for known, place in tree.places.items() if known[: len(path)] != path}
    tree.options = {known: given for known, given in tree.options.items() if known[: len(path)] != path}
    tree.options[path] = option


def _find_child(holder: Any, part: str, path: Path) -> tuple[str | int, Any]:
    """Return the key or index that ``part`` stands for in ``holder``, at ``path``, and its value (or None)."""
    if isinstance(holder, dict):
        return part, holder.get(part)
    name = shown(".".join(map(str, path))) if path else "the recipe"
    if not isinstance(holder, list):
        raise ValueError(f"{name} is {shown(holder)}, not a mapping, so it has no {shown(part)}")
    if part not in map(str, range(len(holder))):
        raise ValueError(f"{name} has {len(holder)} items, numbered from 0, and no {shown(part)} among them")
    return int(part), holder[int(part)]
