"""Fit a recipe's way of making samples to a teacher."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from ..core.errors import RecipeError
from ..recipe.recipe import Recipe
from ..synthesis.augment import AUGMENTS
from ..synthesis.labels import LABELS
from ..synthesis.labels.hard import Labels
from ..synthesis.schedules import SCHEDULES, Constant
from ..synthesis.source import Source
from ..synthesis.sources import SOURCES
from ..synthesis.spec import Synthesis
from ..synthesis.step import Weighted
from ..synthesis.updates import UPDATES, Sgd
from ..teacher.teacher import Teacher

GROUPS = 10  # CAKE's rows, where the teacher has as many classes
HELD_OUT = 20  # one batch held out for so many to learn from,
HELD_OUT_SAMPLES = 1000  # but where rounds are many, only enough to compare on


def fit(recipe: Recipe, teacher: Teacher, data: int | None = None, left_out: Collection[str] = ()) -> Synthesis:
    """Fit the recipe's synthesis to a teacher; the chunk is the whole batch until `decide` says otherwise.

    Args:
        data: how many real inputs there are, if some were given.
        left_out: the names of loss terms that the teacher has nothing for.

    Raises:
        RecipeError: with everything that does not fit.
    """
    section, signature = recipe.synthesis, teacher.signature
    groups = min(GROUPS, signature.classes) if section.groups == "auto" else section.groups
    batch = section.batch - section.batch % groups if section.groups == "auto" else section.batch
    if section.batches == "auto":
        batch, batches = _holding(data or 0, groups, batch, section.held_out)
    else:
        batches = section.batches
    total = section.rounds * batches
    source, labels = section.source.build(SOURCES), section.labels.build(LABELS)
    losses = tuple(term for term in section.losses.build() if term.name not in left_out)
    augment = section.augment.build(AUGMENTS)
    mistakes = _misfits(recipe, teacher, groups, source, labels, losses)
    if batch < groups:
        mistakes.append(f"a batch of {section.batch} holds no row of {groups} samples")
    if mistakes:
        raise RecipeError("\n  ".join(mistakes), where=recipe.title, remedy="Mend the recipe, or choose another.")
    chunk = batch if any(term.loss.scope == "batch" for term in losses) else section.chunk or batch
    synthesis = Synthesis(
        source=source,
        labels=labels,
        losses=losses,
        update=Sgd(Constant(1.0)) if section.update is None else section.update.build(UPDATES, step_size=SCHEDULES),
        groups=groups,
        batch=batch,
        batches=batches,
        held_out=_held_out(recipe, total, batch),
        steps=section.steps,
        reference_batch=section.reference_batch or batch,
        chunk=max(groups, min(chunk, batch) // groups * groups),
        rounds=section.rounds,
        augment=augment,
    )
    if synthesis.rounds == 1 and synthesis.lasting:
        raise RecipeError(
            f"synthesis.rounds is 1, but {' and '.join(synthesis.lasting)} goes on from batch to batch or looks at the "
            "student, and neither is kept within a round",
            where=recipe.title,
            remedy="Make one batch in each of many rounds: synthesis.rounds=N, synthesis.batches=1.",
        )
    return synthesis


def _holding(data: int, groups: int, batch: int, held_out: int | Literal["auto"]) -> tuple[int, int]:
    """Size a batch, and count those that hold the data; none of it is both learnt from and held out.

    Little data go into so many smaller batches that few of them are held out.
    """
    batch = max(groups, min(batch, data // (HELD_OUT + 1)) // groups * groups)
    whole = data // batch
    return batch, max(1, whole * HELD_OUT // (HELD_OUT + 1) if held_out == "auto" else whole - held_out)


def _held_out(recipe: Recipe, total: int, batch: int) -> int:
    section = recipe.synthesis
    if section.held_out != "auto":
        return section.held_out
    part = -(-total // HELD_OUT)
    return part if section.rounds == 1 else max(1, min(part, -(-HELD_OUT_SAMPLES // batch)))


def _misfits(
    recipe: Recipe,
    teacher: Teacher,
    groups: int,
    source: Source,
    labels: Labels,
    losses: tuple[Weighted, ...],
) -> list[str]:
    """List everything in a recipe that this teacher's inputs and classes forbid."""
    section, signature, name = recipe.synthesis, teacher.signature, teacher.name
    unfit = source.unfit(signature)
    mistakes = [f"source {section.source.name} does not fit {name}: {unfit}"] if unfit else []
    mistakes += [
        f"{term.name} does not fit {name}: {why}; leave it out with -o synthesis.losses.{term.name}=null"
        for term in losses
        if (why := term.loss.unfit(signature))
    ]
    for place, part in (("synthesis", section), ("student", recipe.student)):
        for key, augment in part.augment.named(AUGMENTS).items():
            if (why := augment.unfit(signature)) is not None:
                leave = f"leave it out with -o {place}.augment.{key}=null"
                mistakes.append(f"{place}.augment.{key} does not fit {name}: {why}; {leave}")
    if (why := labels.unfit(signature.classes, groups)) is not None:
        mistakes.append(f"{why} ({name})")
    return mistakes
