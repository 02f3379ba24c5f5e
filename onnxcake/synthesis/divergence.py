"""Find where losses or samples were first not finite, and word the error with a remedy."""

from __future__ import annotations

import math

from torch import Tensor

from ..core.errors import Diverged
from .schedules import SCHEDULES
from .spec import Synthesis
from .step import Weighted
from .updates import UPDATES, Update


class NotFinite(Exception):
    """Signal a value that is not finite: of a loss term, or (None) of the finished samples."""

    def __init__(self, term: Weighted | None, step: int) -> None:
        self.term, self.step = term, step


def check(trace: Tensor, losses: tuple[Weighted, ...]) -> None:
    """Raise `NotFinite` for the first step and the first term at which a loss was not finite."""
    if math.isfinite(float(trace.sum())):
        return
    finite = trace.isfinite().cpu()
    if finite.all():
        return
    step = int((~finite.all(dim=1)).nonzero()[0])
    term = int((~finite[step]).nonzero()[0])
    raise NotFinite(losses[term], step)


def diverged(teacher: str, synthesis: Synthesis, index: int, failures: list[NotFinite]) -> Diverged:
    step = ", ".join(str(failure.step) for failure in failures)
    term, starts = failures[-1].term, len(failures)
    kept = "Finished batches are kept; another recipe needs another --out."
    return Diverged(
        f"{f'the loss term {term.name!r} is' if term else 'the samples are'} not finite at step {step} "
        f"of batch {index}" + (f" ({starts} starts from different noise)" if starts > 1 else ""),
        where=teacher,
        remedy=f"Lower the step size or that term's weight, for example -o {_smaller_steps(synthesis.update)}. {kept}",
    )


def _smaller_steps(update: Update) -> str:
    """Return an override that makes the recipe's steps ten times smaller."""
    name = next(name for name, kind in UPDATES.items() if isinstance(update, kind))
    schedule = next(name for name, kind in SCHEDULES.items() if isinstance(update.step_size, kind))
    key, value = next(iter(vars(update.step_size).items()))
    return f"synthesis.update.{name}.step_size.{schedule}.{key}={value / 10:g}"
