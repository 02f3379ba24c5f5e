"""Read and build a teacher's file, and choose its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from ..core.errors import BadTeacherFile
from ..graph.build_log import LIMITS, Limits
from ..graph.convert import Converted, convert
from ..graph.head_and_tail import Tail, tail
from ..graph.log_probabilities import with_logs
from ..graph.parameters import parameters_of
from ..onnxfile.load import TeacherFile, load, load_bytes
from ..onnxfile.normalise import normalise
from ..onnxfile.rename import SafeGraph
from .options import TeacherOptions
from .output import choose_output
from .scores import Logits
from .signature import OutputKind


@dataclass
class OpenGraph:
    """Hold a teacher's graph and its output.

    Attributes:
        safe: the model under safe names.
        converted: its values, as converted to torch.
        output: the safe name of the value that holds the class scores.
        tail: what the last operators show about that output.
        digest: sha256 of the file, and of its external files.
        size_bytes: of all of them.
        name: the file's, for messages.
    """

    safe: SafeGraph
    converted: Converted
    output: str
    tail: Tail
    digest: str
    size_bytes: int
    name: str

    def logits(self, kind: OutputKind) -> nn.Module:
        """Build the module from input units to logits [n, classes]."""
        end = self.end(kind)
        return nn.Sequential(self.converted.module(end), Logits(kind, end != self.output)).eval()

    @cached_property
    def parameters(self) -> int:
        """Count the parameters that the output depends on; see `graph.parameters`."""
        return parameters_of(self.safe.cut(self.output))

    def end(self, kind: OutputKind) -> str:
        """Return the value that logits are taken from: a last Softmax's or Sigmoid's input, logarithms, or output."""
        if self.tail.logs and kind in ("probabilities", "binary_probability"):
            return self.tail.logs
        squashed = self.tail.kind in ("softmax", "log_softmax", "sigmoid")
        return self.tail.logits if squashed and kind != "logits" else self.output


def open_graph(
    path: Path,
    options: TeacherOptions,
    fixed: bool = False,
    limits: Limits = LIMITS,
    digest: str | None = None,
    batch: int | None = None,
) -> OpenGraph:
    """Read and build a teacher's graph, without checks against onnxruntime.

    Args:
        fixed: whether to keep the batch that the file fixes, and run in pieces of it.
        digest: what the file's has to be, if it was looked at before: nothing is built of another.
        batch: the one that is baked into a file that declares a free one.

    Raises:
        TeacherError, UsageError: if it cannot be read or built, or has no class scores.
    """
    options.check()
    file = load(path)
    if digest is not None and file.digest != digest:
        raise BadTeacherFile("it changed while it was read", where=path.name, remedy="Run the command again.")
    return _built(file, options, fixed, limits, batch=batch)


def open_to_train(content: bytes, options: TeacherOptions, name: str) -> OpenGraph:
    """Build the graph of a model that is at hand as bytes, to be trained in its weights.

    Args:
        name: for messages.

    Raises:
        as `open_graph`.
    """
    return _built(load_bytes(content, name), options, trained=True)


def _built(
    file: TeacherFile,
    options: TeacherOptions,
    fixed: bool = False,
    limits: Limits = LIMITS,
    trained: bool = False,
    batch: int | None = None,
) -> OpenGraph:
    safe = normalise(file, options.choice)
    safe = safe if batch is None else safe.of_batch(batch)
    converted = convert(safe, fixed=fixed, limits=limits, trained=trained)
    output = choose_output(converted, file.name)
    rebuilt = partial(convert, fixed=fixed, limits=limits, trained=trained)
    return OpenGraph(*ended(safe, converted, output, rebuilt), file.digest, file.size_bytes, file.name)


def ended(
    safe: SafeGraph, converted: Converted, output: str, convert: Callable[[SafeGraph], Converted]
) -> tuple[SafeGraph, Converted, str, Tail]:
    """Read an output's last operators; add nodes for logarithms of probabilities without a Softmax or Sigmoid.

    Args:
        convert: builds a graph as ``converted`` was.

    Returns:
        The first fields of `OpenGraph`.
    """
    end = tail(converted, output)
    found = with_logs(converted, output) if end.kind is None and not end.unbounded else None
    if found is None:
        return safe, converted, output, end
    built = convert(found[0])
    if found[1] not in built.values:
        return safe, converted, output, end
    return found[0], built, output, replace(end, logs=found[1])
