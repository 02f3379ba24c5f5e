"""Run onnxruntime in a child process, as it holds memory and threads, and native code can crash.

This file has both ends: `Runtime` asks, `_Server` answers in the child. One child serves many models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..core.arrays import Array
from ..core.errors import OnnxcakeError, OutputError
from .private_folder import private_folder
from .process import Frame, WorkerDied, WorkerProcess, WorkerRefused, give_back_memory, serve

Arithmetic = Literal["exact", "host"]
Level = Literal["none", "basic", "extended", "layout", "all"]
# A quantised file means its whole numbers' exact arithmetic. onnxruntime's kernels for products of unsigned with signed
# bytes saturate at 16 bits on x86 without VNNI. With this entry it keeps QuantizeLinear and DequantizeLinear the
# operators that they are, computed in floats; operators on whole numbers are written anew by `graph.exact`.
EXACT = {"session.disable_quant_qdq": "1"}
_MOST_AT_ONCE, _BYTES_AT_ONCE = 1000, 1 << 24  # most inputs of one run, and most bytes of them
_WARM_UP = 5  # runs before a latency is taken


class RuntimeRefused(OnnxcakeError):
    """Model or input that onnxruntime refused, or whose process died; callers say which file it was."""

    exit_code = 4


class Runtime:
    """Run onnxruntime in a child process; to be used as a context manager."""

    def __init__(self) -> None:
        self._child = WorkerProcess("onnxcake.runtime.ort")

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(
        self,
        model: bytes,
        threads: int = 0,
        weights: Mapping[str, Array] | None = None,
        lean: bool = False,
        arithmetic: Arithmetic = "exact",
        level: Level = "all",
    ) -> Session:
        """Load a model: it answers what a plain ``InferenceSession`` of the same file, level and options does.

        Only where this host lacks the language that texts are normalised in, which that refuses, another is taken.

        Args:
            threads: onnxruntime's intra-op threads; 0 leaves the choice to it.
            weights: the data of initialisers that the model marks as kept in files of their own names.
            lean: for a few runs: gives memory back after each. Changes no number.
            arithmetic: of a quantised model: "exact", or "host", which is what onnxruntime's kernels make of it on
                this processor by default. The two do not differ on a float model.
            level: of onnxruntime's optimisations.

        Raises:
            RuntimeRefused: if onnxruntime cannot load it.
            OutputError: if there is no room for a file of the weights.
        """
        self._child.start()
        self._ask({"do": "begin"}, None)
        weights = weights or {}
        for name, weight in weights.items():
            try:
                self._ask({"do": "weight", "name": name}, weight)
            except RuntimeRefused as error:
                if isinstance(error.__cause__, WorkerDied):
                    raise
                raise OutputError(
                    f"the weights cannot be written to a file for onnxruntime: {error.what}",
                    where="the folder for temporary files",
                    remedy=f"Set TMPDIR to a folder with {_mebibytes(weights)} MiB to spare.",
                ) from error
        if arithmetic == "exact":
            from ..onnxfile.exact_integers import exact  # the process that answers has no need of onnx

            model = exact(model)
        asked = {"do": "load", "threads": threads, "lean": lean, "arithmetic": arithmetic, "level": level}
        try:
            header, _ = self._ask(asked, np.frombuffer(model, np.uint8))
        except RuntimeRefused as error:
            if "StringNormalizer::Locale" not in error.what:
                raise
            from ..onnxfile.locales import with_known_locale

            header, _ = self._ask(asked, np.frombuffer(with_known_locale(model), np.uint8))
        return Session(self, header["id"], header["inputs"], header["outputs"])

    def clear(self) -> None:
        """Drop all models in the child, which stays warm for the next."""
        if self._child.process is not None:
            self._ask({"do": "clear"}, None)

    def close(self) -> None:
        """End the child; the next call starts a fresh one."""
        self._child.close()

    def _ask(self, header: dict[str, Any], array: Array | None) -> Frame:
        try:
            return self._child.ask(header, array)
        except WorkerDied as error:
            raise RuntimeRefused(f"onnxruntime: {error}") from error
        except WorkerRefused as error:
            raise RuntimeRefused(str(error)) from error


class Session:
    """Run a model that is loaded in the child.

    Attributes:
        inputs: (name, shape, type) of each input, as the file states them.
        outputs: the same of each output.
    """

    def __init__(self, runtime: Runtime, number: int, inputs: list[Any], outputs: list[Any]) -> None:
        self._runtime, self._process, self._number = runtime, runtime._child.process, number
        self.inputs, self.outputs = inputs, outputs

    @property
    def batch(self) -> int | None:
        """Return the batch size that the model fixes, or None."""
        shape = self.inputs[0][1] if self.inputs else []
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    def run(self, x: Array) -> Array:
        """Run the model and return its first output for ``x`` [n, …].

        A model of a fixed batch is run as often as needed; the last batch is filled up with zeros.
        Whole-number inputs are rounded to, and cut to the range of, the type that the model takes.

        Raises:
            RuntimeRefused: if the run fails, or the process dies.
        """
        batch = self.batch
        if batch is None or batch == len(x):
            return self._run(x)
        x, count = _pad_to_batches(x, batch), len(x)
        return np.concatenate([self._run(x[i : i + batch]) for i in range(0, len(x), batch)])[:count]

    def run_in_batches(self, x: Array, batch: int | None = None) -> Array:
        """Run the model with `run`, a part at a time, and join the outputs.

        Args:
            batch: inputs in a part; if None up to 1000, fewer of large inputs, as values inside a model are larger.
        """
        batch = batch or max(1, min(_MOST_AT_ONCE, _BYTES_AT_ONCE // max(1, x[:1].nbytes)))
        return np.concatenate([self.run(x[i : i + batch]) for i in range(0, len(x), batch)])

    def run_named(self, feeds: Mapping[str, Array], axes: Mapping[str, int] | None = None, batch: int = 1000) -> Array:
        """Run the model on arrays given by its inputs' names, a part at a time; return its first output.

        A model of a fixed batch is run as often as needed, the last part filled up with the first rows again. Texts are
        arrays of numpy's own strings.

        Args:
            axes: which axis of an array is the batch, where it is not the first; arrays that have as many entries there
                as the others are split.

        Raises:
            RuntimeRefused: as `run`.
        """
        places = {name: (axes or {}).get(name, 0) for name in feeds}
        count = max((len(a) for name, a in feeds.items() if a.ndim and not places[name]), default=0)
        split = {name for name, a in feeds.items() if a.shape[places[name] : places[name] + 1] == (count,)}
        shapes = {name: shape for name, shape, _ in self.inputs if name in split and not places[name]}
        fixed = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int) and shape[0] > 0]
        size, results = min(fixed, default=batch), []
        for first in range(0, count, size):
            rows = np.arange(first, min(first + size, count))
            kept = len(rows)
            if fixed:
                rows = np.resize(rows, size)
            for name, array in feeds.items():
                part = array.take(rows, places[name]) if name in split else array
                self._ask({"do": "feed", "name": name}, part)
            _, result = self._ask({"do": "run", "fed": True}, None)
            assert result is not None
            results.append(result[:kept])
        return np.concatenate(results)

    def latency_of(self, feeds: Mapping[str, Array], runs: int = 50) -> float:
        """Return the median milliseconds of one run on arrays given by name, taken inside the child."""
        for name, array in feeds.items():
            self._ask({"do": "feed", "name": name}, array)
        answer, _ = self._ask({"do": "time", "runs": runs, "fed": True}, None)
        return float(answer["median_ms"])

    def latency_ms(self, x: Array, runs: int = 50) -> float:
        """Return the median milliseconds of one run on ``x``, taken inside the child; a fixed batch is padded."""
        answer, _ = self._ask({"do": "time", "runs": runs}, _pad_to_batches(x, self.batch or 1))
        return float(answer["median_ms"])

    def rest(self) -> None:
        """Release the memory that the child's runs took, as no run follows for a while."""
        self._ask({"do": "rest"}, None)

    def close(self) -> None:
        """Drop the model in the child."""
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


