"""Finish a run: export student.onnx, compare it in onnxruntime, write the report and a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..core import files, json_files
from ..core.arrays import Array
from ..core.errors import StoreError
from ..core.rng import Key
from ..core.waiting import waited
from ..evaluate import without_data
from ..evaluate.agreement import Answers, top_classes
from ..evaluate.integer_kernels import arithmetic_here, saturated
from ..evaluate.probes.parts import Probe
from ..evaluate.without_data import WithoutData
from ..graph.parameters import count_in
from ..report.report import FORMAT, Latency, Report, StudentFile, SyntheticSet, TeacherFile, costlier, versions
from ..runtime.latency import THREADS
from ..runtime.ort import Runtime, Session
from ..store.dataset import StoreDataset
from ..store.store import Store
from ..student.student import Student
from ..teacher.signature import OutputKind, Signature
from ..teacher.teacher import Teacher
from . import folder as runs
from .cost import RunCost
from .export_student import _PARITY_SAMPLES, _export
from .folder import Run
from .joining import behind
from .plan import Plan
from .student_spec import StudentSpec


@waited("comparing the student with its teacher")
def finish(
    out: Path,
    run: Run,
    plan: Plan,
    student: Student,
    store: Store,
    *,
    student_spec: StudentSpec,
    key: str,
    teacher: Teacher | None,
    probe: Probe | None,
    spent: RunCost,
    curve: list[dict[str, Any]],
    rate: float,
    substitutes: Sequence[str],
    runtime: Runtime,
    front: bytes | None = None,
) -> Report:
    """Export the student, check the file, compare it with the teacher, write everything into ``out``.

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
    seen, kind = data.take(torch.arange(min(len(data), _PARITY_SAMPLES)))[0].numpy(), signature.output_kind
    theirs = None
    if teacher is not None and asked is not None:
        theirs = arithmetic_here(runtime, teacher.model, asked, seen, kind, teacher.weights)
    facts, latency = run.teacher, _latency(runtime, teacher, core, data)
    of_teacher = TeacherFile(
        file=facts.name,
        sha256=facts.digest,
        bytes=facts.size_bytes,
        parameters=facts.parameters,
        host=theirs,
        torch_vs_onnxruntime=facts.parity,
        **{one.name: getattr(signature, one.name) for one in fields(signature)},
    )
    of_student = StudentFile(
        file=runs.STUDENT,
        sha256=files.sha256(content),
        bytes=len(content),
        parameters=parameters,
        host=arithmetic_here(runtime, core, session, seen, kind),
        architecture=student_spec.architecture,
        steps=student_spec.regime.steps,
        learning_rate=student_spec.regime.optimiser.lr * rate,
        torch_vs_onnxruntime=parity,
        start=None if student_spec.start is None else student_spec.start.digest,
        weight_bits=student_spec.weight_bits,
    )
    report = Report(
        format=FORMAT,
        key=key,
        alarms=(
            *(doubt for source, found in judged.items() for doubt in found.doubts(source)),
            *costlier(of_teacher, of_student, latency),
            *saturated("teacher", of_teacher.host),
            *saturated("student", of_student.host),
        ),
        teacher=of_teacher,
        student=of_student,
        compared={source: found.comparison() for source, found in judged.items()},
        without_data=None
        if asked is None
        else _assessed(asked, session, data, signature, Key(run.seed).at("assessment")),
        probe=None if probe is None else probe.source,
        set=SyntheticSet(
            store_key=store.layout.key,
            samples=store.layout.batches * store.layout.batch,
            held_out_samples=store.layout.held_out * store.layout.batch,
            discarded_starts=store.attempts,
        ),
        substitutes=tuple(substitutes),
        curve=tuple(curve),
        latency_ms=latency,
        recipe=run.recipe.as_dict(),
        seed=run.seed,
        budget=None if run.scaling is None else run.scaling.budget,
        plan=plan.as_dict(),
        versions=versions(),
        spent=spent.so_far(),
    )
    shown = StoreDataset(store, held_out=not store.layout.batches, resident_bytes=0)  # a few samples out of all
    files.write_atomic(out / runs.PICTURE, _picture(asked, session, shown, signature))
    files.write_atomic(out / runs.TABLE, _as_text(report))
    files.write_json(out / runs.REPORT, report.as_dict())  # the last one: it says that all is there
    return report


def finished(out: Path, key: str) -> Report | None:
    """Read the report of an earlier start, if it is that of ``key`` and its student is still as it was.

    One that cannot be read is none: it is made again.
    """
    try:
        report = json_files.read(out / runs.REPORT, Report, json_files.AGAIN)
        same = report.key == key and files.sha256_file(out / runs.STUDENT) == report.student.sha256
    except (StoreError, OSError):
        return None
    return report if same else None


def _on_store(asked: Session | None, session: Session, data: StoreDataset, signature: Signature) -> Answers:
    inputs, logits, _ = data.take(torch.arange(len(data)))
    if asked is not None:
        return _compare(asked, session, inputs.numpy(), None, signature)
    answers = session.run_in_batches(inputs.numpy())
    given: OutputKind = "multilabel_logits" if signature.task == "multilabel" else "logits"
    return Answers(logits.numpy(), answers, None, (given, signature.output_kind))


def _assessed(asked: Session, session: Session, data: StoreDataset, signature: Signature, key: Key) -> WithoutData:
    made = data.take(torch.arange(min(len(data), without_data.SAMPLES)))[0].numpy()
    return without_data.assess(asked.run_in_batches, session.run_in_batches, signature, made, key)


def _compare(asked: Session, session: Session, inputs: Array, labels: Array | None, signature: Signature) -> Answers:
    kinds = (signature.output_kind, signature.output_kind)
    return Answers(asked.run_in_batches(inputs), session.run_in_batches(inputs), labels, kinds)


def _latency(runtime: Runtime, teacher: Teacher | None, student: bytes, data: StoreDataset) -> Latency:
    one = data.take([0])[0].numpy()

    def timed(model: bytes, weights: Mapping[str, Array] | None = None) -> float:
        session = runtime.load(model, THREADS, weights, arithmetic="host")
        return round(session.latency_ms(one), 4)

    ours = timed(student)
    return Latency(THREADS, ours, None if teacher is None else timed(teacher.model, teacher.weights))


def _picture(asked: Session | None, session: Session, data: StoreDataset, signature: Signature) -> bytes:
    sides = {"teacher": asked, "student": session}
    kind = signature.output_kind
    regions = {name: _classes_of(side, kind) for name, side in sides.items() if side is not None}
    from ..report import plots  # matplotlib takes a second to load, and is needed at the end alone

    return plots.samples_png(signature, data, regions)


def _classes_of(side: Session, kind: OutputKind) -> Callable[[Array], Array]:
    return lambda points: np.asarray(top_classes(side.run_in_batches(points), kind))


def _as_text(report: Report) -> bytes:
    buffer = io.StringIO()
    report.show(Console(file=buffer, width=110))
    return buffer.getvalue().encode()
