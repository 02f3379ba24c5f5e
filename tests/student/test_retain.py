"""The acquire/retain step: its value by hand, its second-order gradient against differences, and its buffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxcake.student.feature_match import ActivationRecorder
from onnxcake.student.quantise import quantised
from onnxcake.student.retain import retained_loss

Rows = tuple[Tensor, Tensor]


def squares(network: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
    return F.mse_loss(network(rows[0]), rows[1])


def rows(seed: int, count: int, dtype: torch.dtype = torch.float64) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 3, generator=generator, dtype=dtype) for _ in range(2))  # type: ignore[return-value]


def network(norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        middle = [nn.BatchNorm1d(4)] if norm else []
        return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 3)).double()


def test_by_hand() -> None:
    """S(x) = θx, θ = 1; fresh (1 → 3), memory (2 → 0), lr ¼: θ' = 1 − ¼ · 2 · (1 − 3) = 2.

    L(θ'; memory) = (2 · 2)² = 16 and L(θ; both) = ((1 − 3)² + 2²) / 2 = 4. Their slopes are
    2 · 2 · (2 · 2) · dθ'/dθ = 16 · (1 − ½) = 8, which is the second order, and (2 · (−2) + 2 · 2 · 2) / 2 = 2.
    """
    student = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        student.weight.fill_(1)
    fresh, memory = (torch.tensor([[1.0]]), torch.tensor([[3.0]])), (torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    loss = retained_loss(student, squares, fresh, memory, lr=0.25)
    assert loss.item() == pytest.approx(20)
    loss.backward()
    assert student.weight.grad is not None and student.weight.grad.item() == pytest.approx(10)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_the_gradient_is_that_of_differences(norm: bool) -> None:
    student, fresh, memory, lr = network(norm), rows(1, 6), rows(2, 4), 0.7
    retained_loss(student, squares, fresh, memory, lr).backward()
    step = 1e-6
    for name, weight in student.named_parameters():
        assert weight.grad is not None
        flat = weight.data.view(-1)
        for place in range(flat.numel()):
            start, values = flat[place].item(), []
            for moved in (start + step, start - step):
                flat[place] = moved
                values.append(retained_loss(student, squares, fresh, memory, lr).item())
            flat[place] = start
            slope = (values[0] - values[1]) / (2 * step)
            assert weight.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), f"{name}[{place}]"


def test_a_long_inner_step_matters_and_none_is_two_plain_losses() -> None:
    student, fresh, memory = network(norm=False), rows(1, 6), rows(2, 4)
    both = (torch.cat([fresh[0], memory[0]]), torch.cat([fresh[1], memory[1]]))
    plain = squares(student, memory) + squares(student, both)
    torch.testing.assert_close(retained_loss(student, squares, fresh, memory, 0.0), plain)
    assert (retained_loss(student, squares, fresh, memory, 0.5) - plain).abs() > 1e-3


def test_without_memory_it_is_the_plain_loss() -> None:
    student, fresh = network(), rows(1, 6)
    plain = network()
    torch.testing.assert_close(retained_loss(student, squares, fresh, None, 0.9), squares(plain, fresh))
    torch.testing.assert_close(dict(student.named_buffers()), dict(plain.named_buffers()))


def test_only_the_call_on_all_rows_updates_running_statistics() -> None:
    student, fresh, memory = network(), rows(1, 6), rows(2, 4)
    alone = network()
    alone(torch.cat([fresh[0], memory[0]]))
    retained_loss(student, squares, fresh, memory, 0.9).backward()
    assert dict(student.named_buffers())["1.num_batches_tracked"] == 1
    torch.testing.assert_close(dict(student.named_buffers()), dict(alone.named_buffers()), rtol=0, atol=0)


def test_the_student_is_as_it_was() -> None:
    student, before = network(), network().state_dict()
    names = [name for name, _ in student.named_parameters()]
    student.eval()
    retained_loss(student, squares, rows(1, 6), rows(2, 4), 0.9).backward()
    torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
    assert [name for name, _ in student.named_parameters()] == names


def test_weights_that_are_fixed_or_idle_are_left_out() -> None:
    student = network(norm=False)
    student[0].weight.requires_grad_(False)
    student.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    retained_loss(student, squares, rows(1, 6), rows(2, 4), 0.9).backward()
    assert student[0].weight.grad is None and student[2].weight.grad.isfinite().all()
    assert student.idle.grad is None or not student.idle.grad.any()


def test_steps_of_it_lower_the_loss_on_both() -> None:
    student, fresh, memory = network(), rows(1, 6), rows(2, 4)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05)
    starts = squares(student, fresh).item(), squares(student, memory).item()
    for _ in range(20):
        optimiser.zero_grad()
        retained_loss(student, squares, fresh, memory, 0.1).backward()
        optimiser.step()
    assert squares(student, fresh).item() < starts[0] and squares(student, memory).item() < starts[1]


def test_a_quantised_student_can_retain_too() -> None:
    student = quantised(network().float())
    fresh, memory = rows(1, 6, torch.float32), rows(2, 4, torch.float32)
    retained_loss(student, squares, fresh, memory, 0.1).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in student.parameters())
    assert student.get_buffer("0.inputs.batches") == 1


def test_a_watch_sees_each_call() -> None:
    student, fresh, memory = network(), rows(1, 6), rows(2, 4)
    seen = []

    def watched(net: Callable[[Tensor], Tensor], some: Rows) -> Tensor:
        loss = squares(net, some)
        seen.append(len(watch.pop_values()["0"]))
        return loss

    with ActivationRecorder(student, ("0",)) as watch:
        retained_loss(student, watched, fresh, memory, 0.9).backward()
    assert seen == [6, 4, 10]
