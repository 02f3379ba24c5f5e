"""The teacher: a frozen differentiable graph with its signature."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..child import Array
from ..errors import UsageError
from . import airlock
from .facts import Facts
from .opened import open_graph
from .options import Options
from .signature import Signature, Task


@dataclass(frozen=True)
class Teacher:
    """A classifier from an ONNX file, checked against onnxruntime.

    Attributes:
        facts: what is known of it.
        model: the renamed model, as bytes: what onnxruntime is given, together with `weights`.
        weights: the data of its large initialisers.
        graph: the frozen torch module, input units → logits.
        device: where the graph computes.
    """

    facts: Facts
    model: bytes = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
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
        input: str | None = None,
        output: str | None = None,
        shape: Sequence[int] | None = None,
        constants: Mapping[str, float] | None = None,
        task: Task | None = None,
        range: tuple[float, float] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
    ) -> Teacher:
        """Reads, converts and checks a teacher.

        The first contact happens in a process of its own, with limits on memory and time.

        Args:
            path: the ``.onnx`` file.
            input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
            output: the value that holds the class scores: an output of the model, or a value inside it.
            shape: the input's, batch included, where the file leaves sizes open.
            constants: what other inputs are held at, by name.
            task: what the scores decide: "multiclass", "binary" or "multilabel".
            range: lowest and highest raw value.
            mean, std: the normalisation done outside the file, one value or one for each channel.
            device: where the graph computes, "cpu" or "cuda".

        Raises:
            TeacherError: if it cannot be used; the subclass says why.
            UsageError: if what is said does not fit the file.
        """
        options = Options.of(
            input=input,
            output=output,
            shape=shape,
            constants=constants or {},
            task=task,
            range=range,
            mean=mean,
            std=std,
        )
        return cls.open(Path(path), options, device)

    @classmethod
    def open(cls, path: Path, options: Options, device: str = "cpu") -> Teacher:
        """`load`, with what the user says gathered.

        Raises:
            as `load`.
        """
        options.check()
        place = _device(device)
        exam = airlock.examine(path, options)
        if exam.error is not None:
            raise exam.error
        assert exam.facts is not None
        facts = exam.facts
        opened = open_graph(path, options, fixed=facts.fixed_batch is not None, digest=facts.digest)
        graph = opened.logits(facts.signature.output_kind)
        part = opened.safe.cut(opened.output)
        return cls(facts, part.SerializeToString(), opened.safe.beside(part), graph.to(place), place)

    def logits(self, inputs: Tensor) -> Tensor:
        """[batch, …] in input units → logits [batch, classes]; differentiable."""
        logits: Tensor = self.graph(inputs)
        return logits

    def logits_of_standard(self, x: Tensor) -> Tensor:
        """`logits` of a sample in standard units."""
        return self.logits(self.signature.to_input(x))


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not known", remedy="Choose --device cpu or --device cuda.")
    if name == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            at_hand = torch.cuda.is_available()
        if not at_hand:
            raise UsageError("no CUDA device is at hand", remedy="Choose --device cpu.")
    return torch.device(name)
