"""Try every loss by its row in one table; then the losses of the data-free methods where their codes differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.rng import Key
from onnxcake.synthesis.losses.activation import Activation
from onnxcake.synthesis.losses.balance import Balance
from onnxcake.synthesis.losses.classification import Classification
from onnxcake.synthesis.losses.contrastive import Contrastive
from onnxcake.synthesis.losses.disagreement import Disagreement
from onnxcake.synthesis.losses.instance_contrast import InstanceContrast, _global_view, _local_view, _resampled
from onnxcake.synthesis.losses.l2 import L2
from onnxcake.synthesis.losses.sample_entropy import SampleEntropy
from onnxcake.synthesis.losses.statistics import Statistics, _Moments
from onnxcake.synthesis.losses.total_variation import TotalVariation
from onnxcake.synthesis.losses.total_variation_l2 import TotalVariationL2
from onnxcake.synthesis.step import Context, Loss, Step
from onnxcake.teacher.capabilities import ActivationStatistics as Known
from onnxcake.teacher.capabilities import LastLayer, MethodInputs
from onnxcake.teacher.signature import Signature

SHAPE, CLASSES, SAMPLES, GROUPS = (2, 4, 5), 4, 6, 3
ln = math.log


def logs(*rows: list[float]) -> Tensor:
    """Logits whose softmax the rows are."""
    return torch.tensor(rows).log()


def by_hand(x: Any = ((0.0,), (0.0,)), **more: Any) -> Step:
    x = torch.as_tensor(x)
    more = {"logits": torch.zeros(len(x), 2), **more}
    student = more.pop("student", None)
    draw = torch.Generator().manual_seed(0)
    return Step(x, torch.zeros(len(x), dtype=torch.int64), ask=lambda: student, draw=draw, **more)


def known(*layers: tuple[list[float], list[float]], scale: float = 1.0) -> MethodInputs:
    """Means and variances of the taps "0", "1", …"""
    means, variances = (tuple(torch.tensor(values) for values in side) for side in zip(*layers, strict=True))
    return MethodInputs(
        Known(tuple(str(number) for number in range(len(layers))), means, variances, "batch_norm", scale)
    )


def begin(loss: Loss, view: MethodInputs, kind: Any = "logits") -> Any:
    return loss.init_state(Context(Signature("x", (3,), "y", kind, 2), view, Key(0), torch.device("cpu"), 2))


# Two layers; the first has m = (1, 2) and v = (1, 1), the second, in space, m = 3 and v = (4 + 0 + 0 + 4) / 4.
INSIDE = {"0": torch.tensor([[0.0, 1], [2, 3]]), "1": torch.tensor([[[[1.0, 3]]], [[[3, 5]]]])}
TRAINED = known(([1.0, 0], [4.0, 5]), ([0.0], [2.0]), scale=2.0)
# In the first sample both see the second class; in the second sample each sees another.
TEACHER, STUDENT = logs([1 / 4, 3 / 4], [3 / 4, 1 / 4]), logs([2 / 5, 3 / 5], [1 / 4, 3 / 4])
FIRST, SECOND = ln(5 / 8) / 4 + 3 * ln(5 / 4) / 4, ln(3) / 2  # KL(p_T ‖ p_S)
JS = ((0.325 * ln(0.325**2 / 0.1) + 0.675 * ln(0.675**2 / 0.45)) / 2, ln(4 / 3) / 2)
ANSWERS = by_hand(logits=TEACHER, student=STUDENT)
WARM = by_hand(logits=3 * TEACHER, student=3 * STUDENT)
IMAGE = [[0.0, 1], [2, 5]]
ENTROPY = ln(4) - 3 / 4 * ln(3)  # of 1/4 and 3/4
OFF_BY_ONE_AND_THREE = by_hand(logits=torch.tensor([[0.0, 4], [1, 1]]), student=torch.ones(2, 2))
LABELS = by_hand(
    [[0.0]],
    logits=torch.tensor([[-ln(3), ln(3)]]),
    student=torch.tensor([[-ln(3 / 2), -ln(3)]]),
    multilabel=True,
)
# Two rows of two samples; three samples miss by one logit, the fourth has equal ones.
ROWS = Step(
    x=torch.tensor([[IMAGE, [[0.0, 0], [0, 0]], [[-3.0, -3], [-3, -3]], [[1.0, 1], [1, 1]]]]).transpose(0, 1),
    labels=torch.tensor([0, 1, 1, 0]),
    logits=torch.tensor([[0.0, 1], [2, 1], [0, 0], [3, 4]]),
    groups=2,
    targets=torch.tensor([1 / 4, 3 / 4]).repeat(4, 1),
)
# Of the three labels, set are with shares 1/2, 3/4 and 1/4; asked for is the second alone.
THREE = Step(
    torch.zeros(1, 1),
    torch.tensor([1]),
    torch.tensor([[0.0, ln(3), -ln(3)]]),
    multilabel=True,
    targets=torch.tensor([[1.0, 0.0, 0.5]]),
)
UNEQUAL = logs([1 / 2, 1 / 2], [1 / 4, 3 / 4])


@dataclass(frozen=True)
class Row:
    """What a loss must do.

    Attributes:
        loss: with the keys that the row is about.
        step: a step, and
        value: what is worked out from it by hand.
        view: inside the teacher of ``step``.
    """

    loss: Loss
    step: Step
    value: float
    view: MethodInputs = field(default_factory=MethodInputs)


SAME = torch.ones(3, 2)
SHARE = 3 / 8  # the first class's, over UNEQUAL
TABLE = {
    # Missed by one logit, ln(1 + e), and equal ones, ln 2; summed, over 2 rows.
    "classification": Row(Classification(), ROWS, (3 * ln(1 + math.e) + ln(2)) / 2),
    # The three are sure of the class that they see, by one logit: ln(1 + 1/e).
    "classification, self": Row(Classification("self"), ROWS, (3 * ln(1 + 1 / math.e) + ln(2)) / 2),
    # ln(e⁰ + e¹) less 3/4; once 2 + 1 of the logits' 5/4 more; and ln 2.
    "classification, targets": Row(
        Classification("targets"), ROWS, (3 * ln(1 + math.e) + ln(2) - 3 / 4 - 1 / 4 - 3 / 4) / 2
    ),
    "classification, temperature": Row(Classification(temperature=0.5), ROWS, (3 * ln(1 + math.e**2) + ln(2)) / 2),
    "classification, multilabel": Row(Classification(), THREE, ln(2) + 2 * ln(4 / 3)),
    "classification, self, multilabel": Row(Classification("self"), THREE, ln(2) + 2 * ln(4 / 3)),
    "classification, targets, multilabel": Row(
        Classification("targets"), THREE, ln(2) + ln(4) + (ln(4) + ln(4 / 3)) / 2
    ),
    "classification, temperature, multilabel": Row(Classification(temperature=0.5), THREE, ln(2) + 2 * ln(10 / 9)),
    # Squared distances 2² and 3² + 4², each pair twice; over 2 · 2 rows · 2 classes.
    "contrastive": Row(Contrastive(), ROWS, 2 * (4 + 25) / (2 * 2 * 2)),
    # Only the first image varies: |2 − 0| + |5 − 1| downwards and 1 + 3 sideways, out of 4 images · 2 each.
    "total_variation": Row(TotalVariation(), ROWS, 6 / 8 + 4 / 8),
    "total_variation, sum": Row(TotalVariation("sum"), ROWS, (6 + 4) / 4),  # 4 images of 1 channel
    # Mean off by (0, 2) and variance by (−3, −4); then 3 and 0; twice the sum of the norms.
    "statistics": Row(Statistics(), by_hand(taps=INSIDE), 2 * (2 + 5 + 3 + 0), TRAINED),
    "statistics, first": Row(Statistics(first=10.0), by_hand(taps=INSIDE), 2 * (10 * 7 + 3), TRAINED),
    "statistics, momentum": Row(Statistics(momentum=0.9), by_hand(taps=INSIDE), 20, TRAINED),
    # Of each channel ½ (ln σ²/v + (v + (m − μ)²)/σ² − 1).
    "statistics, kl": Row(
        Statistics("kl"), by_hand(taps=INSIDE), ln(4) + 1 / 4 - 1 + ln(5) + (1 + 4) / 5 - 1 + 9 / 2, TRAINED
    ),
    "l2": Row(L2(), by_hand([[3.0], [4.0]]), 5),  # of the batch: 3 and 4 are two samples'
    # To the right 1 and 3, down 2 and 4, diagonally 5 and 1; in two images.
    "total_variation_l2": Row(TotalVariationL2(), by_hand([[IMAGE], [IMAGE]]), 2**0.5 * (10**0.5 + 20**0.5 + 5 + 1)),
    "balance": Row(Balance(), by_hand(logits=UNEQUAL), SHARE * ln(SHARE) + (1 - SHARE) * ln(1 - SHARE)),
    "balance, base 10": Row(
        Balance(10), by_hand(logits=UNEQUAL), SHARE * math.log10(SHARE) + (1 - SHARE) * math.log10(1 - SHARE)
    ),
    # One label, set in 1/4 and 3/4 of the cases: in half on average.
    "balance, multilabel": Row(Balance(), by_hand(logits=torch.tensor([[-ln(3)], [ln(3)]]), multilabel=True), -ln(2)),
    "sample_entropy": Row(SampleEntropy(), by_hand(logits=UNEQUAL), (ln(2) + ENTROPY) / 2),
    "sample_entropy, multilabel": Row(
        SampleEntropy(),
        by_hand(logits=torch.tensor([[0.0, 0], [0, ln(3)]]), multilabel=True),
        (2 * ln(2) + ln(2) + ENTROPY) / 2,
    ),
    "activation": Row(
        Activation(),
        by_hand(taps={"f": torch.tensor([[1.0, -2], [3, 0]])}),
        -6 / 4,
        MethodInputs(last_layer=LastLayer(torch.zeros(2, 2), torch.zeros(2), "f")),
    ),
    "disagreement": Row(Disagreement(), ANSWERS, -(FIRST + SECOND) / 2),
    "disagreement, masked": Row(Disagreement(masked=True), ANSWERS, -FIRST / 2),
    "disagreement, mean": Row(Disagreement(reduction="mean"), ANSWERS, -(FIRST + SECOND) / 4),
    "disagreement, temperature": Row(Disagreement(temperature=3.0), WARM, -(FIRST + SECOND) / 2),
    "disagreement, js": Row(Disagreement("js"), WARM, 1 - sum(JS) / 2),
    "disagreement, js, mean": Row(Disagreement("js", reduction="mean"), WARM, 1 - sum(JS) / 4),
    "disagreement, js, masked": Row(Disagreement("js", masked=True), WARM, 1 - JS[0] / 2),
    "disagreement, l1": Row(Disagreement("l1"), OFF_BY_ONE_AND_THREE, -4 / 4),
    "disagreement, l1, batchmean": Row(Disagreement("l1", reduction="batchmean"), OFF_BY_ONE_AND_THREE, -4 / 2),
    # Two labels: 1/4 against 2/5, and 3/4 against 1/4.
    "disagreement, multilabel": Row(Disagreement(), LABELS, -(FIRST + SECOND)),
    "disagreement, js, multilabel": Row(Disagreement("js", temperature=1.0), LABELS, 1 - sum(JS)),
    # All projections are alike: each sample is one of three.
    "instance_contrast": Row(
        InstanceContrast(global_view="seen"),
        by_hand(SAME, taps={"0": SAME}, again=lambda view: by_hand(view, taps={"0": SAME})),
        ln(3),
        known(([0.0, 0], [1.0, 1])),
    ),
}

every_loss = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


class Small(nn.Module):
    """A smooth teacher and student in double precision, with values inside the teacher to look at."""

    def __init__(self) -> None:
        super().__init__()
        with Key(1).as_default():
            self.conv, self.hidden, self.last = nn.Conv2d(2, 3, 3), nn.Linear(18, 5), nn.Linear(5, CLASSES)
            self.student = nn.Sequential(nn.Flatten(), nn.Linear(40, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        self.double()
        ones = (torch.full((3,), 0.5), torch.full((5,), 0.2))
        self.view = MethodInputs(
            Known(("maps", "features"), ones, (2 * ones[0], 2 * ones[1]), "batch_norm", 1.5),
            LastLayer(self.last.weight.detach(), self.last.bias.detach(), "features"),
        )

    def step(self, x: Tensor, loss: Loss, multilabel: bool = False, first: int = 0) -> Step:
        """Evaluate samples, which in a larger batch would stand from ``first`` on."""
        maps = self.conv(x)
        features = torch.tanh(self.hidden(maps.tanh().flatten(1)))
        labels = (first + torch.arange(len(x))) % CLASSES
        return Step(
            x,
            labels,
            self.last(features) * 2,
            GROUPS,
            multilabel=multilabel,
            targets=0.1 + 0.6 * nn.functional.one_hot(labels, CLASSES).double(),
            taps={"maps": maps, "features": features},
            ask=lambda: self.last(features) + self.student(x),  # alike enough to agree on some samples
            again=lambda view: self.step(view, loss),
            draw=torch.Generator().manual_seed(0),
        )

    def of_samples(self, row: Row) -> Callable[..., Tensor]:
        """Return the loss as a function of the samples; compute what it takes as constant at the first ones."""
        signature = Signature("x", SHAPE, "y", "logits", CLASSES)
        state = row.loss.init_state(Context(signature, self.view, Key(0), torch.device("cpu"), SAMPLES))
        state = None if state is None else state.double()
        held = self.step(normal(), row.loss).taps

        def value(x: Tensor, first: int = 0) -> Tensor:
            step = self.step(x, row.loss, row.step.multilabel, first)
            if isinstance(row.loss, InstanceContrast):
                step = replace(step, taps={name: tap.detach() for name, tap in held.items()})
            return row.loss(step, state)

        return value


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def normal(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*(shape or (SAMPLES, *SHAPE)), generator=torch.Generator().manual_seed(seed))
    return drawn.double()


def gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    return torch.autograd.grad(value(leaf), leaf)[0]


@every_loss
def test_value_of_a_step_by_hand(row: Row) -> None:
    value = row.loss(row.step, begin(row.loss, row.view))
    assert value.shape == ()
    assert value.item() == pytest.approx(row.value, rel=1e-5 if row.view.statistics else 1e-6)


@every_loss
def test_gradient_by_central_differences(row: Row, small: Small) -> None:
    x, h, value = normal(), 1e-6, small.of_samples(row)
    found = gradient(value, x)
    expected = torch.empty_like(x).flatten()
    with torch.no_grad():
        for number in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=x.dtype)
            step[number] = h
            expected[number] = (value(x + step.view_as(x)) - value(x - step.view_as(x))) / (2 * h)
    assert found.isfinite().all() and found.abs().max() > 1e-5
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-9)


@every_loss
def test_five_steps_downhill(row: Row, small: Small) -> None:
    """Each a short way along the gradient; together they gain at least half of what the first slope promises."""
    x, value, way = normal(), small.of_samples(row), 0.005
    values, slope = [value(x).item()], gradient(value, x).norm().item()
    for _ in range(5):
        pull = gradient(value, x)
        x = x - way * pull / pull.norm()
        values.append(value(x).item())
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 5 * way * slope / 2


def unit(loss: Loss) -> int:
    """Count the samples that a loss must see together, if not all."""
    return GROUPS if loss.scope == "row" else 1


@every_loss
@pytest.mark.parametrize("units", [(1, 5), (3, 2, 1), (3, 1), (2, 2), (1, 1, 1, 1)], ids=str)
def test_chunks_make_the_whole_where_the_scope_says_so(row: Row, units: tuple[int, ...], small: Small) -> None:
    size, value = unit(row.loss), small.of_samples(row)
    x = normal(size * sum(units), *SHAPE)
    if isinstance(row.loss, InstanceContrast):
        return  # its second views are drawn anew for each chunk
    total, first = 0.0, 0
    for part in x.split([size * count for count in units]):
        total += value(part, first).item() * len(part) / len(x)
        first += len(part)
    assert math.isclose(total, value(x).item(), rel_tol=1e-12) == (row.loss.scope != "batch")


@every_loss
def test_only_the_samples_of_its_scope_matter(row: Row, small: Small) -> None:
    """Change the last samples: the gradient of the others stays unless the scope is the batch."""
    if isinstance(row.loss, InstanceContrast):
        return  # its global views are held where they were
    size, x, value = unit(row.loss), normal(), small.of_samples(row)
    other = torch.cat([x[:-size], normal(size, *SHAPE, seed=1)])
    before, after = (gradient(value, samples)[:-size] for samples in (x, other))
    assert torch.allclose(before, after, rtol=1e-9, atol=1e-12) == (row.loss.scope != "batch")


@every_loss
def test_gradients_are_finite_at_the_edge(row: Row, small: Small) -> None:
    """Where samples are all the same (no variance, no variation), huge, or sure."""
    value = small.of_samples(row)
    flat = [torch.full((SAMPLES, *SHAPE), level) for level in (0.0, 1e6, -1e6)]
    for x in (*flat, 1e6 * normal()):
        assert value(x.double()).isfinite() and gradient(value, x.double()).isfinite().all()
    if row.loss.needs in ((), ("student",)):
        logits = torch.tensor([[0.0, 5e3], [5e3, 0.0]], requires_grad=True)
        more = {"multilabel": row.step.multilabel, "groups": 2, "targets": torch.tensor([[0.5, 0.5], [0.25, 0.75]])}
        step = by_hand(torch.zeros(2, 1, 2, 2), logits=logits, student=logits.flip(1), **more)
        step = replace(step, labels=torch.tensor([0, 1]))
        loss = row.loss(step) + 0 * logits.sum()  # those of pixels alone have no gradient to the logits
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@every_loss
def test_a_frozen_dataclass_of_recipe_keys(row: Row) -> None:
    assert type(row.loss)(), "all keys have defaults"
    with pytest.raises(FrozenInstanceError):
        row.loss.scope = "batch"  # type: ignore[misc]
    assert not {"scope", "needs"} & {field.name for field in fields(row.loss)}  # type: ignore[arg-type]


NO_IMAGES = [(20,), (2,), (3, 64), (1, 1, 8), (1, 8, 1), (2, 3, 4, 5)]


@every_loss
def test_what_they_fit(row: Row) -> None:
    for shape in [(1, 2, 2), (3, 8, 8), (3, 32, 32), *NO_IMAGES]:
        why = None
        if isinstance(row.loss, TotalVariation | TotalVariationL2) and shape in NO_IMAGES:
            why = f"it compares neighbouring pixels, and inputs of shape {list(shape)} are no images"
        assert row.loss.unfit(Signature("x", shape, "y", "logits", 2)) == why


# --- Statistics --------------------------------------------------------------------------------------------


def test_the_statistics_norm_is_not_squared() -> None:
    """Twice as far is twice as much, and the pull is as strong far away as near."""
    loss, state = Statistics(), begin(Statistics(), known(([0.0, 0], [0.0, 0])))

    def at(offset: float) -> Tensor:
        tap = torch.full((4, 2), offset, requires_grad=True)  # without variance: the mean's norm alone
        value = loss(by_hand(torch.zeros(4, 1), taps={"0": tap}), state)
        return torch.stack([value.detach(), torch.autograd.grad(value, tap)[0].sum()])

    torch.testing.assert_close(at(2.0), at(1.0) * torch.tensor([2.0, 1.0]))


def test_statistics_are_those_that_batch_norm_sees() -> None:
    """The biased variance over batch and space: at the running statistics of a momentum of 1 it is 0."""
    norm, tap = nn.BatchNorm2d(3, momentum=1.0), normal(4, 3, 5, 2).float() * 2 + 1
    norm(tap)
    assert norm.running_mean is not None and norm.running_var is not None
    biased = norm.running_var * (40 - 1) / 40
    for distance in ("l2", "kl"):
        loss = Statistics(distance)
        view = MethodInputs(Known(("t",), (norm.running_mean,), (biased,), "batch_norm"))
        assert loss(by_hand(torch.zeros(4, 1), taps={"t": tap}), begin(loss, view)).item() == pytest.approx(0, abs=1e-5)


def test_kl_of_gaussians_against_torch_and_without_variance() -> None:
    N, mean, variance = torch.distributions.Normal, torch.tensor([0.3, -1]), torch.tensor([2.0, 0.5])
    loss, tap = Statistics("kl"), normal(50, 2).float()
    state = begin(loss, MethodInputs(Known(("t",), (mean,), (variance,), "batch_norm")))
    own = N(tap.mean(0), tap.var(0, correction=0).sqrt())
    expected = torch.distributions.kl_divergence(own, N(mean, variance.sqrt())).sum()
    torch.testing.assert_close(loss(by_hand(torch.zeros(50, 1), taps={"t": tap}), state), expected, rtol=1e-4, atol=0)

    flat = torch.zeros(4, 2, requires_grad=True)
    for target in (state, begin(loss, known(([0.0, 0], [0.0, 0])))):
        names = {"t": flat, "0": flat}
        value = loss(by_hand(torch.zeros(4, 1), taps=names), target)
        assert value.isfinite() and torch.autograd.grad(value, flat)[0].isfinite().all()


def test_the_moving_average_is_updated_once_by_each_finished_batch() -> None:
    """Fast-DFKD: the first batch as it is, the next against (1 − m) · batch + m · average."""
    loss, trained = Statistics(momentum=0.75), known(([0.0], [0.0]))
    state = begin(loss, trained)

    def step(mean: float) -> Step:
        return by_hand([[0.0]], taps={"0": torch.tensor([[mean]])})

    for _ in range(3):
        assert loss(step(8.0), state).item() == 8  # asking changes nothing
    loss.settle(step(8.0), state)
    for _ in range(3):
        assert loss(step(4.0), state).item() == 0.25 * 4 + 0.75 * 8
    loss.settle(step(4.0), state)  # the average is now 7
    assert loss(step(0.0), state).item() == 0.75 * 7

    resumed = begin(loss, trained)
    resumed.load_state_dict(state.state_dict())
    assert loss(step(0.0), resumed).item() == 0.75 * 7


def test_without_momentum_nothing_lasts() -> None:
    """Batches can then be made in any order."""
    for loss in (Statistics(), Activation(), Disagreement("l1")):
        state = begin(loss, replace(TRAINED, last_layer=TABLE["activation"].view.last_layer), "probabilities")
        assert state is not None and not state.state_dict() and not list(state.parameters())
    assert set(begin(Statistics(momentum=0.9), TRAINED).state_dict()) == {"earlier_mean", "earlier_variance", "share"}


# --- Balance, entropy, activation ----------------------------------------------------------------------------


def test_the_base_of_the_logarithm() -> None:
    step = by_hand(logits=UNEQUAL)
    assert Balance().base == "e"
    assert (Balance()(step) / Balance(10)(step)).item() == pytest.approx(2.302585, rel=1e-6)


def test_balance_is_lowest_for_equal_shares_and_entropy_for_sure_samples() -> None:
    sure, unsure = by_hand(logits=20 * torch.eye(4)), by_hand(logits=torch.zeros(4, 4))
    lopsided = by_hand(logits=20 * torch.eye(4)[[0, 0, 0, 1]])
    for step in (sure, unsure):
        assert Balance()(step).item() == pytest.approx(-ln(4), abs=1e-6)
    assert Balance()(lopsided).item() == pytest.approx(0.75 * ln(0.75) + 0.25 * ln(0.25), abs=1e-6)
    assert SampleEntropy()(sure).item() == pytest.approx(0, abs=1e-6)
    assert SampleEntropy()(unsure).item() == pytest.approx(ln(4))


def test_activation_without_features_is_zero_and_has_a_gradient() -> None:
    logits = torch.ones(2, 2, requires_grad=True)
    value = Activation()(by_hand(logits=logits), begin(Activation(), MethodInputs()))
    assert value.item() == 0 and torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros(2, 2))


# --- Disagreement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["kl", "js", "l1"])
def test_less_is_farther_apart(distance: Any) -> None:
    values = [
        Disagreement(distance)(by_hand(logits=torch.tensor([[a, -a]]), student=torch.tensor([[-a, a]]), x=[[0.0]]))
        for a in (0.0, 0.5, 1.0)
    ]
    assert values[0].item() == pytest.approx(1.0 if distance == "js" else 0.0, abs=1e-6)
    assert values[0] > values[1] > values[2]


def test_which_way_kl_goes() -> None:
    """KL(p_T ‖ p_S), as torch has it."""
    expected = nn.functional.kl_div(STUDENT.log_softmax(1), TEACHER.softmax(1), reduction="batchmean")
    torch.testing.assert_close(Disagreement()(ANSWERS), -expected)
    elements = nn.functional.kl_div(STUDENT.log_softmax(1), TEACHER.softmax(1), reduction="none")
    torch.testing.assert_close(Disagreement(reduction="mean")(ANSWERS), -elements.mean())


@pytest.mark.parametrize("distance", ["kl", "js", "l1"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_mask_stills_samples_that_the_two_see_differently(distance: Any, masked: bool) -> None:
    teacher, student = TEACHER.clone().requires_grad_(True), STUDENT.clone().requires_grad_(True)
    value = Disagreement(distance, masked=masked)(by_hand(logits=teacher, student=student))
    for found in torch.autograd.grad(value, [teacher, student]):
        assert found[0].abs().max() > 0
        assert bool(found[1].abs().max() > 0) != masked


def test_the_mask_of_several_labels_is_one_of_the_whole_set() -> None:
    loss, teacher = Disagreement("l1", masked=True), torch.tensor([[1.0, 1], [1, 1]])
    step = by_hand(logits=teacher, student=torch.tensor([[3.0, 3], [3, -3]]), multilabel=True)
    assert loss(step).item() == -2 / 2


@pytest.mark.parametrize("distance", ["kl", "js", "l1"])
@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_goes_through_both_unless_told(distance: Any, detached: bool) -> None:
    teacher, student = TEACHER.clone().requires_grad_(True), STUDENT.clone().requires_grad_(True)
    value = Disagreement(distance, detach_teacher=detached)(by_hand(logits=teacher, student=student))
    through = torch.autograd.grad(value, [teacher, student], allow_unused=True)
    assert (through[0] is None) == detached and through[1].abs().min() > 0


def test_js_is_cut_at_one_sample_by_sample() -> None:
    """With p cut to 0.01 … 0.99 two opposite samples have ½ ln(0.25 / 0.0099) = 1.61, which counts as 1."""
    opposite, near = torch.tensor([[100.0, -100]]), torch.tensor([[1.0, 0]])
    teacher = torch.cat([opposite, near]).requires_grad_(True)
    student = torch.cat([-opposite, torch.zeros(1, 2)])
    loss = Disagreement("js")
    value = loss(by_hand(logits=teacher, student=student))
    alone = loss(by_hand([[0.0]], logits=near, student=torch.zeros(1, 2)))
    assert value.item() == pytest.approx((0 + alone.item()) / 2, rel=1e-6) and 0.9 < alone.item() < 1
    found = torch.autograd.grad(value, teacher)[0]
    assert found[0].abs().max() == 0 and found[1].abs().max() > 0

    uncut = Disagreement("js", reduction="mean")(by_hand([[0.0]], logits=opposite, student=-opposite))
    assert uncut.item() == pytest.approx(1 - ln(0.25 / 0.0099) / 2 / 2, rel=1e-6)


def test_the_usual_temperatures_and_reductions() -> None:
    """3 for Jensen–Shannon and 1 for Kullback–Leibler; L1 is a mean over classes too, as in DFAD's code."""
    for distance, temperature, reduction in (("kl", 1.0, "batchmean"), ("js", 3.0, "batchmean"), ("l1", 7.0, "mean")):
        explicit = Disagreement(distance, temperature=temperature, reduction=reduction)  # type: ignore[arg-type]
        assert Disagreement(distance)(WARM) == explicit(WARM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "centred"),
    [
        ("logits", False),
        ("probabilities", True),
        ("log_probabilities", True),
        ("binary_logit", True),
        ("binary_probability", True),
        ("multilabel_logits", False),
        ("multilabel_probabilities", False),
    ],
)
def test_l1_takes_no_notice_of_what_the_answers_do_not_tell(kind: Any, centred: bool) -> None:
    """Adding a number to all logits of a sample leaves its probabilities, or its single score, as they are."""
    loss = Disagreement("l1")
    state = begin(loss, MethodInputs(), kind)
    values = [loss(by_hand(logits=TEACHER, student=STUDENT + shift), state).item() for shift in (0.0, 5.0)]
    assert (values[0] == pytest.approx(values[1], rel=1e-5)) == centred


