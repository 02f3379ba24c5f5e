"""Lay out the store of a run, under a key over all that its samples depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..core.files import canonical, sha256
from ..recipe.recipe import Recipe
from ..store.store import Layout
from ..synthesis.spec import Synthesis
from ..teacher.signature import Signature
from ..teacher.teacher import Teacher
from .plan import Plan, kept_batches

_NOT_OF_SAMPLES = ("beside", "weight_bits")  # what the store does not depend on


def layout(
    recipe: Recipe,
    teacher: Teacher,
    synthesis: Synthesis,
    plan: Plan,
    seed: int,
    besides: Mapping[str, Any] | None = None,
) -> Layout:
    """Lay out what the store will hold, under the key that says what it was made from.

    Args:
        besides: what the samples depend on besides: given files, and the student and how it is computed where a loss
            looks at it.
    """
    signature = teacher.signature
    made_from = {
        "teacher": f"{teacher.facts.digest[:16]} ({teacher.name})",
        "seed": str(seed),
        "kept": str(kept_batches(recipe, synthesis)),
        **_flat("input", asdict(signature)),
        **_flat("synthesis", recipe.as_dict()["synthesis"]),
        **_flat("plan", {name: value for name, value in plan.as_dict().items() if name not in _NOT_OF_SAMPLES}),
        **{key: text for name, value in (besides or {}).items() for key, text in _flat(name, value).items()},
    }
    digested = {**made_from, "teacher": teacher.facts.digest}
    return Layout(
        key=sha256(canonical(digested)),
        made_from=made_from,
        batches=kept_batches(recipe, synthesis),
        held_out=synthesis.held_out,
        batches_per_shard=plan.batches_per_shard,
        batch=synthesis.batch,
        shape=signature.input_shape,
        classes=signature.classes,
    )


def made_for(layout: Layout, signature: Signature) -> bool:
    """Tell whether a set was made for such inputs and outputs."""
    made = {key: text for key, text in layout.made_from.items() if key.startswith("input.")}
    own = _flat("input", asdict(signature))
    try:  # as values: what was 1 then may be 1.0 now
        return made.keys() == own.keys() and all(json.loads(made[key]) == json.loads(own[key]) for key in own)
    except ValueError:
        return False


def _flat(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:  # a part without keys counts by its name
        return {name: json.dumps(value)}
    return {key: text for k, v in value.items() for key, text in _flat(f"{name}.{k}", v).items()}
