"""Items that are made by another thread while the last one is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from onnxcake.core.prefetch import prefetch


class Made:
    """Numbers, and what is known of their making."""

    def __init__(self, count: int = 5, fails: int = -1) -> None:
        self.count, self.fails, self.made = count, fails, list[int]()
        self.threads, self.of_torch = set[int](), set[int]()

    def numbers(self) -> Iterator[int]:
        for number in range(self.count):
            if number == self.fails:
                raise ValueError(number)
            self.threads.add(threading.get_ident())
            self.of_torch.add(torch.get_num_threads())
            self.made.append(number)
            yield number


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_all_come_in_order_from_one_thread(threads: int, three_threads: None) -> None:
    given = Made()
    with prefetch(given.numbers(), threads) as items:
        assert torch.get_num_threads() == (threads or 3)
        assert list(items) == given.made == [0, 1, 2, 3, 4]
    assert len(given.threads) == 1 and (threading.get_ident() in given.threads) == (threads == 0)
    assert given.of_torch == {threads or 3} and torch.get_num_threads() == 3


def test_the_next_is_made_while_one_is_used_and_no_more() -> None:
    given = Made()
    with prefetch(given.numbers(), 1) as items:
        for number in items:
            until = time.monotonic() + 30
            while len(given.made) < min(number + 2, 5) and time.monotonic() < until:
                time.sleep(0.001)
            assert given.made == list(range(min(number + 2, 5)))


def test_nothing_is_made_before_it_is_asked_for_or_after_the_block() -> None:
    given = Made(100)
    with prefetch(given.numbers(), 1) as items:
        time.sleep(0.05)
        assert not given.made
        next(items)
    made = len(given.made)
    assert made <= 2
    time.sleep(0.05)
    assert len(given.made) == made


@pytest.mark.parametrize("threads", [0, 1])
def test_what_fails_fails_where_it_would_have_come(threads: int, three_threads: None) -> None:
    used: list[int] = []
    with pytest.raises(ValueError, match="3"), prefetch(Made(fails=3).numbers(), threads) as items:
        for number in items:
            used.append(number)
    assert used == [0, 1, 2] and torch.get_num_threads() == 3


def test_who_fails_leaves_no_thread_behind(three_threads: None) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), prefetch(Made().numbers(), 1) as items:
        next(items)
        raise KeyError
    assert threading.active_count() == before and torch.get_num_threads() == 3