# --- InstanceContrast --------------------------------------------------------------------------------------


def plain(x: Tensor, seed: int = 0) -> Step:
    """A step whose only tap is the samples themselves."""
    return replace(by_hand(x, logits=x.flatten(1), taps={"0": x}, again=plain), draw=Key(seed).generator())


def contrast(width: int, *, linear: bool = False, **keys: Any) -> tuple[InstanceContrast, Any]:
    """The loss and its state, whose head is learned, or hands on what it is given."""
    loss = InstanceContrast(**keys)
    state = begin(loss, known(([0.0] * width, [1.0] * width)))
    if linear:
        state.head = nn.Identity()
    return loss, state


def test_samples_far_apart_are_told_apart() -> None:
    """Projections at right angles, in this batch and in the bank: each finds itself among as many as there are."""
    loss, state = contrast(5, linear=True, temperature=0.5)
    axes = 1e4 * torch.eye(5)  # beside which the noise of the views is nothing
    assert loss(plain(axes[:3]), state).item() == pytest.approx(-ln(math.e**2 / (math.e**2 + 2)), rel=1e-4)
    loss.settle(plain(axes[3:]), state)
    expected = -ln(math.e**2 / (math.e**2 + 4))
    assert loss(plain(axes[:3]), state).item() == pytest.approx(2 * expected, rel=1e-4)  # new rows, then cached ones


