"""Examine a teacher's file before it is used; to be run in the sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.arrays import Array
from ..core.errors import ConversionMismatch, OnnxcakeError, TeacherError, UnsupportedTeacher
from ..core.remedies import BUG, RUNS
from ..core.rng import Key
from ..core.text import first_line, shown
from ..graph.baked_batch import candidates
from ..graph.build_log import Limits
from ..graph.convert import convert
from ..graph.cost import costs, dearest, multiply_adds
from ..graph.dequantise import float_twin, is_quantised
from ..graph.head_and_tail import Head, head
from ..graph.values import Depends
from ..onnxfile.load import load
from ..onnxfile.normalise import normalise
from ..onnxfile.open_sizes import OpenSizes
from ..onnxfile.rename import SafeGraph
from ..runtime import processor
from ..runtime.ort import Runtime, RuntimeRefused, Session
from ..runtime.process import give_back_memory
from . import checks
from .classes import check_places, check_scores, label_beside
from .description import describe_file, describe_graph, told
from .facts import Facts
from .free_batch import Built, build, check_baked, what_onnxruntime_says, with_example
from .front_values import measured, runs
from .gradient import GradientHealth, check_gradient, dying_steps, score_weights, slope_error
from .input_values import advice, values_of
from .open_graph import OpenGraph, ended
from .options import TeacherOptions
from .output import output_kind
from .scores import Logits, logits_to_output
from .signature import Signature

_LIMIT_MULTIPLY_ADDS = 10**12  # ten times a large vision transformer's; synthesis takes a million of them
BUILDING = "building the graph"
_SQUASH: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda logits: logits.softmax(1),
    "binary_probability": lambda logits: logits.softmax(1),
    "multilabel_probabilities": torch.sigmoid,
}
_INSTEAD = "Until then, choose a value before that node with --output NAME, or one behind it with --input NAME."


@dataclass
class Examination:
    """Hold the results of an examination, as far as it went.

    Attributes:
        found: plain data for `onnxcake inspect`, by section.
        facts: what is known of a teacher that can be used; None if it cannot.
        error: why it cannot be used.
    """

    found: dict[str, Any] = field(default_factory=dict)
    facts: Facts | None = None
    error: OnnxcakeError | None = None


class Examiner:
    """Examine one file in two stages, so that each can have limits of its own.

    Args:
        runtime: where the model is run.
        stage: callback that is given the name of each stage at its beginning.
    """

    def __init__(self, runtime: Runtime, stage: Callable[[str], None] = lambda stage: None) -> None:
        self.runtime, self.stage = runtime, stage
        self.exam = Examination()
        self.opened: OpenGraph | None = None
        self.unclear: Built | None = None
        self.batch_note = ""
        self.fixed, self.points, self.batches = False, checks.POINTS, checks.BATCHES
        self.assumed: Signature | None = None
        self.head: Head | None = None
        self._held: tuple[str, Session] | None = None

    def read(self, path: Path, options: TeacherOptions, limits: Limits) -> dict[str, int]:
        """Read and build the file in the first stage; return what one input costs, see `costs`."""
        self.path, self.options, self.limits = path, options, limits
        self.exam.found["file"] = {"name": path.name}
        options.check()
        self.stage("reading the file")
        file = load(path)
        self.exam.found["file"] |= {"sha256": file.digest, "bytes": file.size_bytes, **describe_file(file.proto)}
        try:
            safe = normalise(file, options.choice)
        except OpenSizes as error:
            raise with_example(error, path, options.choice, limits, partial(runs, runtime=self.runtime)) from error
        del file
        give_back_memory()
        self.stage(BUILDING)
        built = build(safe, limits, path.name)
        self.exam.found |= describe_graph(built.converted)
        if built.refusal is not None and any(one.unfit or one.missing for one in built.blocked):
            self.unclear = built  # onnxruntime is asked why: in the second stage
            return costs(built.converted)
        if built.refusal is not None:
            raise built.refusal
        opened = self._open(built)
        macs = multiply_adds(opened.converted, opened.output)
        if macs > _LIMIT_MULTIPLY_ADDS:
            most = dearest(opened.converted, opened.output)
            raise UnsupportedTeacher(
                f"one input takes {macs:.1e} multiply-adds (allowed: {_LIMIT_MULTIPLY_ADDS:.0e}), most of them at "
                f"{shown(safe.node_names.get(most.node, most.node))} ({most.op})",
                where=path.name,
                remedy="Give a smaller teacher, or check the shapes in the file.",
            )
        self.points, self.batches = checks.points_for(macs), checks.batches_for(macs)
        self.exam.found["cost"] = {"parameters": opened.parameters, "multiply_adds": macs}
        return costs(opened.converted) | {"macs": macs}

    def _open(self, built: Built) -> OpenGraph:
        assert built.output is not None
        file = self.exam.found["file"]
        self.built, self.fixed = built, built.fixed
        rebuilt = partial(convert, fixed=built.fixed, limits=self.limits)
        ends = ended(built.safe, built.converted, built.output, rebuilt)
        self.opened = OpenGraph(*ends, file["sha256"], file["bytes"], self.path.name)
        return self.opened

    def run(self) -> None:
        """Run the model in onnxruntime and in torch, forward and backward, in the second stage."""
        self.stage("running it in onnxruntime")
        if self.unclear is not None:
            safe, known = self.unclear.safe, self.unclear.converted.values
            output = safe.chosen or next((name for name in safe.outputs if name not in known), next(iter(safe.outputs)))
            session = partial(self._session, output, safe)
            error = what_onnxruntime_says(self.unclear, session, self.path.name, self.options.sized)
            if error is not self.unclear.refusal:  # the conversion is not at fault
                for one in self.exam.found["obstacles"]:
                    one["remedy"] = one["remedy"].replace(BUG, "")
            raise error
        assert self.opened is not None
        try:
            try:
                self._run(self.opened)
            except TeacherError as error:
                batch = self._only_batch(error)
                if batch is None:
                    raise
                self._run(batch)
        except TeacherError as error:
            if isinstance(error.__cause__, RuntimeRefused):  # it knows the safe names alone
                error.what = self.opened.safe.with_names(error.what)
            if self.assumed is not None:
                error.remedy = error.remedy.replace(checks.CHECK_VALUES, advice(self.assumed))
            raise
        except RuntimeRefused as error:
            what = self.opened.safe.with_names(first_line(error))
            raise TeacherError(
                f"onnxruntime cannot run it on random inputs: {what}",
                where=self.opened.name,
                remedy=checks.CHECK_VALUES,
            ) from error

    def _only_batch(self, error: TeacherError) -> OpenGraph | None:
        """Build the graph for the only batch that onnxruntime runs, where it refuses the free one; None if none is."""
        assert self.opened is not None
        declared, output = self.opened.safe, self.opened.output
        if not isinstance(error.__cause__, RuntimeRefused) or declared.batch is not None:
            return None
        for batch in candidates(self.opened.converted):
            try:
                rows = len(np.atleast_1d(self._session(output).run(self._inputs(self._signature(), batch, "batch"))))
            except (RuntimeRefused, TeacherError):
                continue
            built = build(declared.of_batch(batch), self.limits, self.path.name)
            if rows == batch and built.output is not None:
                why = declared.with_names(first_line(error.__cause__))
                self.batch_note = f"the file declares a free batch, but runs only batches of {batch} ({why})"
                self._forget_session()
                return self._open(built)
        return None

    def _confirm_batch(self) -> None:
        """Check that the batch that the graph was built for is baked in, where the file declares a free one."""
        assert self.opened is not None
        way, output = self.built, self.opened.output
        if way.declared is None or way.safe.batch is None:
            return
        session = self._session(output, way.declared.safe)
        x = self._inputs(self._signature(), way.safe.batch + 1, "batch")
        asked = self.options.shape[0] if self.options.shape else None
        self.batch_note = check_baked(way, session, x, asked, self.path.name)
        self._forget_session()

    def _signature(self) -> Signature:
        assert self.opened is not None
        opened = self.opened
        output = opened.safe.value_names.get(opened.output, "")
        if self.head is None:
            self.head = measured(opened.safe, head(opened.converted), self.runtime, opened.name)
        return values_of(opened.safe, output, self.head, self.options)

    def _inputs(self, signature: Signature, count: int, path: str) -> Array:
        draw = checks.random_inputs(signature.shape, Key(0).at(path, count), count)
        return signature.whole(signature.to_input(draw)).numpy()

    def _run(self, opened: OpenGraph) -> None:
        self._confirm_batch()
        session = self._session(opened.output)
        output = opened.safe.value_names.get(opened.output, "")
        signature = self.assumed = self._signature()
        if self.batch_note:
            signature = replace(signature, assumptions=(*signature.assumptions, self.batch_note))
        draws = [
            signature.to_input(checks.random_inputs(signature.shape, Key(0).at("parity", n), n)) for n in self.batches
        ]
        inputs = [signature.whole(draw).numpy() for draw in draws]
        quotients = bool(opened.tail.logs)
        expected = checks.answers(session, inputs, opened.name, quotients)
        checks.check_alone(session, inputs[-1], expected[-1], 10 * self._tolerance(), opened.name)
        more = signature.whole(
            signature.to_input(
                checks.random_inputs(signature.shape, Key(0).at("kind"), max(self.points, self.batches[-1]))
            )
        )
        rows = checks.rows_of(session.run_in_batches(more.numpy(), self.batches[0]))
        answered = np.isfinite(rows).all(1)
        rows = rows[answered] if quotients and answered.any() else rows
        labelled = label_beside(opened.converted, opened.output) is not None
        kind = output_kind(rows, opened.tail, output, self.options.task, opened.name, labelled)
        said = self.options.task is not None or self.options.output is not None
        if not said:
            check_places(opened.converted, opened.output, output, rows.shape[1], opened.name)
        if kind == "logits" and opened.tail.kind is None and not said:
            check_scores(opened.converted, opened.output, output, rows.shape[1], opened.name)
        shape = tuple(expected[0].shape[1:])
        signature = replace(signature, output_kind=kind, classes=2 if kind.startswith("binary") else rows.shape[1])
        signature = replace(signature, output_shape=None if shape == (signature.scores,) else shape)
        self.stage("comparing it with onnxruntime")
        parity = self._parity(signature, inputs, expected)
        if is_quantised(opened.safe.model):
            self.exam.found["host"] = self._host(inputs, expected)
        names = {"input_name": told(signature.input_name), "output_name": told(signature.output_name)}
        baked = opened.safe.batch if self.batch_note else None
        self.exam.found["batch"] = {"kept": self.fixed, "baked": baked}
        self.exam.found["signature"] = asdict(signature) | names | {"task": signature.task}
        session.rest()
        give_back_memory()
        self.stage("checking its gradients")
        health = self._gradient(signature)
        self.exam.found["gradient"] = health.as_dict()
        self.exam.facts = Facts(
            name=opened.name,
            digest=opened.digest,
            size_bytes=opened.size_bytes,
            parameters=self.exam.found["cost"]["parameters"],
            multiply_adds=self.exam.found["cost"]["multiply_adds"],
            operators=dict(Counter(r.op for r in opened.converted.nodes_reaching(opened.end(kind)))),
            opset=opened.safe.opsets.get("", 0),
            parity=parity,
            fixed_batch=opened.safe.batch if self.fixed else None,
            signature=signature,
            baked_batch=opened.safe.batch if self.batch_note else None,
            class_names=tuple(self.exam.found["file"]["class_names"]),
        )

    def _session(self, output: str, safe: SafeGraph | None = None) -> Session:
        assert safe is not None or self.opened is not None
        safe = safe or self.opened.safe  # type: ignore[union-attr]
        if self._held is not None and self._held[0] == output:
            return self._held[1]
        self._forget_session()  # one at a time: each holds the weights
        part = safe.cut(output)
        session = checks.open_session(
            self.runtime, part.SerializeToString(), self.path.name, RUNS, weights=safe.beside(part), lean=True
        )
        self._held = (output, session)
        return session

    def _host(self, inputs: list[Array], expected: list[Array]) -> dict[str, Any]:
        """Compare the answers of onnxruntime's own kernels on this processor with the exact arithmetic."""
        assert self.opened is not None
        part, safe = self.opened.safe.cut(self.opened.output), self.opened.safe
        session = checks.open_session(
            self.runtime,
            part.SerializeToString(),
            self.path.name,
            RUNS,
            weights=safe.beside(part),
            lean=True,
            arithmetic="host",
        )
        found = [checks.relative(session.run(x), wanted) for x, wanted in zip(inputs, expected, strict=True)]
        session.close()
        return {"difference": max(found), "processor": processor.describe()}

    def _forget_session(self) -> None:
        if self._held is not None:
            self._held[1].close()
        self._held = None

    def _parity(self, signature: Signature, inputs: list[Array], expected: list[Array]) -> float:
        """Compute the largest relative difference from onnxruntime; keep a fixed batch where it cannot be freed."""
        assert self.opened is not None
        differences = self._differences(signature, inputs, expected)
        if max(differences) > checks.TOLERANCE and self.opened.safe.batch is not None and not self.fixed:
            self.fixed = True
            self.opened.converted = convert(self.opened.safe, fixed=True, limits=self.limits)
            differences = self._differences(signature, inputs, expected)
        self.exam.found["parity"] = [
            {"batch": len(x), "difference": d} for x, d in zip(inputs, differences, strict=True)
        ]
        if not max(differences) <= self._tolerance():
            raise ConversionMismatch(
                f"the converted graph and onnxruntime differ by {max(differences):.1e} of the largest answer "
                f"(allowed: {self._tolerance():.0e}){self._first_difference(inputs[0])}",
                where=self.opened.name,
                remedy=f"{BUG} {_INSTEAD}",
            )
        return max(differences)

    def _tolerance(self) -> float:
        """Return the largest relative difference that passes: more where one bit of a sum can be a step of a grid."""
        assert self.opened is not None
        safe = self.opened.safe
        if is_quantised(safe.model):
            return 0.1
        low = {w.data_type for w in safe.model.graph.initializer} & {10, 16}
        return 2e-2 if low or safe.input_type in (10, 16) else checks.TOLERANCE

    def _differences(self, signature: Signature, inputs: list[Array], expected: list[Array]) -> list[float]:
        assert self.opened is not None
        module = nn.Sequential(self.opened.logits(signature.output_kind), logits_to_output(signature))
        return [
            checks.difference(module, x, wanted, self.opened.name) for x, wanted in zip(inputs, expected, strict=True)
        ]

    def _first_difference(self, x: Array) -> str:
        """Find the first node whose output differs from onnxruntime's, by bisection, and name it."""
        assert self.opened is not None
        safe, converted = self.opened.safe, self.opened.converted
        made = [node.output[0] for node in safe.cut(self.opened.output).graph.node if node.output]
        known = {name: converted.values[name] for name in made if name in converted.values}
        names = [n for n, v in known.items() if v.depends == Depends.DATA and isinstance(v.seen[0], Tensor)]

        def wrong(name: str) -> bool:
            try:
                expected = self._session(name).run(x).astype(np.float32)
                return not checks.difference(converted.module(name), x, expected, "") <= self._tolerance()
            except OnnxcakeError:
                return False

        low, high = 0, len(names)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if wrong(names[middle]) else (middle + 1, high)
        if low >= len(names):
            return ""
        node = next(n for n in safe.model.graph.node if names[low] in n.output)
        return f", first at {shown(safe.node_names[node.name])} ({node.op_type})"

    def _gradient(self, signature: Signature) -> GradientHealth:
        assert self.opened is not None
        opened = self.opened
        draw = signature.to_input(checks.random_inputs(signature.shape, Key(0).at("gradient"), self.points))
        logits = opened.logits(signature.output_kind)
        end = opened.end(signature.output_kind)
        before = end != opened.output
        quantised = is_quantised(opened.safe.model)
        slopes: Callable[[Array], Array] | None = None
        if not quantised and opened.safe.input_type == 1:
            session = self._session(end)
            slopes = self._slopes(session, Logits(signature.output_kind, before))
        elif quantised and opened.safe.input_type == 1:
            slopes = self._twin_slopes(end, Logits(signature.output_kind, before))
        exact = None if quantised else slopes
        compete = signature.task == "multiclass"
        where, deviation = partial(self._where_it_dies, draw), None
        if len(signature.deviation) > 1:
            zero = torch.zeros(1, *signature.shape)
            deviation = signature.to_input(zero + 1) - signature.to_input(zero)
        squash = None if before else _SQUASH.get(signature.output_kind)
        health = check_gradient(logits, draw, exact, opened.name, where, compete, deviation, squash)
        if quantised and slopes is not None:
            return replace(health, slope_error=self._twin_error(logits, draw, slopes), through="its float twin")
        return health

    def _twin_slopes(self, end: str, scores: nn.Module) -> Callable[[Array], Array] | None:
        """Build the function that evaluates the dequantised float twin; None if there is none."""
        assert self.opened is not None
        safe = self.opened.safe
        model = safe.cut(end)
        try:
            session = self.runtime.load(float_twin(model).SerializeToString(), weights=safe.beside(model))
        except Exception:  # noqa: BLE001 - a check that is not to be had does not condemn the teacher
            return None
        return self._slopes(session, scores)

    def _slopes(self, session: Session, scores: nn.Module) -> Callable[[Array], Array]:
        def slopes(x: Array) -> Array:
            told = session.run_in_batches(x, self.batches[0]).astype(np.float32)  # few at a time, for memory's sake
            return np.asarray(scores(torch.from_numpy(told)).numpy())

        return slopes

    def _twin_error(self, logits: nn.Module, draw: Tensor, slopes: Callable[[Array], Array]) -> float:
        x = draw.clone().requires_grad_(True)
        out = logits(x)
        weights = score_weights(out)
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
        return slope_error(gradient, draw, slopes, weights)

    def _where_it_dies(self, draw: Tensor) -> str:
        assert self.opened is not None
        graph = self.opened.logits("logits")[0]  # type: ignore[index]
        names = self.opened.safe.node_names
        ends = [f"{shown(names.get(name, name))} ({op})" for name, op in dying_steps(graph, draw[:2])]
        return ", ".join(ends) or "its output"
