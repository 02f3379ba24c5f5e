"""First contact with a teacher: does it run, does the converted graph agree, is there a gradient?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConversionMismatch, DeadTeacher, TeacherError, UnsupportedTeacher, first_line
from ..ort import Array, Runtime, RuntimeRefused, Session
from ..rng import Key
from .signature import OutputKind

BATCHES = (2, 5)  # two batch sizes, so that a batch baked into the graph shows
TOLERANCE = 1e-3  # largest difference, relative to the largest answer
_POINTS = 16  # random inputs for the gradient


def open_session(runtime: Runtime, model: bytes, name: str, remedy: str, threads: int = 0) -> Session:
    """The model in onnxruntime.

    Raises:
        TeacherError: if the runtime refuses; it says ``name`` and ``remedy``.
    """
    try:
        return runtime.load(model, threads)
    except RuntimeRefused as error:
        raise TeacherError(f"onnxruntime cannot load it: {first_line(error)}", where=name, remedy=remedy) from error


def answers(session: Session, inputs: list[Array], name: str) -> list[Array]:
    """What onnxruntime says to each batch.

    Raises:
        TeacherError: if the runtime refuses.
        UnsupportedTeacher: if the answer is not [batch, classes ≥ 2].
        DeadTeacher: if it holds NaN or +∞; −∞ is the logarithm of a probability of zero.
    """
    results = []
    for x in inputs:
        try:
            result = session.run(x)
        except RuntimeRefused as error:
            raise TeacherError(
                f"onnxruntime cannot run it on a batch of {len(x)}: {first_line(error)}",
                where=name,
                remedy="Export it with a dynamic batch: dynamic_axes={'input': {0: 'batch'}}.",
            ) from error
        if result.ndim != 2 or len(result) != len(x):
            raise UnsupportedTeacher(
                f"a batch of {len(x)} gives an output of shape {list(result.shape)}, not [{len(x)}, classes]",
                where=name,
                remedy="Export a classifier whose output is one row of class scores for each input, "
                "with a dynamic batch.",
            )
        if result.shape[1] < 2:
            raise UnsupportedTeacher(
                "one output number for each input; binary classifiers need two class scores for now",
                where=name,
                remedy="Export it with two outputs, for example [0, logit].",
            )
        if not (result < np.inf).all():
            raise DeadTeacher("its answers to random inputs are not finite", where=name, remedy=_RANGE)
        results.append(result)
    return results


def output_kind(answer: Array) -> OutputKind:
    """What rows of numbers are, judged by their values."""
    rows = answer.astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-4):
        return "probabilities"
    if (rows <= 0).all() and np.allclose(np.exp(rows).sum(1), 1, atol=1e-4):
        return "log_probabilities"
    return "logits"


def check_conversion(module: nn.Module, inputs: list[Array], expected: list[Array], name: str) -> float:
    """The largest relative difference between the converted graph and onnxruntime.

    Args:
        module: input → the file's own kind of output.

    Raises:
        ConversionMismatch: if it is over `TOLERANCE`, or the graph fails on a batch size.
    """
    worst = 0.0
    for x, wanted in zip(inputs, expected, strict=True):
        try:
            with torch.no_grad():
                got = module(torch.from_numpy(x)).numpy()
        except Exception as error:
            raise ConversionMismatch(
                f"the converted graph fails on a batch of {len(x)}: {first_line(error)}",
                where=name,
                remedy="Export it with a dynamic batch: dynamic_axes={'input': {0: 'batch'}}.",
            ) from error
        scale = max(float(np.abs(wanted).max()), 1.0)
        difference = float(np.abs(got - wanted).max()) / scale if got.shape == wanted.shape else float("inf")
        if not difference <= TOLERANCE:
            raise ConversionMismatch(
                f"the converted graph and onnxruntime differ by {difference:.1e} of the largest answer "
                f"on a batch of {len(x)} (allowed: {TOLERANCE:.0e})",
                where=name,
                remedy="Export it with torch.onnx.export(..., dynamo=False, opset_version=17); if that does not "
                "help, please report the model.",
            )
        worst = max(worst, difference)
    return worst


def check_gradient(logits: nn.Module, draw: Tensor, name: str) -> None:
    """Makes sure that a finite, non-zero gradient reaches the input and that the answer depends on it.

    Args:
        logits: input → logits.
        draw: random inputs [n, …].

    Raises:
        DeadTeacher: otherwise.
    """
    x = draw.clone().requires_grad_(True)
    out = logits(x)
    if not out.isfinite().all():
        raise DeadTeacher("its logits on random inputs are not finite", where=name, remedy=_RANGE)
    if not out.requires_grad:
        raise DeadTeacher(
            "no gradient reaches the input (a rounding, a comparison or an ArgMax lies on every path)",
            where=name,
            remedy="Export the model with the class scores before that operator as output.",
        )
    (gradient,) = torch.autograd.grad(out.diff(dim=1).square().sum(), x)
    if not gradient.isfinite().all():
        raise DeadTeacher("the gradient at random inputs is not finite", where=name, remedy=_RANGE)
    if not gradient.any():
        raise DeadTeacher(
            "the gradient is zero at every random input: the network is saturated or dead there",
            where=name,
            remedy=_RANGE,
        )


_RANGE = "Check that --range, --mean and --std say what values the file takes."


def random_inputs(shape: tuple[int, ...], key: Key, count: int = _POINTS) -> Tensor:
    """Standard normal inputs [count, …]."""
    return torch.randn(count, *shape, generator=key.generator())
