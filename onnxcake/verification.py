"""`onnxcake verify`: two ONNX classifiers compared, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import probes
from .agreement import Comparison, compare
from .errors import UsageError
from .graph.load import TeacherFile, load
from .graph.normalise import SafeGraph, normalise
from .ort import Array, Runtime
from .report import Report, versions
from .rng import Key
from .store import Store, StoreDataset
from .teacher import OutputKind
from .teacher.probe import answers, open_session, output_kind, random_inputs

_NOISE_SAMPLES = 1000
_LATENCY_THREADS = 1


def verify(
    teacher: str | Path,
    student: str | Path,
    *,
    probe: str | Path | None = None,
    store: str | Path | None = None,
) -> Report:
    """Runs both files in onnxruntime on the same inputs and says how often they agree.

    Args:
        teacher, student: ``.onnx`` files.
        probe: real inputs, with labels or without.
        store: a run's store; its held-out batches are compared on.
            With neither, standard normal noise is used, which says little about real inputs.

    Raises:
        TeacherError: if a file cannot be used; it is named.
        UsageError: if the two do not take the same inputs or do not know the same classes.
    """
    files = [load(Path(path)) for path in (teacher, student)]
    graphs = [normalise(file) for file in files]
    shape = graphs[0].input_shape
    if graphs[1].input_shape != shape:
        raise UsageError(
            f"{files[1].name} takes inputs of shape {list(graphs[1].input_shape)}, {files[0].name} of {list(shape)}",
            remedy="Give two classifiers of the same inputs.",
        )
    with Runtime() as runtime:
        sides = [_Side(runtime, file, graph) for file, graph in zip(files, graphs, strict=True)]
        agreement: dict[str, Any] = {}
        for source, (inputs, labels) in _inputs(shape, probe, store).items():
            agreement[source] = _compared(sides, inputs, labels).as_dict()
        one = random_inputs(shape, Key(0).at("latency"), 1).numpy()
        latency = {name: side.latency_ms(one) for name, side in zip(("teacher", "student"), sides, strict=True)}
    told = [
        {"file": file.name, "sha256": file.digest, "bytes": file.size_bytes, "parameters": graph.parameters}
        for file, graph in zip(files, graphs, strict=True)
    ]
    return Report.of(
        {
            "teacher": told[0],
            "student": told[1],
            "agreement": agreement,
            "latency_ms": {"threads": _LATENCY_THREADS, **latency},
            "versions": versions(),
        }
    )


class _Side:
    """One of the two, in onnxruntime."""

    def __init__(self, runtime: Runtime, file: TeacherFile, graph: SafeGraph) -> None:
        self._name, self._tail = file.name, graph.tail
        model, remedy = graph.model.SerializeToString(), "Give a classifier that onnxruntime runs."
        self._session = open_session(runtime, model, file.name, remedy)
        self._alone = open_session(runtime, model, file.name, remedy, _LATENCY_THREADS)

    def answers(self, inputs: Array) -> tuple[Array, OutputKind]:
        """What it says to ``inputs``, and what kind of numbers that is."""
        answers(self._session, [inputs[:2]], self._name)  # a plain error if it cannot run at all
        rows = self._session.run_in_batches(inputs)
        kind: OutputKind = self._tail if self._tail is not None else output_kind(rows)  # type: ignore[assignment]
        return rows, kind

    def latency_ms(self, one: Array) -> float:
        """Milliseconds for a batch of one."""
        return round(self._alone.latency_ms(one), 4)


def _compared(sides: list[_Side], inputs: Array, labels: Array | None) -> Comparison:
    (teacher, of_teacher), (student, of_student) = (side.answers(inputs) for side in sides)
    if teacher.shape != student.shape:
        raise UsageError(
            f"the teacher knows {teacher.shape[1]} classes, the student {student.shape[1]}",
            remedy="Give two classifiers of the same classes.",
        )
    return compare(teacher, student, labels, (of_teacher, of_student))


def _inputs(
    shape: tuple[int, ...], probe: str | Path | None, store: str | Path | None
) -> dict[str, tuple[Array, Array | None]]:
    """What to compare on, by its name in the report."""
    chosen: dict[str, tuple[Array, Array | None]] = {}
    if store is not None:
        folder = Path(store)
        opened = Store.open(folder / "store" if (folder / "store").is_dir() else folder)
        data = StoreDataset(opened, held_out=opened.layout.held_out > 0)
        chosen["held_out"] = (data.take(list(range(len(data))))[0].numpy(), None)
    if probe is not None:
        asked = probes.load(Path(probe), shape)
        chosen["probe"] = (asked.inputs, asked.labels)
    if not chosen:
        chosen["noise"] = (random_inputs(shape, Key(0).at("noise"), _NOISE_SAMPLES).numpy(), None)
    return chosen
