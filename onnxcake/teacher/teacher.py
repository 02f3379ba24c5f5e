"""Load a teacher: a frozen differentiable graph with its signature."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arrays import Array
from ..core.errors import UsageError
from ..core.waiting import waited
from ..graph.layout import lay_out
from ..onnxfile.front import Front
from . import find_capabilities, sandbox
from .capabilities import ActivationStatistics, TeacherCapabilities
from .facts import Facts
from .open_graph import OpenGraph, open_graph
from .options import TeacherOptions
from .signature import Signature, Task
from .taps import Tapped, shape_of, tap_of


@dataclass(frozen=True)
class Teacher:
    """Hold a classifier from an ONNX file, checked against onnxruntime.

    Attributes:
        facts: what its examination has found.
        model: the renamed model, as bytes, for onnxruntime, together with `weights`.
        weights: the data of its large initialisers.
        graph: the frozen torch module, input units → logits.
        device: where the graph computes.
    """

    facts: Facts
    model: bytes = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
    graph: nn.Module = field(repr=False)
    device: torch.device
    _opened: OpenGraph = field(repr=False, compare=False)
    _tapped: dict[tuple[str, ...], Tapped] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def signature(self) -> Signature:
        """Return the teacher's input and output."""
        return self.facts.signature

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.facts.name

    @property
    def opened(self) -> OpenGraph:
        """Return the graph, as it was read and converted."""
        return self._opened

    @property
    def front(self) -> Front | None:
        """Return the file's inputs and its part before the signature's input; None if it takes that input alone."""
        return self._opened.safe.front

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        input: str | None = None,
        output: str | None = None,
        shape: Sequence[int] | None = None,
        constants: Mapping[str, Any] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        task: Task | None = None,
        range: Sequence[Any] | Array | None = None,
        mean: Sequence[float] | Array | None = None,
        std: Sequence[float] | Array | None = None,
        device: str = "cpu",
    ) -> Teacher:
        """Read, convert and check a teacher.

        The first contact happens in a process of its own, with limits on memory and time.

        Args:
            path: the ``.onnx`` file.
            input: the value to optimise: an input of the model, or a value inside it, before which all is cut.
            output: the value that holds the class scores: an output of the model, or a value inside it.
            shape: the input's, batch included, where the file leaves sizes open.
            constants: what other inputs are held at, by name: a number, a list of numbers, or an array of the input's
                shape, with the batch or without.
            shapes: the sizes of other inputs by name, batch included, where the file leaves sizes open.
            task: what the scores decide: "multiclass", "binary" or "multilabel".
            range: lowest and highest raw value: two numbers, or two arrays of one for each channel or feature.
            mean, std: the normalisation done outside the file: one value, one for each channel or feature, or one for
                each number of an input in the file's layout.
            device: where the graph computes, "cpu" or "cuda".

        Raises:
            TeacherError: if it cannot be used; the subclass says why.
            UsageError: if what is said does not fit the file.
        """
        options = TeacherOptions.of(
            input=input,
            output=output,
            shape=shape,
            constants=constants or {},
            shapes=shapes or {},
            task=task,
            range=range,
            mean=mean,
            std=std,
        )
        return load_teacher(Path(path), options, device)

    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits [batch, classes] of inputs [batch, …] in input units; differentiable."""
        logits: Tensor = self.graph(inputs)
        return logits

    def logits_of_standard(self, x: Tensor) -> Tensor:
        """Compute the `logits` of samples in standard units."""
        return self.logits(self.signature.to_input(x))

    @cached_property
    def offers(self) -> TeacherCapabilities:
        """Find what the graph holds besides its answers, at the first use."""
        return find_capabilities.offers(self._opened, self.signature.output_kind)

    @cached_property
    def whitening(self) -> ActivationStatistics | None:
        """Return what may replace the statistics where no BatchNormalization is left; None without convolutions."""
        return find_capabilities.whitening(self._opened, self.signature.output_kind)

    def answer(self, inputs: Tensor, taps: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute `logits` and the values of ``taps`` [batch, …] (see `offers`, `tap`) in one pass; differentiable."""
        if not taps:
            return self.logits(inputs), {}
        if taps not in self._tapped:
            self._tapped[taps] = self.tapped(taps)
        logits, values = self._tapped[taps](inputs)
        return logits, dict(zip(taps, values, strict=True))

    def tapped(self, taps: tuple[str, ...]) -> Tapped:
        """Build the module that `answer` runs for these taps anew, arranged in memory as the graph is now."""
        made = Tapped(self._opened, self.signature.output_kind, taps)
        made.share(self.graph)
        return made.eval().to(self.device)

    def lay_out(self, channels_last: bool) -> None:
        """Arrange the weights in memory; what `answer` runs is built anew after it."""
        lay_out(self.graph, channels_last)
        self._tapped.clear()

    def tap(self, name: str) -> str:
        """Return the tap of the value that the file calls ``name``.

        Raises:
            UsageError: if there is none, or it holds no numbers for each input.
        """
        return tap_of(self._opened, name)

    def shape_of(self, tap: str) -> tuple[int, ...]:
        """Return a tap's shape, without the batch."""
        return shape_of(self._opened, tap)


def load_teacher(path: Path, options: TeacherOptions, device: str = "cpu") -> Teacher:
    """Read, convert and check a teacher as `Teacher.load` does, with the user's options in one object.

    Raises:
        OnnxcakeError: as `Teacher.load`.
    """
    options.check()
    place = _device(device)
    exam = sandbox.examine(path, options)
    if exam.error is not None:
        raise exam.error
    assert exam.facts is not None
    facts = exam.facts
    fixed = facts.fixed_batch is not None
    with waited(f"{path.name}: building the graph"):
        opened = open_graph(path, options, fixed=fixed, digest=facts.digest, batch=facts.baked_batch)
        graph = opened.logits(facts.signature.output_kind)
        part = opened.safe.cut(opened.output)
        model, weights, graph = part.SerializeToString(), opened.safe.beside(part), graph.to(place)
    return Teacher(facts, model, weights, graph, place, opened)


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
