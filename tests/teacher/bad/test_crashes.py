"""Native code that crashes or hangs takes its own process and no more; the next file is served as ever."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from refusals import SCORES, made, saved
from test_bombs import endless

from onnxcake.core.errors import BadTeacherFile, TeacherError
from onnxcake.teacher import sandbox as examiner
from onnxcake.teacher.examine import Examination
from onnxcake.teacher.options import TeacherOptions
from onnxcake.teacher.sandbox import Sandbox
from onnxcake.teacher.teacher import Teacher

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


@pytest.fixture(scope="module")
def own() -> Iterator[Sandbox]:
    """An examiner whose processes these tests may kill."""
    examiner = Sandbox()
    yield examiner
    examiner.close()


def busy(process: psutil.Process, seconds: float = 0.3) -> None:
    """Wait until a process has worked for a while."""
    start = sum(process.cpu_times()[:2])
    while sum(process.cpu_times()[:2]) < start + seconds:
        time.sleep(0.01)


def child_of(examiner: Sandbox) -> psutil.Process:
    assert examiner._child.process is not None
    return psutil.Process(examiner._child.process.pid)


def runtime_of(examiner: Sandbox) -> psutil.Process:
    """The onnxruntime process below the examiner's."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for one in child_of(examiner).children(recursive=True):
            if "onnxcake.runtime.ort" in one.cmdline():
                return one
        time.sleep(0.01)
    raise AssertionError("no onnxruntime process")


def examined_while(examiner: Sandbox, path: Path, happens: Callable[[], None]) -> Examination:
    """Examine a file while something happens on another thread."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            happens()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            failures.append(error)
            examiner.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        exam = examiner.examine(path, TeacherOptions())
    finally:
        thread.join()
    assert not failures, failures
    return exam


def all_end(processes: list[psutil.Process]) -> bool:
    """Say whether they end by themselves; a zombie has, and only waits for somebody to ask how."""
    end = time.monotonic() + 30
    alive = processes
    while alive and time.monotonic() < end:
        alive = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    for one in alive:
        one.kill()
    return not alive


def works(examiner: Sandbox, folder: Path) -> None:
    """A sound file is served, warm or not."""
    exam = examiner.examine(saved(made(SCORES), folder), TeacherOptions())
    assert exam.error is None and exam.facts is not None and exam.facts.parity < 1e-5


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSEGV])
def test_the_airlock_dies(number: signal.Signals, own: Sandbox, tmp_path: Path) -> None:
    works(own, tmp_path)
    first = child_of(own)
    hanging: list[psutil.Process] = []

    def die() -> None:
        hanging.append(runtime_of(own))
        busy(hanging[0])
        first.send_signal(number)

    exam = examined_while(own, saved(endless(), tmp_path), die)
    assert type(exam.error) is BadTeacherFile and exam.facts is None
    assert f"given up while it was examined: the process crashed ({number.name})" in exam.error.what
    assert exam.error.where == "t.onnx" and exam.error.remedy
    works(own, tmp_path)
    assert child_of(own).pid != first.pid
    # What hung below it was in a loop without an end, and must not stay there.
    assert all_end(hanging)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_onnxruntime_dies(number: signal.Signals, own: Sandbox, tmp_path: Path) -> None:
    works(own, tmp_path)
    first = child_of(own)

    def die() -> None:
        process = runtime_of(own)
        busy(process)
        process.send_signal(number)

    exam = examined_while(own, saved(endless(), tmp_path), die)
    assert type(exam.error) is TeacherError and exam.facts is None
    assert (
        f"onnxruntime cannot run it on a batch of 2: onnxruntime: the process crashed ({number.name})"
        in exam.error.what
    )
    works(own, tmp_path)
    assert child_of(own).pid == first.pid, "the examiner itself was not at fault"


@pytest.mark.parametrize("process_of", [runtime_of, pytest.param(child_of, marks=pytest.mark.slow)])
def test_one_dies_between_two_files(
    process_of: Callable[[Sandbox], psutil.Process], own: Sandbox, tmp_path: Path
) -> None:
    """The next file is not to blame."""
    works(own, tmp_path)
    process = process_of(own)
    process.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs([process], timeout=5)
    works(own, tmp_path)


def test_the_parent_dies(tmp_path: Path) -> None:
    """Killed outright, it cannot end its children; they notice."""
    import subprocess
    import sys

    path = saved(endless(), tmp_path)
    code = (
        "import sys; from pathlib import Path; from onnxcake.teacher import sandbox; "
        "from onnxcake.teacher.options import TeacherOptions; sandbox.examine(Path(sys.argv[1]), TeacherOptions())"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as parent:
        process = psutil.Process(parent.pid)
        end, family = time.monotonic() + 90, []
        while len(family) < 2 and time.monotonic() < end:
            family = process.children(recursive=True)
            time.sleep(0.05)
        assert len(family) == 2
        busy(family[1], 0.5)
        parent.kill()
        parent.wait()
    assert all_end(family)


def test_a_file_that_changes_behind_the_airlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is built, or nothing."""
    path = saved(made(SCORES), tmp_path)
    examine = examiner.examine

    def then_changed(path: Path, options: TeacherOptions) -> Examination:
        exam = examine(path, options)
        saved(endless(), tmp_path)
        return exam

    monkeypatch.setattr(examiner, "examine", then_changed)
    with pytest.raises(BadTeacherFile, match="changed while it was read"):
        Teacher.load(path)


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BadTeacherFile, match="cannot be read"):
        Teacher.load("t.onnx")
