"""Find by a short timing, once for a run, how a teacher is computed fastest on this machine.

Four things are tried: one thread, as several that wait for each other at every small operator are often no faster;
convolutions' weights with the channels last in memory; bfloat16 in the operators that gain by it (autocast), where the
processor has it; and threads that compute side by side, each on one core. bfloat16 is taken only where gradients point
the same way in it. It is then used for gradients, for a student's steps and for answers asked anew in each of them;
answers that are kept, weights and losses stay in float32.

All of these are only meant to be faster: one that fails, in whatever way, is left out. The timing takes as many samples
as go through the teacher in a moment, stops a trial that is clearly slower than the best so far, and begins no other
where that might take it beyond a few seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.rng import Key
from ..graph.layout import has_layouts, lay_out
from ..runtime import processor
from .teacher import Teacher

Dtype = Literal["float32", "bfloat16"]

_WORTH_S = 10.0  # of gradients: shorter work is not worth a timing, and stays plain
_GAIN = 1.15  # times faster, or it is not worth leaving the plain way
_TIMES = 6  # the first of them is not counted
_MOMENT_S = 0.15  # that one gradient in the plain way may take: where the whole chunk takes longer, a part is timed
_ENOUGH_S = 1.0  # of one way: two gradients at least, and no more after so long
_MOST_S = 5.0  # of all together: no trial begins that might take longer
_WARM = 5.0  # times slower than the best so far: no trial is that slow at its first gradient and then as fast
_SLOWER = 1.5  # the same at a later one
_ALIKE = 0.95  # cosine of most samples' gradients with the plain ones
_SAME = 0.9  # of the samples at least are of the same class
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # x86's and Arm's

_now = time.perf_counter


@dataclass(frozen=True)
class ExecutionMode:
    """Describe how the teacher is computed.

    Attributes:
        channels_last: whether convolutions' weights, the teacher's and the student's, have the channels last in memory.
        dtype: dtype of gradients at the samples, of student steps and of their live answers.
        workers: threads that compute side by side.
        threads: of torch; None where it was not timed.
    """

    channels_last: bool = False
    dtype: Dtype = "float32"
    workers: int = 1
    threads: int | None = None


PLAIN = ExecutionMode()
_given: tuple[int, int] | None = None  # how many threads there were, and how many were used in their place


def fastest_mode(teacher: Teacher, chunk: int, passes: int, workers: int = 1) -> ExecutionMode:
    """Choose the fastest mode for ``passes`` gradients, ``chunk`` samples at once; the plain one where that is as good.

    Leaves the teacher's weights arranged as `apply` of the answer arranges them.

    Args:
        workers: most threads side by side, where the work can be split among them.
    """
    until = _now() + _MOST_S
    x = torch.randn(chunk, *teacher.signature.shape, generator=Key(0).at("pace").generator()).to(teacher.device)
    apply(PLAIN, teacher.graph)
    seconds = _time(teacher, x[:1], PLAIN, 2, _MOMENT_S)[1]
    x = x[: max(1, int(_MOMENT_S / max(seconds, 1e-9)))]
    if len(x) > 1:
        seconds = _time(teacher, x, PLAIN, 2)[1]
    if seconds / len(x) * passes < _WORTH_S:
        return PLAIN
    found = _fastest(teacher, x, workers, until)
    apply(found, teacher.graph)
    return found


def _fastest(teacher: Teacher, x: Tensor, workers: int, until: float) -> ExecutionMode:
    threads = torch.get_num_threads()
    plain, seconds = _time(teacher, x, PLAIN, _TIMES, until=until)
    used, least = threads, seconds / _GAIN
    if threads > 1 and teacher.device.type == "cpu" and _now() < until:
        torch.set_num_threads(1)
        alone = _time(teacher, x, PLAIN, _TIMES, seconds * _GAIN, until)[1]
        if alone / _GAIN <= seconds:
            used, least = 1, alone / _GAIN
        torch.set_num_threads(used)
    best = replace(PLAIN, threads=used)
    for pace in (replace(other, threads=used) for other in alternatives(teacher)):
        if _now() + _WARM * least > until:
            break
        try:
            apply(pace, teacher.graph)
            found, seconds = _time(teacher, x, pace, _TIMES, least, until)
            if seconds < least and _agrees(found, plain):
                best, least = pace, seconds
        except Exception:  # noqa: BLE001 - an operator without such a kernel, memory that runs out, whatever it is
            continue
    if workers > 1 and teacher.device.type == "cpu" and _now() + _WARM * least <= until:
        best = replace(best, workers=_workers(teacher, x, best, workers, until))
    torch.set_num_threads(threads)
    return best


def _workers(teacher: Teacher, x: Tensor, best: ExecutionMode, workers: int, until: float) -> int:
    """Choose how many threads compute side by side: all if they are faster together, else one."""
    try:
        apply(best, teacher.graph)
        together = _side_by_side(teacher, x, best, workers) / workers
        return workers if together < _time(teacher, x, best, _TIMES, until=until)[1] / _GAIN else 1
    except Exception:  # noqa: BLE001 - what cannot be computed side by side is computed one after the other
        return 1


def threads_given() -> int:
    """Return the number of threads that torch was given, whatever `use_threads` has made of them since."""
    now = torch.get_num_threads()
    return _given[0] if _given is not None and _given[1] == now else now


def use_threads(count: int) -> None:
    """Set the number of torch's threads, and remember how many it was given."""
    global _given
    _given = threads_given(), count
    torch.set_num_threads(count)


