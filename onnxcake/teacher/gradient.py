"""Check that a teacher's input gradient is finite, non-zero and right, and find where it ends if not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.arrays import Array
from ..core.errors import ConversionMismatch, DeadTeacher
from ..core.remedies import BUG
from ..core.rng import Key
from ..graph.module import Graph, GraphStep
from ..runtime.process import give_back_memory
from .checks import CHECK_VALUES, rows_of

_COARSE = 1e-3  # of the middle score: a rounding above it is too coarse
_SPREAD = 1e-7  # of the largest logit, or of 1: below it, a softmax is flat
_SLOPES = (1e-4, 3e-5, 1e-3, 1e-2)  # step sizes of differences, relative to the length of an input
_RIGHT = 0.1  # an error below which no other step size is tried
# A float32 difference quotient of a network with kinks; a wrong gradient is off by its own size.
SLOPE_TOLERANCE = 0.2
_BEFORE = "Choose a tensor before it with --output NAME, or a float tensor behind it with --input NAME."


@dataclass(frozen=True)
class GradientHealth:
    """Hold the results of the checks of an input gradient.

    Attributes:
        points: random inputs that it was taken at.
        nonzero: share of them with a gradient that is not all zero.
        slope_error: the relative difference between it and differences taken through onnxruntime, over random
            directions, one for each point; None if it could not be measured.
        through: the model that the differences were taken through: the teacher, or its float twin.
    """

    points: int
    nonzero: float
    slope_error: float | None
    through: str

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


def check_gradient(
    logits: nn.Module,
    draw: Tensor,
    slopes: Callable[[Array], Array] | None,
    name: str,
    where_it_dies: Callable[[], str],
    compete: bool = True,
    deviation: Tensor | None = None,
    squash: Callable[[Tensor], Tensor] | None = None,
) -> GradientHealth:
    """Check that a finite, non-zero and right gradient reaches the input.

    Args:
        logits: input → logits [n, classes].
        draw: random inputs [n, …].
        slopes: a float model in onnxruntime, input → the same scores [n, …]; None if there is none.
        name: the file's, for messages.
        where_it_dies: names the operator that the gradient ends at.
        compete: whether the largest logit wins, so that only their differences count.
        deviation: of each number of an input, [1, …], where they differ.
        squash: logits → probabilities, where the model outputs these alone. Logits of saturated ones are logarithms of
            roundings, and differences of them tell nothing; those of the probabilities do.

    Raises:
        DeadTeacher: if it is not finite, or zero everywhere, or the logits never differ.
        ConversionMismatch: if it differs from the differences.
    """
    gradients, spread, weights = [], 0.0, None
    for x in draw.split(max(1, len(draw) // 4)):  # a few at a time: a large teacher's activations are large
        x = x.clone().requires_grad_(True)
        out = logits(x)
        if not out.isfinite().all():
            raise DeadTeacher("its logits on random inputs are not finite", where=name, remedy=CHECK_VALUES)
        if not out.requires_grad:
            raise DeadTeacher(
                f"no gradient reaches the input: it ends at {where_it_dies()}", where=name, remedy=_BEFORE
            )
        weights = score_weights(out) * _fine_enough(out) if weights is None else weights
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
        gradients.append(gradient)
        told = out.detach()
        spread = max(spread, float((told - told.mean(1, keepdim=True)).abs().max() / told.abs().max().clamp_min(1)))
    gradient = torch.cat(gradients)
    give_back_memory()
    if not gradient.isfinite().all():
        raise DeadTeacher("the gradient at random inputs is not finite", where=name, remedy=CHECK_VALUES)
    alive = gradient.flatten(1).any(1).float().mean().item()
    if not alive:
        raise DeadTeacher(
            f"the gradient is zero at every random input: it ends at {where_it_dies()}, which is saturated or dead",
            where=name,
            remedy=CHECK_VALUES,
        )
    if compete and spread < _SPREAD:
        raise DeadTeacher(
            f"its scores for one input are all the same, whatever the input (they differ by {spread:.1e})",
            where=name,
            remedy="Choose the tensor with the class scores with --output NAME.",
        )
    error = None if slopes is None or weights is None else slope_error(gradient, draw, slopes, weights, deviation)
    if error is not None and error > SLOPE_TOLERANCE and squash is not None:
        error = min(error, _squashed_error(logits, draw, slopes, squash, deviation))
    if error is not None and not math.isfinite(error):
        raise DeadTeacher(
            "its scores hardly change around random inputs, less than they are rounded: it is saturated there",
            where=name,
            remedy=CHECK_VALUES,
        )
    if error is not None and error > SLOPE_TOLERANCE:
        raise ConversionMismatch(
            f"its gradient differs by {error:.0%} from differences taken through onnxruntime",
            where=name,
            remedy=f"{CHECK_VALUES} If they do: {BUG}",
        )
    return GradientHealth(len(draw), round(alive, 4), error, "teacher")


def _squashed_error(
    logits: nn.Module,
    draw: Tensor,
    slopes: Callable[[Array], Array] | None,
    squash: Callable[[Tensor], Tensor],
    deviation: Tensor | None,
) -> float:
    """Compare the gradient of probabilities with differences."""
    assert slopes is not None
    x = draw.clone().requires_grad_(True)
    out = squash(logits(x))
    weights = score_weights(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    ends = slopes

    def told(x: Array) -> Array:
        return np.asarray(squash(torch.from_numpy(ends(x))).numpy())

    return slope_error(gradient, draw, told, weights, deviation)


def score_weights(out: Tensor) -> Tensor:
    """Return fixed weights for the scores, which sum to about zero, so that one number is differentiated."""
    return (
        torch.linspace(-1, 1, out.shape[1], dtype=out.dtype, device=out.device).cos()
        * torch.tensor([1.0, -1.0], dtype=out.dtype, device=out.device).repeat(out.shape[1] // 2 + 1)[: out.shape[1]]
    )


def _fine_enough(out: Tensor) -> Tensor:
    """Mask the scores that are too large for differences to show: one that is masked by −10⁹ has a coarse rounding."""
    size = out.detach().abs().amax(0)
    return (size * torch.finfo(out.dtype).eps <= _COARSE * size.median()).to(out.dtype)


def slope_error(
    gradient: Tensor,
    draw: Tensor,
    slopes: Callable[[Array], Array],
    weights: Tensor,
    deviation: Tensor | None = None,
) -> float:
    """Compute ‖a − d‖/‖d‖ over points: a from the gradient, d from central differences along a random direction each.

    The best of a few step sizes: a small one drowns in rounding, a large one steps over kinks. It is infinite where
    neither is above the rounding of the scores at any step size, so that nothing was compared. Where numbers of the
    input have deviations of their own, the steps are proportional to these.
    """
    direction = torch.randn(draw.shape, generator=Key(0).at("direction").generator())
    shape = (-1, *[1] * (draw.dim() - 1))
    length = draw.flatten(1).norm(dim=1).clamp_min(torch.finfo(draw.dtype).tiny).reshape(shape)
    direction = direction / direction.flatten(1).norm(dim=1).reshape(shape)
    if deviation is not None:
        direction, length = direction * deviation, torch.full_like(length, draw[0].numel() ** 0.5)
    along = (gradient * direction).flatten(1).sum(1).double().numpy()
    errors = []
    for step in _SLOPES:
        h = length * step
        ends = [rows_of(slopes((draw + sign * h * direction).numpy())).astype(np.float64) for sign in (1, -1)]
        width = 2 * h.reshape(-1).double().numpy()
        seen = ((ends[0] - ends[1]) * weights.numpy()).sum(1) / width
        rounding = np.finfo(np.float32).eps * np.abs(ends[0] * weights.numpy()).max(1, initial=0) / width
        norm, least = float(np.linalg.norm(seen)), float(np.linalg.norm(rounding))
        measured = max(norm, float(np.linalg.norm(along))) > least
        errors.append(float(np.linalg.norm(along - seen)) / max(norm, least) if measured else float("inf"))
        if errors[-1] < _RIGHT:
            break
    return min(errors)


def dying_steps(graph: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Find the steps (node, operator) at which the gradient ends: it reaches their output, and none of their inputs."""
    if not isinstance(graph, Graph):
        return []
    made: list[tuple[GraphStep, list[Tensor], list[Tensor]]] = []

    def watch(step: GraphStep, given: list[Any], out: Any) -> None:
        results = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        for tensor in results:
            if tensor.requires_grad:
                tensor.retain_grad()
        made.append((step, [t for t in given if isinstance(t, Tensor)], results))

    leaf = x.clone().requires_grad_(True)
    out = graph.run(len(leaf), leaf, watch=watch)[0]
    if out.requires_grad:
        rows = out.reshape(len(out), -1)
        (rows * score_weights(rows)).sum().backward()

    def alive(tensors: list[Tensor]) -> bool:
        return any(t.requires_grad and t.grad is not None and bool(t.grad.any()) for t in tensors)

    ends = []
    for step, given, results in made:
        open_before = [t for t in given if t.requires_grad]
        if not open_before:
            continue
        # Where nothing of the answer has a gradient, an operator of which a part has none (TopK's places) ends it.
        followed = any if out.requires_grad else all
        cut = not followed(t.requires_grad for t in results)
        if cut or (alive(results) and not alive(open_before)):
            ends.append((step.name, step.op))
    return ends[-3:]
