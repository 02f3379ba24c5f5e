"""`onnxcake verify`: two ONNX classifiers compared, whoever made them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import probes
from .agreement import Answers
from .child import Array
from .errors import UsageError
from .host import arithmetic_here
from .ort import Runtime
from .report import Report, costlier, versions
from .rng import Key
from .store import Store, StoreDataset
from .teacher import Options, OutputKind, Signature, airlock
from .teacher.opened import open_graph
from .teacher.probe import open_session, random_inputs

_NOISE_SAMPLES = 1000
_LATENCY_THREADS = 1


def verify(
    teacher: str | Path,
    student: str | Path,
    *,
    probe: str | Path | None = None,
    store: str | Path | None = None,
    options: Options | None = None,
) -> Report:
    """Runs both files in onnxruntime on the same inputs and says how often they agree.

    Args:
        teacher, student: ``.onnx`` files.
        probe: real inputs, with labels or without.
        store: a run's store; its held-out batches are compared on.
            With neither, standard normal noise is used, which says little about real inputs.
        options: what values both files take (range, mean, std): pictures are brought to these.

    Raises:
        TeacherError: if a file cannot be used; it is named.
        UsageError: if the two do not take the same inputs or do not know the same classes.
    """
    with Runtime() as runtime:
        sides = [_Side(runtime, Path(path), options or Options()) for path in (teacher, student)]
        shape = sides[0].signature.input_shape
        if sides[1].signature.input_shape != shape:
            raise UsageError(
                f"{sides[1].name} takes inputs of shape {list(sides[1].signature.input_shape)}, "
                f"{sides[0].name} of {list(shape)}",
                remedy="Give two classifiers of the same inputs.",
            )
        names = sides[0].found["file"]["class_names"]
        asked = None if probe is None else probes.load(Path(probe), sides[0].signature, class_names=names)
        agreement: dict[str, Any] = {}
        alarming: list[str] = []
        for source, (inputs, labels) in _inputs(sides[0].signature, asked, store).items():
            found = _compared(sides, inputs, labels)
            agreement[source] = found.comparison().as_dict()
            alarming += found.doubts(source)
        one = np.zeros((1, *shape), np.float32)
        told = [side.as_dict(inputs) for side in sides]
        latency = {name: side.latency_ms(one) for name, side in zip(("teacher", "student"), sides, strict=True)}
    return Report.of(
        {
            "teacher": told[0],
            "student": told[1],
            "alarms": [*alarming, *costlier(told[0], told[1], latency)],
            "agreement": agreement,
            "probe": None if asked is None else asked.as_dict(),
            "latency_ms": {"threads": _LATENCY_THREADS, **latency},
            "versions": versions(),
        }
    )


class _Side:
    """One of the two, in onnxruntime."""

    def __init__(self, runtime: Runtime, path: Path, options: Options) -> None:
        self.name = path.name
        exam = airlock.examine(path, options)
        # A classifier that runs can be compared, even if it could not be a teacher for want of a gradient.
        if "signature" not in exam.found:
            assert exam.error is not None
            raise exam.error
        self.found = exam.found
        self.signature = Signature.from_dict(exam.found["signature"])
        opened = open_graph(path, options)
        part = opened.safe.cut(opened.output)
        remedy = "Give a classifier that onnxruntime runs."
        model, weights = part.SerializeToString(), opened.safe.beside(part)
        load = partial(open_session, runtime, model, path.name, remedy, weights=weights)
        self._session, self._alone = load(), load(threads=_LATENCY_THREADS, arithmetic="host")
        self._here = partial(arithmetic_here, runtime, model, self._session, weights=weights)

    def answers(self, inputs: Array) -> tuple[Array, OutputKind]:
        """What it says to ``inputs``, and what kind of numbers that is."""
        return self._session.run_in_batches(inputs), self.signature.output_kind

    def latency_ms(self, one: Array) -> float:
        """Milliseconds for a batch of one."""
        return round(self._alone.latency_ms(one), 4)

    def as_dict(self, inputs: Array) -> dict[str, Any]:
        """What the report says of it; ``inputs`` are those that a quantised file's arithmetic here is compared on."""
        file = self.found["file"]
        parameters = self.found["cost"]["parameters"]
        here = self._here(inputs=inputs, kind=self.signature.output_kind)
        return {"file": self.name, "sha256": file["sha256"], "bytes": file["bytes"], "parameters": parameters, **here}


def _compared(sides: list[_Side], inputs: Array, labels: Array | None) -> Answers:
    (teacher, of_teacher), (student, of_student) = (side.answers(inputs) for side in sides)
    ends = [side.signature for side in sides]
    if ends[0].classes != ends[1].classes or ends[0].task != ends[1].task:
        raise UsageError(
            f"the teacher knows {ends[0].classes} classes ({ends[0].task}), "
            f"the student {ends[1].classes} ({ends[1].task})",
            remedy="Give two classifiers of the same classes.",
        )
    return Answers(teacher, student, labels, (of_teacher, of_student))


def _inputs(
    signature: Signature, probe: probes.Probe | None, store: str | Path | None
) -> dict[str, tuple[Array, Array | None]]:
    """What to compare on, by its name in the report."""
    chosen: dict[str, tuple[Array, Array | None]] = {}
    if store is not None:
        folder = Path(store)
        opened = Store.open(folder / "store" if (folder / "store").is_dir() else folder)
        data = StoreDataset(opened, held_out=opened.layout.held_out > 0)
        chosen["held_out"] = (data.take(list(range(len(data))))[0].numpy(), None)
    if probe is not None:
        chosen["probe"] = (probe.inputs, probe.labels)
    if not chosen:
        noise = signature.to_input(random_inputs(signature.shape, Key(0).at("noise"), _NOISE_SAMPLES))
        chosen["noise"] = (signature.whole(noise).numpy(), None)
    return chosen
