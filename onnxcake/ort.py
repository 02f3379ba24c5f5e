"""onnxruntime, in a process of its own: it holds memory and threads, and native code can crash.

This file is both ends: `Runtime` asks, `_Server` answers in the child. One child serves many models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from .child import Array, Child, ChildDied, ChildRefused, Frame, give_back_memory, serve
from .errors import OnnxcakeError

_WARM_UP = 5  # runs before a latency is taken


class RuntimeRefused(OnnxcakeError):
    """onnxruntime refused a model or an input, or its process died; callers say which file it was."""

    exit_code = 4


class Runtime:
    """A child process with onnxruntime in it; use as a context manager."""

    def __init__(self) -> None:
        self._child = Child("onnxcake.ort")

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(
        self, model: bytes, threads: int = 0, weights: Mapping[str, Array] | None = None, lean: bool = False
    ) -> Session:
        """A session for a model.

        Args:
            threads: onnxruntime's intra-op threads; 0 leaves the choice to it.
            weights: the data of initialisers that the model marks as kept elsewhere.
            lean: for a few runs: without copies of the weights in the layouts that run fastest.

        Raises:
            RuntimeRefused: if onnxruntime cannot load it.
        """
        self._child.start()
        self._ask({"do": "begin"}, None)
        for name, weight in (weights or {}).items():
            self._ask({"do": "weight", "name": name}, weight)
        header, _ = self._ask({"do": "load", "threads": threads, "lean": lean}, np.frombuffer(model, np.uint8))
        return Session(self, header["id"], header["inputs"], header["outputs"])

    def clear(self) -> None:
        """Lets the child forget all models, and stay warm for the next."""
        if self._child.process is not None:
            self._ask({"do": "clear"}, None)

    def close(self) -> None:
        """Ends the child; the next call would start a fresh one."""
        self._child.close()

    def _ask(self, header: dict[str, Any], array: Array | None) -> Frame:
        try:
            return self._child.ask(header, array)
        except ChildDied as error:
            raise RuntimeRefused(f"onnxruntime: {error}") from error
        except ChildRefused as error:
            raise RuntimeRefused(str(error)) from error


class Session:
    """A loaded model. ``inputs`` and ``outputs`` are lists of (name, shape, type) as the file states them."""

    def __init__(self, runtime: Runtime, number: int, inputs: list[Any], outputs: list[Any]) -> None:
        self._runtime, self._process, self._number = runtime, runtime._child.process, number
        self.inputs, self.outputs = inputs, outputs

    @property
    def batch(self) -> int | None:
        """The batch that the model fixes, or None."""
        shape = self.inputs[0][1] if self.inputs else []
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    def run(self, x: Array) -> Array:
        """The model's first output for ``x``.

        A model of a fixed batch is run as often as needed; the last batch is filled up with zeros.
        Whole-number inputs are rounded to, and cut to the range of, the type that the model takes.

        Raises:
            RuntimeRefused: if the run fails, or the process dies.
        """
        batch = self.batch
        if batch is None or batch == len(x):
            return self._run(x)
        parts = [x[i : i + batch] for i in range(0, len(x), batch)]
        short = batch - len(parts[-1])
        parts[-1] = np.concatenate([parts[-1], np.zeros((short, *x.shape[1:]), x.dtype)])
        return np.concatenate([self._run(part) for part in parts])[: len(x)]

    def run_in_batches(self, x: Array, batch: int = 1000) -> Array:
        """`run`, a part at a time; the results joined."""
        return np.concatenate([self.run(x[i : i + batch]) for i in range(0, len(x), batch)])

    def latency_ms(self, x: Array, runs: int = 50) -> float:
        """Median milliseconds of one run on ``x``, taken inside the child."""
        answer, _ = self._ask({"do": "time", "runs": runs}, x)
        return float(answer["median_ms"])

    def rest(self) -> None:
        """Lets the child give back what its runs took: it is not asked for a while."""
        self._ask({"do": "rest"}, None)

    def close(self) -> None:
        """Lets the child forget the model."""
        if self._runtime._child.process is self._process and self._process is not None:
            self._ask({"do": "forget"}, None)

    def _run(self, x: Array) -> Array:
        _, result = self._ask({"do": "run"}, x)
        assert result is not None
        return result

    def _ask(self, header: dict[str, Any], x: Array | None) -> Frame:
        if self._runtime._child.process is not self._process:  # a fresh child counts its models from zero again
            raise RuntimeRefused("onnxruntime's process has ended since the model was loaded")
        return self._runtime._ask({**header, "id": self._number}, x)


def version() -> str:
    """onnxruntime's version, read from the installed package without loading it."""
    from importlib import metadata

    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


class _Server:
    """The child's side."""

    def __init__(self) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        self.onnxruntime = onnxruntime
        self.sessions: dict[int, tuple[Any, Any]] = {}
        self.weights: dict[str, Any] = {}
        self.count = 0

    def answer(self, header: dict[str, Any], array: Array | None) -> Frame:
        do = header["do"]
        if do == "begin":
            self.weights = {}
            return {}, None
        if do == "clear":
            self.sessions, self.weights = {}, {}
            return {}, None
        if do == "weight":
            self.weights[header["name"]] = array
            return {}, None
        if do == "load":
            assert array is not None
            return self.load(array, header["threads"], header["lean"]), None
        if do == "rest":
            give_back_memory()
            return {}, None
        if do == "forget":
            del self.sessions[header["id"]]
            return {}, None
        assert array is not None
        session, _ = self.sessions[header["id"]]
        feed = {session.get_inputs()[0].name: _as_type(array, session.get_inputs()[0].type)}
        if do == "run":
            result = np.asarray(session.run([session.get_outputs()[0].name], feed)[0])
            if result.dtype.hasobject:
                raise TypeError("its output is no array of numbers")
            return {}, result
        return {"median_ms": _median_ms(session, feed, header["runs"])}, None

    def load(self, model: Array, threads: int, lean: bool) -> dict[str, Any]:
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are torch's too
        if lean:
            options.graph_optimization_level = self.onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        values = [self.onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in self.weights.values()]
        if values:
            for name, value in zip(self.weights, values, strict=True):
                options.add_initializer(name, value)  # shares the memory; by itself it would look for the file
            options.add_external_initializers(list(self.weights), values)
        session = self.onnxruntime.InferenceSession(model.tobytes(), options, providers=["CPUExecutionProvider"])
        session._model_bytes = None  # kept for a fallback that is never wanted here
        give_back_memory()
        number, self.count = self.count, self.count + 1
        self.sessions[number] = (session, (self.weights, values))  # the session reads the weights where they are
        self.weights = {}
        described = [[[v.name, v.shape, v.type] for v in vs] for vs in (session.get_inputs(), session.get_outputs())]
        return {"id": number, "inputs": described[0], "outputs": described[1]}


_TYPES = {"double": "float64", "float": "float32"}


def _as_type(x: Array, kind: str) -> Array:
    """Floats as what the model takes: "tensor(uint8)" and the like; anything else is onnxruntime's to judge."""
    if x.dtype.kind != "f" or not kind.startswith("tensor("):
        return x
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(_TYPES.get(name, name))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        x = np.rint(x).clip(limits.min, limits.max)
    return x.astype(dtype, copy=False)


def _median_ms(session: Any, feed: dict[str, Array], runs: int) -> float:
    times = []
    for _ in range(_WARM_UP + runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return float(np.median(times[_WARM_UP:])) * 1e3


if __name__ == "__main__":
    serve(_Server().answer)
