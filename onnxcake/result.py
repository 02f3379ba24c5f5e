"""From a trained student to files: student.onnx, the report that onnxruntime gives it, a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from . import assessment, files, state
from . import run as runs
from .agreement import Answers, top_classes
from .child import Array
from .errors import OnnxcakeError, StoreError
from .graph.export import export
from .graph.float_twin import holds_rounding
from .graph.parameters import count_in
from .graph.whole import has_low_precision
from .host import arithmetic_here, saturated
from .joining import behind
from .ort import Runtime, Session
from .plan import Plan
from .probes import Probe
from .pupil import Pupil
from .remedies import OURS
from .report import FORMAT, Report, costlier, versions
from .rng import Key
from .run import Run
from .spent import Spent
from .store import Store, StoreDataset
from .student import OnnxStudent, Student
from .teacher import OutputKind, Signature, Teacher, way_back
from .waiting import waited

PARITY = 1e-3  # student.onnx against torch, relative to the largest answer
PARITY_INT8 = 5e-2  # the same where a single rounding to int8 may fall the other way
PARITY_LOW = 2e-2  # the same where weights are stored in sixteen bits
_MOST_ROWS = 0.99  # of the answers, that have to be the same in onnxruntime and torch
_LAST_BITS, _ROUNDINGS = 2.0**-21, 10  # of float32 numbers; as many such changes as a network's roundings amount to
_PARITY_SAMPLES = 1000
_LATENCY_THREADS = 1


class StudentMismatch(OnnxcakeError):
    """student.onnx and the trained network disagree: a bug."""


@waited("comparing the student with its teacher")
def finish(
    out: Path,
    run: Run,
    plan: Plan,
    student: Student,
    store: Store,
    *,
    pupil: Pupil,
    key: str,
    teacher: Teacher | None,
    probe: Probe | None,
    spent: Spent,
    curve: list[dict[str, Any]],
    rate: float,
    substitutes: Sequence[str],
    runtime: Runtime,
    front: bytes | None = None,
) -> Report:
    """Exports the student, checks the file, compares it with the teacher, writes everything into ``out``.

    Args:
        key: a digest over all that the report depends on; kept in it.
        teacher: to be run in onnxruntime; without it the answers in the store stand for it.
        curve: the agreement on the probe over training.
        rate: the factor on the learning rate that was taken.
        substitutes: what stood in for what the method needs and the teacher does not have.
        front: the part of the teacher's file before the value that the student takes, to be kept in front of it.

    Raises:
        OutputError: if a file cannot be written.
        ExportFailed: if no exporter writes a file on which onnxruntime and torch agree.
    """
    signature = run.teacher.signature
    data = StoreDataset(store, held_out=store.layout.held_out > 0)
    content, session, parity = _export(student, run, data, runtime)
    core, parameters = content, count_in(content)
    if front is not None:
        content = behind(front, content, session, runtime, None if teacher is None else teacher.front)
    files.write_atomic(out / runs.STUDENT, content)
    asked = None if teacher is None else runtime.load(teacher.model, weights=teacher.weights)
    held_out = "held_out" if store.layout.held_out else "training_set"
    judged = {held_out: _on_store(asked, session, data, signature)}
    if probe is not None and asked is not None:
        judged["probe"] = _compare(asked, session, probe.inputs, probe.labels, signature)
    without = None if asked is None else _assessed(asked, session, data, signature, Key(run.seed).at("assessment"))
    latency = _latency(runtime, teacher, core, data)
    seen, kind = data.take(torch.arange(min(len(data), _PARITY_SAMPLES)))[0].numpy(), signature.output_kind
    here = {"teacher": {}, "student": arithmetic_here(runtime, core, session, seen, kind)}
    if teacher is not None and asked is not None:
        here["teacher"] = arithmetic_here(runtime, teacher.model, asked, seen, kind, teacher.weights)
    report = Report.of(
        {
            "format": FORMAT,
            "key": key,
            "alarms": [
                *(doubt for source, found in judged.items() for doubt in found.doubts(source)),
                *costlier(
                    {"bytes": run.teacher.size_bytes, "parameters": run.teacher.parameters},
                    {"bytes": len(content), "parameters": parameters},
                    latency,
                ),
                *(doubt for side, told in here.items() for doubt in saturated(side, told)),
            ],
            "teacher": {
                "file": run.teacher.name,
                "sha256": run.teacher.digest,
                "bytes": run.teacher.size_bytes,
                "parameters": run.teacher.parameters,
                "torch_vs_onnxruntime": run.teacher.parity,
                **here["teacher"],
                **asdict(signature),
                "assumptions": list(signature.assumptions),
            },
            "student": {
                "file": runs.STUDENT,
                "sha256": files.sha256(content),
                "bytes": len(content),
                "architecture": pupil.architecture,
                "parameters": parameters,
                "steps": pupil.regime.steps,
                "learning_rate": pupil.regime.optimiser.lr * rate,
                **pupil.begins_as,
                **({} if pupil.weight_bits is None else {"weight_bits": pupil.weight_bits}),
                "torch_vs_onnxruntime": parity,
                **here["student"],
            },
            "agreement": {source: found.comparison().as_dict() for source, found in judged.items()},
            "without_data": without,
            "probe": None if probe is None else probe.as_dict(),
            "set": {
                "store_key": store.layout.key,
                "samples": store.layout.batches * store.layout.batch,
                "held_out_samples": store.layout.held_out * store.layout.batch,
                "discarded_starts": store.attempts,
            },
            "substitutes": list(substitutes),
            "curve": curve,
            "latency_ms": latency,
            "recipe": run.recipe.as_dict(),
            "seed": run.seed,
            "budget": None if run.scaling is None else run.scaling.budget.as_dict(),
            "plan": plan.as_dict(),
            "versions": versions(),
            "spent": spent.as_dict(),
        }
    )
    shown = StoreDataset(store, held_out=not store.layout.batches, resident_bytes=0)  # a few samples out of all
    files.write_atomic(out / runs.PICTURE, _picture(asked, session, shown, signature))
    files.write_atomic(out / runs.TABLE, _as_text(report))
    files.write_json(out / runs.REPORT, report.data)  # the last one: it says that all is there
    return report


def finished(out: Path, key: str) -> Report | None:
    """The report of an earlier start, if it is that of ``key`` and its student is still as it was.

    One that cannot be shown is none: it is made again.
    """
    try:
        report = Report(state.read(out / runs.REPORT, dict[str, Any], state.AGAIN))
        same = report.data["key"] == key and files.sha256_file(out / runs.STUDENT) == report.data["student"]["sha256"]
        if same:
            report.try_out()
    except (StoreError, OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError):
        return None
    return report if same else None


def same(differences: Array, allowed: float, share: float) -> bool:
    """Judge whether two runtimes run the same model, by the differences of their answers to each input.

    Of the teacher's own operators, which have been compared before they were trained, some answers are quotients of
    numbers that the two round otherwise, such as probabilities that are all near 0 and divided by their sum.

    Args:
        share: of the answers that have to be within what is allowed; the others have to be finite.
    """
    return bool(np.isfinite(differences).all() and np.mean(differences <= allowed) >= share)


def _allowed(content: bytes) -> float:
    """The largest difference between student.onnx and torch, by what the file holds."""
    if holds_rounding(content):
        return PARITY_INT8
    return PARITY_LOW if has_low_precision(content) else PARITY


def _export(student: Student, run: Run, data: StoreDataset, runtime: Runtime) -> tuple[bytes, Session, float]:
    """student.onnx, its session, and its largest difference to torch, relative to the largest answer."""
    signature = run.teacher.signature
    inputs = data.take(torch.arange(min(len(data), _PARITY_SAMPLES)))[0]
    whole = torch.nn.Sequential(student, way_back(signature)).cpu().eval()
    with torch.no_grad():
        wanted = whole(inputs).numpy()
    passed: list[tuple[Session, float]] = []

    def check(content: bytes) -> None:
        session = runtime.load(content)
        got = session.run_in_batches(inputs.numpy())
        scale = max(1.0, float(np.abs(wanted).max()))
        rows = np.abs(got - wanted).reshape(len(got), -1).max(1) / scale
        if isinstance(student, OnnxStudent) and not rows.max() <= _allowed(content):
            rows = np.maximum(rows - _ROUNDINGS * _unsteadiness(session, inputs.numpy(), got) / scale, 0)
            rows = _answered(rows, got) if student.start.opened.tail.logs else rows
        difference = float(rows.max())
        if not same(rows, _allowed(content), _MOST_ROWS if isinstance(student, OnnxStudent) else 1):
            what = f"onnxruntime differs from the trained network by {difference:.1e}"
            raise StudentMismatch(what, remedy=OURS)
        passed.append((session, difference))

    if isinstance(student, OnnxStudent):
        content = student.content()
        check(content)
        return content, *passed[-1]
    names = {"input_name": signature.input_name, "output_name": signature.output_name}
    content = export(
        whole, signature.input_shape, **names, dtype=signature.input_dtype, opset=run.teacher.opset, check=check
    )
    return content, *passed[-1]


def _answered(differences: Array, answers: Array) -> Array:
    """Leave out the inputs to which a file has no answer: probabilities that all are 0, divided by their sum.

    Their logarithms, of which the network is trained, have one. Where all are such, none is left out.
    """
    told = np.isfinite(answers).reshape(len(answers), -1).all(1)
    return np.asarray(differences[told]) if told.any() else differences


def _unsteadiness(session: Session, inputs: Array, answers: Array) -> Array:
    """How far a file's own answers [n] move with the last bits of its inputs, as quotients of small sums do."""
    signs = np.where(np.arange(inputs.size).reshape(inputs.shape) % 3, 1, -1)
    moved = session.run_in_batches((inputs * (1 + signs * _LAST_BITS)).astype(inputs.dtype))
    return np.asarray(np.abs(moved - answers).reshape(len(answers), -1).max(1))


