"""Fit low-rank factors to the activations of the teacher's layers, one after the other, before training.

Singular values are the best approximation of a weight if all its inputs are alike, and they are not. A layer's
outputs come nearer to the teacher's by linear least squares (He, Zhang and Sun, Channel Pruning for
Accelerating Very Deep Neural Networks, ICCV 2017, section 3.1), on random fields where there is no data. Each layer is
fitted behind those before it, so that it makes up for their errors (the same, section 3.2.2, residual sums included).

Channels that were left out are not made up for in this way. A ViT of half the channels then begins at 0.86 in place of
0.58, and ends at 0.971 in place of 0.980: what such a student knows of real inputs is in the weights that were kept,
and too much of it goes where half the numbers are to give what all of them gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.random_fields import coarse, fields
from ..core.rng import Key
from ..graph.least_squares import LAYERS, Fit, made
from ..graph.module import Graph, GraphStep
from ..graph.trained import Trained
from ..onnxfile.self_contained import written
from ..student.onnx_model import InitialModel
from ..teacher.scores import Logits
from ..teacher.taps import by_input, shape_of
from ..teacher.teacher import Teacher

_AFFINE = ("Add", "BatchNormalization")  # what may stand between a layer and the value that it is fitted to
_TURNS, _LEAST_TURNS = 30, 2  # of conjugate gradients: at most, and that are worth it
_HELD_OUT = 4  # one input in so many is not fitted to, and says when to stop
_ENOUGH = 0.5  # of what the answers lack must go: see `reconstructed`
_INPUTS = (8, 1000)
_BYTES = 1 << 29  # of what the layers give
_MULTIPLY_ADDS = 4e11  # of all turns together: seconds on one core
_PASSES = 6  # in a turn: forward and backward, of either half of a product


@torch.no_grad()
def reconstructed(content: bytes, teacher: Teacher, key: Key) -> bytes:
    """Fit the layers of a model cut out of a teacher to the teacher's activations.

    Of a large model they are fitted on fewer inputs, less closely, or not at all.

    Args:
        content: the model; its values have the names of the teacher's file.
        key: what the inputs are drawn from.

    Returns:
        The same with other weights; as it was unless its logits' mean squared distance to the teacher's is halved, on
        the inputs that were held out. It fell to a fourth or less where this made a student better on real inputs (two
        CNNs, ResNet-20, the digits), and to six tenths or more where it was good already and became worse (LeNet-5, an
        MLP).
    """
    student = _FittedStudent.of(InitialModel.like(content, teacher.signature, "the student"))
    parts, amounts = _Parts(student, teacher).found(), _amounts(teacher, student)
    if not parts or amounts is None:
        return content
    count, turns = amounts
    held = torch.arange(count) % _HELD_OUT == 0
    inputs = _inputs(teacher, held, key)
    answers, targets = teacher.tapped(tuple(part.tap for part in parts))(inputs.to(teacher.device))
    functions: dict[int, Callable[..., Any]] = {}
    for part, target in zip(parts, targets, strict=True):
        functions |= Fit(student.graph, part.steps, target.cpu(), held, turns).functions
    lost = []
    for graph in (student.graph, student.graph.with_functions(functions)):
        own = student.logits(graph(inputs)[0])
        lost.append(float((own - answers.cpu())[held].square().mean()))
    if not lost[1] < _ENOUGH * lost[0]:
        return content
    start = student.start
    return written(start.content, student.learnt.values(), start.ends(teacher.signature))


def _inputs(teacher: Teacher, held: Tensor, key: Key) -> Tensor:
    """Draw random fields, as the file takes them; the held-out ones are images of another kind, if images at all.

    A fit that brings the student nearer on inputs of one kind alone is not wanted, as real ones differ from all.
    """
    signature, draw = teacher.signature, key.at("reconstruction").generator()
    x = fields(len(held), signature.shape, draw)
    if signature.is_image:
        x[held] = coarse(x[held], draw)
    return signature.whole(signature.to_input(signature.within(x)))


def _amounts(teacher: Teacher, student: _FittedStudent) -> tuple[int, int] | None:
    """Choose the number of inputs, and of iterations of each fit, within the budget; None if that allows too few."""
    work = _PASSES * max(teacher.facts.multiply_adds, 1)
    least, most = _INPUTS
    paid = min(_MULTIPLY_ADDS / (work * _TURNS), _BYTES / max(student.sample_bytes, 1), most)
    count = max(least, int(paid))
    turns = min(_TURNS, int(_MULTIPLY_ADDS / (work * count)))
    return (count, turns) if turns >= _LEAST_TURNS else None


@dataclass(frozen=True)
class _FittedStudent:
    """Hold a cut model as it is trained, with all of its layers' outputs.

    Attributes:
        own: by slot, the safe names of the outputs of layers and of affine operators behind them.
        sample_bytes: of these values, for one input.
    """

    start: InitialModel
    learnt: Trained
    logits: Logits
    own: dict[int, str]
    sample_bytes: int

    @classmethod
    def of(cls, start: InitialModel) -> _FittedStudent:
        converted, names = start.opened.converted, start.opened.safe.value_names
        given = [
            node.output[0]
            for node in start.opened.safe.model.graph.node
            if not node.domain and node.op_type in (*LAYERS, *_AFFINE) and by_input(converted, node.output[0])
        ]
        # What is asked for is computed: so each layer is a step of its own.
        learnt = start.learn([names[name] for name in given])
        own = {converted.values[name].slot: name for name in given}
        numbers = sum(converted.values[name].seen[0][0].numel() for name in given)
        return cls(start, learnt, Logits(start.kind, start.before), own, 4 * numbers)

    @property
    def graph(self) -> Graph:
        """Return the graph: inputs → scores, and the values that are kept."""
        return self.learnt.graph


@dataclass(eq=False)
class _Part:
    """Hold consecutive steps of a student: a layer, or both factors of one, and affine operators behind it.

    Attributes:
        steps: their numbers.
        tap: the teacher's value that corresponds to the last one's output.
    """

    steps: list[int]
    tap: str = ""


class _Parts:
    """Find the parts of a student that can be fitted: those whose output the teacher has too, in the same shape."""

    def __init__(self, student: _FittedStudent, teacher: Teacher) -> None:
        self.graph = student.graph
        self._taps = _shared(student, teacher)
        self._readers: dict[int | None, list[int]] = {}
        for number, step in enumerate(self.graph.steps):
            for slot in step.arguments:
                if isinstance(slot, int):
                    self._readers.setdefault(slot, []).append(number)

    def found(self) -> list[_Part]:
        """List the parts, in order."""
        owner: dict[int, _Part] = {}
        for number in range(len(self.graph.steps)):
            part = _Part([] if number in owner else self._from(number))
            for step in part.steps:
                if step in owner:  # a sum of two layers: what is made later makes up for both
                    owner[step].steps.remove(step)
                owner[step] = part
        parts = list(dict.fromkeys(owner.values()))
        for part in parts:
            part.tap = self._taps[made(self.graph.steps[part.steps[-1]])]
        return parts

    def _from(self, number: int) -> list[int]:
        """List the steps of the part that begins with a step; none if there is none."""
        step = self.graph.steps[number]
        if not self._is_layer(step):
            return []
        steps = [number]
        while not self._is_sum(step) and len(self._readers.get(made(step), ())) == 1:
            given = made(step)
            following = self._readers[given][0]
            step = self.graph.steps[following]
            known = given in self._taps
            if not ((known and self._is_affine(step, given)) or (not known and self._is_layer(step))):
                break
            steps.append(following)
        return steps if made(self.graph.steps[steps[-1]]) in self._taps else []

    def _is_layer(self, step: GraphStep) -> bool:
        """Tell whether a step is a layer whose weights no other step reads."""
        weights = [slot for slot in step.arguments[:2] if slot in self.graph.weights]
        return step.op in LAYERS and len(weights) == 1 and self._alone(step)

    def _is_affine(self, step: GraphStep, given: int | None) -> bool:
        """Tell whether a step is affine in ``given``, its weights its own, and its output one of the teacher's."""
        rest = [slot for slot in step.arguments if slot != given]
        fixed = step.op == "Add" or (step.arguments[0] == given and self.graph.constants.issuperset(rest))
        known = made(step) in self._taps and len(rest) + 1 == len(step.arguments)
        return step.op in _AFFINE and fixed and known and self._alone(step)

    def _alone(self, step: GraphStep) -> bool:
        """Tell whether no other step reads the weights that a step reads."""
        own = [slot for slot in step.arguments if isinstance(slot, int) and slot in self.graph.weights]
        return all(len(self._readers[slot]) == 1 for slot in own)

    def _is_sum(self, step: GraphStep) -> bool:
        """Tell whether a step adds up two values that both depend on the inputs."""
        return step.op == "Add" and self.graph.constants.isdisjoint(step.arguments)


def _shared(student: _FittedStudent, teacher: Teacher) -> dict[int | None, str]:
    """Map the slots of values that the teacher has too, in the same shape, to the teacher's taps."""
    theirs, graph = teacher.opened.safe.value_names, teacher.opened.converted
    taps = {own: safe for safe, own in theirs.items() if by_input(graph, safe)}
    opened = student.start.opened
    called = {slot: opened.safe.value_names[name] for slot, name in student.own.items()}
    return {
        slot: taps[called[slot]]
        for slot, name in student.own.items()
        if called[slot] in taps and teacher.shape_of(taps[called[slot]]) == shape_of(opened, name)
    }
