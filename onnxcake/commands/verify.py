"""`onnxcake verify`: two ONNX classifiers compared, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..core.arrays import Array
from ..core.errors import UsageError
from ..core.rng import Key
from ..evaluate.agreement import Answers, Comparison
from ..evaluate.integer_kernels import arithmetic_here, saturated
from ..evaluate.probes.parts import Probe
from ..onnxfile.front import Front
from ..onnxfile.load import load
from ..onnxfile.self_contained import ending_in, whole
from ..report.report import Latency, ModelFile, Verification, costlier, versions
from ..run.joining import check_pair, given
from ..runtime.latency import THREADS
from ..runtime.ort import Runtime
from ..store.dataset import StoreDataset
from ..store.store import Store
from ..teacher import sandbox
from ..teacher.checks import open_session, random_inputs
from ..teacher.open_graph import open_graph
from ..teacher.options import TeacherOptions
from ..teacher.signature import OutputKind, Signature

_NOISE_SAMPLES = 1000
_RUNS = "Give a classifier that onnxruntime runs."
Inputs = Array | Mapping[str, Array]


def verify(
    teacher: str | Path,
    student: str | Path,
    *,
    probe: str | Path | None = None,
    store: str | Path | None = None,
    options: TeacherOptions | None = None,
) -> Verification:
    """Run both files in onnxruntime on the same inputs and say how often they agree.

    Args:
        teacher, student: ``.onnx`` files.
        probe: real inputs, with labels or without.
        store: a run's store; its held-out batches are compared on.
            With neither, standard normal noise is used, which says little about real inputs.
        options: what is said of the teacher's file, as for `onnxcake.extract`, and of the student's where it has values
            of the same names. Pictures are brought to the range, mean and std.

    Raises:
        TeacherError: if a file cannot be used; it is named.
        UsageError: if the two do not take the same inputs or do not know the same classes.
    """
    said = options or TeacherOptions()
    with Runtime() as runtime:
        first = _Side(runtime, Path(teacher), said)
        sides = [first, _Side(runtime, Path(student), _of_student(Path(student), said, first))]
        front = first.opened.safe.front
        if front is None and sides[1].opened.safe.front is None:
            _check_shapes(sides)
            feeds = None
        else:
            for side in sides:
                side.take_the_files_inputs(runtime)
                side.axes = {**side.axes, **first.axes}
            check_pair(sides[0].session, sides[1].session, [side.name for side in sides])
            feeds = None if front is None else front.rows(1, Key(0).at("latency"), held=True)
        names = first.found["file"]["class_names"]
        asked = None if probe is None else given(Path(probe), first.signature, names, front, runtime, free=True)
        agreement: dict[str, Comparison] = {}
        alarming: list[str] = []
        for source, (inputs, labels) in _inputs(first, asked, store).items():
            found = _compared(sides, inputs, labels)
            agreement[source] = found.comparison()
            alarming += found.doubts(source)
        one = feeds or np.zeros((1, *first.signature.input_shape), np.float32)
        like = _rows_like(first.signature) if isinstance(inputs, Mapping) else inputs
        of_teacher, of_student = (side.described(like) for side in sides)
        latency = Latency(THREADS, teacher=sides[0].latency_ms(one), student=sides[1].latency_ms(one))
    return Verification(
        teacher=of_teacher,
        student=of_student,
        alarms=(
            *alarming,
            *costlier(of_teacher, of_student, latency),
            *saturated("teacher", of_teacher.host),
            *saturated("student", of_student.host),
        ),
        compared=agreement,
        probe=None if asked is None else asked.source,
        latency_ms=latency,
        versions=versions(),
    )


def _check_shapes(sides: Sequence[_Side]) -> None:
    shape = sides[0].signature.input_shape
    if sides[1].signature.input_shape != shape:
        raise UsageError(
            f"{sides[1].name} takes inputs of shape {list(sides[1].signature.input_shape)}, "
            f"{sides[0].name} of {list(shape)}",
            remedy="Give two classifiers of the same inputs.",
        )


def _of_student(path: Path, said: TeacherOptions, teacher: _Side) -> TeacherOptions:
    """Keep those options of the teacher that name values of the student; sizes are the teacher's."""
    proto = load(path).proto
    inputs = {value.name for value in proto.graph.input}
    values = inputs | {name for node in proto.graph.node for name in node.output}
    front = teacher.opened.safe.front
    chosen = teacher.signature.input_name
    sizes = {
        one.name: tuple(size or 1 for size in one.sizes)
        for one in (() if front is None else front.inputs)
        if one.sizes and one.name in inputs
    }
    has = chosen in values
    return replace(
        said,
        input=chosen if has else None,
        output=said.output if said.output in values else None,
        shape=(1, *teacher.signature.input_shape) if has and front is not None else said.shape,
        constants={name: value for name, value in said.constants.items() if name in inputs},
        shapes={**sizes, **{name: shape for name, shape in said.shapes.items() if name in inputs}},
    )


