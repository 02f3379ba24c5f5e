"""The memories of a student: a ring of batches, and an autoencoder that is fitted and drawn from."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxcake.core.errors import Diverged
from onnxcake.core.rng import Key
from onnxcake.store.shard import Batch
from onnxcake.synthesis.labels.hard import Independent
from onnxcake.synthesis.memory import Bank, BankState, Memory
from onnxcake.synthesis.replay import MEMORIES, Replay, ReplayState
from onnxcake.synthesis.schedules import Constant
from onnxcake.synthesis.sources.noise import Noise
from onnxcake.synthesis.spec import Synthesis
from onnxcake.synthesis.state import State
from onnxcake.synthesis.step import Context
from onnxcake.synthesis.synthesizer import Synthesizer
from onnxcake.synthesis.updates import Sgd
from onnxcake.teacher.capabilities import MethodInputs
from onnxcake.teacher.signature import Signature

CPU = torch.device("cpu")
SIGMAS = 5
CLASSES, BATCH = 3, 16
NOBODY: Any = None  # a bank asks no synthesizer


class Known:
    """Stands for a teacher: a network and what goes in and out; counts nothing, knows no file."""

    name, device = "known.onnx", CPU

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        with Key(0).at("known").as_default():
            net = nn.Sequential(nn.Flatten(), nn.Linear(signature.size, 12), nn.Tanh(), nn.Linear(12, CLASSES))
        self._net = net.requires_grad_(False)

    def logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self._net(inputs)
        return logits

    def answer(self, inputs: Tensor, taps: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.logits(inputs), {}


def signature(shape: tuple[int, ...] = (6,), **values: Any) -> Signature:
    return Signature("x", shape, "y", "logits", CLASSES, **values)


def synthesizer(of: Signature, batch: int = BATCH, told: list[int] | None = None) -> Synthesizer:
    synthesis = Synthesis(
        source=Noise(),
        labels=Independent(),
        losses=(),
        update=Sgd(Constant(1.0)),
        groups=1,
        batch=batch,
        batches=1,
        held_out=1,
        steps=0,
        reference_batch=batch,
        chunk=batch,
    )
    teacher: Any = Known(of)

    def tick(passes: int, queries: int = 0) -> None:
        if told is not None:
            told[0] += passes
            told[1] += queries

    return Synthesizer(teacher, synthesis, Key(0).at("synthesizer"), count=tick)


def context(of: Signature | None = None, batch: int = BATCH, seed: int = 0) -> Context:
    return Context(of or signature(), MethodInputs(), Key(seed).at("parts"), CPU, batch)


def numbered(number: int, batch: int = BATCH) -> Batch:
    """A batch whose every sample tells its number and place."""
    place = 100.0 * number + torch.arange(batch)
    return Batch(0, place[:, None].expand(-1, 6), place[:, None].expand(-1, CLASSES), place.long())


def on_a_plane(of: Signature, number: int, batch: int = BATCH) -> Batch:
    """Samples that two numbers tell apart, with the teacher's answers: something to learn."""
    code = torch.randn(batch, 2, generator=Key(1).at(number).generator())
    turn = torch.randn(2, of.size, generator=Key(2).generator())
    inputs = of.to_input((code @ turn).view(batch, *of.shape))
    logits = Known(of).logits(inputs)
    return Batch(number, inputs, logits, logits.argmax(1))


def key(number: int) -> Key:
    return Key(3).at("round", number)


# --- a bank ------------------------------------------------------------------------------------------------


def entries(state: BankState) -> list[int]:
    """The numbers of the batches in it, by place; the filled ones."""
    filled = min(int(state.pushed), len(state.inputs))
    return [int(rows[0, 0]) // 100 for rows in state.inputs[:filled]]


def test_the_oldest_entry_makes_room() -> None:
    bank = Bank(entries=3)
    state = bank.init_state(context())
    there = []
    for number in range(8):
        bank.remember(state, numbered(number), number, NOBODY, key(number))
        there.append(sorted(entries(state)))
    assert there == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7]]


@pytest.mark.parametrize(("every", "there"), [(1, [6, 7, 8, 9]), (2, [2, 4, 6, 8]), (4, [0, 4, 8]), (20, [0])])
def test_one_batch_in_so_many_is_remembered(every: int, there: list[int]) -> None:
    bank = Bank(entries=4, every=every)
    state = bank.init_state(context())
    for number in range(10):
        bank.remember(state, numbered(number), number, NOBODY, key(number))
    assert sorted(entries(state)) == there


@pytest.mark.parametrize(("share", "samples"), [(1.0, 16), (0.5, 8), (0.125, 2), (0.1, 2), (0.001, 1)])
def test_a_share_of_a_batch_makes_an_entry(share: float, samples: int) -> None:
    bank, batch = Bank(entries=2, share=share), numbered(7)
    state = bank.init_state(context())
    bank.remember(state, batch, 0, NOBODY, key(0))
    rows = bank.recall(state, NOBODY, key(1))
    assert rows is not None
    for found, whole in zip(rows, (batch.inputs, batch.logits, batch.labels), strict=True):
        assert torch.equal(found, whole[:samples]) and found.dtype == whole.dtype


