"""Build a file's graph with a free batch where that can be, else in the batch that the file runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core.arrays import Array
from ..core.errors import OnnxcakeError, TeacherError, UnsupportedTeacher
from ..core.text import first_line, shown
from ..graph.baked_batch import candidates
from ..graph.build_log import Blocked, Limits
from ..graph.convert import Converted, convert
from ..graph.values import Depends
from ..onnxfile.input_choice import GraphChoice
from ..onnxfile.load import load
from ..onnxfile.normalise import normalise
from ..onnxfile.open_sizes import OpenSizes
from ..onnxfile.rename import SafeGraph
from ..runtime.ort import RuntimeRefused, Session
from .output import choose_output

_CLOSE = 1e-3  # of the largest answer
_FEW = (1, 2, 3)  # batches, where one is looked for that runs at all
_UNKNOWN = "is not a registered function/op"  # as onnxruntime says
_LARGE = 2e8  # bytes of a file that is not read again and again


@dataclass(frozen=True)
class Built:
    """Hold a graph that was built, and the batch that it was built with.

    Attributes:
        safe: the graph, declared with the batch that it is run in.
        fixed: whether it keeps that batch and is run in pieces, instead of following the input.
        output: the safe name of the value that holds the class scores; None if there is none.
        refusal: why there is none.
        declared: the build of the graph as the file declares it, where it had to be given another batch.
    """

    safe: SafeGraph
    converted: Converted
    fixed: bool
    output: str | None
    refusal: OnnxcakeError | None = None
    declared: Built | None = None

    @property
    def blocked(self) -> list[Blocked]:
        """List the blocked nodes that the requested outputs depend on."""
        asked = [self.safe.chosen] if self.safe.chosen is not None else list(self.safe.outputs)
        missing = [name for name in asked if name not in self.converted.values]
        return list(dict.fromkeys(one for name in missing for one in self.converted.blockers(name)))


def build(safe: SafeGraph, limits: Limits, file: str) -> Built:
    """Build a graph and choose its output, in the first of these ways that gives a row of scores for each input.

    The batch follows the input; the graph is run in pieces of the batch that the file declares; or in pieces of one
    that is baked into it, though the file declares a free one: `check_baked` has to confirm that.
    """
    ways = [_built(safe, False, limits, file)]
    if safe.batch is not None and (ways[0].output is None or ways[0].blocked):
        ways.append(_built(safe, True, limits, file))
    for way in sorted(ways, key=lambda way: bool(way.blocked)):
        if way.output is not None:
            return way
    if safe.batch is None and _may_be_baked(ways[0]):
        for batch in candidates(ways[0].converted):
            way = build(safe.of_batch(batch), limits, file)
            if way.output is not None:
                return replace(way, declared=ways[0])
    return ways[-1]


def _built(safe: SafeGraph, fixed: bool, limits: Limits, file: str) -> Built:
    converted = convert(safe, fixed=fixed, limits=limits)
    try:
        return Built(safe, converted, fixed, choose_output(converted, file))
    except OnnxcakeError as error:
        return Built(safe, converted, fixed, None, error)


def _may_be_baked(way: Built) -> bool:
    """Tell whether another batch may help: sizes do not fit, or an output has other rows than the input."""
    blocked = way.blocked
    if blocked:
        return not any(one.missing or one.limit for one in blocked)
    values = [way.converted.values.get(name) for name in way.safe.outputs]
    seen = [v.seen[0] for v in values if v is not None and v.depends == Depends.DATA and isinstance(v.seen[0], Tensor)]
    return any(s.dtype.is_floating_point and (s.dim() == 0 or len(s) != way.converted.batch) for s in seen)


def with_example(
    error: OpenSizes, path: Path, choice: GraphChoice, limits: Limits, runs: Callable[[SafeGraph], bool]
) -> OnnxcakeError:
    """Word the error about open sizes with an example that can be built; or what fails whatever the sizes."""
    large = path.stat().st_size > _LARGE
    for shape in error.examples[: 1 if large else None]:
        try:
            chosen = replace(choice, input=error.value or choice.input, constants={**error.hold, **choice.constants})
            way = build(normalise(load(path), replace(chosen, shape=shape)), limits, path.name)
        except OnnxcakeError as other:
            return other
        if way.output is not None and runs(way.safe):
            return UnsupportedTeacher(error.what, where=error.where, remedy=error.say(shape))
        if way.refusal is not None and not any(one.unfit for one in way.blocked):
            tried = f"{way.refusal.what} (tried with --shape {','.join(map(str, shape))})"
            return UnsupportedTeacher(tried, where=way.refusal.where, remedy=way.refusal.remedy)  # no sizes help
    remedy = "Say the sizes, batch included, with --shape; the usual ones do not fit, so ask who made the file."
    return UnsupportedTeacher(error.what, where=error.where, remedy=error.say(error.examples[0]) if large else remedy)


_BROKEN = (
    "The file itself is broken there, or made for other sizes: choose a value before that node with --output NAME, or "
    "ask whoever made the file."
)


def check_baked(way: Built, session: Session, x: Array, asked: int | None, file: str) -> str:
    """Check that a batch is baked into a file that declares a free one; describe in words which, and where.

    Args:
        session: the model as the file declares it, with a free batch.
        x: random inputs, one more than the batch.
        asked: the batch that the user gave, which needs no proof.

    Raises:
        UnsupportedTeacher: the first build's refusal, if the file's answers to larger batches mix the inputs.
    """
    batch, declared = way.safe.batch, way.declared
    assert batch is not None and declared is not None and declared.refusal is not None
    where, other = _where_baked(declared), np.concatenate([x[:batch], x[:1] + 1])
    first = session.run(x[:batch]).astype(np.float64)
    try:
        whole, changed = session.run(x).astype(np.float64), session.run(other).astype(np.float64)
    except RuntimeRefused as error:
        why = where or f"onnxruntime refuses others: {declared.safe.with_names(first_line(error))}"
        return f"the file declares a free batch, but runs only batches of {batch} ({why})"
    if whole.shape[:1] == x.shape[:1] and _nearly_equal(whole[:batch], first):
        return f"it is run in batches of {batch}: with a free one, {declared.refusal.what}"
    resized = any(one.op.startswith(("Resize", "Upsample")) for one in declared.blocked)
    if resized and whole.shape == first.shape:  # to a number of pictures: rows of a larger batch are left out
        return f"the file declares a free batch, but makes {batch} of any ({where})"
    if whole.shape == first.shape and _nearly_equal(whole, changed) and _nearly_equal(whole, first):
        return f"the file declares a free batch, but answers only the first {batch} of it"
    if asked == batch:
        return f"a batch of {batch} is run, as --shape says; the file's answers to larger ones mix the inputs"
    refusal = declared.refusal
    sizes = ",".join(map(str, (batch, *way.safe.input_shape)))
    raise UnsupportedTeacher(
        f"{refusal.what}; its answer to a batch of {len(x)} has the shape {list(whole.shape)}, and mixes the inputs",
        where=file,
        remedy=f"If the first size is a batch, and you give the file {batch} at a time, say so with --shape {sizes}.",
    )


def what_onnxruntime_says(way: Built, session: Callable[[], Session], file: str, given: str = "") -> OnnxcakeError:
    """Word why a graph runs nowhere: a missing operator, or nodes that do not fit; if it runs, return the refusal.

    Args:
        session: opens the model as the file declares it.
        given: the options that gave sizes, which may be what does not fit.
    """
    assert way.refusal is not None
    batches = _FEW if way.safe.batch is None else (way.safe.batch,)
    what = ""
    missing = any(one.missing for one in way.blocked)
    try:
        opened = session()
        for batch in () if missing else batches:
            try:
                opened.run(np.zeros((batch, *way.safe.input_shape), np.float32))
                return way.refusal
            except RuntimeRefused as error:
                said = " or ".join(map(str, batches))
                what = what or f"onnxruntime cannot run it, on a batch of {said}: {first_line(error)}"
    except TeacherError as error:
        what = error.what
        if missing and _UNKNOWN in what:
            what = f"onnxruntime cannot run the file, as it lacks an operator; {way.refusal.what}"
            return UnsupportedTeacher(what, where=file, remedy=way.refusal.remedy)
    if missing:
        return way.refusal
    return UnsupportedTeacher(
        way.safe.with_names(what),
        where=file,
        remedy=(f"Check the sizes given with {given}: the file may be made for others. " if given else "") + _BROKEN,
    )


def _where_baked(way: Built) -> str:
    """Describe which node has a batch baked in, if one is known."""
    if not way.blocked:
        return ""
    node = way.blocked[0]
    kind = shown(node.op)[1:-1].rpartition("-")[0]
    return f"{shown(way.safe.node_names.get(node.node, node.node))} ({kind}) has it baked in"


def _nearly_equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= _CLOSE * max(np.abs(b).max(initial=0), 1e-6))