def _on_store(asked: Session | None, session: Session, data: StoreDataset, signature: Signature) -> Answers:
    inputs, logits, _ = data.take(torch.arange(len(data)))
    if asked is not None:
        return _compare(asked, session, inputs.numpy(), None, signature)
    answers = session.run_in_batches(inputs.numpy())
    given: OutputKind = "multilabel_logits" if signature.task == "multilabel" else "logits"
    return Answers(logits.numpy(), answers, None, (given, signature.output_kind))


def _assessed(asked: Session, session: Session, data: StoreDataset, signature: Signature, key: Key) -> dict[str, Any]:
    made = data.take(torch.arange(min(len(data), assessment.SAMPLES)))[0].numpy()
    return assessment.assess(asked.run_in_batches, session.run_in_batches, signature, made, key)


def _compare(asked: Session, session: Session, inputs: Array, labels: Array | None, signature: Signature) -> Answers:
    kinds = (signature.output_kind, signature.output_kind)
    return Answers(asked.run_in_batches(inputs), session.run_in_batches(inputs), labels, kinds)


def _latency(runtime: Runtime, teacher: Teacher | None, student: bytes, data: StoreDataset) -> dict[str, Any]:
    one = data.take([0])[0].numpy()
    sessions = {"student": runtime.load(student, _LATENCY_THREADS, arithmetic="host")}
    if teacher is not None:
        asked = runtime.load(teacher.model, _LATENCY_THREADS, teacher.weights, arithmetic="host")
        sessions = {"teacher": asked, **sessions}
    times = {name: round(session.latency_ms(one), 4) for name, session in sessions.items()}
    return {"threads": _LATENCY_THREADS, **times}


def _picture(asked: Session | None, session: Session, data: StoreDataset, signature: Signature) -> bytes:
    sides = {"teacher": asked, "student": session}
    kind = signature.output_kind
    regions = {name: _classes_of(side, kind) for name, side in sides.items() if side is not None}
    from . import pictures  # matplotlib takes a second to load, and is needed at the end alone

    return pictures.samples_png(signature, data, regions)


def _classes_of(side: Session, kind: OutputKind) -> Callable[[Array], Array]:
    return lambda points: np.asarray(top_classes(side.run_in_batches(points), kind))


def _as_text(report: Report) -> bytes:
    buffer = io.StringIO()
    report.show(Console(file=buffer, width=110))
    return buffer.getvalue().encode()
