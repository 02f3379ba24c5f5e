"""Make independent batches one after the other or side by side, by threads that keep to one core each.

A small network does not fill several cores: its operators are split into parts that are hardly worth the splitting.
Batches that know nothing of each other fill them. Threads will do, as torch lets go of the interpreter while it
computes; they share the teacher, and nothing has to be sent.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ..store.shard import Batch
from ..store.store import Store
from ..synthesis.synthesizer import Synthesizer


class _Stopped(Exception):
    """Nobody waits for the batch any more."""


def synthesize(synthesizer: Synthesizer, store: Store) -> None:
    """Make every independent batch that the store misses; the store keeps finished batches at any moment.

    Raises:
        Diverged: if a batch stays non-finite after fresh starts.
    """
    workers, missing = synthesizer.synthesis.workers, store.missing()
    together = workers > 1 and synthesizer.independent
    made = _side_by_side(synthesizer, missing, workers) if together else map(synthesizer.make, missing)
    for batch in made:
        store.append(batch)


def _side_by_side(synthesizer: Synthesizer, indices: Iterable[int], workers: int) -> Iterator[Batch]:
    """Iterate over the batches in order; one more than there are workers is requested, so that none has to wait."""
    stop, one_at_a_time, own = threading.Event(), threading.Lock(), copy.copy(synthesizer)

    def count(passes: int, queries: int = 0) -> None:
        if stop.is_set():
            raise _Stopped
        with one_at_a_time:
            synthesizer.count(passes, queries)

    own.count = count
    threads, ahead = torch.get_num_threads(), deque[Future[Batch]]()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for index in indices:
            ahead.append(pool.submit(own.make, index))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker sets, threads that begin later take over
