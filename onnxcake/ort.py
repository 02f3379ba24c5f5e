"""onnxruntime, in a process of its own: it holds memory and threads, and native code can crash.

This file is both ends. `Runtime` starts ``python -m onnxcake.ort`` and speaks to it through its pipes; frames
are a JSON header and raw array bytes, so nothing is unpickled. One child serves many models.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import OnnxcakeError

Array = npt.NDArray[Any]
_LENGTHS = struct.Struct("<QQ")
_WARM_UP = 5  # runs before a latency is taken


class RuntimeRefused(OnnxcakeError):
    """onnxruntime refused a model or an input, or its process died; callers say which file it was."""

    exit_code = 4


class Runtime:
    """A child process with onnxruntime in it; use as a context manager."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(self, model: bytes, threads: int = 0) -> Session:
        """A session for a self-contained model.

        Args:
            threads: onnxruntime's intra-op threads; 0 leaves the choice to it.

        Raises:
            RuntimeRefused: if onnxruntime cannot load it.
        """
        header, _ = self._ask({"do": "load", "threads": threads}, np.frombuffer(model, np.uint8))
        return Session(self, header["id"], header["inputs"], header["outputs"])

    def close(self) -> None:
        """Ends the child; the next call would start a fresh one."""
        if self._child is not None:
            child, self._child = self._child, None
            if child.stdin:
                with contextlib.suppress(OSError):  # what a dead child was not sent
                    child.stdin.close()  # end of input: the child returns
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout:
                child.stdout.close()

    def _ask(self, header: dict[str, Any], array: Array | None = None) -> tuple[dict[str, Any], Array | None]:
        child = self._child = self._child or _start()
        assert child.stdin and child.stdout
        try:
            _send(child.stdin, header, array)
            answer, result = _receive(child.stdout)
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise RuntimeRefused(f"onnxruntime's process died (status {child.returncode})") from error
        except BaseException:
            child.kill()  # half a frame may be in the pipe: this child cannot be asked again
            self.close()
            raise
        if "error" in answer:
            raise RuntimeRefused(answer["error"])
        return answer, result


class Session:
    """A loaded model. ``inputs`` and ``outputs`` are lists of (name, shape, type) as the file states them."""

    def __init__(self, runtime: Runtime, number: int, inputs: list[Any], outputs: list[Any]) -> None:
        self._runtime, self._child, self._number = runtime, runtime._child, number
        self.inputs, self.outputs = inputs, outputs

    def run(self, x: Array) -> Array:
        """The model's first output for ``x``, one batch.

        Raises:
            RuntimeRefused: if the run fails, or the process dies.
        """
        _, result = self._ask({"do": "run"}, x)
        assert result is not None
        return result

    def run_in_batches(self, x: Array, batch: int = 1000) -> Array:
        """`run`, a part at a time; the results joined."""
        return np.concatenate([self.run(x[i : i + batch]) for i in range(0, len(x), batch)])

    def latency_ms(self, x: Array, runs: int = 50) -> float:
        """Median milliseconds of one run on ``x``, taken inside the child."""
        answer, _ = self._ask({"do": "time", "runs": runs}, x)
        return float(answer["median_ms"])

    def _ask(self, header: dict[str, Any], x: Array) -> tuple[dict[str, Any], Array | None]:
        if self._runtime._child is not self._child:  # a fresh child counts its models from zero again
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


def _start() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.Popen(
        # -P: a file called numpy.py in the user's folder must not become ours
        [sys.executable, "-P", "-m", "onnxcake.ort"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
    )


def _send(pipe: BinaryIO | Any, header: dict[str, Any], array: Array | None = None) -> None:
    body = b""
    if array is not None:
        array = np.ascontiguousarray(array)
        header = {**header, "dtype": array.dtype.str, "shape": array.shape}
        body = array.tobytes()
    head = json.dumps(header).encode()
    pipe.write(_LENGTHS.pack(len(head), len(body)) + head)
    pipe.write(body)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> tuple[dict[str, Any], Array | None]:
    head_bytes, body_bytes = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    header = json.loads(_exactly(pipe, head_bytes))
    if "dtype" not in header:
        return header, None
    body = np.frombuffer(_exactly(pipe, body_bytes), dtype=np.dtype(header["dtype"]))
    return header, body.reshape(header["shape"])


def _exactly(pipe: BinaryIO | Any, count: int) -> bytearray:
    content = bytearray()
    while len(content) < count:
        part = pipe.read(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def _serve() -> None:
    """The child: answers until its input ends."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not get into the frames
    sessions: list[Any] = []
    while True:
        try:
            header, array = _receive(source)
        except EOFError:
            return
        try:
            answer, result = _answer(onnxruntime, sessions, header, array)
        except Exception as error:  # noqa: BLE001 - told to the parent, which says what it was about
            answer, result = {"error": str(error).strip()[:2000] or type(error).__name__}, None
        _send(sink, answer, result)


def _answer(
    onnxruntime: Any, sessions: list[Any], header: dict[str, Any], array: Array | None
) -> tuple[dict[str, Any], Array | None]:
    assert array is not None
    if header["do"] == "load":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = header["threads"]
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are torch's too
        session = onnxruntime.InferenceSession(array.tobytes(), options, providers=["CPUExecutionProvider"])
        sessions.append(session)
        described = [[[v.name, v.shape, v.type] for v in vs] for vs in (session.get_inputs(), session.get_outputs())]
        return {"id": len(sessions) - 1, "inputs": described[0], "outputs": described[1]}, None
    session = sessions[header["id"]]
    feed = {session.get_inputs()[0].name: array}
    if header["do"] == "run":
        result = np.asarray(session.run([session.get_outputs()[0].name], feed)[0])
        if result.dtype.hasobject:
            raise TypeError("its output is no array of numbers")
        return {}, result
    times = []
    for _ in range(_WARM_UP + header["runs"]):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return {"median_ms": float(np.median(times[_WARM_UP:])) * 1e3}, None


if __name__ == "__main__":
    _serve()
