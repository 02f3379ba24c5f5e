"""A model out of a few lines of text, some of its indices dropped, and what must then be true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx_text import whole
from plain_session import plain_session

from onnxcake.pruning.choices import Families, families
from onnxcake.pruning.cut import cut
from onnxcake.pruning.dependencies import Followed, follow
from onnxcake.pruning.folded_graph import FoldedGraph, fold
from onnxcake.pruning.goal import Goal, Measurements
from onnxcake.pruning.pruner import Pruner
from onnxcake.teacher.open_graph import OpenGraph, open_graph
from onnxcake.teacher.options import TeacherOptions

Array = np.ndarray[Any, Any]
BATCHES = (1, 2, 5)


def model_of(text: str, opset: int = 17, domains: str = "", **weights: Any) -> onnx.ModelProto:
    """``g (float[N,…] x) => (float[N,M] y) {…}`` with weights: arrays, or the shapes of random ones."""
    generator = np.random.default_rng(0)
    for name, value in weights.items():
        if isinstance(value, tuple):
            fan = max(1, int(np.prod(value)) // max(value, default=1))
            weights[name] = (generator.standard_normal(value) / np.sqrt(fan)).astype(np.float32)
    return whole(text[text.index("(") :], weights, opset, domains)


@dataclass(frozen=True)
class Teacher:
    """A teacher that has been followed."""

    path: Path
    opened: OpenGraph
    followed: Followed
    families: Families

    def free(self) -> dict[str, tuple[int, ...]]:
        """Of each float weight, by its name in the file: the axes that can get shorter."""
        graph, indices = self.followed.graph, self.followed.indices
        found = {}
        for name in self.families.weights:
            axes = self.followed.axes[name]
            free = tuple(i for i, axis in enumerate(axes) if any(indices.atoms(int(e)) for e in axis))
            if free:
                found[graph.names[name]] = free
        return found

    def by_family(self, share: float, seed: int = 0) -> list[int]:
        """The atoms that fall for random scores."""
        scores = np.random.default_rng(seed).random(self.followed.indices.size + 1)
        return [int(atom) for atom in self.families.dropped(scores, self.families.counts(share))]

    def by_chance(self, share: float, seed: int = 0) -> list[int]:
        """Atoms of the weights, of all factors of their axes, dropped while no axis anywhere becomes empty."""
        indices = self.followed.indices
        axes = [
            [indices.atoms(int(element)) for element in axis] for value in self.followed.axes.values() for axis in value
        ]
        weights = {
            a for n in self.families.weights for x in self.followed.axes[n] for e in x for a in indices.atoms(int(e))
        }
        where: dict[int, list[int]] = {}
        for number, axis in enumerate(axes):
            for atom in frozenset().union(*axis):
                where.setdefault(atom, []).append(number)
        dropped: set[int] = set()
        for atom in np.random.default_rng(seed).permutation(sorted(weights)).tolist():
            tried = dropped | {atom}
            if len(dropped) < (1 - share) * len(weights) and all(
                any(not element & tried for element in axes[number]) for number in where[atom]
            ):
                dropped = tried
        return sorted(dropped)


def teacher_of(model: onnx.ModelProto | Path, folder: Path) -> Teacher:
    """Write, open and follow a model, from its own input on: ids of a table too, not the rows behind them."""
    path = model if isinstance(model, Path) else folder / "teacher.onnx"
    if isinstance(model, onnx.ModelProto):
        path.write_bytes(model.SerializeToString())
    given = "x" if isinstance(model, onnx.ModelProto) and any(v.name == "x" for v in model.graph.input) else None
    opened = open_graph(path, TeacherOptions(input=given))
    followed = follow(fold(opened.converted, opened.output))
    return Teacher(path, opened, followed, families(followed))


def graph_of(text: str, folder: Path, opset: int = 17, **weights: Any) -> FoldedGraph:
    """Open a model in text form, as the pruning sees it."""
    return teacher_of(model_of(text, opset, **weights), folder).followed.graph


def written(graph: FoldedGraph) -> onnx.ModelProto:
    """Write a graph as a checked model."""
    model = cut(follow(graph), [], "x", "y")
    onnx.checker.check_model(model, full_check=True)
    return model


def inputs(graph: FoldedGraph, batch: int = max(BATCHES)) -> Array:
    """Draw inputs of a graph, always the same."""
    return np.random.default_rng(1).standard_normal((batch, *graph.input_shape)).astype(np.float32)


def inputs_of(teacher: Teacher, batch: int, seed: int = 1) -> Array:
    """Random inputs of the file's type."""
    graph = teacher.followed.graph
    x = np.random.default_rng(seed).standard_normal((batch, *graph.input_shape))
    return x.astype(onnx.helper.tensor_dtype_to_np_dtype(graph.input_type))


