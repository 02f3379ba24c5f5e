"""Keys: the same numbers for the same purpose, others for any other."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onnxcake.core.rng import Key

paths = st.lists(st.integers() | st.text(max_size=5), max_size=4).map(tuple)


def test_a_key_is_a_value() -> None:
    assert Key(3).at("batch", 17) == Key(3).at("batch").at(17) == Key(3, ("batch", 17))
    assert Key(3).at() == Key(3) and len({Key(3).at("a"), Key(3).at("a"), Key(4).at("a")}) == 2


@given(seeds=st.tuples(st.integers(), st.integers()), where=st.tuples(paths, paths))
def test_different_purposes_have_different_numbers(
    seeds: tuple[int, int], where: tuple[tuple[str | int, ...], tuple[str | int, ...]]
) -> None:
    one, other = (Key(seed).at(*path) for seed, path in zip(seeds, where, strict=True))
    assert (one.number() == other.number()) == (one == other)
    assert 0 <= one.number() < 2**63


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Key(0).at("a", "b"), Key(0).at("ab")),
        (Key(0).at("a", "b"), Key(0).at("b", "a")),
        (Key(0).at(1), Key(0).at("1")),
        (Key(0).at(1, 2), Key(0).at(12)),
        (Key(0, (1,)), Key(1, (0,))),
        (Key(0).at(""), Key(0)),
        (Key(0).at('", "'), Key(0).at("", "")),
        (Key(-1), Key(1)),
        (Key(2**64), Key(0)),
    ],
)
def test_nothing_runs_into_another(one: Key, other: Key) -> None:
    assert one.number() != other.number()


def test_the_numbers_stay_what_they_were() -> None:
    """A set that was begun with an earlier onnxcake goes on with the same numbers; and no hash seed matters."""
    program = "from onnxcake.core.rng import Key; print(Key(7).at('batch', 17, 'é').number())"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{Key(7).at('batch', 17, 'é').number()}\n"} == {"2447417844192765602\n"}


def test_a_generator_is_fresh_each_time() -> None:
    key = Key(0).at("x")
    one, other = (torch.rand(5, generator=key.generator()) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.rand(5, generator=key.at("y").generator()))


def test_the_default_generator_is_given_back() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(4)
    torch.manual_seed(1)
    with Key(0).as_default():
        inside = torch.rand(4)
        torch.manual_seed(5)
    assert torch.equal(torch.rand(4), wanted) and not torch.equal(inside, wanted)
    torch.rand(3)
    with Key(0).as_default():
        assert torch.equal(torch.rand(4), inside), "what went before does not matter"


def test_the_default_generator_is_given_back_after_an_error() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), Key(0).as_default():
        torch.rand(4)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_and_dropout_follow_the_default() -> None:
    def made(key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        with key.as_default():
            return nn.Linear(3, 3).weight.detach(), nn.Dropout(0.5)(torch.ones(64))

    one, same, other = made(Key(0)), made(Key(0)), made(Key(1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_blocks_may_lie_in_each_other() -> None:
    with Key(0).as_default():
        first, second = torch.rand(2), torch.rand(2)
    with Key(0).as_default():
        again = torch.rand(2)
        with Key(1).as_default():
            torch.rand(9)
        assert torch.equal(torch.rand(2), second) and torch.equal(again, first)