class _Side:
    """Hold one of the two files, in onnxruntime."""

    def __init__(self, runtime: Runtime, path: Path, options: TeacherOptions) -> None:
        self.path, self.name = path, path.name
        exam = sandbox.examine(path, options)
        # A classifier that runs can be compared, even if it could not be a teacher for want of a gradient.
        if "signature" not in exam.found:
            assert exam.error is not None
            raise exam.error
        self.found = exam.found
        self.signature = Signature.from_dict(exam.found["signature"])
        way = exam.found["batch"]
        self.opened = opened = open_graph(path, options, fixed=way["kept"], batch=way["baked"])
        part = opened.safe.cut(opened.output)
        model, weights = part.SerializeToString(), opened.safe.beside(part)
        load = partial(open_session, runtime, model, path.name, _RUNS, weights=weights)
        self._inner, self._alone = load(), load(threads=THREADS, arithmetic="host")
        self.session, self.axes = self._inner, {} if opened.safe.front is None else opened.safe.front.axes
        self._here = partial(arithmetic_here, runtime, model, self._inner, weights=weights)

    def take_the_files_inputs(self, runtime: Runtime) -> None:
        """Run the file from its own inputs on, not from the chosen value."""
        output = self.opened.safe.value_names.get(self.opened.output, "")
        model = ending_in(whole(load(self.path)), output)
        self.session = open_session(runtime, model, self.name, _RUNS)
        self._alone = open_session(runtime, model, self.name, _RUNS, threads=THREADS, arithmetic="host")

    def answers(self, inputs: Inputs) -> tuple[Array, OutputKind]:
        """Answer ``inputs``; return the answers and what kind of numbers they are."""
        if isinstance(inputs, Mapping):
            answers = self.session.run_named(inputs, self.axes)
        else:
            answers = self._inner.run_in_batches(inputs)
        return answers, self.signature.output_kind

    def latency_ms(self, one: Inputs) -> float:
        """Measure the latency of a batch of one, in milliseconds."""
        taken = self._alone.latency_of(one) if isinstance(one, Mapping) else self._alone.latency_ms(one)
        return round(taken, 4)

    def described(self, inputs: Array) -> ModelFile:
        """Describe the file; ``inputs`` are those that a quantised file's arithmetic here is compared on."""
        file = self.found["file"]
        return ModelFile(
            file=self.name,
            sha256=file["sha256"],
            bytes=file["bytes"],
            parameters=self.found["cost"]["parameters"],
            host=self._here(inputs=inputs, kind=self.signature.output_kind),
        )


def _compared(sides: list[_Side], inputs: Inputs, labels: Array | None) -> Answers:
    (teacher, of_teacher), (student, of_student) = (side.answers(inputs) for side in sides)
    ends = [side.signature for side in sides]
    if ends[0].classes != ends[1].classes or ends[0].task != ends[1].task:
        raise UsageError(
            f"the teacher knows {ends[0].classes} classes ({ends[0].task}), "
            f"the student {ends[1].classes} ({ends[1].task})",
            remedy="Give two classifiers of the same classes.",
        )
    return Answers(teacher, student, labels, (of_teacher, of_student))


def _inputs(teacher: _Side, probe: Probe | None, store: str | Path | None) -> dict[str, tuple[Inputs, Array | None]]:
    """Collect the inputs to compare on by their name in the report: the chosen value's rows, or the file's own."""
    chosen: dict[str, tuple[Inputs, Array | None]] = {}
    front = teacher.opened.safe.front
    held = {} if front is None else {one.name: one for one in front.inputs if one.held is not None}
    if store is not None:
        folder = Path(store)
        opened = Store.open(folder / "store" if (folder / "store").is_dir() else folder)
        data = StoreDataset(opened, held_out=opened.layout.held_out > 0)
        chosen["held_out"] = (data.take(list(range(len(data))))[0].numpy(), None)
    if probe is not None and front is not None:
        count = len(probe.inputs)
        more = {name: one.rows(count, Key(0)) for name, one in held.items() if name not in probe.feeds}
        chosen["probe"] = ({**_as_long(more, probe.feeds, front), **probe.feeds}, probe.labels)
    elif probe is not None:
        chosen["probe"] = (probe.inputs, probe.labels)
    if not chosen:
        rows = None if front is None else front.rows(_NOISE_SAMPLES, Key(0).at("noise"), held=True)
        chosen["noise"] = (rows or _rows_like(teacher.signature), None)
    return chosen


def _as_long(held: Mapping[str, Array], feeds: Mapping[str, Array], front: Front) -> dict[str, Array]:
    """Give what is held the lengths that real inputs have where the file leaves them open."""
    made = dict(held)
    known = {one.name: one for one in front.inputs}
    for name, array in held.items():
        like = next((f for other, f in feeds.items() if known[other].dims == known[name].dims), None)
        if like is not None and array.ndim > 1 and None in known[name].dims[1:] and array.shape != like.shape:
            made[name] = np.broadcast_to(array[tuple(slice(0, 1) for _ in array.shape)], like.shape).copy()
    return made


def _rows_like(signature: Signature) -> Array:
    """Standard normal noise, as the signature's input is."""
    noise = signature.to_input(random_inputs(signature.shape, Key(0).at("noise"), _NOISE_SAMPLES))
    return signature.whole(noise).numpy()
