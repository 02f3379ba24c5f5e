"""How a teacher is computed fastest on this machine, found out by a short timing, once for a run.

Four things are tried: one thread, as several that wait for each other at every small operator are often no faster;
convolutions' weights with the channels last in memory; bfloat16 in the operators that gain by it (autocast); and
threads that compute side by side, each on one core. bfloat16 is taken only where gradients point the same way in it.
It is then used for gradients, for a student's steps and for answers asked anew in each of them; answers that are kept,
weights and losses stay in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rng import Key
from .teacher import Teacher

Dtype = Literal["float32", "bfloat16"]

_WORTH_S = 10.0  # of gradients: shorter work is not worth a timing, and stays plain
_GAIN = 1.15  # times faster, or it is not worth leaving the plain way
_TIMES = 6  # the first of them is not counted
_ALIKE = 0.95  # cosine of most samples' gradients with the plain ones
_SAME = 0.9  # of the samples at least are of the same class


@dataclass(frozen=True)
class Pace:
    """How the teacher is computed.

    Attributes:
        channels_last: convolutions' weights, the teacher's and the student's, have the channels last in memory.
        dtype: what gradients at the samples, student steps and their live answers are computed in.
        workers: threads that compute side by side.
        threads: of torch; None where it was not timed.
    """

    channels_last: bool = False
    dtype: Dtype = "float32"
    workers: int = 1
    threads: int | None = None


PLAIN = Pace()
_given: tuple[int, int] | None = None  # how many threads there were, and how many were used in their place
_Case = tuple[str, int, int, int, str]
_FOUND: dict[_Case, Pace] = {}  # what was timed in this process: noise does not turn a run's key


def chosen(teacher: Teacher, chunk: int, passes: int, workers: int = 1) -> Pace:
    """The fastest way for so many gradients, ``chunk`` samples at once; the plain one where that is as good.

    Args:
        workers: how many there may be, where the work can be split among them.

    Leaves the teacher as `apply` of the answer does.
    """
    key = (teacher.facts.digest, chunk, threads_given(), workers, teacher.device.type)
    if key not in _FOUND:
        x = torch.randn(chunk, *teacher.signature.shape, generator=Key(0).at("pace").generator()).to(teacher.device)
        apply(PLAIN, teacher.graph)
        if _timed(teacher, x, PLAIN, 2)[1] * passes / chunk < _WORTH_S:
            return PLAIN
        _FOUND[key] = _fastest(teacher, x, workers)
    apply(_FOUND[key], teacher.graph)
    return _FOUND[key]


def _fastest(teacher: Teacher, x: Tensor, workers: int) -> Pace:
    threads = torch.get_num_threads()
    plain, seconds = _timed(teacher, x, PLAIN, _TIMES)
    used, least = threads, seconds / _GAIN
    if threads > 1 and teacher.device.type == "cpu":
        torch.set_num_threads(1)
        alone = _timed(teacher, x, PLAIN, _TIMES)[1]
        if alone / _GAIN <= seconds:
            used, least = 1, alone / _GAIN
        torch.set_num_threads(used)
    best = replace(PLAIN, threads=used)
    for pace in (replace(other, threads=used) for other in others(teacher)):
        apply(pace, teacher.graph)
        try:
            found, seconds = _timed(teacher, x, pace, _TIMES)
        except RuntimeError:  # an operator that has no such kernel
            continue
        if seconds < least and _agrees(found, plain):
            best, least = pace, seconds
    if workers > 1 and teacher.device.type == "cpu":
        apply(best, teacher.graph)
        if _side_by_side(teacher, x, best, workers) / workers < _timed(teacher, x, best, _TIMES)[1] / _GAIN:
            best = replace(best, workers=workers)
    torch.set_num_threads(threads)
    return best


def threads_given() -> int:
    """How many threads torch was given, whatever `use_threads` has made of them since."""
    now = torch.get_num_threads()
    return _given[0] if _given is not None and _given[1] == now else now


def use_threads(count: int) -> None:
    """Has torch use so many, of those that it was given."""
    global _given
    _given = threads_given(), count
    torch.set_num_threads(count)


def _side_by_side(teacher: Teacher, x: Tensor, pace: Pace, workers: int) -> float:
    """The seconds of one gradient where so many threads compute at once."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def all_of_them(times: int) -> float:
            started = time.perf_counter()
            for one in [pool.submit(_timed, teacher, x, pace, times) for _ in range(workers)]:
                one.result()
            return (time.perf_counter() - started) / times

        all_of_them(1)
        seconds = all_of_them(_TIMES)
    torch.set_num_threads(threads)
    return seconds


def apply(pace: Pace, *networks: nn.Module) -> None:
    """Lays the weights of networks out in memory; values stay as they are."""
    for network in networks:
        layout = torch.channels_last if pace.channels_last else torch.contiguous_format
        network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs ask for a tensor besides


def hurried(device: torch.device, dtype: Dtype) -> torch.autocast:
    """Within it operators that gain by ``dtype`` compute in it."""
    low = dtype == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16 if low else None, enabled=low, cache_enabled=False)


def others(teacher: Teacher) -> Iterator[Pace]:
    """Every way there is to compute a teacher but the plain one."""
    layouts = (False, True) if any(weight.dim() == 4 for weight in _tensors(teacher.graph)) else (False,)
    for channels_last in layouts:
        for dtype in ("float32", "bfloat16"):
            pace = Pace(channels_last, dtype)
            if pace != PLAIN:
                yield pace


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _timed(teacher: Teacher, x: Tensor, pace: Pace, times: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Logits and gradient of some samples, and the seconds that they take at the best of ``times``."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        leaf = x.clone().requires_grad_(True)
        with hurried(teacher.device, pace.dtype):
            logits = teacher.logits_of_standard(leaf)
        sure = F.log_softmax(logits.float(), 1).amax(1)
        gradient = torch.autograd.grad(sure.sum(), leaf, materialize_grads=True)[0]
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return (logits.detach().float(), gradient.float()), min(taken[1:] or taken)


def _agrees(found: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]) -> bool:
    """Whether classes and gradients are those of the plain way."""
    (logits, gradient), (true_logits, true_gradient) = found, plain
    same = (logits.argmax(1) == true_logits.argmax(1)).float().mean()
    cosines = F.cosine_similarity(gradient.flatten(1), true_gradient.flatten(1), dim=1)
    moved = true_gradient.flatten(1).norm(dim=1) > 0
    return bool(same >= _SAME) and (not moved.any() or bool(cosines[moved].median() >= _ALIKE))