def test_one_mean_of_new_rows_and_one_of_cached_ones() -> None:
    """However many more there are of those."""
    loss, state = contrast(2, linear=True, temperature=1.0)
    loss.settle(plain(torch.tensor([[1e4, 0.0]]).expand(6, 2)), state)
    value = loss(plain(torch.tensor([[0.0, 1e4]])), state).item()
    new, cached = -ln(math.e / (math.e + 6)), -ln(math.e / (6 * math.e + 1))
    assert value == pytest.approx(new + cached, rel=1e-4)


def test_cached_local_views_look_for_their_global_ones() -> None:
    loss, state = contrast(3, linear=True, temperature=1.0)
    new, local, whole = 1e4 * torch.eye(3)
    state.remember(torch.stack([local, whole])[None], 5)
    assert loss(plain(new[None]), state).item() == pytest.approx(-ln(math.e / (math.e + 1)) + ln(2), rel=1e-4)


def test_the_bank_keeps_the_latest_and_both_views() -> None:
    loss, state = contrast(1, bank=5)
    for batch in ([1.0, 2], [3.0, 4], [5.0, 6]):
        for _ in range(2):
            loss(plain(torch.tensor(batch)[:, None] * 1e3), state)
        assert not loss.settle(plain(torch.tensor(batch)[:, None] * 1e3), state)
    assert state.bank.shape == (5, 2, 1) and not state.bank.requires_grad
    assert (state.bank[:, 0, 0] / 1e3).round().tolist() == [2, 3, 4, 5, 6]
    assert (state.bank[:, 0] != state.bank[:, 1]).all()

    resumed = contrast(1, bank=5)[1]
    resumed.load_state_dict(state.state_dict())
    step = plain(torch.tensor([[7.0], [8.0]]))
    assert torch.equal(resumed.bank, state.bank)
    assert loss(replace(step, draw=Key(3).generator()), resumed) == loss(replace(step, draw=Key(3).generator()), state)


