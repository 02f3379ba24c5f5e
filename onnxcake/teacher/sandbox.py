"""Examine a teacher's file at first contact in a child process with limits on memory and time.

Parsing, ONNX's checker, building, an onnxruntime session, a forward and a backward: native code all, which a
hostile or merely broken file can crash, hang or blow up. One warm child serves many files and is replaced after
a crash. What comes back is plain data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..core import errors
from ..core.arrays import Array
from ..core.errors import BadTeacherFile, OnnxcakeError, TeacherError
from ..core.text import first_line
from ..core.waiting import waited
from ..graph.build_log import LIMITS
from ..onnxfile.load import LIMIT_NODES, LIMIT_WEIGHTS, measure
from ..runtime.process import (
    Frame,
    ResourceLimits,
    WorkerDied,
    WorkerOverran,
    WorkerProcess,
    WorkerRefused,
    serve,
    shared,
    tell,
)
from .examine import BUILDING, Examination
from .facts import Facts
from .options import TeacherOptions

MODULE = "onnxcake.teacher.sandbox"
_MEMORY_SHARE = 0.75  # of what is free
_LEAST_MEMORY = 1 << 30
# Processor seconds of one stage. Each is at least ten times what a two-core machine of 2020 takes, so that a slow one,
# whose cores other work shares, is not mistaken for a file that never ends.
_BASE_S = 40.0  # for a small file
_S_PER_MB = 0.5
_S_PER_NODE = 1e-2  # to build one
_S_PER_STEP = 5e-3  # to run one some twenty times, forward and backward, loops written out
_S_PER_TURN = 3e-2  # of a time step that a recurrent layer or a loop takes when it is run
# Sixteen points forward and backward, parity and differences: about 100 forward passes, at a slow 10⁹ a second.
_S_PER_MULTIPLY_ADD = 1e-7
_MOST_S = 3600.0
_START_S = 600.0  # for the process to load its libraries: no file is touched yet
_PATIENCE = "ONNXCAKE_PATIENCE"  # the environment variable that multiplies all times
_WALL = 20  # times the processor seconds: other work may hold the cores


@dataclass
class _Cost:
    """Hold what a file costs to examine, as far as it is known."""

    megabytes: float
    nodes: int = 0
    loops: bool = False
    multiply_adds: int = 0
    steps: int = 0
    turns: int = 0

    def seconds(self, stage: str) -> float:
        """Return the processor seconds that a stage may take."""
        nodes = min(self.nodes, LIMIT_NODES)
        if self.loops and stage == BUILDING:
            nodes += LIMITS.steps  # written out: the builder stops there
        build = self.megabytes * _S_PER_MB + nodes * _S_PER_NODE
        run = self.multiply_adds * _S_PER_MULTIPLY_ADD + self.steps * _S_PER_STEP + self.turns * _S_PER_TURN
        return (_BASE_S + build + min(run, _MOST_S)) * _patience()

    def __str__(self) -> str:
        run = f"{self.multiply_adds:.1e} multiply-adds and {self.turns:,} time steps" if self.steps else ""
        return ", ".join(filter(None, (f"{self.megabytes:.1f} MB", f"{self.nodes:,} operators", run)))


class Sandbox:
    """Examine files in a child process; use the one that `examine` keeps unless you need your own."""

    def __init__(self, child: WorkerProcess | None = None) -> None:
        self._child = child or WorkerProcess(MODULE)
        self.stage = ""

    def examine(self, path: Path, options: TeacherOptions) -> Examination:
        """Examine a file; the result's ``error`` says why it cannot be used, if it cannot.

        Raises:
            nothing about the file: what is wrong with it is in the result.
        """
        asked = _Cost(_megabytes(path))
        with contextlib.suppress(OSError):  # this folder may be gone: the child says that the file is missing
            path = path.absolute()
        question = {"path": str(path), "options": options.as_dict()}
        memory = _memory()
        self._child.start()
        self.stage = "the process was started"
        try:
            with waited("starting the process that reads the file") as wait:

                def show(stage: str) -> None:
                    wait.now(f"{path.name}: {stage}")

                self._ask({"do": "start"}, memory)
                show("measuring the file")
                measured = self._ask({"do": "measure", **question}, memory, asked)
                asked.megabytes += min(measured["bytes_outside"], LIMIT_WEIGHTS) / 1e6
                asked.nodes, asked.loops = measured["nodes"], measured["loops"]
                answer = self._ask({"do": "read", "memory": memory, **question}, memory, asked, show)
                if answer["error"] is None:
                    macs, asked.steps, asked.turns = (answer["cost"][k] for k in ("macs", "steps", "turns"))
                    asked.multiply_adds = macs
                    answer = self._ask({"do": "probe"}, memory, asked, show)
        except WorkerDied as death:
            error = _given_up(death, self.stage, asked, path.name)
            return Examination({"file": {"name": path.name}}, None, error)
        facts = None if answer["facts"] is None else Facts.from_dict(answer["facts"])
        return Examination(answer["found"], facts, None if answer["error"] is None else _error(answer["error"]))

    def close(self) -> None:
        """End the child; the next file starts a fresh one."""
        self._child.close()

    def _ask(
        self,
        question: dict[str, Any],
        memory: int,
        asked: _Cost | None = None,
        show: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, Any]:
        def allowance() -> ResourceLimits:
            seconds = _START_S if asked is None else asked.seconds(self.stage)
            return ResourceLimits(memory, seconds, seconds * (1 if asked is None else _WALL))

        def on_note(note: dict[str, Any]) -> ResourceLimits:
            self.stage = str(note["stage"])
            show(self.stage)
            return allowance()

        try:
            answer, _ = self._child.ask(question, allowance=allowance(), on_note=on_note)
        except WorkerRefused as error:  # a bug of ours, or memory that ran out under the limit
            raise WorkerDied(str(error)) from error
        return answer


def _given_up(death: WorkerDied, stage: str, asked: _Cost, name: str) -> TeacherError:
    """Word at which stage a file was given up, which limit it exceeded, and how to raise that."""
    what = first_line(death)
    if not isinstance(death, WorkerOverran):
        return BadTeacherFile(
            f"it was given up while it was examined: {what}",
            where=name,
            remedy=f"A library crashed on it at the stage “{stage}”: the file is damaged, or meets a fault of that "
            "library, or there was too little free memory. Try it once more with other work closed.",
        )
    remedy = (
        "Free some memory, or use a machine that has more."
        if death.limit == "memory"
        else f"That is many times what such a file takes: it may hold a loop that never ends. If this machine is slow "
        f"or busy, allow ten times as much with {_PATIENCE}=10 in the environment."
    )
    return TeacherError(f"it was given up at the stage “{stage}”, of {asked}: {what}", where=name, remedy=remedy)


def examine(path: Path, options: TeacherOptions) -> Examination:
    """Examine a file in the warm child that this process keeps, see `Sandbox.examine`."""
    return Sandbox(shared(MODULE)).examine(path, options)


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
    """Return the bytes of memory that an examination may take."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, on Linux
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, limit - used)
    return max(int(free * _MEMORY_SHARE), _LEAST_MEMORY)


