"""Assess a student without data: its agreement on inputs that neither model was made for, and alarms.

A student that agrees with its teacher on what it was trained on may have learnt nothing that counts. So the two are
compared on families of inputs that are drawn afresh and have little to do with each other. Students cut from their
teachers agreed with them on real inputs about as well as on these, or better (benchmarks/RESULTS.md); one from noise
that had collapsed did not by far, and alarms were raised. No family alone tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import Array
from ..core.random_fields import fields
from ..core.rng import Key
from ..teacher.signature import Signature
from .agreement import ONE_CLASS, compare, log_probabilities, top_classes

SAMPLES, _LEAST_SAMPLES = 1000, 100
_ROWS, _SCALES, _ABOVE = 20, (-1.0, 3.0), 2.0  # of a table; powers of ten; deviations that positive means lie above 0
_NUMBERS = 1 << 25  # in the inputs of a family: 222 pictures of 224×224
_SURE = 0.999  # the probability from which an answer is saturated
_MOST = 0.95  # of the held-out answers may be so
_NEAR = 1e-3  # of the usual distance: two samples this close are as good as one, on a plane as well
_FEW = 0.5  # of the samples may have one so close

Answers = Callable[[Array], Array]  # inputs → what onnxruntime answers


def families(signature: Signature, key: Key) -> dict[str, Array]:
    """Draw inputs as the file takes them [n, …], by family; no recipe makes any of them.

    There are 1000 of each, and fewer of large ones, so that they fit into memory.

    ``fields``: smooth random fields of every contrast; ``noise``: standard normal; ``mixtures``: two fields of the
    highest contrast, in any proportion. Of a table whose features' scale is not known there is one more, ``scales``:
    each feature has a scale of its own from 0.1 to 1000, half of them no negative values; other families know none.
    """

    count = max(_LEAST_SAMPLES, min(SAMPLES, _NUMBERS // signature.size))

    def drawn(name: str, contrast: tuple[float, float] = (0.5, 8.0)) -> Tensor:
        return signature.within(fields(count, signature.shape, key.at(name).generator(), contrast))

    one, other = drawn("one", (8.0, 8.0)), drawn("other", (8.0, 8.0))
    share = torch.rand(count, generator=key.at("share").generator()).reshape(-1, *[1] * (one.dim() - 1))
    noise = torch.randn(count, *signature.shape, generator=key.at("noise").generator())
    standard = {
        "fields": drawn("fields"),
        "noise": signature.within(noise),
        "mixtures": torch.lerp(one, other, share),
    }
    if signature.of_unknown_scale:
        standard["scales"] = _scaled(noise, key.at("scales"))
    return {name: signature.whole(signature.to_input(x)).numpy() for name, x in standard.items()}


def _scaled(noise: Tensor, key: Key) -> Tensor:
    """Scale rows of features differently by feature, the same for some rows, as in a table [n, features]."""
    draw = key.generator()
    tables = -(-len(noise) // _ROWS)
    scale = 10 ** torch.empty(tables, noise.shape[1]).uniform_(*_SCALES, generator=draw)
    positive = torch.rand(tables, noise.shape[1], generator=draw) < 0.5
    scale, positive = (one.repeat_interleave(_ROWS, 0)[: len(noise)] for one in (scale, positive))
    return scale * torch.where(positive, (noise + _ABOVE).clamp_min(0), noise)


@dataclass(frozen=True)
class WithoutData:
    """Hold what is known of a student without real data.

    Attributes:
        agreement: of teacher and student by family of inputs.
        expected: their mean.
        alarms: what makes the figures doubtful, in words.
    """

    agreement: dict[str, float]
    expected: float
    alarms: tuple[str, ...] = ()


def assess(teacher: Answers, student: Answers, signature: Signature, held_out: Array, key: Key) -> WithoutData:
    """Compute the agreement on each family, their mean as the figure to expect at least on real inputs, and alarms.

    Args:
        held_out: samples that the run has made and not learnt from, as the file takes them.
        key: what the families are drawn from.
    """
    kinds = (signature.output_kind, signature.output_kind)
    found: dict[str, float] = {}
    seen: dict[str, tuple[Array, Array]] = {}
    for name, inputs in {**families(signature, key), "held_out": held_out}.items():
        answers = teacher(inputs), student(inputs)
        seen[name] = answers
        if name != "held_out":
            found[name] = compare(*answers, None, kinds).agreement.value
    return WithoutData(found, float(np.mean(list(found.values()))), tuple(alarms(seen, held_out, signature)))


def alarms(seen: Mapping[str, tuple[Array, Array]], held_out: Array, signature: Signature) -> list[str]:
    """Word what makes the figures doubtful.

    Args:
        seen: the teacher's and the student's answers by family, those to ``held_out`` among them.
    """
    kind, told = signature.output_kind, list[str]()
    classes = {name: [top_classes(side, kind) for side in answers] for name, answers in seen.items()}
    if signature.task != "multilabel":
        named = set(np.concatenate([of_teacher for of_teacher, _ in classes.values()]).tolist())
        if missing := signature.classes - len(named):
            told.append(f"the teacher names {missing} of its {signature.classes} classes for no sample at all")
        for name, (of_teacher, of_student) in classes.items():
            shares = [
                np.bincount(side, minlength=signature.classes).max() / len(side) for side in (of_teacher, of_student)
            ]
            if shares[1] > ONE_CLASS >= shares[0]:
                told.append(
                    f"the student names one class for {shares[1]:.0%} of the family {name}, the teacher does not"
                )
        if len(np.unique(np.concatenate([of_student for _, of_student in classes.values()]))) == 1:
            told.append("the student names one class for every sample of every family")
    empty = {name: float(np.isnan(sides[0]).reshape(len(sides[0]), -1).any(1).mean()) for name, sides in seen.items()}
    if any(empty.values()):
        most = max(empty, key=lambda name: empty[name])
        told.append(
            f"the teacher's file has no answer (0 / 0) to {empty[most]:.0%} of the family {most}: none is compared"
        )
    sure = _sure(seen["held_out"][0], signature)
    if sure > _MOST:
        told.append(
            f"the teacher is certain of {sure:.0%} of the held-out samples: its answers to them tell classes alone"
        )
    if (close := _duplicates(held_out)) > _FEW:
        told.append(f"{close:.0%} of the held-out samples have another right beside them")
    return told


def _sure(answers: Array, signature: Signature) -> float:
    """Return the share of answers with nearly all probability on one class; 0 unless one class is chosen."""
    if signature.task != "multiclass":
        return 0.0
    return float((log_probabilities(answers, signature.output_kind).max(1) > math.log(_SURE)).mean())


def _duplicates(inputs: Array) -> float:
    """Return the share of samples whose nearest neighbour lies within a small part of the median distance."""
    rows = torch.from_numpy(np.asarray(inputs[:SAMPLES], np.float32)).flatten(1)
    if len(rows) < 3:
        return 0.0
    distances = torch.cdist(rows, rows)
    usual = distances[~torch.eye(len(rows), dtype=torch.bool)].median()
    nearest = distances.fill_diagonal_(float("inf")).amin(1)
    return float((nearest < _NEAR * usual).double().mean()) if usual > 0 else 1.0
