"""Cut the teacher's own graph: choose what falls, and write the smaller model."""

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
from .folded_graph import FoldedGraph, fold
from .goal import Goal, Measurements, NothingToCut, Pruned, Score, Shape
from .indices import Axis
from .layers import layers, multiply_adds_left, multiply_adds_of
from .rank import factorised, factors, ranks_at

_TURNS = 24  # of the bisection; where a turn writes or runs a file, fewer
_TURNS_OF_FILES = 8


class Pruner:
    """Cut one teacher, any number of times.

    Args:
        opened: the teacher's graph.
        input_name, output_name: of the models that are written.
        graph: the graph to cut, where it is no longer the teacher's own.
        whole: accept a graph of which nothing can be left out, and write it as it is.

    Raises:
        NothingToCut: if there is nothing in it that could be left out.
    """

    def __init__(
        self,
        opened: OpenGraph,
        input_name: str,
        output_name: str,
        graph: FoldedGraph | None = None,
        whole: bool = False,
    ) -> None:
        self.opened, self.names = opened, (input_name, output_name)
        self.teacher = fold(opened.converted, opened.output)
        self.followed = follow(self.teacher if graph is None else graph)
        self.families = families(self.followed)
        if not whole and not self.families.members and not self._tied():
            raise NothingToCut(
                "nothing in its graph can be left out",
                where=opened.name,
                remedy="Train a student of another kind instead: onnxcake extract -o student.architecture=mlp.",
            )

    def drop_blocks(self, number: int, answers: Answers) -> Pruner:
        """Remove the residual blocks that matter least to the answers; return a pruner of the rest.

        Args:
            number: how many blocks are left out.
            answers: computes a model's logits, always for the same inputs.

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
        """Cut the student whose weights have the shapes of another network's; see `match_architecture.dropped`."""
        return self._pruned(match_architecture.dropped(self.followed, self.families, worth, shapes, self.opened.name))

    def with_tied_factorised(self) -> Pruner:
        """Replace each matrix that no index can be taken from by two factors, by singular values.

        The index between the two, the rank, can then be chosen from.

        What is then chosen from is the index between the two: the rank.
        """
        return self.factorise({factor.name: factor.full for factor in self._tied()})

    def ranks(self, goal: Goal, tools: Measurements) -> dict[str, int] | None:
        """Find the ranks that reach a goal with all channels, each matrix keeping one share of its energy, or None.

        Matrices that would not become smaller are left out; the ranks are the largest that reach the goal.
        """
        found, whole = self.factors, self.families.count

        def fits(level: float) -> bool:
            ranks = ranks_at(found, level)
            if goal.by_parameters:
                saved = sum(f.weight.size - f.parameters(ranks[f.name]) for f in found if f.name in ranks)
                return whole - saved <= goal.parameters_of(self.parameters)
            return self.factorise(ranks).fits(goal, tools)

        if not found or not fits(0.0):
            return None
        return ranks_at(found, largest(fits, turns=_TURNS if goal.by_parameters else _TURNS_OF_FILES))

    def factorise(self, ranks: Mapping[str, int]) -> Pruner:
        """Replace these matrices by low-rank factors, by singular values; return a pruner of the result."""
        return Pruner(self.opened, *self.names, factorised(self.followed.graph, ranks, self.factors))

    def lost_by_rank(self, ranks: Mapping[str, int]) -> float:
        """Return the share of the matrices' energy that the ranks remove, in the mean over weights."""
        return self._mean({f.name: 1 - energy(f, ranks[f.name]) for f in self.factors if f.name in ranks})

    def lost_by_cut(self, goal: Goal, worth: Numbers, tools: Measurements) -> float:
        """Return the share of the matrices' energy that a cut to a goal removes; infinite if no cut reaches it."""
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
        """Find the matrices that can be replaced by low-rank factors."""
        return factors(self.followed.graph)

    def _tied(self) -> list[Factor]:
        """List the matrices that no index can be taken from."""
        table, axes = self.followed.table, self.followed.axes
        return [f for f in self.factors if all((table[axis] < 0).all() for axis in axes[f.name])]

    def reaches(self, goal: Goal, worth: Numbers, tools: Measurements) -> bool:
        """Tell whether the smallest student reaches a goal, or no matrix is constrained that keeps it from that."""
        return self._test(goal, worth, tools)[0](self.families.counts(0.0)) or not self._tied()

    def fits(self, goal: Goal, tools: Measurements) -> bool:
        """Tell whether the graph reaches a goal as it is."""
        limit, measure, _ = self._measure(goal, tools)
        return measure(np.zeros(0, np.int64)) <= limit

    def scores(self, kind: Score, key: Key, tools: Measurements) -> Numbers:
        """Score each atom."""
        if kind == "random":
            return scores.at_random(self.families, key)
        if kind == "weights" or tools.draws is None:
            return scores.from_weights(self.families)
        return scores.from_responses(self.families, tools.draws(self.whole()))

    @property
    def parameters(self) -> int:
        """Count the teacher's parameters."""
        return sum(array.size for array in weights_of(self.teacher).values())

    def whole(self) -> bytes:
        """Write the graph as it is, as a student, its values under the graph's own names."""
        return self._checked(Cutter(self.followed, np.zeros(0, np.int64)).model(*self.names))

    def content(self, dropped: Axis) -> bytes:
        """Write the model without some atoms, its values called as in the teacher's file."""
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
        """Count the multiply-adds of one input, without some atoms."""
        return multiply_adds_left(self.followed.calls, Cutter(self.followed, dropped))

    def prune_to(self, goal: Goal, worth: Numbers, tools: Measurements) -> Pruned:
        """Cut the largest student that reaches the goal; the smallest there is if none does."""
        return self._pruned(self._chosen(goal, worth, tools))

    def as_it_is(self) -> Pruned:
        """Return the graph as it is, as a student."""
        return self._pruned(np.zeros(0, np.int64))

    def _pruned(self, dropped: Axis) -> Pruned:
        return Pruned(
            content=self.content(dropped),
            layers=tuple(layers(self.teacher, Cutter(self.followed, dropped), self.opened.safe.node_names)),
            parameters=(self.parameters, self.families.parameters(dropped)),
            multiply_adds=(multiply_adds_of(self.teacher, self.teacher.nodes), self.multiply_adds(dropped)),
        )

    def _chosen(self, goal: Goal, worth: Numbers, tools: Measurements) -> Axis:
        """Select the atoms to drop."""
        found = self.families
        fits, turns = self._test(goal, worth, tools)
        counts = found.counts(largest(lambda share: fits(found.counts(share)), turns=turns))
        if turns == _TURNS:
            counts = found.filled(counts, fits)
        return found.dropped(worth, counts)

    def _test(self, goal: Goal, worth: Numbers, tools: Measurements) -> tuple[Callable[[list[int]], bool], int]:
        limit, measure, turns = self._measure(goal, tools)
        return lambda counts: measure(self.families.dropped(worth, counts)) <= limit, turns

    def _measure(self, goal: Goal, tools: Measurements) -> tuple[float, Callable[[Axis], float], int]:
        """Return the goal's limit, the function that measures it without some atoms, and the most calls of that."""
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
