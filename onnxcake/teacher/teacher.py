"""The teacher: a frozen differentiable graph with its signature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..graph.build import build
from ..graph.load import load
from ..graph.normalise import SafeGraph, normalise
from ..ort import Runtime
from ..rng import Key
from . import probe
from .signature import OutputKind, Signature


@dataclass(frozen=True)
class Facts:
    """What is known of a teacher once it was looked at; plain data, kept beside a run.

    Attributes:
        name: the file's name.
        digest: sha256 of the file.
        size_bytes: of the file.
        parameters: numbers in the weights that the output depends on.
        operators: how often each operator occurs on the way to the logits.
        opset: the file's.
        parity: the largest relative difference between the graph and onnxruntime that was seen.
        signature: what goes in and what comes out.
    """

    name: str
    digest: str
    size_bytes: int
    parameters: int
    operators: dict[str, int]
    opset: int
    parity: float
    signature: Signature

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Facts:
        """The facts that `as_dict` told.

        Raises:
            TypeError, KeyError: if they are not complete.
        """
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["signature"].items()}
        return cls(**{**value, "signature": Signature(**plain)})


@dataclass(frozen=True)
class Teacher:
    """A classifier from an ONNX file, checked against onnxruntime.

    Attributes:
        facts: what is known of it.
        model: the renamed model, as bytes: what onnxruntime is given.
        graph: the frozen torch module, input units → logits.
        device: where the graph computes.
    """

    facts: Facts
    model: bytes = field(repr=False)
    graph: nn.Module = field(repr=False)
    device: torch.device

    @property
    def signature(self) -> Signature:
        """What goes in and what comes out."""
        return self.facts.signature

    @property
    def name(self) -> str:
        """The file's name."""
        return self.facts.name

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        range: tuple[float, float] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
        runtime: Runtime | None = None,
    ) -> Teacher:
        """Reads, converts and checks a teacher.

        Args:
            path: the ``.onnx`` file.
            range: lowest and highest raw value.
            mean, std: the normalisation done outside the file, one value or one for each channel.
            device: where the graph computes, "cpu" or "cuda".
            runtime: a running onnxruntime to use; one is started and ended otherwise.

        Raises:
            TeacherError: if it cannot be used; the subclass says why.
            UsageError: if range, mean and std do not fit.
        """
        file = load(Path(path))
        safe = normalise(file)
        logits = build(safe, file.name)
        model = safe.model.SerializeToString()
        with nullcontext(runtime) if runtime else Runtime() as own:
            remedy = "Export it with torch.onnx.export(..., dynamo=False, opset_version=17)."
            session = probe.open_session(own, model, file.name, remedy)
            trial = Signature(safe.input_name, safe.input_shape, safe.output_name, "logits", 0)
            trial = _with_values(trial, range, mean, std)
            draws = [
                trial.to_input(probe.random_inputs(safe.input_shape, Key(0).at("parity", n), n)) for n in probe.BATCHES
            ]
            inputs = [draw.numpy() for draw in draws]
            expected = probe.answers(session, inputs, file.name)
        kind, logits = _as_logits(safe, logits, probe.output_kind(expected[-1]))
        full = nn.Sequential(logits, way_back(kind))
        parity = probe.check_conversion(full, inputs, expected, file.name)
        signature = Signature(
            **{**vars(trial), "output_kind": kind, "classes": expected[0].shape[1]},
        )
        probe.check_gradient(
            logits,
            signature.to_input(probe.random_inputs(safe.input_shape, Key(0).at("gradient"))),
            file.name,
        )
        facts = Facts(
            name=file.name,
            digest=file.digest,
            size_bytes=file.size_bytes,
            parameters=safe.parameters,
            operators=_operators(safe),
            opset=safe.opset,
            parity=parity,
            signature=signature,
        )
        return cls(facts, model, logits.to(_device(device)), _device(device))

    def logits(self, inputs: Tensor) -> Tensor:
        """[batch, …] in input units → logits [batch, classes]; differentiable."""
        logits: Tensor = self.graph(inputs)
        return logits

    def logits_of_standard(self, x: Tensor) -> Tensor:
        """`logits` of a sample in standard units."""
        return self.logits(self.signature.to_input(x))


class LogProbabilities(nn.Module):
    """Probabilities → their logarithms: logits that give the same probabilities back."""

    def forward(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def way_back(kind: OutputKind) -> nn.Module:
    """Logits → the file's own kind of output."""
    if kind == "probabilities":
        return nn.Softmax(dim=1)
    if kind == "log_probabilities":
        return nn.LogSoftmax(dim=1)
    return nn.Identity()


def _as_logits(safe: SafeGraph, module: nn.Module, seen: OutputKind) -> tuple[OutputKind, nn.Module]:
    """The output's kind, and a module that gives logits: what the graph shows, else what the values show."""
    if safe.tail == "probabilities":
        return "probabilities", module
    if safe.tail == "log_probabilities":
        return "log_probabilities", module
    if seen == "probabilities":  # made by something else than a Softmax at the end
        return "probabilities", nn.Sequential(module, LogProbabilities())
    return seen, module


def _with_values(
    signature: Signature,
    range: tuple[float, float] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Signature:
    channels = signature.input_shape[0]
    if range is not None and not (range[0] < range[1] and all(map(math.isfinite, range))):
        raise UsageError(
            f"range {range[0]:g},{range[1]:g} is empty or has no end", remedy="Give --range LO,HI with LO below HI."
        )
    if (mean is None) != (std is None):
        raise UsageError("mean and std belong together", remedy="Give both --mean and --std, or neither.")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, channels):
            raise UsageError(
                f"{len(values)} values of {name} for an input of shape {list(signature.input_shape)}",
                remedy=f"Give one value, or one for each of the {channels} channels.",
            )
        if values is not None and not all(map(math.isfinite, values)):
            raise UsageError(f"{name} must be finite", remedy=f"Give the {name} of the raw values with --{name}.")
    if std is not None and min(std) <= 0:
        raise UsageError("std must be above zero", remedy="Give the deviation of the raw values with --std.")
    fields = {**vars(signature), "range": range and (float(range[0]), float(range[1]))}
    fields["mean"], fields["std"] = (None if v is None else tuple(float(i) for i in v) for v in (mean, std))
    return Signature(**fields)


def _operators(safe: SafeGraph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in safe.logits_model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not known", remedy="Choose --device cpu or --device cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is at hand", remedy="Choose --device cpu.")
    return torch.device(name)
