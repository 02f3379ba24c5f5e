"""First contact with a teacher: does it run, does the converted graph agree, is there a gradient?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..child import Array
from ..errors import ConversionMismatch, DeadTeacher, TeacherError, UnsupportedTeacher, first_line
from ..ort import Runtime, RuntimeRefused, Session
from ..rng import Key

BATCHES = (2, 5)  # two batch sizes, so that a batch baked into the graph shows
TOLERANCE = 2e-3  # largest difference, relative to the largest answer
_SPREAD = 1e-7  # of the largest logit, or of 1: below it, a softmax is flat
POINTS = 16  # random inputs for the gradient
_SLOPES = (1e-2, 1e-3, 1e-4, 3e-5)  # step sizes of differences, relative to the length of an input
# A float32 difference quotient of a network with kinks; a wrong gradient is off by its own size.
SLOPE_TOLERANCE = 0.2


def open_session(
    runtime: Runtime,
    model: bytes,
    name: str,
    remedy: str,
    threads: int = 0,
    weights: dict[str, Array] | None = None,
    lean: bool = False,
) -> Session:
    """The model in onnxruntime; the arguments are explained at `Runtime.load`.

    Raises:
        TeacherError: if the runtime refuses; it says ``name`` and ``remedy``.
    """
    try:
        return runtime.load(model, threads, weights, lean)
    except RuntimeRefused as error:
        raise TeacherError(f"onnxruntime cannot load it: {first_line(error)}", where=name, remedy=remedy) from error


def answers(session: Session, inputs: list[Array], name: str) -> list[Array]:
    """What onnxruntime says to each batch, as the file shapes it.

    Raises:
        TeacherError: if the runtime refuses.
        UnsupportedTeacher: if the answers are not one row of scores for each input, or differ from run to run.
        DeadTeacher: if they hold NaN or +∞; −∞ is the logarithm of a probability of zero.
    """
    results = []
    for x in inputs:
        try:
            result = session.run(x).astype(np.float32)
        except RuntimeRefused as error:
            raise TeacherError(
                f"onnxruntime cannot run it on a batch of {len(x)}: {first_line(error)}",
                where=name,
                remedy="Export it with a dynamic batch: dynamic_axes={'input': {0: 'batch'}}.",
            ) from error
        if result.ndim == 0 or len(result) != len(x) or sum(size > 1 for size in result.shape[1:]) > 1:
            raise UnsupportedTeacher(
                f"a batch of {len(x)} gives an output of shape {list(result.shape)}, not [{len(x)}, classes]",
                where=name,
                remedy="Choose the class scores with --output, or export the model with a dynamic batch.",
            )
        if not (result < np.inf).all():
            raise DeadTeacher("its answers to random inputs are not finite", where=name, remedy=_RANGE)
        results.append(result)
    if not np.allclose(session.run(inputs[0]), results[0], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise UnsupportedTeacher(
            "two runs on the same input differ: it draws random numbers",
            where=name,
            remedy="Export it in eval mode, without dropout or sampling.",
        )
    return results


def rows_of(answer: Array) -> Array:
    """A file's answers [n, …] as [n, scores]."""
    return answer.reshape(len(answer), -1)


def difference(module: nn.Module, x: Array, expected: Array, name: str) -> float:
    """The largest difference between the converted graph and onnxruntime, relative to the largest answer.

    Raises:
        ConversionMismatch: if the graph fails on this batch size.
    """
    try:
        with torch.no_grad():
            got = module(torch.from_numpy(x).float()).numpy()
    except Exception as error:
        raise ConversionMismatch(
            f"the converted graph fails on a batch of {len(x)}: {first_line(error)}",
            where=name,
            remedy="Export it with a dynamic batch: dynamic_axes={'input': {0: 'batch'}}.",
        ) from error
    if got.shape != expected.shape:
        return float("inf")
    finite = np.isfinite(expected)  # a logarithm of zero
    scale = max(float(np.abs(expected[finite]).max(initial=0)), 1e-2)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0)) / scale


