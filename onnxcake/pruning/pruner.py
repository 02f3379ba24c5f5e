"""The teacher's own graph, smaller: what is cut, by how much, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from ..errors import first_line
from ..graph.cost import of_node
from ..rng import Key
from ..teacher.opened import Opened
from . import scores
from .cut import Cutter
from .depth import Answers, block_scores, blocks, without
from .factor import Factor
from .families import Numbers, families, largest, weights_of
from .follow import Call, Followed, follow
from .goal import HALF, Goal, Layer, NothingToCut, Pruned, Score, Tools
from .indices import Axis
from .plain import Plain, plain
from .rank import factorised, factors

_TURNS = 24  # of the bisection; where a turn writes or runs a file, fewer
_TURNS_OF_FILES = 8


class Pruner:
    """Cuts one teacher, any number of times.

    Args:
        input_name, output_name: of what it writes.
        graph: what is cut, where it is no longer the teacher's own graph.

    Raises:
        NothingToCut: if there is nothing in it that could be left out.
    """

    def __init__(self, opened: Opened, input_name: str, output_name: str, graph: Plain | None = None) -> None:
        self.opened, self.names = opened, (input_name, output_name)
        self.teacher = plain(opened.converted, opened.output)
        self.followed = follow(self.teacher if graph is None else graph)
        self.families = families(self.followed)
        if not self.families.members and not self._tied():
            raise NothingToCut(
                "nothing in its graph can be left out",
                where=opened.name,
                remedy="Train a student of another kind instead: onnxcake extract -o student.architecture=mlp.",
            )

    def shallower(self, number: int, answers: Answers) -> Pruner:
        """The same without the residual blocks that matter least to the answers.

        Args:
            number: how many blocks are left out.
            answers: a model's, always to the same inputs.

        Raises:
            NothingToCut: if there are not so many.
        """
        graph = self.followed.graph
        for _ in range(number):  # one at a time: what a block matters depends on those that are left
            found = blocks(graph)
            if not found:
                raise NothingToCut(
                    f"it has fewer than {number} residual blocks to leave out",
                    where=self.opened.name,
                    remedy="Leave out fewer.",
                )
            graph = without(graph, [found[int(block_scores(graph, found, answers).argmin())]])
        return Pruner(self.opened, *self.names, graph)

    def factorised(self) -> Pruner:
        """The same with each matrix that no index can be taken from as a product of two, by singular values.

        What is then chosen from is the index between the two: the rank.
        """
        graph, tied = self.followed.graph, self._tied()
        return Pruner(self.opened, *self.names, factorised(graph, {f.name: f.full for f in tied}, tied))

    def _tied(self) -> list[Factor]:
        """The matrices that no index can be taken from."""
        table, axes = self.followed.table, self.followed.axes
        return [f for f in factors(self.followed.graph) if all((table[axis] < 0).all() for axis in axes[f.name])]

    def reaches(self, goal: Goal, worth: Numbers, tools: Tools) -> bool:
        """Whether the smallest student reaches a goal, or nothing is tied down that keeps it from that."""
        return self._test(goal, worth, tools)[0](self.families.counts(0.0)) or not self._tied()

    def scores(self, kind: Score, key: Key, tools: Tools) -> Numbers:
        """What each atom is worth."""
        if kind == "random":
            return scores.at_random(self.families, key)
        if kind == "weights" or tools.draws is None:
            return scores.from_weights(self.families)
        return scores.from_responses(self.families, tools.draws(self.whole()))

    @property
    def parameters(self) -> int:
        """The teacher's."""
        return sum(array.size for array in weights_of(self.teacher).values())

    def _whole_multiply_adds(self) -> int:
        shapes = {name: first for name, (first, _) in self.teacher.shapes.items()}
        shapes |= {name: array.shape for name, array in self.teacher.constants.items()}
        each = (
            of_node(node, [shapes.get(name) for name in node.input], [shapes.get(name) for name in node.output])
            for node in self.teacher.nodes
        )
        return _per_input(self.followed, each)

    def whole(self) -> bytes:
        """The graph as it is, written as a student would be, its values under the graph's own names."""
        return self._checked(Cutter(self.followed, np.zeros(0, np.int64)).model(*self.names))

    def content(self, dropped: Axis) -> bytes:
        """The model without some atoms, its values called as in the teacher's file."""
        safe = self.opened.safe
        names = {**safe.node_names, **safe.value_names, **self.followed.graph.names}
        return self._checked(Cutter(self.followed, dropped).model(*self.names, names))

    def _checked(self, model: onnx.ModelProto) -> bytes:
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:  # operators gone by now
            raise NothingToCut(
                f"ONNX's checker refuses what is cut out of it: {first_line(error)}",
                where=self.opened.name,
                remedy="Train a student of another kind instead: onnxcake extract -o student.architecture=mlp.",
            ) from error
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def multiply_adds(self, dropped: Axis) -> int:
        """Of one input, without some atoms."""
        cutter = Cutter(self.followed, dropped)
        return _per_input(self.followed, [_multiply_adds(call, cutter) for call in self.followed.calls])

    def to(self, goal: Goal, worth: Numbers, tools: Tools) -> Pruned:
        """The largest student that reaches the goal; the smallest there is if none does."""
        found = self.families
        fits, turns = self._test(goal, worth, tools)
        counts = found.counts(largest(lambda share: fits(found.counts(share)), turns=turns))
        if turns == _TURNS:
            counts = found.filled(counts, fits)
        dropped = found.dropped(worth, counts)
        return Pruned(
            content=self.content(dropped),
            layers=tuple(self._layers(dropped)),
            parameters=(self.parameters, found.parameters(dropped)),
            multiply_adds=(self._whole_multiply_adds(), self.multiply_adds(dropped)),
        )

    def _test(self, goal: Goal, worth: Numbers, tools: Tools) -> tuple[Callable[[list[int]], bool], int]:
        found = self.families
        limit: float
        measure: Callable[[Axis], float]
        if goal.max_latency_ms is not None:
            timed = tools.latency_ms
            assert timed is not None, "who asks for a latency brings what measures it"
            limit, measure, turns = goal.max_latency_ms, lambda d: timed(self.content(d)), _TURNS_OF_FILES
        elif goal.max_bytes is not None:
            limit, measure, turns = goal.max_bytes, lambda d: len(self.content(d)), _TURNS_OF_FILES
        elif goal.max_macs is not None:
            limit, measure, turns = goal.max_macs, self.multiply_adds, _TURNS_OF_FILES
        else:
            limit = goal.max_params if goal.max_params is not None else (goal.keep or HALF) * self.parameters
            measure, turns = found.parameters, _TURNS
        return lambda counts: measure(found.dropped(worth, counts)) <= limit, turns

    def _layers(self, dropped: Axis) -> Iterable[Layer]:
        cutter = Cutter(self.followed, dropped)
        nothing = Cutter(self.followed, dropped[:0])
        graph, safe = self.followed.graph, self.opened.safe
        for call in self.followed.calls:
            weights = [name for name in dict.fromkeys(call.proto.input) if name in self.families.weights]
            if not weights:
                continue
            main = max(weights, key=lambda name: graph.constants[name].size)
            sizes = [(graph.constants[name].size, cutter.size(name)) for name in weights]
            adds = [_multiply_adds(call, c) for c in (nothing, cutter)]
            yield Layer(
                name=safe.node_names.get(call.proto.name, call.op),
                op=call.op,
                shapes=(graph.constants[main].shape, cutter.shape_of(main) or ()),
                parameters=(sum(before for before, _ in sizes), sum(after for _, after in sizes)),
                multiply_adds=(_per_input(self.followed, adds[:1]), _per_input(self.followed, adds[1:])),
                held=self._held(main),
            )

    def _held(self, name: str) -> str:
        fresh = self.followed.fresh[name]
        return ", ".join(dict.fromkeys(why for axis in fresh if (why := self.followed.indices.why(axis))))


def _multiply_adds(call: Call, cutter: Cutter) -> int:
    ins, outs = (
        [cutter.shape_of(name) if name else None for name in names] for names in (call.proto.input, call.proto.output)
    )
    return of_node(call.proto, ins, outs)


def _per_input(followed: Followed, multiply_adds: Iterable[int]) -> int:
    return round(sum(multiply_adds) / followed.graph.batches[0])