def test_so_many_negatives_are_drawn_anew() -> None:
    loss, state = contrast(1, negatives=4)
    loss.settle(plain(torch.arange(50.0)[:, None]), state)
    draw = Key(0).generator()
    sets = [frozenset(state.drawn(4, draw)[:, 0, 0].tolist()) for _ in range(5)]
    assert {len(drawn) for drawn in sets} == {4} and len(set(sets)) > 1

    sizes: list[int] = []
    state.head.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    loss(plain(torch.ones(3, 1)), state)
    assert sizes == [3 + 4, 3 + 4]


@pytest.mark.parametrize(("view", "passes"), [("drawn", [False, True]), ("seen", [True])])
def test_only_the_local_view_has_a_gradient(view: Any, passes: list[bool]) -> None:
    loss, state = contrast(3, global_view=view)
    asked: list[bool] = []

    def again(x: Tensor) -> Step:
        asked.append(torch.is_grad_enabled())
        return by_hand(x, taps={"0": x})

    x, whole = normal(4, 3).float().requires_grad_(True), normal(4, 3, seed=1).float().requires_grad_(True)
    value = loss(replace(plain(x), again=again, taps={"0": whole}), state)
    assert asked == passes
    found = torch.autograd.grad(value, [x, whole, *state.parameters()], allow_unused=True)
    assert found[1] is None
    assert all(part is not None and part.abs().max() > 0 for part in (found[0], *found[2:]))