def _error(told: dict[str, Any]) -> OnnxcakeError:
    """Restore an error that the child reported, as its own class."""
    kind = getattr(errors, told["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, OnnxcakeError)):
        kind = TeacherError
    return kind(told["what"], where=told["where"], remedy=told["remedy"])


class _Server:
    """Answer requests for examinations in the child."""

    def __init__(self) -> None:
        import torch

        from ..runtime.ort import Runtime

        torch.set_num_threads(max(1, min(4, os.cpu_count() or 1)))
        with torch.device("meta"):  # whose operators load a second's worth at their first use, before anyone waits
            torch.relu(torch.nn.functional.conv2d(torch.empty(1, 1, 3, 3), torch.empty(1, 1, 3, 3)))
        self.runtime = Runtime()
        self.examiner: Any = None

    def answer(self, header: dict[str, Any], array: Array | None) -> Frame:
        from ..graph.build_log import Limits
        from ..runtime.ort import RuntimeRefused
        from .examine import Examiner

        if header["do"] == "start":
            return {}, None
        if header["do"] == "measure":
            outside, nodes, loops = measure(Path(header["path"]))
            return {"bytes_outside": outside, "nodes": nodes, "loops": loops}, None
        cost: dict[str, int] = {}
        try:
            if header["do"] == "read":
                _limit_address_space(header["memory"])
                self.examiner = Examiner(self.runtime, lambda stage: tell({"stage": stage}))
                options = TeacherOptions.of(**header["options"])
                limits = Limits(value_bytes=min(4 << 30, header["memory"] // 4))
                cost = self.examiner.read(Path(header["path"]), options, limits)
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
            "cost": cost,
        }, None


def _limit_address_space(memory: int) -> None:
    """Limit the address space, in addition to resident memory; not with CUDA, which maps far more than it uses."""
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
