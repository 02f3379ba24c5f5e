"""Compare methods in a table: what distinguishes one recipe from another, in columns read off the recipes.

Weights, rates and sizes are left out: two recipes with the same columns are the same method at other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..synthesis.labels import LABELS
from ..synthesis.losses import LOSSES
from ..synthesis.losses.classification import Classification
from ..synthesis.losses.contrastive import Contrastive
from ..synthesis.replay import MEMORIES
from ..synthesis.sources import SOURCES
from ..synthesis.step import Weighted, optional
from .recipe import Recipe, names

NONE = "–"
_SIGNS = {"l1": "ℓ1", "l2": "ℓ2", "kl": "KL", "js": "JS"}
_LEARNS_FROM = {"kept": "all so far", "same": "same batch", "fresh": "fresh batch"}
Difference = tuple[str, str, str]  # column, in the one recipe, in the other
# Column of each loss term, and what stands in it; a term without a column of its own stands under "other".
_TERMS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "classification": ("CE", lambda loss: loss.toward),
    "statistics": ("BN", lambda loss: _join_words(_SIGNS[loss.distance], loss.momentum and "momentum")),
    "total_variation": ("TV", lambda loss: "ℓ1"),
    "total_variation_l2": ("TV", lambda loss: "ℓ2"),
    "l2": ("L2", lambda loss: "✓"),
    "disagreement": ("ADV", lambda loss: _join_words(_SIGNS[loss.distance], loss.masked and "masked")),
    "activation": ("ACT", lambda loss: "✓"),
    "balance": ("IE", lambda loss: "✓"),
    "sample_entropy": ("H", lambda loss: "✓"),
    "contrastive": ("DIV", lambda loss: "logit distance"),
    "instance_contrast": ("DIV", lambda loss: "InfoNCE"),
}


def columns(recipe: Recipe) -> dict[str, str]:
    """Return what distinguishes the method, by column; "–" where there is nothing."""
    synthesis, student = recipe.synthesis, recipe.student
    terms = tuple(term for term in synthesis.losses.build() if term.weight) if synthesis.steps else ()
    cells = {
        "source": synthesis.source.name.replace("_", " "),
        "targets": _targets(recipe, terms),
        **_losses(terms),
        "augment": _list_parts(synthesis.augment),
        "update": synthesis.update.name if synthesis.steps and synthesis.update is not None else "",
        "student": _student(student),
        "student's augment": _list_parts(student.augment),
        "learns from": _regime(recipe),
        "memory": _memory(recipe),
        "meta": _join_words(synthesis.source.keys().get("meta"), student.retain and "retain"),
        "needs": ", ".join(needs(recipe)),
    }
    return {column: cell or NONE for column, cell in cells.items()}


def needs(recipe: Recipe) -> tuple[str, ...]:
    """List a recipe's requirements on teacher and user: "gradient" at the inputs, and its parts' `needs`.

    The student's answers are left out, as every run has them.
    """
    synthesis = recipe.synthesis
    parts = [SOURCES[synthesis.source.name], LABELS[synthesis.labels.name]]
    if synthesis.steps:
        terms = synthesis.losses.build()
        parts += [LOSSES[term.name] for term in terms if term.weight and not optional(term.loss)]
    if recipe.student.memory is not None:
        parts.append(MEMORIES[recipe.student.memory.name])
    found = {need for part in parts for need in getattr(part, "needs", ())} - {"student"}
    found |= {"gradient"} if synthesis.steps and "labels" not in found else set()
    found |= {"maps"} if recipe.student.match.model_fields_set else set()
    return tuple(sorted(found, key=lambda need: (need != "gradient", need)))


def difference(one: Recipe, other: Recipe) -> list[Difference]:
    """List the columns in which two recipes differ."""
    ours, theirs = columns(one), columns(other)
    return [(column, ours[column], theirs[column]) for column in ours if ours[column] != theirs[column]]


def distance(one: Recipe, other: Recipe) -> int:
    """Count the columns in which two recipes differ."""
    return len(difference(one, other))


def nearest(recipe: Recipe, runs: Callable[[Recipe], bool] = lambda other: True) -> str | None:
    """Find the recipe that comes with onnxcake, differs from this one in the fewest columns, and ``runs``.

    A recipe of the same method at other settings is the nearest; the recipe itself does not count.
    """
    others = [(name, Recipe.load(name)) for name in names()]
    others = [(name, other) for name, other in others if other.digest != recipe.digest]
    others.sort(key=lambda pair: distance(recipe, pair[1]))  # in order of names where that is the same
    return next((name for name, other in others if runs(other)), None)


def table(recipes: Iterable[str] | None = None) -> str:
    """Write the matrix as a Markdown table, a row for each recipe by name; all recipes by default."""
    rows = {name: columns(Recipe.load(name)) for name in (names() if recipes is None else recipes)}
    head = ["recipe", *next(iter(rows.values()))]
    lines = [head, ["---"] * len(head), *([f"`{name}`", *cells.values()] for name, cells in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _targets(recipe: Recipe, terms: tuple[Weighted, ...]) -> str:
    """Name the origin of the labels that samples or student are trained toward; empty if there are none."""
    source, loss = recipe.synthesis.source.name, recipe.student.loss
    by_student = loss.hard and loss.hard_labels == "asked"
    if source == "data":
        return "given" if by_student else ""
    toward = {term.loss.toward for term in terms if isinstance(term.loss, Classification)}
    in_rows = any(isinstance(term.loss, Contrastive) for term in terms)
    if toward - {"self"} or in_rows or by_student or source == "boundary":
        return str(recipe.synthesis.labels.name).replace("_", " ")
    return "the teacher's" if toward else ""


def _losses(terms: tuple[Weighted, ...]) -> dict[str, str]:
    cells: dict[str, list[str]] = {column: [] for column in (*dict(_TERMS.values()), "other")}
    for term in terms:
        column, told = _TERMS.get(term.name, ("other", None))
        cells[column].append(term.name if told is None else told(term.loss))
    return {column: ", ".join(cell) for column, cell in cells.items()}


def _student(student: Any) -> str:
    loss = student.loss
    soft = "" if not loss.soft else "soft" if loss.temperature == 1 else f"soft τ {loss.temperature:g}"
    hard = loss.hard and ("hard, asked" if loss.hard_labels == "asked" else "hard")
    parts = [soft, hard, loss.l1 and "ℓ1 of logits", *sorted(student.match.model_fields_set), student.quantise]
    return " + ".join(part for part in parts if part)


def _regime(recipe: Recipe) -> str:
    """Name the samples that the student learns from; and, with rounds, the steps of samples and student in each."""
    synthesis, student = recipe.synthesis, recipe.student
    if synthesis.rounds == 1:
        return "all, offline"
    batches = 1 if synthesis.batches == "auto" else synthesis.batches
    return f"{_LEARNS_FROM[student.learn_from]} {synthesis.steps * batches} : {student.steps or 'epochs'}"


def _memory(recipe: Recipe) -> str:
    memory, learn_from = recipe.student.memory, recipe.student.learn_from
    return memory.name if memory is not None else "all" if learn_from == "kept" else ""


def _list_parts(parts: Any) -> str:
    return ", ".join(sorted(parts.model_fields_set))


def _join_words(*words: Any) -> str:
    return " ".join(word for word in words if word)