def test_the_head_learns_and_is_drawn_by_the_key() -> None:
    loss, state = contrast(3, head=7)
    again = contrast(3, head=7)[1]
    assert {tuple(p.shape) for p in state.parameters()} == {(3, 3), (3,), (7, 3), (7,)}
    assert all(torch.equal(a, b) for a, b in zip(state.parameters(), again.parameters(), strict=True))
    x, values = normal(8, 3).float(), []
    for _ in range(6):
        value = loss(plain(x), state)
        values.append(value.item())
        with torch.no_grad():
            for parameter, pull in zip(state.parameters(), torch.autograd.grad(value, state.parameters()), strict=True):
                parameter -= 0.05 * pull
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("layers", "taps"), [("all", "01234567"), (4, "1357"), (3, "147"), (1, "7"), (99, "01234567")], ids=str
)
def test_which_layers_are_looked_at(layers: Any, taps: str) -> None:
    loss = InstanceContrast(layers=layers)
    state = begin(loss, known(*(([0.0] * (number + 1), [1.0] * (number + 1)) for number in range(8))))
    assert state.taps == list(taps)
    step = by_hand(torch.zeros(2, 1), taps={str(n): normal(2, n + 1, 2, 3).float() for n in range(8)})
    means = torch.cat([step.taps[tap].mean((2, 3)) for tap in taps], 1)
    torch.testing.assert_close(state(step), means)
    assert state.project(means).norm(dim=1).tolist() == pytest.approx([1, 1])


