"""Resolve what a method needs against what a teacher offers: give it, give a stated substitute, or refuse."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.rng import Key
from ..core.text import printable
from ..evaluate.probes.parts import Probe
from ..synthesis.step import optional
from ..teacher.capabilities import ActivationStatistics, LastLayer, MethodInputs
from ..teacher.folded_batch_norm import seems_folded
from ..teacher.teacher import Teacher

if TYPE_CHECKING:
    from ..synthesis.step import Need, Weighted

PHRASES: Mapping[Need, str] = {
    "statistics": "BatchNorm statistics",
    "last_layer": "last-layer weights",
    "features": "last-layer inputs",
    "similarity": "class similarity",
    "labels": "labels alone",
    "student": "the student's answers",
    "data": "real inputs",
}
_SAMPLES, _AT_ONCE = 1000, 100
_KEEP = "training=TrainingMode.PRESERVE, do_constant_folding=False"


def listed(needs: Iterable[Need]) -> str:
    """Word needs, such as "BatchNorm statistics, last-layer weights"; "" if there are none."""
    asked = set(needs)
    return ", ".join(phrase for need, phrase in PHRASES.items() if need in asked)


def resolve(
    needs: Collection[Need],
    teacher: Teacher,
    *,
    key: Key,
    recorded: ActivationStatistics | None = None,
    only_recorded: bool = False,
    data: Probe | None = None,
) -> tuple[MethodInputs, list[str]]:
    """Find what the parts of a method may look at, and why it cannot run; nothing of the latter if it can.

    Statistics are those recorded by the data's owner, if there are any; else the running ones of the
    BatchNormalization nodes that are left; else mean 0 and deviation 1 of each convolution's output.

    Args:
        needs: of all the method's parts.
        key: what noise is drawn from, where class similarity has to be measured.
        recorded: the user's, from `recorded.load`.
        only_recorded: whether no others will do.
        data: the user's real inputs, as the teacher's file takes them.
    """
    notes: list[str] = []
    refusals: list[str] = []
    layer, view = teacher.offers.last_layer, MethodInputs(maps=teacher.offers.maps)
    if "statistics" in needs:
        statistics, told, refusal = _statistics(teacher, recorded, only_recorded)
        notes += filter(None, [told])
        refusals += filter(None, [refusal])
        view = replace(view, statistics=_moved(statistics, teacher.device))
    if "last_layer" in needs or "features" in needs:
        view = replace(view, last_layer=_layer_on(layer, teacher.device))
        if layer is None:
            notes.append(_no_layer(needs, teacher.name))
    if "similarity" in needs:
        if layer is None:
            notes.append(
                "class similarity: no last linear layer with constant weights; taken from the correlation of the "
                f"logits over {_SAMPLES} samples of noise instead"
            )
        alike = cosines(layer.weight) if layer is not None else correlations(teacher, key)
        view = replace(view, similarity=alike.to(teacher.device))
    if "data" in needs:
        if data is None:
            refusals.append("needs real inputs: give them with --data PATH")
        else:
            view = replace(view, data=_in_standard_units(data, teacher))
    return replace(view, notes=tuple(map(printable, notes))), refusals


def left_out(
    terms: Iterable[Weighted], teacher: Teacher, key: Key, recorded: ActivationStatistics | None = None
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Name the terms of optional statistics where the teacher neither has nor seems to have had any, and say why.

    Args:
        key: what noise is drawn from, where a file without BatchNormalization is tried.
        recorded: the user's, which stand for its own.
    """
    spared = [term.name for term in terms if optional(term.loss)]
    if not spared or recorded is not None or teacher.offers.statistics is not None or seems_folded(teacher, key):
        return frozenset(), ()
    told = f"left out, as {teacher.name} has none"
    if teacher.offers.convolutions:
        told += f"; if it was trained with BatchNormalization, better is an export that keeps it ({_KEEP})"
    return frozenset(spared), tuple(printable(f"{name}: {told}") for name in spared)


# Statistics


def _statistics(
    teacher: Teacher, recorded: ActivationStatistics | None, only_recorded: bool
) -> tuple[ActivationStatistics | None, str, str]:
    """(the statistics; what to tell of them; why there are none)."""
    if recorded is not None:
        return recorded, "", ""
    if only_recorded:
        made = f"`onnxcake record {teacher.name} --data PATH`"
        return None, "", f"needs recorded statistics: give them with --stats PATH ({made} makes them)"
    found = teacher.offers.statistics
    if found is not None and found.scale > 1:
        left = f"{len(found.taps)} BatchNormalization node{'s are' if len(found.taps) > 1 else ' is'}"
        told = f"statistics: only {left} left in the file; their sum counts {found.scale:.3g} times"
        return found, told, ""
    if found is not None:
        return found, "", ""
    if teacher.whitening is not None:
        told = (
            "statistics: no BatchNormalization in the file; each convolution's output is pulled to mean 0 and "
            "deviation 1 instead, at a tenth of the weight. Better are an export that keeps it "
            f"({_KEEP}) or recorded statistics (--stats); for a network that never had any, "
            "leave the term out (-o synthesis.losses.statistics=null)"
        )
        return teacher.whitening, told, ""
    which = " that one could have been folded into" if teacher.offers.convolutions else ""
    missing = f"needs {PHRASES['statistics']}: {teacher.name} has no BatchNormalization and no convolution{which}"
    return None, "", f"{missing}; recorded statistics (--stats PATH) would do instead"


def _moved(statistics: ActivationStatistics | None, device: torch.device) -> ActivationStatistics | None:
    if statistics is None:
        return None
    means, variances = (tuple(t.to(device) for t in part) for part in (statistics.means, statistics.variances))
    return replace(statistics, means=means, variances=variances)


# Last layer and similarity


def _layer_on(layer: LastLayer | None, device: torch.device) -> LastLayer | None:
    return None if layer is None else replace(layer, weight=layer.weight.to(device), bias=layer.bias.to(device))


def _no_layer(needs: Collection[Need], file: str) -> str:
    asked: list[Need] = ["last_layer", "features"]
    what = " and ".join(PHRASES[need] for need in asked if need in needs)
    return f"{what}: no linear layer with constant weights makes the logits of {file}; what needs it is left out"


def cosines(weight: Tensor) -> Tensor:
    """Compare the rows of the last layer's weights by their cosines [classes, classes].

    Source: ZSKD, Nayak et al., Zero-Shot Knowledge Distillation in Deep Networks, ICML 2019.
    """
    rows = F.normalize(weight.double(), dim=1)
    return _alike(rows @ rows.t())


@torch.no_grad()
def correlations(teacher: Teacher, key: Key) -> Tensor:
    """Correlate the logits of each two classes over standard normal samples [classes, classes]."""
    generator = key.at("similarity").generator()
    draws = torch.randn(_SAMPLES, *teacher.signature.shape, generator=generator).split(_AT_ONCE)
    logits = torch.cat([teacher.logits_of_standard(draw.to(teacher.device)).cpu() for draw in draws])
    return _alike(torch.corrcoef(logits.double().t()).nan_to_num())  # a logit that never changes: like no other


def _alike(square: Tensor) -> Tensor:
    return square.clamp(-1, 1).fill_diagonal_(1.0).float()


# Data


def _in_standard_units(data: Probe, teacher: Teacher) -> tuple[Tensor, Tensor | None]:
    labels = None if data.labels is None else torch.from_numpy(data.labels)
    return teacher.signature.to_standard(torch.from_numpy(data.inputs)), labels
