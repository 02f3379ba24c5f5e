"""Run work in a child process: native code that crashes, hangs or exhausts memory ends that process alone.

`WorkerProcess` starts ``python -m MODULE`` and speaks to it through its pipes; the module calls `serve`. Frames are a
JSON header and raw array bytes, so nothing is unpickled.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.arrays import Array

Frame = tuple[dict[str, Any], Array | None]
_LENGTHS = struct.Struct("<QQ")
_NOTE = "note"
_LOOK_S = 0.05  # seconds between two measurements of what a child uses
_LOOK_AT_PARENT_S = 1.0  # seconds between two checks that the parent lives


class WorkerDied(Exception):
    """Child process that ended, or was ended, without an answer; the message says why."""


class WorkerOverran(WorkerDied):
    """Child process that was ended for exceeding a limit: ``limit`` is "memory", "processor" or "clock"."""

    def __init__(self, what: str, limit: str) -> None:
        self.limit = limit
        super().__init__(what)


class WorkerRefused(Exception):
    """Error that the child process answered with."""


@dataclass(frozen=True)
class ResourceLimits:
    """Limit what one answer may cost, the processes that the child started included.

    Attributes:
        memory_bytes: resident at once, beyond what was resident when it was asked.
        cpu_s: processor seconds.
        wall_s: seconds by the clock.
    """

    memory_bytes: int
    cpu_s: float
    wall_s: float


class WorkerProcess:
    """Child process that answers requests; started at the first one, and again after it died."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.process: subprocess.Popen[bytes] | None = None

    def ask(
        self,
        header: dict[str, Any],
        array: Array | None = None,
        allowance: ResourceLimits | None = None,
        on_note: Callable[[dict[str, Any]], ResourceLimits | None] = lambda note: None,
    ) -> Frame:
        """Send a request and return the child's answer.

        Args:
            allowance: limits of memory and time for the answer.
            on_note: callback for each note that the child sends before it answers; limits that it returns hold from
                then
                on, the time counted anew.

        Raises:
            WorkerOverran: if the child is ended for exceeding its limits.
            WorkerDied: if the child crashes.
            WorkerRefused: if the child answers with an error.
        """
        child = self.process or self.start()
        assert child.stdin and child.stdout
        watch = _Watch(child, allowance)
        try:
            with watch:
                _send(child.stdin, header, array)
                answer, result = _receive(child.stdout)
                while _NOTE in answer:
                    watch.allowance = on_note(answer[_NOTE]) or watch.allowance
                    answer, result = _receive(child.stdout)
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise watch.overrun or WorkerDied(_how_it_ended(child.returncode)) from error
        except BaseException:
            _kill(child)  # half a frame may be in the pipe: this child cannot be asked again
            self.close()
            raise
        if "refused" in answer:
            raise WorkerRefused(answer["refused"])
        return answer, result

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process if it does not run, without waiting for it to be ready.

        To be called before a first request, so that an earlier death of the process does not fail that request.
        """
        if self.process is not None and self.process.poll() is not None:
            self.close()
        if self.process is None:
            self.process = _start(self.module)
        return self.process

    def kill(self) -> None:
        """Kill the child and all that it started, at once."""
        if self.process is not None:
            child, self.process = self.process, None
            _kill(child)
            child.wait()

    def close(self) -> None:
        """End the child; the next request starts a fresh one."""
        if self.process is None:
            return
        child, self.process = self.process, None
        if child.stdin:
            with contextlib.suppress(OSError):  # what a dead child was not sent
                child.stdin.close()  # end of input: the child returns
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            _kill(child)
            child.wait()
        if child.stdout:
            child.stdout.close()


_shared: dict[str, WorkerProcess] = {}


def shared(module: str) -> WorkerProcess:
    """Return the child of ``module`` that this process keeps warm, and ends at its own exit."""
    if module not in _shared:
        _shared[module] = WorkerProcess(module)
        atexit.register(_shared[module].kill)  # it has nothing to finish, and unloading its libraries takes a while
    return _shared[module]


_tellers: list[Callable[[dict[str, Any]], None]] = []


def tell(note: dict[str, Any]) -> None:
    """Send the parent a note before the answer; do nothing in a process that is no child."""
    for teller in _tellers:
        teller({_NOTE: note})


def serve(answer: Callable[[dict[str, Any], Array | None], Frame], told: type[Exception] = Exception) -> None:
    """Answer requests in the child until its input ends.

    Args:
        answer: header and array → header and array. Its exceptions of type ``told`` go to the parent as errors.
    """
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not get into the frames
    _end_with_the_parent()
    _tellers.append(lambda frame: _send(sink, frame))
    while True:
        try:
            header, array = _receive(source)
        except EOFError:
            return
        try:
            result = answer(header, array)
        except told as error:
            result = {"refused": str(error).strip()[:2000] or type(error).__name__}, None
        _send(sink, *result)


def _end_with_the_parent() -> None:
    """End this process soon after its parent ended, even out of a busy loop, which does not see its input end."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_AT_PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def give_back_memory() -> None:
    """Return freed memory to the system, as the C library keeps it after a large model was read once."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def _start(module: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.Popen(
        # -P: a file called numpy.py in the user's folder must not become ours
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Threads that wait by spinning are counted as work, and hold the cores that others need.
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
    )


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        import signal

        with contextlib.suppress(ValueError):
            return f"the process crashed ({signal.Signals(-status).name})"
    return f"the process ended (status {status})"


class _Watch:
    """Kill a child that exceeds its limits while the block runs, and say why in ``overrun``."""

    def __init__(self, child: subprocess.Popen[bytes], allowance: ResourceLimits | None) -> None:
        self.child, self.allowance = child, allowance
        self.overrun: WorkerOverran | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        if self.allowance is not None:
            self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        if self.allowance is not None:
            self._thread.join()

    def _run(self) -> None:
        now = self.allowance
        (memory, cpu), begun = _used(self.child.pid), time.monotonic()
        while not self._done.wait(_LOOK_S):
            memory_now, cpu_now = _used(self.child.pid)
            if now is not self.allowance:
                now, cpu, begun = self.allowance, cpu_now, time.monotonic()
            assert now is not None
            if memory_now - memory > now.memory_bytes:
                gib = now.memory_bytes / 2**30
                self.overrun = WorkerOverran(f"it took more than {gib:.1f} GiB of memory", "memory")
            elif cpu_now - cpu > now.cpu_s:
                self.overrun = WorkerOverran(f"it took more than {now.cpu_s:.0f} s of processor time", "processor")
            elif time.monotonic() - begun > now.wall_s:
                self.overrun = WorkerOverran(f"it took more than {now.wall_s:.0f} s", "clock")
            if self.overrun is not None:
                _kill(self.child)
                return


def _used(pid: int) -> tuple[int, float]:
    """Return the resident bytes and processor seconds of a process and all that it started."""
    import psutil

    memory, cpu = 0, 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                memory, cpu = memory + one.memory_info().rss, cpu + times.user + times.system
    return memory, cpu


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that it started."""
    import psutil

    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()


def _send(pipe: Any, header: dict[str, Any], array: Array | None = None) -> None:
    body: Any = b""
    if array is not None:
        array = np.ascontiguousarray(array)
        header = {**header, "dtype": array.dtype.str, "shape": array.shape}
        body = memoryview(array.reshape(-1).view(np.uint8)) if array.size else b""  # type: ignore[arg-type]
    head = json.dumps(header).encode()
    pipe.write(_LENGTHS.pack(len(head), len(body)) + head)
    pipe.write(body)
    pipe.flush()


def _receive(pipe: Any) -> Frame:
    head_bytes, body_bytes = _LENGTHS.unpack(_read_exactly(pipe, _LENGTHS.size))
    header = json.loads(_read_exactly(pipe, head_bytes))
    if "dtype" not in header:
        return header, None
    body = np.frombuffer(_read_exactly(pipe, body_bytes), dtype=np.dtype(header["dtype"]))
    return header, body.reshape(header["shape"])


def _read_exactly(pipe: Any, count: int) -> bytearray:
    content = bytearray(count)
    view, filled = memoryview(content), 0
    while filled < count:
        part = pipe.readinto(view[filled:])
        if not part:
            raise EOFError
        filled += part
    return content
