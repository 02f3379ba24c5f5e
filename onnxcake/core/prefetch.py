"""Prefetch items: compute the next one in another thread while the caller uses the last one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
_END = object()


@contextmanager
def prefetch(items: Iterator[Item], threads: int) -> Iterator[Iterator[Item]]:
    """Iterate over ``items`` in order, each computed while the one before is used; nothing is computed after the block.

    One thread at a time computes items, and an exception in it is raised where the item would have come. Torch releases
    the interpreter lock while it computes, so that both threads share the cores.

    Args:
        threads: torch's threads for the computing thread, and as many for the caller's within the block. At 0 there is
            no other thread, and an item is computed when the caller asks for it.
    """
    if not threads:
        yield items
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as other:

        def taken() -> Iterator[Item]:
            coming: Future[Item | object] = other.submit(next, items, _END)
            while (item := coming.result()) is not _END:
                coming = other.submit(next, items, _END)
                yield item  # type: ignore[misc]  # all but the end is one

        torch.set_num_threads(threads)
        try:
            yield taken()
        finally:
            torch.set_num_threads(before)  # what the other thread set, threads that begin later would take over