@dataclass(frozen=True)
class GradientHealth:
    """What is known of the input gradient.

    Attributes:
        points: random inputs that it was taken at.
        nonzero: share of them with a gradient that is not all zero.
        slope_error: the relative difference between it and differences taken through onnxruntime, over random
            directions, one for each point; None if it could not be measured.
        through: which model the differences were taken through: the teacher, or its float twin.
    """

    points: int
    nonzero: float
    slope_error: float | None
    through: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_gradient(
    logits: nn.Module,
    draw: Tensor,
    slopes: Callable[[Array], Array] | None,
    name: str,
    where_it_dies: Callable[[], str],
    compete: bool = True,
) -> GradientHealth:
    """Makes sure that a finite, non-zero and right gradient reaches the input.

    Args:
        logits: input → logits [n, classes].
        draw: random inputs [n, …].
        slopes: a float model in onnxruntime, input → the same scores [n, …]; None if there is none.
        where_it_dies: names the operator that the gradient ends at.
        compete: whether the largest logit wins, so that only their differences count.

    Raises:
        DeadTeacher: if it is not finite, or zero everywhere, or the logits never differ.
        ConversionMismatch: if it differs from the differences.
    """
    gradients, spread = [], 0.0
    for x in draw.split(4):  # a few at a time: a large teacher's activations are large
        x = x.clone().requires_grad_(True)
        out = logits(x)
        if not out.isfinite().all():
            raise DeadTeacher("its logits on random inputs are not finite", where=name, remedy=_RANGE)
        if not out.requires_grad:
            raise DeadTeacher(
                f"no gradient reaches the input: it ends at {where_it_dies()}", where=name, remedy=_BEFORE
            )
        (gradient,) = torch.autograd.grad((out * score_weights(out)).sum(), x)
        gradients.append(gradient)
        spread = max(spread, float((out - out.mean(1, keepdim=True)).abs().max() / out.abs().max().clamp_min(1)))
    gradient = torch.cat(gradients)
    if not gradient.isfinite().all():
        raise DeadTeacher("the gradient at random inputs is not finite", where=name, remedy=_RANGE)
    alive = gradient.flatten(1).any(1).float().mean().item()
    if not alive:
        raise DeadTeacher(
            f"the gradient is zero at every random input: it ends at {where_it_dies()}, which is saturated or dead",
            where=name,
            remedy=_RANGE,
        )
    if compete and spread < _SPREAD:
        raise DeadTeacher(
            f"its scores for one input are all the same, whatever the input (they differ by {spread:.1e})",
            where=name,
            remedy="Choose the tensor with the class scores with --output NAME.",
        )
    error = None if slopes is None else slope_error(gradient, draw, slopes)
    if error is not None and error > SLOPE_TOLERANCE:
        raise ConversionMismatch(
            f"its gradient differs by {error:.0%} from differences taken through onnxruntime",
            where=name,
            remedy="Please report the model.",
        )
    return GradientHealth(len(draw), round(alive, 4), error, "teacher")


def score_weights(out: Tensor) -> Tensor:
    """Fixed weights for the scores, so that one number is differentiated; they sum to about nothing."""
    return (
        torch.linspace(-1, 1, out.shape[1], dtype=out.dtype, device=out.device).cos()
        * torch.tensor([1.0, -1.0], dtype=out.dtype, device=out.device).repeat(out.shape[1] // 2 + 1)[: out.shape[1]]
    )


def slope_error(gradient: Tensor, draw: Tensor, slopes: Callable[[Array], Array]) -> float:
    """‖a − d‖/‖d‖ over points: a from the gradient, d from central differences along a random direction each.

    The best of a few step sizes: a small one drowns in rounding, a large one steps over kinks.
    """
    direction = torch.randn(draw.shape, generator=Key(0).at("direction").generator())
    shape = (-1, *[1] * (draw.dim() - 1))
    length = draw.flatten(1).norm(dim=1).clamp_min(torch.finfo(draw.dtype).tiny).reshape(shape)
    direction = direction / direction.flatten(1).norm(dim=1).reshape(shape)
    along = (gradient * direction).flatten(1).sum(1).double().numpy()
    errors = []
    for step in _SLOPES:
        h = length * step
        ends = [rows_of(slopes((draw + sign * h * direction).numpy())).astype(np.float64) for sign in (1, -1)]
        weights = score_weights(torch.from_numpy(ends[0])).numpy()
        seen = ((ends[0] - ends[1]) * weights).sum(1) / (2 * h.reshape(-1).double().numpy())
        norm = float(np.linalg.norm(seen))
        errors.append(float(np.linalg.norm(along - seen)) / norm if norm > 0 else float("inf"))
    return min(errors)


_RANGE = "Check that --range, --mean and --std say what values the file takes."
_BEFORE = "Choose a tensor before it with --output NAME, or a float tensor behind it with --input NAME."


def random_inputs(shape: tuple[int, ...], key: Key, count: int = POINTS) -> Tensor:
    """Standard normal inputs [count, …]."""
    return torch.randn(count, *shape, generator=key.generator())
