"""First contact with a teacher's file, in a process of its own with limits on memory and time.

Parsing, ONNX's checker, building, an onnxruntime session, a forward and a backward: native code all, which a
hostile or merely broken file can crash, hang or blow up. One warm child serves many files and is replaced after
a crash. What comes back is plain data.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import psutil

from .. import errors
from ..child import Allowance, Array, Child, ChildDied, ChildRefused, Frame, serve, shared
from ..errors import BadTeacherFile, OnnxcakeError, TeacherError, first_line
from ..graph.load import LIMIT_NODES, LIMIT_WEIGHTS, measure
from .examine import Examination
from .facts import Facts
from .options import Options

MODULE = "onnxcake.teacher.airlock"
_MEMORY_SHARE = 0.75  # of what is free
_LEAST_MEMORY = 1 << 30
_BASE_S = 9.0  # processor seconds for a small file
_S_PER_MB = 0.15
_S_PER_NODE = 1e-3
# Sixteen points forward and backward, parity and differences: about 100 forward passes, at a slow 10⁹ a second.
_S_PER_MULTIPLY_ADD = 1e-7
_MOST_S = 3600.0
_PATIENCE = "ONNXCAKE_PATIENCE"  # the environment variable that multiplies all times
_WALL = 8  # times the processor seconds: other work may hold the cores


class Airlock:
    """Examines files; use the one that `examine` keeps unless you need your own."""

    def __init__(self, child: Child | None = None) -> None:
        self._child = child or Child(MODULE)

    def examine(self, path: Path, options: Options) -> Examination:
        """All that can be known of a file; its ``error`` says why it cannot be used, if it cannot.

        Raises:
            nothing about the file: what is wrong with it is in the result.
        """
        megabytes = _megabytes(path)
        with contextlib.suppress(OSError):  # this folder may be gone: the child says that the file is missing
            path = path.absolute()
        question = {"path": str(path), "options": options.as_dict()}
        memory = _memory()
        self._child.start()
        try:
            measured = self._ask({"do": "measure", **question}, memory, _BASE_S + megabytes * _S_PER_MB)
            megabytes += min(measured["bytes_outside"], LIMIT_WEIGHTS) / 1e6
            seconds = _BASE_S + megabytes * _S_PER_MB + min(measured["nodes"], LIMIT_NODES) * _S_PER_NODE
            answer = self._ask({"do": "read", "memory": memory, **question}, memory, seconds)
            if answer["error"] is None:
                seconds += min(answer["multiply_adds"] * _S_PER_MULTIPLY_ADD, _MOST_S)
                answer = self._ask({"do": "probe"}, memory, seconds)
        except ChildDied as death:
            error = BadTeacherFile(
                f"it was given up while it was examined: {first_line(death)}",
                where=path.name,
                remedy="The file is broken or hostile, or too large for this machine's free memory. A sound one on a "
                f"slow machine may take longer with {_PATIENCE}=10 in the environment.",
            )
            return Examination({"file": {"name": path.name}}, None, error)
        facts = None if answer["facts"] is None else Facts.from_dict(answer["facts"])
        return Examination(answer["found"], facts, None if answer["error"] is None else _error(answer["error"]))

    def close(self) -> None:
        """Ends the child; the next file would start a fresh one."""
        self._child.close()

    def _ask(self, question: dict[str, Any], memory: int, seconds: float) -> dict[str, Any]:
        seconds *= _patience()
        allowance = Allowance(memory, seconds, seconds * _WALL)
        try:
            answer, _ = self._child.ask(question, allowance=allowance)
        except ChildRefused as error:  # a bug of ours, or memory that ran out under the limit
            raise ChildDied(str(error)) from error
        return answer


def examine(path: Path, options: Options) -> Examination:
    """`Airlock.examine` in the warm child that this process keeps."""
    return Airlock(shared(MODULE)).examine(path, options)


def _megabytes(path: Path) -> float:
    with contextlib.suppress(OSError, ValueError):  # no such file, or no such name: the child says so
        return path.stat().st_size / 1e6
    return 0.0


def _patience() -> float:
    try:
        return max(1.0, float(os.environ.get(_PATIENCE, "1")))
    except ValueError:
        return 1.0


def _memory() -> int:
    """Bytes that an examination may take."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, on Linux
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, limit - used)
    return max(int(free * _MEMORY_SHARE), _LEAST_MEMORY)


def _error(told: dict[str, Any]) -> OnnxcakeError:
    """An error that the child told, as its own class."""
    kind = getattr(errors, told["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, OnnxcakeError)):
        kind = TeacherError
    return kind(told["what"], where=told["where"], remedy=told["remedy"])


class _Server:
    """The child's side."""

    def __init__(self) -> None:
        import torch

        from ..ort import Runtime

        torch.set_num_threads(max(1, min(4, os.cpu_count() or 1)))
        with torch.device("meta"):  # whose operators load a second's worth at their first use, before anyone waits
            torch.relu(torch.nn.functional.conv2d(torch.empty(1, 1, 3, 3), torch.empty(1, 1, 3, 3)))
        self.runtime = Runtime()
        self.examiner: Any = None

    def answer(self, header: dict[str, Any], array: Array | None) -> Frame:
        from ..graph.records import Limits
        from ..ort import RuntimeRefused
        from .examine import Examiner

        if header["do"] == "measure":
            outside, nodes = measure(Path(header["path"]))
            return {"bytes_outside": outside, "nodes": nodes}, None
        macs = 0
        try:
            if header["do"] == "read":
                _limit_address_space(header["memory"])
                self.examiner = Examiner(self.runtime)
                options = Options.of(**header["options"])
                limits = Limits(value_bytes=min(4 << 30, header["memory"] // 4))
                macs = self.examiner.read(Path(header["path"]), options, limits)
            else:
                self.examiner.run()
        except OnnxcakeError as error:
            self.examiner.exam.error = error
        except MemoryError:
            raise
        exam = self.examiner.exam
        if header["do"] == "probe" or exam.error is not None:
            self.examiner = None  # the graph and the sessions are not needed any longer
            with contextlib.suppress(RuntimeRefused):  # it died: the next file gets a fresh one
                self.runtime.clear()
        return {
            "found": exam.found,
            "facts": None if exam.facts is None else exam.facts.as_dict(),
            "error": None if exam.error is None else exam.error.as_dict(),
            "multiply_adds": macs,
        }, None


def _limit_address_space(memory: int) -> None:
    """A second fence under the watch on resident memory; not for CUDA, which maps far more than it uses."""
    import torch

    if torch.version.cuda is not None:
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        now, (_, hard) = psutil.Process().memory_info().vms, resource.getrlimit(resource.RLIMIT_AS)
        limit = now + 2 * memory
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    serve(_Server().answer)