@pytest.mark.parametrize("filled", [1, 2, 4, 9])
def test_any_filled_entry_is_recalled_as_often(filled: int) -> None:
    bank, draws = Bank(entries=4), 2000
    state = bank.init_state(context())
    assert bank.recall(state, NOBODY, key(0)) is None, "there is nothing yet"
    for number in range(1, filled + 1):
        bank.remember(state, numbered(number), number, NOBODY, key(number))
    counts = dict.fromkeys(entries(state), 0)
    for number in range(draws):
        rows = bank.recall(state, NOBODY, Key(0).at("recall", number))
        assert rows is not None
        inputs, logits, labels = rows
        assert torch.equal(inputs[:, 0], logits[:, 0]) and torch.equal(inputs[:, 0].long(), labels)
        counts[int(inputs[0, 0]) // 100] += 1
    held = min(filled, 4)
    assert len(counts) == held and sum(counts.values()) == draws
    error = math.sqrt(draws / held * (1 - 1 / held))
    assert all(abs(count - draws / held) <= SIGMAS * error for count in counts.values())


def test_a_recollection_depends_on_its_key_alone() -> None:
    bank = Bank(entries=10)
    state = bank.init_state(context())
    for number in range(10):
        bank.remember(state, numbered(number), number, NOBODY, key(number))
    drawn = [bank.recall(state, NOBODY, Key(0).at(n))[0][0, 0].item() for n in (*range(20), *range(20))]  # type: ignore[index]
    assert drawn[:20] == drawn[20:] and len(set(drawn)) > 4


# --- replay ------------------------------------------------------------------------------------------------

SHAPES = [signature(), signature((1, 8, 8), range=(0.0, 1.0), location=(0.5,), deviation=(0.25,)), signature((2, 12))]
SMALL = Replay(latent=4, width=4, step_size=1e-2)
every_shape = pytest.mark.parametrize("of", SHAPES, ids=["vector", "image", "signal"])


def fitted(replay: Replay, of: Signature, rounds: int, own: Synthesizer | None = None, seed: int = 0) -> ReplayState:
    state = replay.init_state(context(of, seed=seed))
    for number in range(rounds):
        replay.remember(state, on_a_plane(of, number), number, own or synthesizer(of), key(number))
    return state


def error(state: ReplayState, of: Signature) -> float:
    """Mean absolute difference of samples that were not fitted from what is read back at the code's mean."""
    untouched, total = copy.deepcopy(state), 0.0
    for number in (100, 101, 102):
        x = of.to_standard(on_a_plane(of, number, 32).inputs)
        with torch.no_grad():
            total += F.l1_loss(untouched.decoder(untouched.encoder(x)[0]), x).item() / 3
    return total


@every_shape
def test_it_learns_to_read_back_what_it_has_seen(of: Signature) -> None:
    errors = [error(fitted(SMALL, of, rounds), of) for rounds in (0, 5, 40)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.75 * errors[0]


@every_shape
def test_recollections_are_samples_with_the_teachers_answers(of: Signature) -> None:
    own = synthesizer(of)
    state = SMALL.init_state(context(of))
    assert SMALL.recall(state, own, key(0)) is None, "nothing was fitted yet"
    SMALL.remember(state, on_a_plane(of, 0), 0, own, key(0))
    before = {name: value.clone() for name, value in state.named_parameters()}
    rows = [SMALL.recall(state, own, key(number)) for number in (1, 1, 2)]
    for each in rows:
        assert each is not None
        inputs, logits, labels = each
        assert inputs.shape == (2, *of.input_shape) and inputs.isfinite().all() and not inputs.requires_grad
        torch.testing.assert_close(logits, Known(of).logits(inputs))
        assert torch.equal(labels, logits.argmax(1))
    one, again, other = (each[0] for each in rows if each is not None)
    assert torch.equal(one, again) and not torch.isclose(one, other).all()
    assert all(torch.equal(value, before[name]) for name, value in state.named_parameters()), "only z is stepped"


def test_before_anything_was_fitted_nobody_is_asked() -> None:
    told = [0, 0]
    own = synthesizer(signature(), told=told)
    assert Replay().recall(Replay(latent=3, width=2).init_state(context()), own, key(0)) is None and told == [0, 0]


@pytest.mark.parametrize(("batch", "share", "recalled"), [(16, 0.125, 2), (16, 0.5, 8), (40, 0.2, 8), (5, 0.125, 2)])
def test_a_share_of_a_batch_is_recalled(batch: int, share: float, recalled: int) -> None:
    """Two at least, which BatchNorm can normalise; half of each batch is fitted, and as many of its own."""
    told = [0, 0]
    replay, own = replace(SMALL, share=share, fits=3), synthesizer(signature(), batch, told)
    state = replay.init_state(context(batch=batch))
    half = batch // 2
    replay.remember(state, on_a_plane(signature(), 0, batch), 0, own, key(0))
    assert told == [3 * half, 0]
    rows = replay.recall(state, own, key(1))
    assert rows is not None and [len(tensor) for tensor in rows] == [recalled] * 3
    assert told == [3 * half + recalled, recalled]
    replay.remember(state, on_a_plane(signature(), 1, batch), 1, own, key(2))
    assert told == [3 * half + recalled + 3 * (half + recalled), 2 * recalled]


@pytest.mark.parametrize("batch", [2, 3])
def test_tiny_batches_are_remembered_too(batch: int) -> None:
    own, state = synthesizer(signature(), batch), SMALL.init_state(context(batch=batch))
    for number in range(2):
        SMALL.remember(state, on_a_plane(signature(), number, batch), number, own, key(number))
    assert SMALL.recall(state, own, key(9)) is not None


def test_whole_numbers_are_recalled_where_the_file_takes_them() -> None:
    of = signature(input_dtype="uint8", range=(0.0, 255.0), location=(127.5,), deviation=(60.0,))
    state = fitted(SMALL, of, 1)
    rows = SMALL.recall(state, synthesizer(of), key(5))
    assert rows is not None and torch.equal(rows[0], rows[0].round()) and rows[0].min() >= 0 and rows[0].max() <= 255


def aim(logits: Tensor, weight: float) -> float:
    """What a recollection's z is stepped down, but for its own term."""
    shares = logits.softmax(1).mean(0)
    balance = (shares * shares.log10()).sum()
    return (weight * balance + F.cross_entropy(logits, logits.argmax(1))).item()


def test_recollections_are_moved_toward_sure_and_balanced_answers() -> None:
    of, replay = signature(), replace(SMALL, share=1.0)
    state = fitted(replay, of, 3)
    falls = []
    for number in range(20):
        pair = [replace(replay, recall_step=step).recall(state, synthesizer(of), key(number)) for step in (1e-9, 2e-2)]
        falls.append(aim(pair[0][1], 5.0) - aim(pair[1][1], 5.0))  # type: ignore[index]
    assert sum(fall > 0 for fall in falls) > 15 and sum(falls) > 0


def test_the_divergence_draws_codes_toward_their_prior() -> None:
    """With all weight on it, every code's mean is 0 and its variance 1, whatever the sample."""
    of = signature()
    codes = []
    for weight in (0.0, 10.0):
        state = fitted(replace(SMALL, divergence=weight), of, 40)
        with torch.no_grad():
            mean, log_variance = state.encoder(on_a_plane(of, 200, 64).inputs)
        codes.append(0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean().item())
    assert codes[1] < 0.02 < 0.1 < codes[0]


@pytest.mark.parametrize("fits", [1, 4], ids=["found when recalled", "found when fitted"])
def test_steps_far_too_large_are_said_to_be(fits: int) -> None:
    of, own = signature(), synthesizer(signature())
    replay = replace(SMALL, step_size=1e30, fits=fits)
    state = replay.init_state(context(of))
    with pytest.raises(Diverged) as caught:
        replay.remember(state, on_a_plane(of, 0), 0, own, key(0))
        replay.recall(state, own, key(0))
    assert caught.value.where == "known.onnx" and "student.memory.replay.step_size=1e+29" in caught.value.remedy
    assert bool(state.fitted) == (fits == 1)


# --- checkpoints -------------------------------------------------------------------------------------------


def lasting(state: nn.Module) -> State:
    return State({"memory": state}, {"memory": getattr(state, "leaves", None)})


@pytest.mark.parametrize("memory", [Bank(entries=3, every=2, share=0.5), SMALL], ids=MEMORIES)
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_state_goes_on_where_it_was(rounds: int, memory: Memory) -> None:
    """Through plain tensors into a memory that begins elsewhere: it then does the same, to the bit."""
    of, own = signature(), synthesizer(signature())

    def on(state: nn.Module, first: int, last: int) -> list[Tensor]:
        seen = []
        for number in range(first, last):
            memory.remember(state, on_a_plane(of, number), number, own, key(number))
            for n in range(3):
                rows = memory.recall(state, own, Key(4).at(number, n))
                seen += [] if rows is None else [tensor.clone() for tensor in rows]
        return seen

    whole, kept = memory.init_state(context(of)), memory.init_state(context(of))
    on(kept, 0, rounds)
    tensors = {name: tensor.clone() for name, tensor in lasting(kept).tensors().items()}
    back = memory.init_state(context(of, seed=1))
    lasting(back).restore(tensors)
    found, expected = on(back, rounds, 6), on(whole, 0, 6)[-3 * 3 * (6 - rounds) :]
    assert len(found) == len(expected) == 3 * 3 * (6 - rounds)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    ends = lasting(back).tensors(), lasting(whole).tensors()
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_adams_moments_are_part_of_a_replays_state() -> None:
    state = fitted(SMALL, signature(), 2)
    names = lasting(state).tensors()
    assert int(names["memory:steps.0"]) == 2 * SMALL.fits
    stepped = {name.rpartition(".")[0] for name in names if name.startswith("memory:")}
    assert stepped == {"memory:mean", "memory:square", "memory:steps"}
    assert sum(name.startswith("memory:mean") for name in names) == len(list(state.parameters()))
