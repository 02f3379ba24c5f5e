"""Hold the ONNX model that a student is initialised from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..core.errors import BadTeacherFile, TeacherError, UsageError
from ..core.files import sha256
from ..graph.dequantise import is_quantised
from ..graph.trained import Trained, trained
from ..onnxfile.load import load
from ..onnxfile.self_contained import Ends, whole
from ..teacher import sandbox
from ..teacher.facts import Facts
from ..teacher.open_graph import OpenGraph, open_to_train
from ..teacher.options import TeacherOptions
from ..teacher.signature import OutputKind, Signature
from ..teacher.taps import tap_of

_SQUASHED = {
    "probabilities": "Softmax",
    "log_probabilities": "LogSoftmax",
    "binary_probability": "Sigmoid",
    "multilabel_probabilities": "Sigmoid",
}


@dataclass(frozen=True)
class InitialModel:
    """Hold a classifier as one ONNX model, for the inputs and classes of a teacher.

    Attributes:
        content: the model, as bytes.
        kind: of its output.
        output_shape: one answer's shape, without the batch; None for a plain row of scores.
        input_shape: one input's shape, without the batch.
        name: its name in messages.
        still: whether its weights stay as they are: it is its teacher, and training could only make it worse.
    """

    content: bytes = field(repr=False)
    kind: OutputKind
    output_shape: tuple[int, ...] | None
    input_shape: tuple[int, ...]
    name: str
    still: bool = False

    @classmethod
    def read(cls, path: Path, signature: Signature) -> InitialModel:
        """Read the model of a file, examined in a process of its own as a teacher's is.

        Args:
            signature: the teacher's.

        Raises:
            UsageError: if it cannot be a student of this teacher.
        """
        said = TeacherOptions(
            shape=(1, *signature.input_shape),
            task=signature.task,
            range=signature.range if signature.mean is None else None,
        )
        exam = sandbox.examine(path, said)
        if exam.error is not None:
            # What else is wrong with the file has a remedy of its own; that it does not fit is for us to say.
            remedy = exam.error.remedy if isinstance(exam.error, TeacherError) else ""
            raise _refusal(path.name, exam.error.what, remedy, signature)
        assert exam.facts is not None
        facts = exam.facts
        if (why := _why_unfit(facts, signature)) is not None:
            raise _refusal(path.name, why, "", signature)
        try:
            file = load(path)
            if file.digest != facts.digest:
                raise BadTeacherFile("it changed while it was read", where=path.name, remedy="Run the command again.")
            its = facts.signature
            start = cls(whole(file), its.output_kind, its.output_shape, its.input_shape, path.name)
            start.check(signature)
        except TeacherError as error:
            raise _refusal(path.name, error.what, error.remedy, signature) from error
        return start

    @classmethod
    def like(cls, content: bytes, signature: Signature, name: str, still: bool = False) -> InitialModel:
        """Build an initial model with the input and output of the teacher of this signature."""
        return cls(content, signature.output_kind, signature.output_shape, signature.input_shape, name, still)

    def check(self, signature: Signature) -> None:
        """Check that it can be trained, or is to stay as it is, and be written as a student of this teacher.

        Raises:
            UsageError: if not.
        """
        if is_quantised(self.opened.safe.model):
            raise _refusal(self.name, "it is quantised", "Give the float model that it was made from.", signature)
        self.ends(signature)
        if not self.still and not self.parameters():
            raise _refusal(self.name, "it has no weights that could be trained", "", signature)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 digest of the model."""
        return sha256(self.content)

    @cached_property
    def opened(self) -> OpenGraph:
        """Build its graph, to be trained."""
        return open_to_train(self.content, TeacherOptions(shape=(1, *self.input_shape)), self.name)

    @property
    def before(self) -> bool:
        """Tell whether logits are taken before a last Softmax or Sigmoid."""
        return self.opened.end(self.kind) != self.opened.output

    def learn(self, taps: Sequence[str] = ()) -> Trained:
        """Build its graph with fresh parameters, ending in the scores and in the values that the file calls ``taps``.

        Raises:
            UsageError: if it has no such value, or one that holds no numbers for each input.
        """
        opened = self.opened
        return trained(opened.converted, opened.end(self.kind), *(tap_of(opened, name) for name in taps))

    def parameters(self, taps: Sequence[str] = ()) -> int:
        """Count the numbers that are trained."""
        return self.learn(taps).parameters

    def ends(self, signature: Signature) -> Ends:
        """Return how it becomes a student of the teacher of this signature: names, kind and shape of the output.

        Raises:
            UsageError: if its answers cannot be made the teacher's kind.
        """
        safe = self.opened.safe
        names = signature.input_name, signature.output_name
        source, output = safe.input_name, safe.value_names[self.opened.output]
        if self.kind == signature.output_kind and self.output_shape == signature.output_shape:
            return Ends(source, output, *names)
        if self.kind in _SQUASHED and (not self.before or self.opened.tail.logs):
            what = f"it gives {self.kind.replace('_', '-')}, and not by a Softmax or Sigmoid at its end"
            raise _refusal(
                self.name,
                what,
                "Give one that ends in logits, Softmax or Sigmoid, such as `onnxcake shrink` writes.",
                signature,
            )
        scores = safe.value_names[self.opened.end(self.kind)]
        shape = (signature.scores,) if signature.output_shape is None else signature.output_shape
        return Ends(source, scores, *names, _SQUASHED.get(signature.output_kind), shape)


def _why_unfit(facts: Facts, signature: Signature) -> str | None:
    """Return why a classifier's inputs or classes do not fit the teacher's; None if they do."""
    its = facts.signature
    if facts.fixed_batch is not None:
        return f"its batch is fixed at {facts.fixed_batch}, and cannot be freed"
    wanted = (signature.input_shape, signature.input_dtype, signature.classes, signature.task)
    if (its.input_shape, its.input_dtype, its.classes, its.task) == wanted:
        return None
    return f"it takes {_input_in_words(its)} and gives {_classes_in_words(its)}"


def _refusal(name: str, why: str, remedy: str, signature: Signature) -> UsageError:
    taken, given = _input_in_words(signature), _classes_in_words(signature)
    what = f"it cannot be a student of a teacher that takes {taken} and gives {given}: {why}"
    remedy = remedy or "Give --student a classifier of the same inputs and classes."
    return UsageError(what, where=name, remedy=remedy)


def _input_in_words(signature: Signature) -> str:
    return f"{list(signature.input_shape)} {signature.input_dtype}"


def _classes_in_words(signature: Signature) -> str:
    return f"{signature.classes} classes ({signature.task})"