def test_global_views_are_shifted_and_mirrored() -> None:
    """By up to an eighth of the side, 0 moving in; each value stays one of the image's."""
    image = torch.arange(1.0, 16 * 16 + 1).view(1, 1, 16, 16).expand(400, 2, 16, 16)
    views = _global_view(image, True, Key(0).generator())
    seen = set()
    for view in views[:, 0]:
        rows, columns = view.nonzero().unbind(1)
        top, left = int(rows.min()), int(columns.min())
        inner = view[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        mirrored = bool(inner[0, 0] > inner[0, 1])
        down = top if top else int(rows.max()) - 15
        across = left if left else int(columns.max()) - 15
        moved = image[0, 0].flip(-1) if mirrored else image[0, 0]
        expected = torch.zeros(20, 20)
        expected[2 + down : 18 + down, 2 + across : 18 + across] = moved
        torch.testing.assert_close(view, expected[2:18, 2:18])
        seen.add((down, across, mirrored))
    assert torch.equal(views[:, 0], views[:, 1])
    assert len(seen) == 5 * 5 * 2  # everything that may be drawn was


def test_local_views_are_pieces_of_the_samples() -> None:
    """Of a ramp: from a quarter of its area to all of it."""
    ramp = torch.linspace(0, 1, 32).expand(500, 1, 32, 32)
    ramp = torch.cat([ramp, ramp.mT], 1)
    views = _local_view(ramp, 0.25, True, Key(0).generator())
    assert views.min() >= 0 and views.max() <= 1
    width = views[:, 0].amax((1, 2)) - views[:, 0].amin((1, 2))
    height = views[:, 1].amax((1, 2)) - views[:, 1].amin((1, 2))
    area = width * height
    assert 0.2 < area.min() < 0.3 and 0.9 < area.max() <= 1
    assert (width / height).max() < 1.45 and (width / height).min() > 0.69
    mirrored = views[:, 0, 0, 0] > views[:, 0, 0, -1]
    assert 0.4 < mirrored.float().mean() < 0.6
    torch.testing.assert_close(
        _local_view(torch.ones(9, 1, 8, 8), 0.25, True, Key(1).generator()), torch.ones(9, 1, 8, 8)
    )


def test_what_has_a_left_and_a_right_is_not_mirrored() -> None:
    ramp = torch.linspace(0, 1, 16).expand(100, 1, 16, 16)
    assert (_global_view(ramp, False, Key(0).generator())[:, 0, 8, 3:13].diff(dim=-1) > 0).all()
    assert (_local_view(ramp, 0.25, False, Key(0).generator())[:, 0, 8, 3:13].diff(dim=-1) > 0).all()

    loss, state = contrast(1, mirror=False, least=1.0, global_view="seen")
    views: list[Tensor] = []

    def again(x: Tensor) -> Step:
        views.append(x)
        return by_hand(x, taps={"0": x})

    loss(replace(plain(ramp), again=again), state)
    assert (views[0].diff(dim=-1) > 0).all()


def test_resampling_is_linear_interpolation() -> None:
    x = normal(3, 2, 4, 8)
    half = torch.full((3,), 0.5).double()
    expected = nn.functional.interpolate(x, scale_factor=(1, 2), mode="bilinear")
    torch.testing.assert_close(_resampled(x, 3, torch.zeros(3).double(), half), expected[..., :8])
    torch.testing.assert_close(_resampled(x, 3, 8 * half, half), expected[..., 8:])
    torch.testing.assert_close(_resampled(x, 2, 0 * half, 2 * half), x)


@pytest.mark.parametrize("shape", [(7,), (2, 16), (1, 9, 12), (3, 1, 1), (1, 8, 8, 8)], ids=str)
def test_views_of_all_kinds_of_inputs(shape: tuple[int, ...]) -> None:
    x = normal(5, *shape)
    views: list[Callable[[Tensor, torch.Generator], Tensor]] = [
        lambda x, draw: _global_view(x, True, draw),
        lambda x, draw: _local_view(x, 0.25, True, draw),
    ]
    for view in views:
        one = view(x, Key(0).generator())
        assert one.shape == x.shape and one.dtype == x.dtype
        assert torch.equal(one, view(x, Key(0).generator()))
        assert math.prod(shape) == 3 or not torch.equal(one, view(x, Key(1).generator()))
        assert gradient(lambda x: view(x, Key(0).generator()).square().sum(), x).abs().max() > 0  # noqa: B023


@pytest.mark.parametrize("layout", ["rows", "signal", "image", "channels last", "one sample"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moments_and_their_gradient_are_those_of_torch(layout: str, dtype: torch.dtype) -> None:
    shapes = {"rows": (9, 4), "signal": (5, 4, 7), "one sample": (1, 4, 3, 5)}
    x = torch.randn(shapes.get(layout, (3, 4, 5, 6)), generator=torch.Generator().manual_seed(0)) * 3 + 10
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    weights = torch.arange(1.0, 5.0), torch.arange(4.0, 0.0, -1.0)
    gradients, moments = [], []
    for ours in (True, False):
        leaf = x.to(dtype).requires_grad_(True)
        wide = leaf if dtype == torch.float64 else leaf.float()
        others = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(wide, others, correction=0)
        if ours:
            mean, variance = _Moments.apply(wide)
        ((mean * weights[0]).sum() + (variance * weights[1]).sum()).backward()
        gradients.append(leaf.grad)
        moments.append(torch.stack([mean, variance]))
    torch.testing.assert_close(moments[0], moments[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2 if dtype == torch.bfloat16 else 1e-9, atol=1e-3)