def _mebibytes(weights: Mapping[str, Array]) -> int:
    return 1 + sum(int(weight.nbytes) for weight in weights.values()) // 2**20


def _pad_to_batches(x: Array, batch: int) -> Array:
    """Pad inputs with zeros to a whole number of batches."""
    missing = -len(x) % batch
    return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x


def version() -> str:
    """Read onnxruntime's version from the installed package without loading it."""
    from importlib import metadata

    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


class _Server:
    """Answer the requests of `Runtime` in the child.

    Weights are written into a private folder as they come, one at a time, and onnxruntime loads the model from there
    by path, as it does for everybody. (What is handed over by `add_initializer` replaces weights after onnxruntime
    has rewritten them under their old names: wrong numbers.) It maps the files, so that this process holds the
    weights once, and they stay mapped when the folder is removed.
    """

    def __init__(self) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        self.onnxruntime = onnxruntime
        self.sessions: dict[int, Any] = {}
        self.fed: dict[str, Array] = {}  # arrays for the next run
        self.stack, self.folder = ExitStack(), Path()
        self.written = False
        self.count = 0

    def answer(self, header: dict[str, Any], array: Array | None) -> Frame:
        do = header["do"]
        if do == "begin":
            self._drop_weights()
            return {}, None
        if do == "clear":
            self._drop_weights()
            self.sessions = {}
            return {}, None
        if do == "weight":
            assert array is not None
            self._write(header["name"], array)
            return {}, None
        if do == "load":
            assert array is not None
            try:
                return self.load(array, self._options(header)), None
            except Exception as error:  # the folder that it names is nobody's concern
                told = str(error).replace(f"{self.folder}/", "") if self.written else str(error)
                raise RuntimeError(told) from error
            finally:
                self._drop_weights()
        if do == "rest":
            give_back_memory()
            return {}, None
        if do == "forget":
            del self.sessions[header["id"]]
            return {}, None
        session = self.sessions[header["id"]]
        if do == "feed":
            assert array is not None
            inputs = (*session.get_inputs(), *session.get_overridable_initializers())
            kind = next((value.type for value in inputs if value.name == header["name"]), None)
            if kind is not None:  # what a model does not take is left out
                self.fed[header["name"]] = _as_named_input(array, kind)
            return {}, None
        if header.get("fed"):
            feed, self.fed = self.fed, {}
        else:
            assert array is not None
            feed = {session.get_inputs()[0].name: _as_type(array, session.get_inputs()[0].type)}
        if do == "run":
            result = np.asarray(session.run([session.get_outputs()[0].name], feed)[0])
            if result.dtype.hasobject:
                raise TypeError("its output is no array of numbers")
            return {}, result
        return {"median_ms": _median_ms(session, feed, header["runs"])}, None

    def load(self, model: Array, options: Any) -> dict[str, Any]:
        content: bytes | str = model.tobytes()
        if self.written:
            path = self.folder / "model.onnx"
            path.write_bytes(model.tobytes())
            content = str(path)
        session = self.onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        session._model_bytes = None  # kept for a fallback that is never wanted here
        give_back_memory()
        number, self.count = self.count, self.count + 1
        self.sessions[number] = session
        described = [[[v.name, v.shape, v.type] for v in vs] for vs in (session.get_inputs(), session.get_outputs())]
        return {"id": number, "inputs": described[0], "outputs": described[1]}

    def _options(self, header: dict[str, Any]) -> Any:
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = header["threads"]
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are torch's too
        levels = self.onnxruntime.GraphOptimizationLevel
        names = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL")
        name = dict(zip(get_args(Level), names, strict=True))[header["level"]]
        options.graph_optimization_level = getattr(levels, f"ORT_{name}", levels.ORT_ENABLE_EXTENDED)  # LAYOUT: 1.23
        if header["arithmetic"] == "exact":
            for entry in EXACT.items():
                options.add_session_config_entry(*entry)
        options.enable_cpu_mem_arena = not header["lean"]
        return options

    def _write(self, name: str, weight: Array) -> None:
        if not self.written:
            self.folder, self.written = self.stack.enter_context(private_folder()), True
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no name of a file")
        weight.tofile(self.folder / name)

    def _drop_weights(self) -> None:
        self.written = False
        self.stack.close()


_TYPES = {"double": "float64", "float": "float32"}


def _as_type(x: Array, kind: str) -> Array:
    """Convert floats to the type that the model takes, such as "tensor(uint8)"; return other arrays as they are."""
    if x.dtype.kind != "f" or not kind.startswith("tensor("):
        return x
    name = kind.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(_TYPES.get(name, name))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        x = np.rint(x).clip(limits.min, limits.max)
    return x.astype(dtype, copy=False)


def _as_named_input(array: Array, kind: str) -> Array:
    """Convert an array given by name to the type that the model takes."""
    if kind == "tensor(string)":
        return array.astype(object)
    if kind == "tensor(bool)" or array.dtype.kind in "iub":
        name = kind.removeprefix("tensor(").removesuffix(")")
        return array.astype(np.dtype(_TYPES.get(name, name)), copy=False)
    return _as_type(array, kind)


def _median_ms(session: Any, feed: dict[str, Array], runs: int) -> float:
    times = []
    for _ in range(_WARM_UP + runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return float(np.median(times[_WARM_UP:])) * 1e3


if __name__ == "__main__":
    serve(_Server().answer)
