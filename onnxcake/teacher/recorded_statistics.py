"""Record statistics of a teacher's activations on real data, which its owner can hand over instead of the data.

Lopes, Fenu, Starner: Data-Free Knowledge Distillation for Deep Neural Networks, 2017 (arXiv:1710.07535): the
"metadata" that a student is later trained from. Here it is the mean and variance of each channel.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..core import tensorfile
from ..core.errors import OutputError, UsageError
from ..core.files import canonical, check_target, is_there, make_parent, sha256, write_atomic
from ..core.text import shown
from .capabilities import ActivationStatistics
from .teacher import Teacher

_KIND = "activation statistics"
_AGAIN = "Record them again: onnxcake record TEACHER --data PATH --out FILE."
_NUMBERS_AT_ONCE, _MOST_AT_ONCE = 1 << 25, 256


def record(teacher: Teacher, inputs: Tensor, path: Path) -> tuple[str, ...]:
    """Record mean and variance of the inputs of each BatchNormalization, for `load`; return the values' names.

    Without such a node, they are of the outputs of each convolution and of the inputs of the last linear layer.

    Args:
        inputs: real ones [n, …], as the teacher's file takes them.
        path: the file to write, ``.safetensors``.

    Raises:
        UsageError: if there is nothing to record, or too few inputs, or they give values that are not finite.
        OutputError: if it cannot be written, or there is a file of another kind.
    """
    _check_overwrite(path)
    taps, names = _taps(teacher), dict(teacher.offers.names)
    if not taps:
        raise UsageError(
            "it has no BatchNormalization, no convolution and no linear last layer: there is nothing to record",
            where=teacher.name,
            remedy="Give a neural network.",
        )
    if len(inputs) < 2:
        raise UsageError(f"{len(inputs)} inputs have no variance", remedy="Give many, such as the training set.")
    make_parent(path)
    moments = measure(teacher, inputs, taps)
    if not all(part.isfinite().all() for pair in moments for part in pair):
        raise UsageError(
            "it gives values that are not finite on these inputs",
            where=teacher.name,
            remedy="Check that the inputs are as the teacher's file takes them.",
        )
    tensors = {_key(part, place): pair[i] for place, pair in enumerate(moments) for i, part in enumerate(_PARTS)}
    facts: dict[str, Any] = {
        "kind": _KIND,
        "version": 1,
        "teacher": teacher.facts.digest,
        "file": teacher.name,
        "samples": len(inputs),
        "values": [names[tap] for tap in taps],
    }
    write_atomic(path, tensorfile.pack(tensors, {**facts, "digest": _digest(tensors, facts)}))
    return tuple(names[tap] for tap in taps)


def _check_overwrite(path: Path) -> None:
    """Refuse to overwrite anything but earlier statistics."""
    check_target(path)
    try:
        if path.is_file():
            _read_checked(path)
    except UsageError as error:
        what = "is not a file of recorded statistics, and it would be overwritten"
        raise OutputError(what, where=path, remedy="Choose another file with --out.") from error


_PARTS = ("mean", "variance")


def _key(part: str, place: int) -> str:
    return f"{part}.{place}"


def _taps(teacher: Teacher) -> tuple[str, ...]:
    offers = teacher.offers
    if offers.statistics is not None:
        return tuple(dict.fromkeys(offers.statistics.taps))
    layer = offers.last_layer
    return (*offers.convolutions, *(() if layer is None else (layer.features,)))


@torch.no_grad()
def measure(teacher: Teacher, inputs: Tensor, taps: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
    """Compute mean and biased variance [channels] of each tap over all inputs and places, in float64, on the CPU.

    Parts are joined by the rule of Chan, Golub and LeVeque (Updating formulae and a pairwise algorithm for computing
    sample variances, 1979), which stays exact where the mean is large.
    """
    largest = sum(math.prod(teacher.shape_of(tap)) for tap in taps)
    at_once = max(1, min(_MOST_AT_ONCE, _NUMBERS_AT_ONCE // largest))
    totals: list[tuple[int, Tensor, Tensor]] = []
    for part in inputs.split(at_once):
        _, values = teacher.answer(part.to(teacher.device), taps)
        found = [_moments(values[tap]) for tap in taps]
        totals = [_combine_moments(a, b) for a, b in zip(totals, found, strict=True)] if totals else found
    return [(mean, squares / count) for count, mean, squares in totals]


def _moments(value: Tensor) -> tuple[int, Tensor, Tensor]:
    """Compute count, mean and sum of squares about the mean, channel by channel."""
    channels = value.cpu().double().movedim(1, 0).flatten(1)
    mean = channels.mean(1)
    return channels.shape[1], mean, (channels - mean[:, None]).square().sum(1)


def _combine_moments(
    first: tuple[int, Tensor, Tensor], second: tuple[int, Tensor, Tensor]
) -> tuple[int, Tensor, Tensor]:
    count, apart = first[0] + second[0], second[1] - first[1]
    mean = first[1] + apart * (second[0] / count)
    return count, mean, first[2] + second[2] + apart.square() * (first[0] * second[0] / count)


def load(path: Path, teacher: Teacher) -> ActivationStatistics:
    """Read the statistics from a file that `record` wrote.

    Raises:
        UsageError: if it cannot be read, is damaged, was recorded from another teacher, or does not fit.
    """
    tensors, facts = _read_checked(path)
    if facts["teacher"] != teacher.facts.digest:
        raise UsageError(
            f"these statistics were recorded from another teacher ({shown(facts['file'])}, "
            f"{shown(facts['teacher'][:16])[1:-1]}…), not from {teacher.name} ({teacher.facts.digest[:16]}…)",
            where=path,
            remedy=_AGAIN,
        )
    known = {name: tap for tap, name in teacher.offers.names}
    taps, means, variances = [], [], []
    for place, name in enumerate(facts["values"]):
        mean, variance = (tensors[_key(part, place)].float() for part in _PARTS)
        if name not in known:
            raise UsageError(
                f"the value {shown(name)} lies not on the way from the teacher's input to its output",
                where=path,
                remedy="Record them with the same --input and --output. " + _AGAIN,
            )
        channels = teacher.shape_of(known[name])[:1]
        if not mean.shape == variance.shape == channels:
            raise _damaged(path, f"the value {shown(name)} has {channels[0]} channels, these statistics have not")
        taps.append(known[name])
        means.append(mean)
        variances.append(variance)
    return ActivationStatistics(tuple(taps), tuple(means), tuple(variances), "recorded")


def _read_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and facts of such a file, and check its digest."""
    if not (is_there(path) and path.is_file()):
        raise UsageError("there is no such file", where=path, remedy="Give --stats the file that was recorded.")
    try:
        tensors, facts = tensorfile.read(path)
        whole = (
            facts["kind"] == _KIND
            and facts["version"] == 1
            and facts.pop("digest") == _digest(tensors, facts)
            and isinstance(facts["values"], list)
            and all(isinstance(text, str) for text in (facts["teacher"], facts["file"], *facts["values"]))
            and set(tensors) == {_key(part, i) for i in range(len(facts["values"])) for part in _PARTS}
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, "it is damaged, or holds something else than recorded statistics") from error
    if not whole or not facts["values"]:
        raise _damaged(path, "it is damaged, or holds something else than recorded statistics")
    if any(not t.isfinite().all() or (name.startswith("variance") and (t < 0).any()) for name, t in tensors.items()):
        raise _damaged(path, "it holds numbers that are no statistics")
    return tensors, facts


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(what, where=path, remedy=_AGAIN)


def _digest(tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Compute a digest of all numbers and all facts, independent of their order in the file."""
    parts = {name: [str(t.dtype), list(t.shape), sha256(t.numpy().tobytes())] for name, t in tensors.items()}
    return sha256(canonical([parts, facts]))
