"""What comes next is made by another thread while what came last is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
_END = object()


@contextmanager
def ahead(items: Iterator[Item], threads: int) -> Iterator[Iterator[Item]]:
    """The items in their order, each made while the one before is used; nothing is made when the block has ended.

    One thread at a time makes items, and what that raises is raised where the item would have come. Torch lets go of
    the interpreter while it computes, so that the two share the cores.

    Args:
        threads: of torch, for the thread that makes, and as many for this one within the block. At 0 there is no other
            thread, and an item is made when it is asked for.
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