def running(model: onnx.ModelProto | Path, x: str = "x", y: str = "y") -> Callable[[Array], Array]:
    """A model in onnxruntime: the values of its input → those of its output."""
    model = model if isinstance(model, onnx.ModelProto) else onnx.load(model)  # with its data beside it
    session = plain_session(model.SerializeToString())
    return lambda values: np.asarray(session.run([y], {x: values})[0])


def close(first: Array, second: Array, within: float = 1e-5) -> None:
    """Equal, as far as numbers of their size can be."""
    assert np.isfinite(first).all()
    assert first.shape == second.shape
    np.testing.assert_allclose(
        first.astype(np.float64), second.astype(np.float64), rtol=within, atol=within * max(1.0, np.abs(second).max())
    )


def answers(model: onnx.ModelProto | Path, x: Array, name: str = "x") -> Array:
    """A model's answers in onnxruntime, once."""
    return running(model, name)(x)


def check_whole(teacher: Teacher, within: float = 1e-5, known: bool = True) -> None:
    """With nothing dropped, the model is the teacher."""
    model = cut(teacher.followed, [], "x", "y")
    if known:
        onnx.checker.check_model(model, full_check=True)
    opened = teacher.opened
    x = inputs_of(teacher, opened.safe.batch or 3)
    wanted = running(teacher.path, opened.safe.input_name, opened.safe.outputs[opened.output])(x)
    close(running(model)(x), wanted, within)


def check_cut(
    teacher: Teacher, dropped: list[int], masked: bool = True, within: float = 1e-5, known: bool = True
) -> onnx.ModelProto:
    """(a) valid, at every batch and row by row; (b) the teacher's weights; (c) as if what fell were zero."""
    model = cut(teacher.followed, dropped, "x", "y")
    if known:
        onnx.checker.check_model(model, full_check=True)
    x = inputs_of(teacher, max(BATCHES))
    run = running(model)
    together = run(x)
    for batch in BATCHES[:-1]:
        close(run(x[:batch]), together[:batch], within)
    close(run(x[::-1].copy())[::-1], together, within)
    whole = cut(teacher.followed, [], "x", "y")
    _check_weights(teacher, dropped, model, whole)
    if masked:
        close(together, answers(_zeroed(teacher, dropped, whole), x), within)
    return model


def stays(teacher: Teacher, name: str, dropped: list[int]) -> list[Array]:
    """Work out from atoms alone which indices of each axis of a constant stay."""
    gone = set(dropped)
    return [
        np.array([not (teacher.followed.indices.atoms(int(element)) & gone) for element in axis], bool)
        for axis in teacher.followed.axes[name]
    ]


def _check_weights(teacher: Teacher, dropped: list[int], model: onnx.ModelProto, whole: onnx.ModelProto) -> None:
    before, after = (_by_name(m) for m in (whole, model))
    kept = [name for name in after if name in teacher.followed.graph.constants]
    read = {name for node in whole.graph.node for name in node.input}
    assert {name for name in teacher.families.weights if name in read} <= set(kept)
    for name in kept:
        place = stays(teacher, name, dropped)
        np.testing.assert_array_equal(after[name], before[name][np.ix_(*place)] if place else before[name])


def _zeroed(teacher: Teacher, dropped: list[int], whole: onnx.ModelProto) -> onnx.ModelProto:
    """The whole model, every index of its weights that holds a dropped atom set to zero."""
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight).copy()
        if weight.name in teacher.followed.axes and (array.dtype.kind == "f" or array.dtype == np.int8):
            for place, stay in enumerate(stays(teacher, weight.name, dropped)):
                array[(slice(None),) * place + (~stay,)] = 0
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return model


def _by_name(model: onnx.ModelProto) -> dict[str, Array]:
    return {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}


def check_products(teacher: Teacher, share: float) -> None:
    """A student of low-rank factors is valid, of the size that was asked for, and free in its batch."""
    pruner = Pruner(teacher.opened, "x", "y")
    ranks = pruner.ranks(Goal(keep=share), Measurements())
    if ranks is None:
        return
    student = pruner.factorise(ranks).as_it_is()
    assert student.parameters[1] <= share * student.parameters[0]
    assert [sum(layer.parameters[side] for layer in student.layers) for side in (0, 1)] == list(student.parameters)
    model = onnx.load_model_from_string(student.content)
    onnx.checker.check_model(model, full_check=True)
    answers, x = running(model), inputs_of(teacher, max(BATCHES))
    for batch in BATCHES:
        close(answers(x[:batch]), answers(x)[:batch], within=1e-4)
    if not ranks:
        close(answers(x), running(teacher.path)(x), within=1e-4)
