"""Check a teacher at first contact: whether it runs, its converted graph agrees, and it has a gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..core.arrays import Array
from ..core.errors import ConversionMismatch, DeadTeacher, TeacherError, UnsupportedTeacher
from ..core.remedies import BUG, SIZED, around
from ..core.rng import Key
from ..core.text import first_line
from ..runtime.ort import Arithmetic, Runtime, RuntimeRefused, Session

BATCHES = (2, 5)
TOLERANCE = 2e-3  # largest difference, relative to the largest answer
CHECK_VALUES = "Check that --range, --mean and --std say what values the file takes."
POINTS = 16  # random inputs for the gradient
_LEAST_POINTS = 3
_MULTIPLY_ADDS = 4e9  # of all points together, from which on there are fewer


def open_session(
    runtime: Runtime,
    model: bytes,
    name: str,
    remedy: str,
    threads: int = 0,
    weights: dict[str, Array] | None = None,
    lean: bool = False,
    arithmetic: Arithmetic = "exact",
) -> Session:
    """Load a model in onnxruntime; the arguments are explained at `Runtime.load`.

    Raises:
        TeacherError: if the runtime refuses; it says ``name`` and ``remedy``.
    """
    try:
        return runtime.load(model, threads, weights, lean, arithmetic)
    except RuntimeRefused as error:
        raise TeacherError(f"onnxruntime cannot load it: {first_line(error)}", where=name, remedy=remedy) from error


def answers(session: Session, inputs: list[Array], name: str, quotients: bool = False) -> list[Array]:
    """Run the model on each batch and return its answers, as the file shapes them.

    Args:
        quotients: whether answers are probabilities divided by their sum, which may be 0 / 0 for some inputs.

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
                remedy=SIZED,
            ) from error
        if result.ndim == 0 or len(result) != len(x) or sum(size > 1 for size in result.shape[1:]) > 1:
            raise UnsupportedTeacher(
                f"a batch of {len(x)} gives an output of shape {list(result.shape)}, not [{len(x)}, classes]",
                where=name,
                remedy="Choose the value with the class scores, one row for each input, with --output NAME.",
            )
        if not (result < np.inf).all() and (not quotients or (result == np.inf).any()):
            raise DeadTeacher("its answers to random inputs are not finite", where=name, remedy=CHECK_VALUES)
        results.append(result)
    if quotients and not any(np.isfinite(rows_of(result)).all(1).any() for result in results):
        raise DeadTeacher("its answers to random inputs are all 0 / 0", where=name, remedy=CHECK_VALUES)
    if not np.allclose(session.run(inputs[0]), results[0], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise UnsupportedTeacher(
            "two runs on the same input differ: it draws random numbers",
            where=name,
            remedy=around("in eval mode, without dropout or sampling", "the operator that draws them"),
        )
    return results


_MIXED = "its answer to one input depends on the others of its batch"


def check_alone(session: Session, x: Array, expected: Array, tolerance: float, name: str) -> None:
    """Check that each input's answer is the same without the others of its batch.

    Raises:
        UnsupportedTeacher: if not, or if a single input's has no batch.
    """
    one = session.run(x[:1])
    if one.shape[:1] != (1,) or one.ndim != expected.ndim:
        raise UnsupportedTeacher(
            f"one input gives an output of shape {list(one.shape)}: its batch is squeezed away",
            where=name,
            remedy="Choose a value before the Squeeze or Reshape that does so, one row for each input, with --output "
            "NAME.",
        )
    alone = session.run_in_batches(x, 1).astype(np.float32)
    finite = np.isfinite(expected)
    scale = max(float(np.abs(expected[finite]).max(initial=0)), 1e-2)
    if alone.shape != expected.shape or not np.abs(alone - expected)[finite].max(initial=0) <= tolerance * scale:
        what, remedy = _MIXED, around("in eval mode", "the operator that mixes the inputs")
        if alone.shape == expected.shape and np.abs(alone[0] - expected[0]).max(initial=0) <= tolerance * scale:
            what += ", but the first one's does not: its first axis may be the steps of one sequence, and no batch"
            remedy = (
                "What answers for each step of a sequence cannot be a teacher. If the file has a value with one answer "
                "for the whole, choose that with --output NAME."
            )
        raise UnsupportedTeacher(what, where=name, remedy=remedy)


def points_for(multiply_adds: int) -> int:
    """Choose the number of random inputs to check: fewer for a large network, as each costs more."""
    return max(_LEAST_POINTS, min(POINTS, round(_MULTIPLY_ADDS / max(multiply_adds, 1))))


def batches_for(multiply_adds: int) -> tuple[int, int]:
    """Choose two batch sizes to compare at, so that a baked-in batch shows; smaller ones for a large network."""
    return BATCHES if points_for(multiply_adds) > _LEAST_POINTS else (1, 3)


def rows_of(answer: Array) -> Array:
    """Reshape a file's answers [n, …] to [n, scores]."""
    return answer.reshape(len(answer), -1)


def difference(module: nn.Module, x: Array, expected: Array, name: str) -> float:
    """Compute the largest difference between the converted graph and onnxruntime, relative to the largest answer.

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
            remedy=BUG,
        ) from error
    return relative(got, expected)


def relative(got: Array, expected: Array) -> float:
    """Compute the largest difference between answers, relative to the largest; infinite if their shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    finite = np.isfinite(expected)  # a logarithm of zero
    scale = max(float(np.abs(expected[finite]).max(initial=0)), 1e-2)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0)) / scale


def random_inputs(shape: tuple[int, ...], key: Key, count: int = POINTS) -> Tensor:
    """Draw standard normal inputs [count, …]."""
    return torch.randn(count, *shape, generator=key.generator())