def _side_by_side(teacher: Teacher, x: Tensor, pace: ExecutionMode, workers: int) -> float:
    """Time one gradient, in seconds, where ``workers`` threads compute at once."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def all_of_them(times: int) -> float:
            started = time.perf_counter()
            for one in [pool.submit(_time, teacher, x, pace, times) for _ in range(workers)]:
                one.result()
            return (time.perf_counter() - started) / times

        all_of_them(1)
        seconds = all_of_them(_TIMES)
    torch.set_num_threads(threads)
    return seconds


def apply(pace: ExecutionMode, *networks: nn.Module) -> None:
    """Arrange the weights of networks in memory; their values do not change."""
    for network in networks:
        lay_out(network, pace.channels_last)


def autocast(device: torch.device, dtype: Dtype) -> torch.autocast:
    """Compute operators that gain by ``dtype`` in it within the block."""
    low = dtype == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16 if low else None, enabled=low, cache_enabled=False)


def alternatives(teacher: Teacher) -> Iterator[ExecutionMode]:
    """Iterate over the modes to try besides the plain one; those in bfloat16 where the device has it."""
    if any(weight.dim() == 5 for weight in (*teacher.graph.parameters(), *teacher.graph.buffers())):
        return  # one of 60 networks, of three dimensions, ran into numbers that are not finite, and in float32 did not
    layouts = (False, True) if has_layouts(teacher.graph) else (False,)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16") if _has_bfloat16(teacher.device) else ("float32",)
    for channels_last in layouts:
        for dtype in dtypes:
            pace = ExecutionMode(channels_last, dtype)
            if pace != PLAIN:
                yield pace


def _has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 itself, as its emulation is many times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = processor.features()
    return not known or not known.isdisjoint(_BFLOAT16)


_Found = tuple[Tensor, Tensor]


def _time(
    teacher: Teacher, x: Tensor, pace: ExecutionMode, times: int, enough: float = math.inf, until: float = math.inf
) -> tuple[_Found, float]:
    """Compute logits and gradient of some samples, and the seconds that they take at the best of ``times``.

    Args:
        enough: seconds; no more trials are made once they are clearly slower than this.
        until: moment after which no further trial begins.
    """
    taken: list[float] = []
    while len(taken) < times:
        started = _now()
        found = _gradient(teacher, x, pace)
        taken.append(_now() - started)
        slower = taken[0] > _WARM * enough if len(taken) == 1 else min(taken[1:]) > _SLOWER * enough
        if slower or (len(taken) > 1 and sum(taken) > _ENOUGH_S) or _now() >= until:
            break
    return found, min(taken[1:] or taken)


def _gradient(teacher: Teacher, x: Tensor, pace: ExecutionMode) -> _Found:
    """Compute logits, and the gradient of the highest log-probability."""
    leaf = x.clone().requires_grad_(True)
    with autocast(teacher.device, pace.dtype):
        logits = teacher.logits_of_standard(leaf)
    sure = F.log_softmax(logits.float(), 1).amax(1)
    gradient = torch.autograd.grad(sure.sum(), leaf, materialize_grads=True)[0]
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return logits.detach().float(), gradient.float()


def _agrees(found: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]) -> bool:
    """Tell whether classes and gradients agree with those of the plain mode."""
    (logits, gradient), (true_logits, true_gradient) = found, plain
    same = (logits.argmax(1) == true_logits.argmax(1)).float().mean()
    cosines = F.cosine_similarity(gradient.flatten(1), true_gradient.flatten(1), dim=1)
    moved = true_gradient.flatten(1).norm(dim=1) > 0
    return bool(same >= _SAME) and (not moved.any() or bool(cosines[moved].median() >= _ALIKE))
