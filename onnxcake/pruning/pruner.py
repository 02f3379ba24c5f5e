"""The teacher's own graph, smaller: what is cut, by how much, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from ..core.rng import Key
from ..core.text import first_line
from ..teacher.open_graph import OpenGraph
from . import match_architecture, scores
from .choices import Numbers, families, largest, weights_of
from .cut import Cutter
from .dependencies import follow
from .depth import Answers, blocks, without_least
from .factor import Factor, energy
from .folded_graph import Plain, plain
from .goal import Goal, NothingToCut, Pruned, Score, Shape, Tools
from .indices import Axis
from .layers import layers, multiply_adds_left, multiply_adds_of
from .rank import factorised, factors, levelled

_TURNS = 24  # of the bisection; where a turn writes or runs a file, fewer
_TURNS_OF_FILES = 8


class Pruner:
    """Cuts one teacher, any number of times.

    Args:
        input_name, output_name: of what it writes.
        graph: what is cut, where it is no longer the teacher's own graph.
        whole: accept a graph of which nothing can be left out: it is written as it is.

    Raises:
        NothingToCut: if there is nothing in it that could be left out.
    """

    def __init__(
        self, opened: OpenGraph, input_name: str, output_name: str, graph: Plain | None = None, whole: bool = False
    ) -> None:
        self.opened, self.names = opened, (input_name, output_name)
        self.teacher = plain(opened.converted, opened.output)
        self.followed = follow(self.teacher if graph is None else graph)
        self.families = families(self.followed)
        if not whole and not self.families.members and not self._tied():
            raise NothingToCut(
                "nothing in its graph can be left out",
                where=opened.name,
                remedy="Train a student of another kind instead: onnxcake extract -o student.architecture=mlp.",
            )

    def drop_blocks(self, number: int, answers: Answers) -> Pruner:
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
            graph = without_least(graph, found, answers)
        return Pruner(self.opened, *self.names, graph)

    def match_blocks(self, shapes: Sequence[Shape], answers: Answers) -> Pruner:
        """Leave out residual blocks until there are as many as in another network of the family.

        See `match_architecture.drop_blocks`.
        """
        return Pruner(
            self.opened,
            *self.names,
            match_architecture.drop_blocks(self.followed.graph, shapes, answers, self.opened.name),
        )

    def match_shapes(self, shapes: Sequence[Shape], worth: Numbers) -> Pruned:
        """The student whose weights have the shapes of another network's; see `like.dropped`."""
        return self._pruned(match_architecture.dropped(self.followed, self.families, worth, shapes, self.opened.name))

    def factorised(self) -> Pruner:
        """The same with each matrix that no index can be taken from as a product of two, by singular values.

        What is then chosen from is the index between the two: the rank.
        """
        return self.factorise({factor.name: factor.full for factor in self._tied()})

    def ranks(self, goal: Goal, tools: Tools) -> dict[str, int] | None:
        """The ranks that reach a goal with all channels, each matrix keeping one share of its energy; None if none do.

        Those of matrices that are smaller for it; the largest that reach it.
        """
        found, whole = self.factors, self.families.count

        def fits(level: float) -> bool:
            ranks = levelled(found, level)
            if goal.by_parameters:
                saved = sum(f.weight.size - f.parameters(ranks[f.name]) for f in found if f.name in ranks)
                return whole - saved <= goal.parameters_of(self.parameters)
            return self.factorise(ranks).fits(goal, tools)

        if not found or not fits(0.0):
            return None
        return levelled(found, largest(fits, turns=_TURNS if goal.by_parameters else _TURNS_OF_FILES))

    def factorise(self, ranks: Mapping[str, int]) -> Pruner:
        """The same with these matrices as products of two, by singular values."""
        return Pruner(self.opened, *self.names, factorised(self.followed.graph, ranks, self.factors))

    def lost_by_rank(self, ranks: Mapping[str, int]) -> float:
        """The share of the matrices' energy that ranks take: of each its squares, in the mean over weights."""
        return self._mean({f.name: 1 - energy(f, ranks[f.name]) for f in self.factors if f.name in ranks})

    def lost_by_cut(self, goal: Goal, worth: Numbers, tools: Tools) -> float:
        """The same that a cut to a goal takes; infinite if no cut reaches it."""
        if not self._test(goal, worth, tools)[0](self.families.counts(0.0)):
            return math.inf
        stays = self.followed.stays(self._chosen(goal, worth, tools))
        lost = {}
        for factor in self.factors:
            squares = np.square(factor.weight, dtype=float)
            kept = squares[np.ix_(*(stays[axis] for axis in self.followed.axes[factor.name]))].sum()
            lost[factor.name] = 1 - float(kept) / max(float(squares.sum()), np.finfo(float).tiny)
        return self._mean(lost)

    def _mean(self, lost: Mapping[str, float]) -> float:
        sizes = {factor.name: factor.weight.size for factor in self.factors}
        return sum(sizes[name] * share for name, share in lost.items()) / max(sum(sizes.values()), 1)

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The matrices that can be products of two."""
        return factors(self.followed.graph)

    def _tied(self) -> list[Factor]:
        """The matrices that no index can be taken from."""
        table, axes = self.followed.table, self.followed.axes
        return [f for f in self.factors if all((table[axis] < 0).all() for axis in axes[f.name])]

    def reaches(self, goal: Goal, worth: Numbers, tools: Tools) -> bool:
        """Whether the smallest student reaches a goal, or nothing is tied down that keeps it from that."""
        return self._test(goal, worth, tools)[0](self.families.counts(0.0)) or not self._tied()

    def fits(self, goal: Goal, tools: Tools) -> bool:
        """Whether it reaches a goal as it is."""
        limit, measure, _ = self._measure(goal, tools)
        return measure(np.zeros(0, np.int64)) <= limit

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
        return multiply_adds_left(self.followed.calls, Cutter(self.followed, dropped))

    def to(self, goal: Goal, worth: Numbers, tools: Tools) -> Pruned:
        """The largest student that reaches the goal; the smallest there is if none does."""
        return self._pruned(self._chosen(goal, worth, tools))

    def as_it_is(self) -> Pruned:
        """The graph as it is, as a student."""
        return self._pruned(np.zeros(0, np.int64))

    def _pruned(self, dropped: Axis) -> Pruned:
        return Pruned(
            content=self.content(dropped),
            layers=tuple(layers(self.teacher, Cutter(self.followed, dropped), self.opened.safe.node_names)),
            parameters=(self.parameters, self.families.parameters(dropped)),
            multiply_adds=(multiply_adds_of(self.teacher, self.teacher.nodes), self.multiply_adds(dropped)),
        )

    def _chosen(self, goal: Goal, worth: Numbers, tools: Tools) -> Axis:
        """The atoms that fall."""
        found = self.families
        fits, turns = self._test(goal, worth, tools)
        counts = found.counts(largest(lambda share: fits(found.counts(share)), turns=turns))
        if turns == _TURNS:
            counts = found.filled(counts, fits)
        return found.dropped(worth, counts)

    def _test(self, goal: Goal, worth: Numbers, tools: Tools) -> tuple[Callable[[list[int]], bool], int]:
        limit, measure, turns = self._measure(goal, tools)
        return lambda counts: measure(self.families.dropped(worth, counts)) <= limit, turns

    def _measure(self, goal: Goal, tools: Tools) -> tuple[float, Callable[[Axis], float], int]:
        """What a goal limits, how it is measured without some atoms, and how often that may be done."""
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
            limit, measure, turns = goal.parameters_of(self.parameters), self.families.parameters, _TURNS
        return limit, measure, turns
